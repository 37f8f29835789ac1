/* Optimizers: equal bits on every instruction set and for every split of the range; against a reference in double; slots. */
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "optim/optim.h"

enum { MOST = 1500, STEPS = 5 };
static int checks, failures;

#define CHECK(good, ...)                                   \
    do {                                                   \
        checks++;                                          \
        if (!(good)) {                                     \
            if (failures++ < 40) {                         \
                printf("FAIL %s:%d: ", __FILE__, __LINE__); \
                printf(__VA_ARGS__);                       \
                printf("\n");                              \
            }                                              \
        }                                                  \
    } while (0)

/* A configuration: hypers not named keep their defaults. */
typedef struct setting {
    const char *name;
    int slots;
    struct {
        const char *name;
        double value;
    } hyper[5];
} setting;

static const setting settings[] = {
    {"sgd", 0, {{"lr", 0.1}}},
    {"sgd", 0, {{"lr", 0.1}, {"weight_decay", 0.03}}},
    {"sgd", 1, {{"lr", 0.1}, {"momentum", 0.9}}},
    {"sgd", 1, {{"lr", 0.1}, {"momentum", 0.9}, {"dampening", 0.25}, {"weight_decay", 0.03}}},
    {"sgd", 1, {{"lr", 0.1}, {"momentum", 0.8}, {"nesterov", 1}, {"weight_decay", 0.03}}},
    {"adam", 2, {{"lr", 0.01}}},
    {"adam", 2, {{"lr", 0.01}, {"weight_decay", 0.1}, {"beta1", 0.8}, {"beta2", 0.95}, {"eps", 1e-3}}},
    {"adam", 3, {{"lr", 0.01}, {"amsgrad", 1}, {"beta2", 0.5}}},
    {"adamw", 2, {{"lr", 0.01}}},
    {"adamw", 2, {{"lr", 0.01}, {"weight_decay", 0.5}, {"beta1", 0.8}, {"beta2", 0.95}, {"eps", 1e-3}}},
    {"adamw", 3, {{"lr", 0.01}, {"amsgrad", 1}, {"beta2", 0.5}, {"weight_decay", 0.5}}},
    {"sgd", 1, {{"lr", 0.1}, {"momentum", 0.9}, {"maximize", 1}}},
    {"adam", 2, {{"lr", 0.01}, {"maximize", 1}}},
    {"adamw", 2, {{"lr", 0.01}, {"maximize", 1}}},
    {"rmsprop", 1, {{"lr", 0.01}}},
    {"rmsprop", 2, {{"lr", 0.01}, {"momentum", 0.9}, {"weight_decay", 0.1}, {"alpha", 0.8}}},
    {"rmsprop", 3, {{"lr", 0.01}, {"centered", 1}, {"alpha", 0.9}, {"eps", 1e-3}, {"maximize", 1}}},
    {"rmsprop", 3, {{"lr", 0.01}, {"centered", 1}, {"alpha", 0.9}, {"eps", 1e-3}, {"momentum", 0.5}}},
    {"adagrad", 1, {{"lr", 0.1}}},
    {"adagrad", 1, {{"lr", 0.1}, {"lr_decay", 0.1}, {"weight_decay", 0.1}, {"initial_accumulator_value", 0.5}, {"maximize", 1}}},
    {"nadam", 2, {{"lr", 0.01}}},
    {"nadam", 2, {{"lr", 0.01}, {"weight_decay", 0.1}, {"momentum_decay", 0.5}, {"decoupled_weight_decay", 1}, {"maximize", 1}}},
    {"radam", 2, {{"lr", 0.01}}},
    {"radam", 2, {{"lr", 0.01}, {"beta2", 0.6}, {"weight_decay", 0.1}, {"decoupled_weight_decay", 1}, {"maximize", 1}}},
    {"adamax", 2, {{"lr", 0.01}}},
    {"adamax", 2, {{"lr", 0.01}, {"weight_decay", 0.1}, {"beta2", 0.5}, {"maximize", 1}}},
    {"adadelta", 2, {{"lr", 1}}},
    {"adadelta", 2, {{"lr", 0.5}, {"rho", 0.6}, {"weight_decay", 0.1}, {"maximize", 1}}},
    {"asgd", 1, {{"lr", 0.1}}},
    {"asgd", 1, {{"lr", 0.1}, {"lambd", 0.5}, {"t0", 1}, {"weight_decay", 0.1}, {"maximize", 1}}},
    {"lion", 1, {{"lr", 0.01}}},
    {"lion", 1, {{"lr", 0.01}, {"weight_decay", 0.5}, {"beta1", 0.8}, {"maximize", 1}}},
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

static double value_of(const ss_optim *o, const double *hyper, const char *name) {
    for (int i = 0; o->hypers[i].name; i++)
        if (!strcmp(o->hypers[i].name, name)) return hyper[i];
    return 0;
}

static bool fill_hypers(const ss_optim *o, const setting *s, double *hyper) {
    int count = 0;
    for (; o->hypers[count].name; count++) hyper[count] = o->hypers[count].initial;
    for (int k = 0; k < 5 && s->hyper[k].name; k++) {
        int found = -1;
        for (int i = 0; i < count; i++)
            if (!strcmp(o->hypers[i].name, s->hyper[k].name)) found = i;
        if (found < 0) return false;
        hyper[found] = s->hyper[k].value;
    }
    return count <= SS_MAX_HYPER;
}

static float random_float(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-31f;
}

typedef struct numbers {
    float param[MOST], slot[SS_MAX_SLOTS][MOST];
} numbers;

static void gradients(int64_t n, int step, float *grad) {
    uint32_t state = 77u * (uint32_t)step;
    for (int64_t i = 0; i < n; i++) grad[i] = random_float(&state) * (i % 7 == 3 ? 1e-4f : i % 11 == 5 ? 30.f : 1.f);
    if (n > 20) grad[17] = step % 2 ? 0.f : 0.5f;
}

/* STEPS steps on n elements, each cut at multiples of `part`. Elements stand `shift` floats off their alignment. */
static void run(const ss_optim *o, const double *hyper, int64_t n, int64_t part, int shift, numbers *out) {
    static float grad[MOST + 16], param[MOST + 16], slot[SS_MAX_SLOTS][MOST + 16];
    double derived[SS_MAX_DERIVED];
    uint32_t state = 5;
    assert(o->derived <= SS_MAX_DERIVED);
    for (int64_t i = 0; i < n; i++) param[shift + i] = random_float(&state);
    memset(slot, 0, sizeof slot);
    param[shift + n] = grad[shift + n] = 123.f;
    for (int k = 0; k < SS_MAX_SLOTS; k++) slot[k][shift + n] = 123.f;
    for (int step = 1; step <= STEPS; step++) {
        gradients(n, step, grad + shift);
        o->prepare(hyper, step, derived);
        for (int64_t begin = 0; begin < n; begin += part) {
            int64_t count = n - begin < part ? n - begin : part;
            float *slots[SS_MAX_SLOTS] = {0};
            for (int k = 0; k < o->slots(hyper); k++) slots[k] = slot[k] + shift + begin;
            o->update(count, param + shift + begin, grad + shift + begin, slots, hyper, derived, step);
        }
    }
    bool kept = param[shift + n] == 123.f;
    for (int k = 0; k < SS_MAX_SLOTS; k++) kept = kept && slot[k][shift + n] == 123.f;
    CHECK(kept, "%s wrote after the end of %lld elements", o->name, (long long)n);
    memset(out, 0, sizeof *out);
    memcpy(out->param, param + shift, (size_t)n * sizeof(float));
    for (int k = 0; k < SS_MAX_SLOTS; k++) memcpy(out->slot[k], slot[k] + shift, (size_t)n * sizeof(float));
}

/* The formulas of torch.optim in double, one element. */
static double reference(const ss_optim *o, const double *hyper, double p, int64_t i, int64_t n, double *slot0, double *slot1) {
    static float grad[MOST];
    double lr = value_of(o, hyper, "lr"), decay = value_of(o, hyper, "weight_decay"), a = 0, b = 0, top = 0;
    for (int t = 1; t <= STEPS; t++) {
        gradients(n, t, grad);
        double g = value_of(o, hyper, "maximize") != 0 ? -(double)grad[i] : (double)grad[i];
        if (!strcmp(o->name, "sgd")) {
            double momentum = value_of(o, hyper, "momentum");
            g += decay * p;
            if (momentum != 0) {
                a = t == 1 ? g : momentum * a + (1 - value_of(o, hyper, "dampening")) * g;
                g = value_of(o, hyper, "nesterov") != 0 ? g + momentum * a : a;
            }
            p -= lr * g;
            continue;
        }
        double beta1 = value_of(o, hyper, "beta1"), beta2 = value_of(o, hyper, "beta2");
        if (!strcmp(o->name, "adamw")) p *= 1 - lr * decay;
        else g += decay * p;
        a = beta1 * a + (1 - beta1) * g;
        b = beta2 * b + (1 - beta2) * g * g;
        top = b > top ? b : top;
        double second = value_of(o, hyper, "amsgrad") != 0 ? top : b;
        p -= lr * (a / (1 - pow(beta1, t))) / (sqrt(second / (1 - pow(beta2, t))) + value_of(o, hyper, "eps"));
    }
    *slot0 = a;
    *slot1 = b;
    return p;
}

/* Whether reference() knows the formula; the others are compared with PyTorch in tests/test_oracle_optimizers.py. */
static bool has_reference(const ss_optim *o) { return !strcmp(o->name, "sgd") || !strcmp(o->name, "adam") || !strcmp(o->name, "adamw"); }

static void check_setting(const setting *s) {
    static numbers want, have;
    static const int64_t lengths[] = {1, 3, 15, 16, 17, 31, 100, 255, 256, 257, 1001, 1487};
    int index = ss_optim_find(s->name);
    if (index < 0) {
        CHECK(false, "no optimizer '%s'", s->name);
        return;
    }
    const ss_optim *scalar = ss_optim_at(SS_ISA_SCALAR, index);
    double hyper[SS_MAX_HYPER];
    CHECK(fill_hypers(scalar, s, hyper), "%s lacks a hyperparameter", s->name);
    CHECK(scalar->slots(hyper) == s->slots, "%s keeps %d slots, want %d", s->name, scalar->slots(hyper), s->slots);
    for (int k = 0; k < s->slots; k++) CHECK(scalar->slot_names[k], "%s: slot %d has no name", s->name, k);

    for (size_t j = 0; j < sizeof lengths / sizeof lengths[0]; j++) {
        int64_t n = lengths[j];
        run(scalar, hyper, n, n, 0, &want);
        uint64_t allocations = ss_alloc_count();
        for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
            const ss_cpu *cpu = ss_cpu_features();
            if ((isa == SS_ISA_AVX2 && !(cpu->avx2 && cpu->fma)) || (isa == SS_ISA_AVX512 && !cpu->avx512)) continue;
            const int64_t parts[] = {n, 1, 7, 16, 48, 260, n / 2 + 1};
            for (size_t k = 0; k < sizeof parts / sizeof parts[0]; k++) {
                run(ss_optim_at((ss_isa)isa, index), hyper, n, parts[k], (int)(k % 3), &have);
                CHECK(!memcmp(&want, &have, sizeof want), "%s, %s, %lld elements in parts of %lld: other bits", s->name, ss_isa_name((ss_isa)isa), (long long)n, (long long)parts[k]);
            }
        }
        CHECK(ss_alloc_count() == allocations, "%s allocates", s->name);
    }

    int64_t n = 101; /* want holds the longest length; run again */
    uint32_t state = 5;
    run(scalar, hyper, n, n, 0, &want);
    for (int64_t i = 0; i < n && has_reference(scalar); i++) {
        double a, b, start = (double)random_float(&state), p = reference(scalar, hyper, start, i, n, &a, &b);
        CHECK(fabs((double)want.param[i] - p) <= 4e-6 * fmax(1, fabs(p)), "%s element %lld: %.9g, double gives %.9g", s->name, (long long)i, (double)want.param[i], p);
        if (s->slots > 0) CHECK(fabs((double)want.slot[0][i] - a) <= 4e-6 * fmax(1, fabs(a)), "%s slot 0 element %lld: %.9g, double gives %.9g", s->name, (long long)i, (double)want.slot[0][i], a);
        if (s->slots > 1) CHECK(fabs((double)want.slot[1][i] - b) <= 4e-6 * fmax(1, fabs(b)), "%s slot 1 element %lld: %.9g, double gives %.9g", s->name, (long long)i, (double)want.slot[1][i], b);
        CHECK((double)want.param[i] != start, "%s left element %lld as it was", s->name, (long long)i);
    }
}

