/* Matrix products of every variant against naive loops, bit for bit. Depends on base (status, lanes, alloc). The openblas backend is compared within a tolerance. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/lanes.h"
#include "base/cpu.h"
#include "base/shape.h"
#include "kernels/variant.h"
#include "kernels/kernels.h"

static int failures;
static uint64_t state = 88172645463325252u;

static uint64_t next(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}
static int64_t below(int64_t n) { return (int64_t)(next() % (uint64_t)n); }
static float value(void) { return (float)((int64_t)(next() >> 40) - (1 << 23)) * 0x1p-23f; }

/* Room around an array is filled with a pattern that must survive. */
enum { ROOM = 64 };
static const float pattern = -12345.5f;
static float *array(int64_t count) {
    float *p = ss_calloc((size_t)count + 2 * ROOM, sizeof *p);
    if (!p) exit(2);
    for (int64_t i = 0; i < count + 2 * ROOM; i++) p[i] = i < ROOM || i >= count + ROOM ? pattern : value();
    return p + ROOM;
}
static bool intact(const float *p, int64_t count) {
    for (int i = 0; i < ROOM; i++)
        if (p[-1 - i] != pattern || p[count + i] != pattern) return false;
    return true;
}
static void release(float *p) {
    if (p) ss_free(p - ROOM);
}

/* NaNs compare equal whatever their payload. */
static bool same(float a, float b) { return (a != a && b != b) || memcmp(&a, &b, sizeof a) == 0; }

static void fail(const char *what, const ss_kernels *kernels, int threads, int64_t m, int64_t n, int64_t k, int64_t i, int64_t j, float got, float want) {
    if (failures++ < 20)
        printf("%s %s threads %d m %lld n %lld k %lld: [%lld, %lld] is %.9g, not %.9g\n", what, kernels->name, threads, (long long)m, (long long)n,
               (long long)k, (long long)i, (long long)j, (double)got, (double)want);
}

/* A fold of a run of lanes of a global batch, with some lanes absent when `gaps`. */
typedef struct test_fold {
    ss_fold fold;
    int64_t row[SS_MAX_LANES + 1];
    int32_t adds[SS_MAX_LANES], lane[SS_MAX_LANES];
} test_fold;

static void make_fold(test_fold *t, int lanes, ss_span range, int64_t batch) {
    ss_span leaf[SS_MAX_LANES];
    int count = 0;
    t->row[0] = 0;
    for (int32_t v = range.lo; v < range.hi; v++) {
        int64_t samples = ss_lane_begin(v + 1, lanes, batch) - ss_lane_begin(v, lanes, batch);
        if (samples == 0) continue;
        leaf[count] = (ss_span){v, v + 1};
        t->lane[count] = v;
        t->row[count + 1] = t->row[count] + samples;
        count++;
    }
    int depth = 0, blocks = ss_fold_plan(lanes, range, leaf, count, t->adds, NULL, &depth);
    t->fold = (ss_fold){.lanes = count, .blocks = blocks, .depth = depth, .row = t->row, .adds = t->adds, .lane = t->lane};
}

static bool pairs; /* precision bf16 */

/* One chain, as the kernels promise it. */
static float chain(int64_t k, const float *a, int64_t a_step, const float *b, int64_t b_step) {
    float sum = 0;
    for (int64_t q = 0; q < k && !pairs; q++) sum = fmaf(a[q * a_step], b[q * b_step], sum);
    for (int64_t q = 0; q < k && pairs; q += 2) {
        bool odd = q + 1 < k;
        sum = fmaf(odd ? bf16_round(a[(q + 1) * a_step]) : 0, odd ? bf16_round(b[(q + 1) * b_step]) : 0, sum);
        sum = fmaf(bf16_round(a[q * a_step]), bf16_round(b[q * b_step]), sum);
    }
    return sum;
}

/* ---- C = A B + bias ---- */

