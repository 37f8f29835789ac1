/* Vector math: errors against double libm, special values, and equal bits in every variant and flush-to-zero mode. Row reductions: the order of sums, written out.
 *
 * By default every 997th float and the neighbourhoods of special values. `--core [NAME]` adds every float with 2^-30 <= |x| < 2^8, where no function is trivial (a minute each); `--all [NAME]`
 * runs over all 2^32 (several minutes each). Each prints the largest errors.
 */
#include <float.h>
#include <stdbool.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xmmintrin.h>
#include "base/cpu.h"
#include "kernels/vmath_test.h"

enum { CHUNK = 1 << 14, FLUSH = 0x8040 };

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static const struct function {
    const char *name;
    ss_vmath_function *variant[SS_ISA_COUNT];
    double (*exact)(double);
    double bound; /* in units of the last place: the measured maximum, rounded up */
    double limit; /* above 0: no bound for finite arguments beyond */
} functions[] = {
    {"exp", {vmath_exp_scalar, vmath_exp_avx2, vmath_exp_avx512}, exp, 1.0, 0},
    {"log", {vmath_log_scalar, vmath_log_avx2, vmath_log_avx512}, log, 0.9, 0},
    {"tanh", {vmath_tanh_scalar, vmath_tanh_avx2, vmath_tanh_avx512}, tanh, 1.5, 0},
    {"erf", {vmath_erf_scalar, vmath_erf_avx2, vmath_erf_avx512}, erf, 1.2, 0},
    {"sigmoid", {vmath_sigmoid_scalar, vmath_sigmoid_avx2, vmath_sigmoid_avx512}, sigmoid, 2.5, 0},
    {"expm1", {vmath_expm1_scalar, vmath_expm1_avx2, vmath_expm1_avx512}, expm1, 2.0, 0},
    {"log1p", {vmath_log1p_scalar, vmath_log1p_avx2, vmath_log1p_avx512}, log1p, 2.0, 0},
    {"sin", {vmath_sin_scalar, vmath_sin_avx2, vmath_sin_avx512}, sin, 0.51, 0x1p20},
    {"cos", {vmath_cos_scalar, vmath_cos_avx2, vmath_cos_avx512}, cos, 0.51, 0x1p20},
};

static long long failures;
static double largest;
static float largest_at;

static uint32_t bits_of(float x) {
    uint32_t w;
    memcpy(&w, &x, sizeof w);
    return w;
}
static float float_of(uint32_t w) {
    float x;
    memcpy(&x, &w, sizeof x);
    return x;
}

static void fail(const char *name, const char *what, float x, float y, double exact) {
    if (failures++ < 20) printf("FAIL %s(%a): %s: %a, exact %a\n", name, x, what, y, exact);
}

/* Distance in units of the last place of `exact`, which is not below FLT_MIN. */
static double ulps(float y, double exact) {
    uint64_t w;
    memcpy(&w, &exact, sizeof w);
    w = (w & 0x7ff0000000000000u) - ((uint64_t)(FLT_MANT_DIG - 1) << 52);
    double unit;
    memcpy(&unit, &w, sizeof unit);
    return fabs((double)y - exact) / unit;
}

static void check_value(const struct function *f, float x, float y) {
    if (isnan(x)) {
        if (!isnan(y)) fail(f->name, "NaN must give NaN", x, y, NAN);
        return;
    }
    if (f->limit > 0 && fabsf(x) > f->limit && !isinf(x)) return;
    if (fabsf(x) < FLT_MIN) x = copysignf(0.0f, x);
    double exact = f->exact(x);
    if (isnan(exact) || isinf(exact)) {
        if (!(isnan(exact) ? isnan(y) : y == exact)) fail(f->name, "special value", x, y, exact);
    } else if (fabs(exact) > FLT_MAX * (1 + 0x1p-25)) {
        if (!isinf(y)) fail(f->name, "must overflow", x, y, exact);
    } else if (fabs(exact) < FLT_MIN) {
        if (y != 0 || !signbit(y) != !signbit(exact)) fail(f->name, "must underflow to zero", x, y, exact);
    } else {
        double error = exact == 0 ? fabs((double)y) : ulps(y, exact);
        if (error > largest) {
            largest = error;
            largest_at = x;
        }
        if (!(error <= f->bound)) fail(f->name, "inexact", x, y, exact);
        if (exact == 0 && bits_of(y) != bits_of((float)exact)) fail(f->name, "sign of zero", x, y, exact);
    }
}

/* One chunk of arguments: all variants, flush-to-zero on and off, then the bound. */
static void check_chunk(const struct function *f, int n, const float *x, const bool *usable) {
    static float want[CHUNK], have[CHUNK];
    unsigned mode = _mm_getcsr();
    for (int flush = 0; flush < 2; flush++)
        for (int isa = SS_ISA_COUNT - 1; isa >= 0; isa--) {
            if (!usable[isa]) continue;
            bool first = !flush && (isa == SS_ISA_COUNT - 1 || !usable[isa + 1]) && (isa == SS_ISA_AVX512 || !usable[SS_ISA_AVX512]);
            _mm_setcsr(flush ? mode | FLUSH : mode & ~(unsigned)FLUSH);
            f->variant[isa](n, x, first ? want : have);
            _mm_setcsr(mode);
            if (first) continue;
            for (int i = 0; i < n; i++)
                if (bits_of(want[i]) != bits_of(have[i]) && !(isnan(want[i]) && isnan(have[i]))) fail(f->name, ss_isa_name((ss_isa)isa), x[i], have[i], want[i]);
        }
    for (int i = 0; i < n; i++) check_value(f, x[i], want[i]);
}

