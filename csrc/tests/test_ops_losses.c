/* cross_entropy, mse and accuracy against values of PyTorch 2 (in double: torch.nn.functional.cross_entropy and mse_loss, with weights of samples multiplied in), in the float and the
 * double variants; what prepare refuses, and with which words; ties, NaN, and batches without weight. The generic operator test has bits, threads and gradients. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "ops/op.h"

enum { BATCH = 5, LANES = 3, MOST = 4096 };
static int checks, failures;

#define CHECK(good, ...)                                    \
    do {                                                    \
        checks++;                                           \
        if (!(good)) {                                      \
            failures++;                                     \
            printf("FAIL %s:%d: ", __FILE__, __LINE__);     \
            printf(__VA_ARGS__);                            \
            printf("\n");                                   \
        }                                                   \
    } while (0)

/* One call over a batch of BATCH samples in LANES lanes. Values stand here as doubles in memory order. */
typedef struct trial {
    const char *op, *attrs;
    ss_shape shape, target_shape;
    bool soft, has_class_weight, has_sample_weight;
    double x[MOST], target[MOST], class_weight[MOST], sample_weight[BATCH];
    int32_t label[MOST];
    double loss, grad[MOST], denominator, out[BATCH]; /* answers */
    ss_error err;
} trial;

static void set_attrs(const ss_op *op, const char *text, double *attr) {
    int count = 0;
    for (; op->attrs && op->attrs[count].name; count++) attr[count] = op->attrs[count].initial;
    while (*text) {
        char name[64];
        double value;
        int used = 0, found = -1, n = sscanf(text, " %63[a-z_]=%lf%n", name, &value, &used);
        assert(n == 2);
        for (int i = 0; i < count; i++)
            if (!strcmp(op->attrs[i].name, name)) found = i;
        CHECK(found >= 0, "%s has no attribute %s", op->name, name);
        if (found >= 0) attr[found] = value;
        text += used;
    }
}

static void put(void *to, const double *from, int64_t n, bool f64) {
    for (int64_t i = 0; i < n; i++) {
        if (f64) ((double *)to)[i] = from[i];
        else ((float *)to)[i] = (float)from[i];
    }
}
static double get(const void *from, int64_t i, bool f64) { return f64 ? ((const double *)from)[i] : (double)((const float *)from)[i]; }

/* variant: an instruction set, or SS_ISA_COUNT for double. */
static ss_status run(trial *t, int variant) {
    static double x[MOST], target[MOST], class_weight[MOST], sample_weight[BATCH], grad[MOST], saved[MOST], stat[LANES], lane[LANES], out[BATCH]; /* doubles: enough for floats too */
    const bool f64 = variant == SS_ISA_COUNT;
    const int index = ss_op_find(t->op);
    assert(index >= 0);
    const ss_op *op = f64 ? ss_op_f64(index) : ss_op_at((ss_isa)variant, index);
    const int64_t n = ss_shape_count(&t->shape);
    double attr[SS_MAX_ATTR];
    set_attrs(op, t->attrs, attr);

    int64_t row[LANES + 1];
    int32_t adds[LANES], number[LANES];
    ss_span leaf[LANES];
    for (int32_t v = 0; v <= LANES; v++) row[v] = ss_lane_begin(v, LANES, BATCH);
    for (int32_t v = 0; v < LANES; v++) {
        number[v] = v;
        leaf[v] = (ss_span){v, v + 1};
    }
    ss_fold fold = {.lanes = LANES, .row = row, .adds = adds, .lane = number};
    fold.blocks = ss_fold_plan(LANES, (ss_span){0, LANES}, leaf, LANES, adds, NULL, &fold.depth);

    put(x, t->x, n * BATCH, f64);
    put(target, t->target, n * BATCH, f64);
    put(class_weight, t->class_weight, n, f64);
    put(sample_weight, t->sample_weight, BATCH, f64);
    const int sample_index = strcmp(t->op, "cross_entropy") ? 2 : 3;
    const ss_shape absent = {.rank = -1};
    ss_call c = {.attr = attr, .n_in = sample_index + 1, .n_out = 1, .layout = SS_CHANNELS_LAST, .rows = BATCH, .batch = BATCH, .fold = &fold, .saved = saved, .threads = 1, .training = true};
    for (int i = 0; i < c.n_in; i++) c.in_shape[i] = absent;
    c.in_shape[0] = t->shape;
    c.in[0] = x;
    c.in_shape[1] = t->target_shape;
    c.in[1] = t->soft ? (void *)target : (void *)t->label;
    if (t->has_class_weight) {
        c.in_shape[2] = (ss_shape){.rank = 1, .dim = {n}};
        c.in[2] = class_weight;
        c.role[2] = SS_ROLE_BUFFER;
    }
    if (t->has_sample_weight) {
        c.in_shape[sample_index] = (ss_shape){.rank = 0};
        c.in[sample_index] = sample_weight;
    }
    c.out[0] = out;
    c.grad_in[0] = op->backward ? grad : NULL;
    c.lane_stat = lane;
    t->err = (ss_error){0};
    ss_status status = op->prepare(&c, &t->err);
    if (status != SS_OK) return status;
    t->denominator = 0;
    for (int v = 0; v < LANES; v++) t->denominator += get(lane, v, f64);
    c.denominator = t->denominator;
    c.lane_stat = stat;
    op->stat(&c, false);
    t->loss = 0;
    for (int v = 0; v < LANES; v++) t->loss += get(stat, v, f64);
    t->loss /= t->denominator;
    op->forward(&c);
    for (int i = 0; i < BATCH; i++) t->out[i] = get(out, i, f64);
    if (op->backward) {
        op->backward(&c);
        for (int64_t i = 0; i < n * BATCH; i++) t->grad[i] = get(grad, i, f64);
    }
    return SS_OK;
}