/* NaN gradients reach the parameter and stay in their element; a zero gradient from the start moves nothing. */
static void check_special(const char *name) {
    int index = ss_optim_find(name);
    if (index < 0) return;
    for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
        const ss_cpu *cpu = ss_cpu_features();
        if ((isa == SS_ISA_AVX2 && !(cpu->avx2 && cpu->fma)) || (isa == SS_ISA_AVX512 && !cpu->avx512)) continue;
        const ss_optim *o = ss_optim_at((ss_isa)isa, index);
        double hyper[SS_MAX_HYPER], derived[SS_MAX_DERIVED];
        float param[33], grad[33], slot[SS_MAX_SLOTS][33] = {{0}}, *slots[SS_MAX_SLOTS] = {slot[0], slot[1], slot[2]};
        fill_hypers(o, &(setting){name, 0, {{0}}}, hyper);
        for (int k = 0; o->hypers[k].name; k++) {
            if (!strcmp(o->hypers[k].name, "weight_decay") || !strcmp(o->hypers[k].name, "lambd")) hyper[k] = 0;
            if (!strcmp(o->hypers[k].name, "amsgrad") || !strcmp(o->hypers[k].name, "centered")) hyper[k] = 1;
            if (!strcmp(o->hypers[k].name, "momentum")) hyper[k] = 0.9;
        }
        for (int i = 0; i < 33; i++) {
            param[i] = 1.5f;
            grad[i] = i == 21 ? NAN : 0.f;
        }
        for (int step = 1; step <= 2; step++) {
            o->prepare(hyper, step, derived);
            o->update(33, param, grad, slots, hyper, derived, step);
        }
        for (int i = 0; i < 33; i++) CHECK(i == 21 ? param[i] != param[i] : param[i] == 1.5f, "%s, %s: element %d is %g", name, ss_isa_name((ss_isa)isa), i, (double)param[i]);
    }
}