static void check_matmul(const ss_kernels *kernels, ss_backend backend, int64_t m, int64_t n, int64_t k, bool a_turned, bool b_turned, bool bias,
                         int spread, bool special) {
    test_fold lanes;
    int v = (int)ss_min(m, 1 + below(8));
    make_fold(&lanes, v, (ss_span){0, v}, m);
    int64_t a_lead = (a_turned ? m : k) + below(4) * spread, b_lead = (b_turned ? k : n) + below(4) * spread, c_row = n + below(4) * spread;
    int64_t a_size = (a_turned ? k : m) * a_lead, b_size = (b_turned ? n : k) * b_lead;
    int64_t step = spread && below(4) == 0 && backend == SS_BACKEND_NATIVE ? 2 : 1; /* now and then neither stride is 1 */
    float *a = array(a_size * step), *b = array(b_size * step), *c = array(m * c_row), *z = array(n);
    if (special) {
        a[below(ss_max(a_size, 1))] = NAN;
        b[below(ss_max(b_size, 1))] = INFINITY;
        b[below(ss_max(b_size, 1))] = -INFINITY;
    }
    ss_matmul p = {.backend = backend, .m = m, .n = n, .k = k, .a = a, .b = b, .c = c, .c_row = c_row, .bias = bias ? z : NULL,
                   .fold = &lanes.fold, .positions = 1, .bf16 = pairs};
    p.a_row = step * (a_turned ? 1 : a_lead), p.a_col = step * (a_turned ? a_lead : 1);
    p.b_row = step * (b_turned ? 1 : b_lead), p.b_col = step * (b_turned ? b_lead : 1);
    p.packed = array(kernels->matmul_packed(backend, n, k));
    float *want = array(m * n), *size = array(m * n);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float sum = chain(k, a + i * p.a_row, p.a_col, b + j * p.b_col, p.b_row), absolute = 0;
            for (int64_t q = 0; q < k; q++) absolute += fabsf(a[i * p.a_row + q * p.a_col] * b[q * p.b_row + j * p.b_col]);
            want[i * n + j] = bias ? sum + z[j] : sum;
            size[i * n + j] = absolute;
        }
    for (int threads = 1; threads <= 3; threads++) {
        for (int64_t i = 0; i < m * c_row; i++) c[i] = pattern;
        for (int t = 0; t < threads; t++) kernels->matmul_pack(&p, t, threads);
        for (int t = 0; t < threads; t++) kernels->matmul_run(&p, t, threads);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < c_row; j++) {
                float got = c[i * c_row + j], expected = j < n ? want[i * n + j] : pattern;
                bool good = same(got, expected);
                if (backend == SS_BACKEND_OPENBLAS && j < n) good = good || fabsf(got - expected) <= 1e-5f * (size[i * n + j] + 1);
                if (!good) fail("matmul", kernels, threads, m, n, k, i, j, got, expected);
            }
        if (!intact(c, m * c_row)) fail("matmul writes outside", kernels, threads, m, n, k, -1, -1, 0, 0);
    }
    release(want), release(size);
    release(p.packed), release(a), release(b), release(c), release(z);
}

static void test_matmul(const ss_kernels *kernels) {
    static const int64_t sizes[] = {1, 2, 3, 7, 8, 13, 14, 15, 16, 17, 29, 31, 32, 33, 48, 63, 64, 65, 97};
    const int64_t kinds = sizeof sizes / sizeof *sizes;
    int rounds = kernels->isa == SS_ISA_SCALAR ? 50 : 120;
    for (int round = 0; round < rounds; round++)
        check_matmul(kernels, SS_BACKEND_NATIVE, sizes[below(kinds)], sizes[below(kinds)], sizes[below(kinds)], next() & 1, next() & 1, next() & 1,
                     (int)below(2) * 3, round % 5 == 0);
    /* k longer than the cuts along k, in both ways to tile, and an empty k */
    static const int64_t long_k[] = {0, 255, 256, 257, 511, 512, 513, 700, 801, 1100};
    for (int i = 0; i < (int)(sizeof long_k / sizeof *long_k); i++)
        for (int turned = 0; turned < 2; turned++) {
            check_matmul(kernels, SS_BACKEND_NATIVE, 5, 37, long_k[i], false, turned, true, 3, false);
            check_matmul(kernels, SS_BACKEND_NATIVE, 39, 5, long_k[i], false, turned, true, 0, false);
            check_matmul(kernels, SS_BACKEND_NATIVE, 35, 70, long_k[i], turned, turned, true, 3, false);
        }
    /* more rows than a block, in both ways */
    check_matmul(kernels, SS_BACKEND_NATIVE, 1030, 3, 33, false, true, true, 3, false);
    check_matmul(kernels, SS_BACKEND_NATIVE, 1030, 20, 9, false, false, false, 0, false);
    check_matmul(kernels, SS_BACKEND_NATIVE, 100, 200, 813, false, true, true, 0, false);
    check_matmul(kernels, SS_BACKEND_NATIVE, 96, 256, 800, false, true, true, 0, false);
    for (int round = 0; round < 30 && !pairs; round++)
        check_matmul(kernels, SS_BACKEND_OPENBLAS, sizes[below(kinds)], sizes[below(kinds)], sizes[below(kinds)], false, next() & 1, next() & 1,
                     (int)below(2) * 3, false);
}