static bool usable(int variant) {
    const ss_cpu *cpu = ss_cpu_features();
    return variant == SS_ISA_AVX2 ? cpu->avx2 && cpu->fma : variant == SS_ISA_AVX512 ? cpu->avx512 : true;
}

/* The numbers that PyTorch was given, by position in PyTorch's order. */
static double logit(int64_t i) { return (double)((i * 37 + 11) % 61 - 30) / 16; }
static double other(int64_t i) { return (double)((i * 23 + 7) % 53 - 26) / 16; }
static double probability(int64_t i) { return (double)((i * 13 + 5) % 16) / 64; }
static double direction(int64_t i) { return (double)((i * 29 + 5) % 17 - 8) / 8; }

/* Where PyTorch's element i of the batch lies when classes are innermost. */
static int64_t place(const ss_shape *s, bool channels_last, int64_t i) {
    const int64_t n = ss_shape_count(s), classes = s->dim[0], e = i % n;
    return channels_last ? i - e + e % (n / classes) * classes + e / (n / classes) : i;
}

typedef struct expected {
    const char *op;
    ss_shape shape;
    const char *attrs;
    bool soft, class_weight, sample_weight;
    double loss, along; /* the loss; its derivative along `direction` */
} expected;

static const expected table[] = {
    {"cross_entropy", {1, {6}}, "", 0, 0, 0, 3.2150059309405, -0.0181703042888342},
    {"cross_entropy", {1, {6}}, "", 0, 1, 0, 3.02462793889383, -0.0144029926897629},
    {"cross_entropy", {1, {6}}, "", 0, 1, 1, 2.75063717458041, 0.11856358536257},
    {"cross_entropy", {1, {6}}, "label_smoothing=0.2", 0, 0, 0, 3.0325059309405, -0.0448369709555008},
    {"cross_entropy", {1, {6}}, "label_smoothing=0.2", 0, 1, 0, 2.8633609117609, -0.0439906940598243},
    {"cross_entropy", {1, {6}}, "label_smoothing=0.2 ignore_index=3", 0, 1, 1, 2.40522938124023, 0.157308273812395},
    {"cross_entropy", {1, {6}}, "reduction=1", 0, 1, 0, 13.6108257250222, -0.0648134671039329},
    {"cross_entropy", {1, {37}}, "label_smoothing=0.1", 0, 0, 0, 4.54822979114648, -0.157389347643988},
    {"cross_entropy", {1, {6}}, "", 1, 0, 0, 1.66361080171366, -0.160271097684577},
    {"cross_entropy", {1, {6}}, "label_smoothing=0.3", 1, 1, 0, 1.49321904613369, -0.166324369976353},
    {"cross_entropy", {1, {6}}, "label_smoothing=0.3", 1, 1, 1, 1.51241371882792, -0.13594613633184},
    {"cross_entropy", {2, {4, 7}}, "axis=-1 ignore_index=2", 0, 0, 0, 2.269191829168, 0.00769541691102509},
    {"cross_entropy", {2, {7, 4}}, "", 0, 1, 0, 3.04998680359384, -0.102977013309952},
    {"cross_entropy", {3, {3, 4, 5}}, "label_smoothing=0.1 ignore_index=1", 0, 1, 0, 1.32261964081945, -0.00632212609670806},
    {"cross_entropy", {3, {3, 4, 5}}, "", 1, 1, 0, 0.241996669295499, -0.00521530817512079},
    {"cross_entropy", {2, {4, 7}}, "axis=-1", 1, 0, 1, 2.04556799127311, 0.00453809320659524},
    {"cross_entropy", {1, {300}}, "label_smoothing=0.1", 0, 0, 0, 6.47398467259844, 0.0823485539147331},
    {"mse", {1, {12}}, "", 1, 0, 0, 2.201171875, 0.118489583333333},
    {"mse", {1, {12}}, "", 1, 0, 1, 2.0014880952381, -0.0145089285714286},
    {"accuracy", {3, {3, 4, 5}}, "ignore_index=1", 0, 0, 0, 0.402985074626866, 0},
    {"accuracy", {3, {3, 4, 5}}, "ignore_index=1", 0, 0, 1, 0.425531914893617, 0},
    {"accuracy", {2, {4, 7}}, "axis=-1 ignore_index=1", 0, 0, 0, 0.2, 0},
    {"accuracy", {2, {4, 7}}, "axis=-1 ignore_index=1", 0, 0, 1, 0.214285714285714, 0},
};