/* Powers, exp and log of prepare(), against libm. */
static void check_scalars(void) {
    for (int k = -400; k <= 400; k++) {
        double x = k * 1.37, want = exp(x), y = ldexp(1 + (k & 15) / 16.0, k);
        CHECK(fabs(ss_exponential(x) - want) <= 4e-16 * fmax(1, fabs(x) * 0.5) * want, "exp(%g) is %.17g, want %.17g", x, ss_exponential(x), want);
        CHECK(fabs(ss_logarithm(y) - log(y)) <= 4e-16 * fmax(1, fabs(log(y))), "log(%g) is %.17g, want %.17g", y, ss_logarithm(y), log(y));
    }
    for (int64_t n = 0; n < 3000; n++) CHECK(fabs(ss_power(0.999, n) - pow(0.999, (double)n)) <= 1e-13 * pow(0.999, (double)n), "0.999^%lld", (long long)n);
    CHECK(ss_power(0, 0) == 1 && ss_power(0, 3) == 0 && ss_exponential(0) == 1 && ss_logarithm(1) == 0, "ends");
}

/* ---- optimizers that see a parameter whole ---- */

static const setting wholes[] = {
    {"lamb", 2, {{"lr", 0.05}}},
    {"lamb", 2, {{"lr", 0.05}, {"adapt", 0}, {"maximize", 1}}},
    {"lars", 1, {{"lr", 10}, {"weight_decay", 0.1}}},
    {"lars", 0, {{"lr", 10}, {"momentum", 0}}},
    {"muon", 1, {{"lr", 0.02}}},
    {"shampoo", 0, {{"lr", 0.1}, {"update_freq", 2}}},
    {"shampoo", 1, {{"lr", 0.1}, {"momentum", 0.5}, {"max_extent", 30}, {"weight_decay", 0.1}}},
    {"shampoo", 0, {{"lr", 0.1}, {"max_extent", 1}, {"maximize", 1}}},
    {"muon", 1, {{"lr", 0.02}, {"use_muon", 0}, {"maximize", 1}}},
    {"muon", 1, {{"lr", 0.02}, {"nesterov", 0}, {"ns_steps", 3}, {"match_rms_adamw", 1}}},
};
enum { WHOLES = sizeof wholes / sizeof wholes[0], LARGEST = 9000, EXTRA = 200000 };