/* ---- sums over samples ---- */

static void check_fold(const ss_kernels *kernels, ss_backend backend, int64_t m, int64_t n, int lanes, ss_span range, int64_t batch, int64_t positions,
                       bool special) {
    static test_fold t;
    make_fold(&t, lanes, range, batch);
    const ss_fold *f = &t.fold;
    int64_t rows = f->row[f->lanes] * positions, a_row = m + below(3) * 5, b_row = n + below(3) * 5, c_row = n + below(2) * 3;
    int64_t block_stride = m * c_row + 16;
    float *a = array(rows * a_row), *b = array(rows * b_row), *c = array(f->blocks * block_stride), *want = array(f->depth + 1);
    if (special && rows > 0) a[below(rows * a_row)] = NAN, b[below(rows * b_row)] = INFINITY;
    ss_matmul_fold p = {.backend = backend, .m = m, .n = n, .positions = positions, .a = a, .a_row = a_row, .b = b, .b_row = b_row, .c = c,
                        .c_row = c_row, .block_stride = block_stride, .bf16 = pairs};
    float *wanted = array(f->blocks * m * n), *size = array(m * n);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int height = 0;
            float absolute = 0;
            for (int lane = 0; lane < f->lanes; lane++) {
                int64_t begin = f->row[lane] * positions, end = f->row[lane + 1] * positions;
                for (int64_t r = begin; r < end; r++) absolute += fabsf(a[r * a_row + i] * b[r * b_row + j]);
                want[height++] = chain(end - begin, a + begin * a_row + i, a_row, b + begin * b_row + j, b_row);
                for (int join = 0; join < f->adds[lane]; join++) height--, want[height - 1] = want[height - 1] + want[height];
            }
            if (height != f->blocks) fail("fold: program", kernels, 0, m, n, rows, height, f->blocks, 0, 0);
            for (int block = 0; block < f->blocks; block++) wanted[(block * m + i) * n + j] = want[block];
            size[i * n + j] = absolute;
        }
    for (int threads = 1; threads <= 3; threads++) {
        p.fold = NULL; /* the size of the scratch does not depend on the lanes at hand */
        p.most_rows = threads == 1 ? 0 : rows;
        int64_t room = kernels->matmul_fold_scratch(&p, f->depth, threads);
        p.fold = f;
        p.scratch = array(room);
        for (int64_t i = 0; i < f->blocks * block_stride; i++) c[i] = pattern;
        for (int thread = threads - 1; thread >= 0; thread--) kernels->matmul_fold(&p, thread, threads);
        for (int block = 0; block < f->blocks; block++)
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = 0; j < n; j++) {
                    float got = c[block * block_stride + i * c_row + j], expected = wanted[(block * m + i) * n + j];
                    bool good = same(got, expected);
                    if (backend == SS_BACKEND_OPENBLAS) good = good || fabsf(got - expected) <= 1e-5f * (size[i * n + j] + 1);
                    if (!good) fail("fold", kernels, threads, m, n, rows, i, block * 10000 + j, got, expected);
                }
        for (int block = 0; block < f->blocks; block++)
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = n; j < c_row; j++)
                    if (c[block * block_stride + i * c_row + j] != pattern) fail("fold writes outside", kernels, threads, m, n, rows, i, j, 0, 0);
        if (!intact(c, f->blocks * block_stride) || !intact(p.scratch, room)) fail("fold writes outside", kernels, threads, m, n, rows, -1, -1, 0, 0);
        release(p.scratch);
    }
    release(a), release(b), release(c), release(want), release(wanted), release(size);
}