static void check_expected(const expected *e) {
    static trial t;
    const bool mse = !strcmp(e->op, "mse"), last = strstr(e->attrs, "axis=-1") != NULL, channels_last = !mse && !last && e->shape.rank > 1;
    const int64_t n = ss_shape_count(&e->shape), classes = e->shape.dim[last ? e->shape.rank - 1 : 0];
    assert(n * BATCH <= MOST);
    memset(&t, 0, sizeof t);
    t.op = e->op;
    t.attrs = e->attrs;
    t.shape = t.target_shape = e->shape;
    t.soft = e->soft;
    t.has_class_weight = e->class_weight;
    t.has_sample_weight = e->sample_weight;
    if (!e->soft) {
        t.target_shape.rank--;
        for (int i = 0; i < t.target_shape.rank; i++) t.target_shape.dim[i] = e->shape.dim[last ? i : i + 1];
    }
    for (int64_t i = 0; i < n * BATCH; i++) {
        const int64_t at = place(&e->shape, channels_last, i);
        t.x[at] = logit(i);
        t.target[at] = mse ? other(i) : probability(i);
    }
    for (int64_t i = 0; i < n / classes * BATCH; i++) t.label[i] = (int32_t)((i * 7 + 3) % classes);
    for (int64_t i = 0; i < classes; i++) t.class_weight[i] = (double)(i + 1) / 4;
    for (int i = 0; i < BATCH; i++) t.sample_weight[i] = (double)((i * 5 + 1) % 4) / 2;
    for (int variant = 0; variant <= SS_ISA_COUNT; variant++) {
        if (!usable(variant)) continue;
        const double tolerance = variant == SS_ISA_COUNT ? 1e-12 : 3e-6;
        const char *name = variant == SS_ISA_COUNT ? "f64" : ss_isa_name((ss_isa)variant);
        const ss_status status = run(&t, variant);
        CHECK(status == SS_OK, "%s{%s} %s: %s", e->op, e->attrs, name, t.err.message);
        if (status != SS_OK) continue;
        CHECK(fabs(t.loss - e->loss) <= tolerance * fmax(1, fabs(e->loss)), "%s{%s} rank %d %s: loss %.12g, PyTorch %.12g", e->op, e->attrs, e->shape.rank, name, t.loss, e->loss);
        double along = 0, sum = 0;
        for (int64_t i = 0; i < n * BATCH; i++) along += t.grad[place(&e->shape, channels_last, i)] * direction(i);
        CHECK(fabs(along - e->along) <= tolerance, "%s{%s} rank %d %s: derivative %.12g, PyTorch %.12g", e->op, e->attrs, e->shape.rank, name, along, e->along);
        for (int i = 0; i < BATCH; i++) sum += t.out[i] * (strcmp(e->op, "accuracy") || !e->sample_weight ? 1 : t.sample_weight[i]);
        CHECK(fabs(sum / t.denominator - t.loss) <= 1e-5 * fmax(1, fabs(t.loss)), "%s{%s} %s: the samples' values do not sum to the loss", e->op, e->attrs, name);
    }
}