typedef struct whole_numbers {
    float param[LARGEST], slot[SS_MAX_SLOTS][LARGEST], extra[EXTRA];
} whole_numbers;

static void run_whole(const ss_optim *o, const double *hyper, const ss_shape *shape, const ss_kernels *kernels, int threads, whole_numbers *out) {
    static float grad[LARGEST];
    int64_t n = ss_shape_count(shape), scratch_count = o->scratch ? o->scratch(hyper, shape, kernels, SS_BACKEND_NATIVE, threads) : 0;
    int64_t extra = o->extra ? o->extra(hyper, shape) : 0;
    double derived[SS_MAX_DERIVED];
    uint32_t state = 5;
    float *scratch = ss_calloc((size_t)scratch_count + 32, 4), *aligned = scratch + (64 - (uintptr_t)scratch % 64) / 4 % 16, *slots[SS_MAX_SLOTS];
    memset(out, 0, sizeof *out);
    assert(n < LARGEST && extra < EXTRA);
    for (int64_t i = 0; i < n; i++) out->param[i] = random_float(&state);
    out->param[n] = out->extra[extra] = aligned[scratch_count] = 123.f;
    for (int k = 0; k < SS_MAX_SLOTS; k++) slots[k] = out->slot[k];
    for (int step = 1; step <= STEPS; step++) {
        uint32_t draw = 77u * (uint32_t)step;
        for (int64_t i = 0; i < n; i++) grad[i] = random_float(&draw);
        if (o->prepare) o->prepare(hyper, step, derived);
        for (int64_t i = 0; i < scratch_count; i++) aligned[i] = NAN;
        ss_whole w = {.shape = shape, .count = n, .param = out->param, .grad = grad, .slot = slots, .extra = out->extra, .scratch = aligned, .hyper = hyper, .derived = derived,
                      .step = step, .kernels = kernels, .threads = threads};
        for (w.phase = 0; w.phase < o->phases(hyper, shape); w.phase++)
            for (int t = 0; t < threads; t++) { /* in both orders: threads may not wait for each other inside a phase */
                w.thread = step % 2 ? t : threads - 1 - t;
                o->whole(&w);
            }
    }
    CHECK(out->param[n] == 123.f && out->extra[extra] == 123.f && aligned[scratch_count] == 123.f, "%s wrote after the end of %lld elements", o->name, (long long)n);
    for (int64_t i = 0; i < n; i++) CHECK(isfinite(out->param[i]), "%s: element %lld is not finite", o->name, (long long)i);
    ss_free(scratch);
}