static void test_fold_all(const ss_kernels *kernels) {
    static const int64_t sizes[] = {1, 3, 6, 7, 8, 10, 14, 16, 31, 33, 47, 65};
    const int64_t kinds = sizeof sizes / sizeof *sizes;
    int rounds = kernels->isa == SS_ISA_SCALAR ? 30 : 80;
    for (int round = 0; round < rounds; round++) {
        int lanes = 1 + (int)below(64);
        int32_t lo = round & 1 ? (int32_t)below(lanes) : 0, hi = round & 1 ? lo + 1 + (int32_t)below(lanes - lo) : lanes;
        int64_t batch = lanes / 2 + 1 + below(3 * lanes); /* uneven, some lanes empty */
        int64_t positions = 1 + below(3);
        for (int tries = 0; ss_lane_begin(hi, lanes, batch) == ss_lane_begin(lo, lanes, batch) && tries < 2; tries++) lo = 0, hi = lanes;
        check_fold(kernels, SS_BACKEND_NATIVE, sizes[below(kinds)], sizes[below(kinds)], lanes, (ss_span){lo, hi}, batch, positions, round % 6 == 0);
    }
    check_fold(kernels, SS_BACKEND_NATIVE, 20, 40, 8, (ss_span){0, 8}, 64, 1, false);
    check_fold(kernels, SS_BACKEND_NATIVE, 20, 40, 64, (ss_span){0, 64}, 64 * 8, 1, false);   /* two chunks of equal lanes */
    check_fold(kernels, SS_BACKEND_NATIVE, 20, 40, 64, (ss_span){3, 61}, 64 * 9 + 5, 1, false);
    check_fold(kernels, SS_BACKEND_NATIVE, 15, 33, 3, (ss_span){0, 3}, 13, 100, false);       /* lanes longer than a chunk */
    check_fold(kernels, SS_BACKEND_NATIVE, 15, 33, 8, (ss_span){1, 7}, 8, 300, false);
    check_fold(kernels, SS_BACKEND_NATIVE, 9, 17, 4, (ss_span){0, 4}, 4, 256, false);         /* lanes as long as a chunk */
    check_fold(kernels, SS_BACKEND_NATIVE, 9, 17, 4, (ss_span){0, 4}, 4, 128, false);         /* pairs as long as a chunk */
    check_fold(kernels, SS_BACKEND_NATIVE, 530, 17, 4, (ss_span){0, 4}, 16, 1, false);        /* more rows than a block */
    check_fold(kernels, SS_BACKEND_NATIVE, 120, 530, 2, (ss_span){0, 2}, 2, 140, false);      /* blocks of several chunks */
    for (int round = 0; round < 20 && !pairs; round++) {
        int lanes = 1 + (int)below(16);
        check_fold(kernels, SS_BACKEND_OPENBLAS, sizes[below(kinds)], sizes[below(kinds)], lanes, (ss_span){0, lanes}, lanes + below(40), 1, false);
    }
    if (pairs) return;
    check_fold(kernels, SS_BACKEND_OPENBLAS, 20, 530, 8, (ss_span){1, 8}, 30, 2, false);
    check_fold(kernels, SS_BACKEND_OPENBLAS, 530, 20, 8, (ss_span){1, 8}, 30, 2, false);
}

/* The openblas backend gives one set of bits whatever the number of threads. */
static void test_openblas_threads(const ss_kernels *kernels) {
    static test_fold t;
    make_fold(&t, 8, (ss_span){0, 8}, 70);
    int64_t m = 300, n = 520;
    float *a = array(70 * m), *b = array(70 * n), *c = array(2 * m * n), *scratch = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        ss_matmul_fold p = {.backend = SS_BACKEND_OPENBLAS, .m = m, .n = n, .positions = 1, .a = a, .a_row = m, .b = b, .b_row = n,
                            .c = c + (threads > 1) * m * n, .c_row = n, .block_stride = m * n, .fold = &t.fold};
        p.scratch = scratch = array(kernels->matmul_fold_scratch(&p, t.fold.depth, threads));
        for (int thread = 0; thread < threads; thread++) kernels->matmul_fold(&p, thread, threads);
        release(scratch);
        if (threads > 1 && memcmp(c, c + m * n, (size_t)(m * n) * sizeof *c)) fail("openblas bits differ", kernels, threads, m, n, 70, 0, 0, 0, 0);
    }
    release(a), release(b), release(c);
}

int main(void) {
    int tables = 0;
    for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
        const ss_kernels *kernels = ss_kernels_for((ss_isa)isa);
        if (!kernels) {
            printf("skipped: this CPU cannot run %s\n", ss_isa_name((ss_isa)isa));
            continue;
        }
        tables++;
        state = 88172645463325252u;
        for (int precision = 0; precision < 2; precision++) {
            pairs = precision;
            test_matmul(kernels);
            test_fold_all(kernels);
        }
        ss_cpu *cpu = (ss_cpu *)ss_cpu_features(); /* once more as on a processor without the instruction */
        if (kernels->isa == SS_ISA_AVX512 && cpu->avx512_bf16) {
            cpu->avx512_bf16 = false;
            test_matmul(kernels);
            test_fold_all(kernels);
            cpu->avx512_bf16 = true;
        }
        pairs = false;
        test_openblas_threads(kernels);
    }
    printf("%d variants, %d failures\n", tables, failures);
    return failures != 0 || tables == 0;
}