static long long sweep(const struct function *f, uint64_t begin, uint64_t end, uint32_t step, const bool *usable) {
    static float x[CHUNK];
    long long count = 0;
    int n = 0;
    for (uint64_t w = begin; w < end; w += step) {
        x[n++] = float_of((uint32_t)w);
        count++;
        if (n == CHUNK - 3 || w + step >= end) { /* not a multiple of the vector width: loops have tails */
            check_chunk(f, n, x, usable);
            n = 0;
        }
    }
    return count;
}

/* rowreduce.h by its definition: element i to accumulator i % 16, then the tree. */
static void row_by_definition(int64_t n, const float *x, const float *y, float *out) {
    float most[16], sum[16], dot[16];
    for (int j = 0; j < 16; j++) {
        most[j] = -INFINITY;
        sum[j] = dot[j] = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        float *m = &most[i % 16];
        *m = isnan(*m) || isnan(x[i]) ? NAN : fmaxf(*m, x[i]);
        sum[i % 16] += x[i];
        dot[i % 16] = fmaf(x[i], y[i], dot[i % 16]);
    }
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; j++) {
            most[j] = isnan(most[j]) || isnan(most[j + width]) ? NAN : fmaxf(most[j], most[j + width]);
            sum[j] += sum[j + width];
            dot[j] += dot[j + width];
        }
    out[0] = most[0];
    out[1] = sum[0];
    out[2] = dot[0];
}

static void check_rows(const bool *usable) {
    static ss_vmath_row_function *const variant[SS_ISA_COUNT] = {vmath_row_scalar, vmath_row_avx2, vmath_row_avx512};
    float x[130], y[130], want[3], have[3];
    uint32_t state = 1;
    int checks = 0;
    for (int round = 0; round < 40; round++)
        for (int n = 1; n <= 129; n++) {
            /* The elements beyond n are NaN: they must not be looked at. */
            for (int i = 0; i < 130; i++) {
                state = state * 1664525u + 1013904223u;
                float u = (float)(state >> 8) * 0x1p-24f;
                x[i] = i >= n ? NAN : round % 4 == 1 ? -1 - u : 4 * u - 2;
                state = state * 1664525u + 1013904223u;
                y[i] = i >= n ? NAN : (float)(state >> 8) * 0x1p-23f - 1;
            }
            if (round % 4 == 2) x[state % (uint32_t)n] = NAN;
            if (round % 4 == 3) x[state % (uint32_t)n] = round % 8 == 3 ? INFINITY : -INFINITY;
            row_by_definition(n, x, y, want);
            for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
                if (!usable[isa]) continue;
                variant[isa](n, x, y, have);
                for (int k = 0; k < 3; k++, checks++)
                    if (bits_of(want[k]) != bits_of(have[k]) && !(isnan(want[k]) && isnan(have[k])) && failures++ < 20)
                        printf("FAIL row of %d, %s, reduction %d: %a, want %a\n", n, ss_isa_name((ss_isa)isa), k, have[k], want[k]);
            }
        }
    printf("rows     %d checks\n", checks);
}

int main(int argc, char **argv) {
    static const float special[] = {0.0f, FLT_MIN, 0x1p-149f, 1.0f, 0.5f, 0.5625f, 0.9375f, 3.95f, 9.02f, 10.0f, 88.7228f, 87.3365f, 103.9f, FLT_MAX, 0.70710678f, 1.41421356f, 0x1p-24f, 0x1p23f};
    bool everything = argc > 1 && !strcmp(argv[1], "--all"), core = argc > 1 && !strcmp(argv[1], "--core");
    const ss_cpu *cpu = ss_cpu_features();
    const bool usable[SS_ISA_COUNT] = {true, cpu->avx2 && cpu->fma, cpu->avx512};
    for (size_t k = 0; k < sizeof functions / sizeof functions[0]; k++) {
        const struct function *f = &functions[k];
        if (argc > 2 && strcmp(argv[2], f->name)) continue;
        largest = 0;
        long long count = sweep(f, 0, (uint64_t)1 << 32, everything ? 1 : 997, usable);
        for (size_t s = 0; s < sizeof special / sizeof special[0]; s++)
            for (uint32_t sign = 0; sign < 2; sign++) {
                uint64_t middle = bits_of(special[s]) | sign << 31, low = (middle & 0x7fffffff) < 500 ? middle : middle - 500;
                count += sweep(f, low, middle + 500, 1, usable);
            }
        for (uint32_t sign = 0; core && sign < 2; sign++) count += sweep(f, bits_of(0x1p-30f) | sign << 31, bits_of(0x1p8f) | (uint64_t)sign << 31, 1, usable);
        count += sweep(f, 0x7f7fff00, 0x7f800100, 1, usable) + sweep(f, 0xff7fff00, 0xff800100, 1, usable);
        printf("%-8s %lld arguments, largest error %.4f ulp at %a\n", f->name, count, largest, largest_at);
    }
    check_rows(usable);
    printf("%lld failures\n", failures);
    return failures != 0;
}