/* a = V^T diag(values) V, V orthogonal, ascending values, the same bits on every instruction set. */
static void check_eigh(int64_t n, int kind) {
    static double a[130 * 130], copy[130 * 130], values[130], vectors[130 * 130], want[130 * 130], work[390];
    uint32_t state = 9;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double x = (double)random_float(&state);
            if (kind == 1) x = i == j ? 1e-20 * (double)(i % 3) : 0;      /* diagonal, repeated, zeros */
            if (kind == 2) x = (double)((i + 1) * (j + 1)) * 1e200;       /* rank one, large */
            if (kind == 3) x = i == j ? 2 : i == j + 1 ? -1 : 0;          /* tridiagonal already */
            if (kind == 4 && i == 0) x = NAN;
            copy[i * n + j] = copy[j * n + i] = x;
        }
    for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
        const ss_kernels *kernels = ss_kernels_for((ss_isa)isa);
        if (!kernels) continue;
        memcpy(a, copy, sizeof a);
        kernels->eigh(n, a, values, vectors, work);
        if (isa == 0) memcpy(want, vectors, sizeof want);
        CHECK(!memcmp(want, vectors, (size_t)(n * n) * sizeof *want), "eigh of %lld on %s: other bits", (long long)n, ss_isa_name((ss_isa)isa));
        if (kind == 4) {
            CHECK(values[0] != values[0] && vectors[n * n - 1] != vectors[n * n - 1], "eigh of NaN");
            continue;
        }
        double scale = 0;
        for (int64_t i = 0; i < n; i++) scale = fmax(scale, fabs(values[i]));
        for (int64_t i = 0; i < n; i++) {
            CHECK(i == 0 || values[i - 1] <= values[i], "eigh: not ascending");
            for (int64_t j = 0; j < n; j++) {
                double product = 0, sum = 0;
                for (int64_t k = 0; k < n; k++) {
                    product += vectors[i * n + k] * vectors[j * n + k];
                    sum += values[k] * vectors[k * n + i] * vectors[k * n + j];
                }
                CHECK(fabs(product - (i == j)) <= 1e-13, "eigh of %lld, kind %d: vectors %lld and %lld: %g", (long long)n, kind, (long long)i, (long long)j, product);
                CHECK(fabs(sum - copy[i * n + j]) <= 1e-13 * scale, "eigh of %lld, kind %d: element %lld, %lld is %g", (long long)n, kind, (long long)i, (long long)j, sum);
            }
        }
    }
}