static trial plain(const char *op, const char *attrs, int rank, int64_t a, int64_t b, bool soft) {
    trial t;
    memset(&t, 0, sizeof t);
    t.op = op;
    t.attrs = attrs;
    t.shape = t.target_shape = (ss_shape){.rank = rank, .dim = {a, b}};
    if (!soft) t.target_shape = (ss_shape){.rank = rank - 1, .dim = {b}};
    t.soft = soft;
    for (int i = 0; i < BATCH; i++) t.sample_weight[i] = 1;
    for (int i = 0; i < MOST; i++) {
        t.x[i] = logit(i);
        t.target[i] = t.class_weight[i] = 0.25;
    }
    return t;
}

static void refuse(trial *t, const char *const *words, int line) {
    for (int variant = 0; variant <= SS_ISA_COUNT; variant++) {
        if (!usable(variant)) continue;
        ss_status status = run(t, variant);
        CHECK(status == SS_ERR_VALUE, "line %d: prepare answers %s", line, ss_status_text(status));
        for (int i = 0; words[i]; i++) CHECK(strstr(t->err.message, words[i]), "line %d: no '%s' in '%s'", line, words[i], t->err.message);
    }
}
#define REFUSE(t, ...) refuse(&(t), (const char *const[]){__VA_ARGS__, NULL}, __LINE__)

static void check_refusals(void) {
    static trial t;
    t = plain("cross_entropy", "", 1, 6, 0, false);
    t.label[3] = 6;
    REFUSE(t, "cross_entropy", "sample 3", "is 6", "6 classes");
    t.label[3] = -1;
    REFUSE(t, "sample 3", "is -1", "0 to 5");
    t.label[3] = -100; /* the default of ignore_index */
    CHECK(run(&t, SS_ISA_SCALAR) == SS_OK && t.denominator == 4, "-100 is ignored: denominator %g", t.denominator);
    t.attrs = "ignore_index=2";
    REFUSE(t, "is -100", "or 2 to be ignored");
    t = plain("cross_entropy", "", 2, 6, 7, false);
    t.label[4 * 7 + 5] = 77;
    REFUSE(t, "sample 4", "position 5", "is 77");
    t = plain("cross_entropy", "", 1, 6, 0, true);
    t.target[2 * 6 + 4] = -0.5;
    REFUSE(t, "class 4", "sample 2", "-0.5");
    t.target[2 * 6 + 4] = NAN;
    REFUSE(t, "class 4", "sample 2", "nan");
    t.target[2 * 6 + 4] = INFINITY;
    REFUSE(t, "class 4", "sample 2", "inf");
    t = plain("cross_entropy", "", 1, 6, 0, false);
    t.has_class_weight = true;
    t.class_weight[5] = -1;
    REFUSE(t, "class 5", "-1");
    static const char *const ops[] = {"cross_entropy", "mse", "accuracy"};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
            t = plain(ops[i], "", 1, 6, 0, i == 1);
            t.has_sample_weight = true;
            t.sample_weight[4] = k == 0 ? NAN : k == 1 ? INFINITY : -2;
            REFUSE(t, ops[i], "sample 4", k == 0 ? "nan" : k == 1 ? "inf" : "-2");
        }
    t = plain("accuracy", "", 1, 6, 0, false);
    t.label[1] = 6;
    REFUSE(t, "accuracy", "sample 1", "is 6");
    t = plain("accuracy", "", 1, 1, 0, false);
    t.label[1] = 2;
    REFUSE(t, "sample 1", "is 2", "2 classes");
}