static void check_whole(const setting *s) {
    static whole_numbers want, have;
    static const ss_shape shapes[] = {{1, {1}}, {1, {33}}, {2, {7, 5}}, {2, {90, 99}}, {3, {3, 10, 30}}, {4, {20, 5, 3, 3}}, {2, {1, 50}}, {1, {8500}}, {0, {0}}};
    int index = ss_optim_find(s->name);
    CHECK(index >= 0, "no optimizer '%s'", s->name);
    if (index < 0) return;
    double hyper[SS_MAX_HYPER];
    const ss_optim *scalar = ss_optim_at(SS_ISA_SCALAR, index);
    CHECK(fill_hypers(scalar, s, hyper), "%s lacks a hyperparameter", s->name);
    CHECK(scalar->slots(hyper) == s->slots && scalar->derived <= SS_MAX_DERIVED, "%s keeps %d slots, want %d", s->name, scalar->slots(hyper), s->slots);
    for (size_t j = 0; j < sizeof shapes / sizeof shapes[0]; j++) {
        run_whole(scalar, hyper, &shapes[j], ss_kernels_for(SS_ISA_SCALAR), 1, &want);
        for (int isa = 0; isa < SS_ISA_COUNT; isa++)
            for (int threads = 1; ss_kernels_for((ss_isa)isa) && threads <= 4; threads++) {
                run_whole(ss_optim_at((ss_isa)isa, index), hyper, &shapes[j], ss_kernels_for((ss_isa)isa), threads, &have);
                CHECK(!memcmp(&want, &have, sizeof want), "%s, %s, shape %zu, %d threads: other bits", s->name, ss_isa_name((ss_isa)isa), j, threads);
            }
    }
}

int main(void) {
    for (int kind = 0; kind < 5; kind++) {
        static const int64_t extents[] = {1, 2, 3, 4, 17, 130};
        for (int k = 0; k < 6; k++) check_eigh(extents[k], kind);
    }
    for (int i = 0; i < WHOLES; i++) {
        int before = failures;
        check_whole(&wholes[i]);
        printf("%s %s (whole, setting %d)\n", failures == before ? "ok  " : "FAIL", wholes[i].name, i);
    }
    for (int i = 0; i < SETTINGS; i++) {
        int before = failures;
        check_setting(&settings[i]);
        printf("%s %s (setting %d)\n", failures == before ? "ok  " : "FAIL", settings[i].name, i);
    }
    for (int k = 0; k < ss_optim_count; k++) {
        const ss_optim *o = ss_optim_at(SS_ISA_SCALAR, k);
        bool found = false;
        for (int i = 0; i < WHOLES; i++) found |= !strcmp(wholes[i].name, o->name);
        for (int i = 0; i < SETTINGS; i++) found |= !strcmp(settings[i].name, o->name);
        CHECK(found, "%s has no setting", o->name);
        if (!o->whole) check_special(o->name);
    }
    check_scalars();
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