/* Nothing counts: the gradient is 0, not NaN. Ignored rows may hold anything. */
static void check_empty(void) {
    static trial t;
    for (int variant = 0; variant <= SS_ISA_COUNT; variant++) {
        if (!usable(variant)) continue;
        t = plain("cross_entropy", "ignore_index=0", 1, 6, 0, false);
        t.x[7] = NAN;
        CHECK(run(&t, variant) == SS_OK && t.denominator == 0, "denominator %g", t.denominator);
        for (int i = 0; i < 6 * BATCH; i++) CHECK(t.grad[i] == 0, "gradient %d of an ignored batch is %g", i, t.grad[i]);
        t.label[0] = 1;
        CHECK(run(&t, variant) == SS_OK && t.denominator == 1 && t.loss > 0, "one row: denominator %g, loss %g", t.denominator, t.loss);
        CHECK(t.grad[1] < 0 && t.grad[7] == 0, "gradients %g and %g", t.grad[1], t.grad[7]);
        t = plain("mse", "", 1, 6, 0, true);
        t.has_sample_weight = true;
        memset(t.sample_weight, 0, sizeof t.sample_weight);
        CHECK(run(&t, variant) == SS_OK && t.denominator == 0, "denominator %g", t.denominator);
        for (int i = 0; i < 6 * BATCH; i++) CHECK(t.grad[i] == 0, "gradient %d without weight is %g", i, t.grad[i]);
        t.attrs = "reduction=1";
        CHECK(run(&t, variant) == SS_OK && t.denominator == 1, "a sum has denominator 1, not %g", t.denominator);
        /* large logits stay finite */
        t = plain("cross_entropy", "", 1, 6, 0, false);
        for (int i = 0; i < 6 * BATCH; i++) t.x[i] = i % 6 == 2 ? 3e4 : -3e4;
        CHECK(run(&t, variant) == SS_OK && t.loss == 6e4 && fabs(t.grad[0] + 1.0 / BATCH) < 1e-7, "loss %.17g gradient %.17g", t.loss, t.grad[0]);
    }
}

static void check_accuracy(void) {
    static trial t;
    /* per sample: logits of 3 classes, label, right? */
    static const struct {
        double x[3];
        int32_t label;
        int right;
    } rows[] = {
        {{1, 1, 0}, 0, 1},          /* the first of equals wins */
        {{1, 1, 0}, 1, 0},
        {{NAN, 1, 0}, 1, 1},        /* NaN never wins */
        {{NAN, 1, 0}, 0, 0},
        {{NAN, NAN, NAN}, 0, 0},
        {{-INFINITY, -INFINITY, -INFINITY}, 0, 1},
        {{-INFINITY, INFINITY, 5}, 1, 1},
        {{3, 2, INFINITY}, 0, 0},
        {{-0.0, 0.0, -1}, 0, 1},
        {{-0.0, 0.0, -1}, 1, 0},
    };
    static const struct {
        double x;
        int32_t label;
        int right;
    } binary[] = {{0.5, 1, 1}, {0.5, 0, 0}, {0, 0, 1}, {0, 1, 0}, {NAN, 0, 0}, {NAN, 1, 0}, {-1, 0, 1}, {-1, 1, 0}, {INFINITY, 1, 1}, {-INFINITY, 0, 1}};
    for (int variant = 0; variant <= SS_ISA_COUNT; variant++) {
        if (!usable(variant)) continue;
        for (int half = 0; half < 2; half++) {
            t = plain("accuracy", "", 1, 3, 0, false);
            for (int i = 0; i < BATCH; i++) {
                for (int k = 0; k < 3; k++) t.x[3 * i + k] = rows[half * BATCH + i].x[k];
                t.label[i] = rows[half * BATCH + i].label;
            }
            CHECK(run(&t, variant) == SS_OK, "%s", t.err.message);
            for (int i = 0; i < BATCH; i++) CHECK(t.out[i] == rows[half * BATCH + i].right, "row %d counts %g", half * BATCH + i, t.out[i]);
            t = plain("accuracy", "", 1, 1, 0, false);
            for (int i = 0; i < BATCH; i++) {
                t.x[i] = binary[half * BATCH + i].x;
                t.label[i] = binary[half * BATCH + i].label;
            }
            CHECK(run(&t, variant) == SS_OK, "%s", t.err.message);
            for (int i = 0; i < BATCH; i++) CHECK(t.out[i] == binary[half * BATCH + i].right, "binary row %d counts %g", half * BATCH + i, t.out[i]);
        }
    }
}

int main(void) {
    int before = failures;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) check_expected(&table[i]);
    printf("%s values of PyTorch\n", failures == before ? "ok  " : "FAIL");
    check_refusals();
    printf("refusals: %d failures so far\n", failures);
    check_empty();
    check_accuracy();
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
