/* GFLOP/s of matrix products on one thread (or with an argument, on that many): each variant and openblas in turn, best of several, beside the peak measured in the same run.
 * Not part of `make check`. Build as test_kernels_matmul is built: base, kernels and the BLAS library. */
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "base/alloc.h"
#include "base/lanes.h"
#include "base/pool.h"
#include "base/shape.h"
#include "kernels/kernels.h"

/* One thread is measured by the time it runs, so that other users of the machine do not count. */
static clockid_t watch = CLOCK_PROCESS_CPUTIME_ID;

static double now(void) {
    struct timespec t;
    clock_gettime(watch, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one fused multiply-add of 16 lanes when nothing else stands in the way. */
__attribute__((target("avx512f"))) static double peak_avx512(void) {
    __m512 a[12], b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
    for (int i = 0; i < 12; i++) a[i] = _mm512_set1_ps((float)i);
    double t = now();
    for (int n = 0; n < 100000; n++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) a[i] = _mm512_fmadd_ps(a[i], b, c);
    t = now() - t;
    volatile float keep = 0;
    for (int i = 0; i < 12; i++) keep = keep + _mm512_reduce_add_ps(a[i]);
    return 100000 * 12 * 32.0 / t * 1e-9;
}

typedef struct work {
    const ss_kernels *kernels;
    ss_matmul run;
    ss_matmul_fold fold;
    bool is_fold;
} work;

static void execute(void *argument, int thread, int threads) {
    work *w = argument;
    if (w->is_fold) w->kernels->matmul_fold(&w->fold, thread, threads);
    else w->kernels->matmul_run(&w->run, thread, threads);
}

static double measure(ss_pool *pool, work *w, int repeats) {
    ss_pool_run(pool, execute, w, NULL); /* fetches what the one before has driven out of the caches */
    double t = now();
    for (int i = 0; i < repeats; i++) ss_pool_run(pool, execute, w, NULL);
    return (now() - t) / repeats;
}

static float *array(int64_t count) {
    float *p = ss_calloc((size_t)count, sizeof *p);
    if (!p) exit(2);
    for (int64_t i = 0; i < count; i++) p[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return p;
}

enum { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT };

typedef struct shape {
    int kind;
    int64_t m, n, k; /* weight gradient: k rows in `lanes` lanes */
    int lanes;
} shape;

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1, rounds = argc > 2 ? atoi(argv[2]) : 15;
    if (threads > 1) watch = CLOCK_MONOTONIC;
    static const shape shapes[] = {
        {FORWARD, 64, 512, 784, 8},          {FORWARD, 64, 256, 512, 8},        {FORWARD, 64, 10, 256, 8},
        {FORWARD, 256, 2048, 2048, 32},      {FORWARD, 1, 512, 784, 1},         {FORWARD, 2048, 384, 128, 16},
        {FORWARD, 8192, 32, 288, 8},         {FORWARD, 32, 1024, 256, 8},
        {INPUT_GRADIENT, 64, 784, 512, 8},   {INPUT_GRADIENT, 64, 512, 256, 8}, {INPUT_GRADIENT, 64, 256, 10, 8},
        {INPUT_GRADIENT, 256, 2048, 2048, 32}, {INPUT_GRADIENT, 8192, 32, 288, 8},
        {WEIGHT_GRADIENT, 512, 784, 64, 8},  {WEIGHT_GRADIENT, 256, 512, 64, 8}, {WEIGHT_GRADIENT, 10, 256, 64, 8},
        {WEIGHT_GRADIENT, 2048, 2048, 256, 32}, {WEIGHT_GRADIENT, 384, 128, 2048, 16}, {WEIGHT_GRADIENT, 512, 784, 32, 8},
    };
    ss_pool *pool = NULL;
    if (ss_pool_create(threads, true, &pool, NULL) != SS_OK) return 1;
    const ss_kernels *tables[3] = {ss_kernels_for(SS_ISA_AVX512), ss_kernels_for(SS_ISA_AVX2), ss_kernels_for(SS_ISA_SCALAR)};
    printf("%-16s %5s %5s %5s  %8s %8s %8s %8s %8s  %8s  %s\n", "", "m", "n", "k", "avx512", "avx2", "scalar", "openblas", "in one", "peak",
           "avx512/openblas, avx512/openblas in one call, avx512/peak");
    for (size_t index = 0; index < sizeof shapes / sizeof *shapes; index++) {
        const shape *s = &shapes[index];
        bool is_fold = s->kind == WEIGHT_GRADIENT;
        int64_t row[SS_MAX_LANES + 1], samples = is_fold ? s->k : s->m;
        int32_t adds[SS_MAX_LANES], lane[SS_MAX_LANES];
        ss_span leaf[SS_MAX_LANES];
        for (int v = 0; v <= s->lanes; v++) {
            row[v] = ss_lane_begin(v, s->lanes, samples);
            leaf[v] = (ss_span){v, v + 1};
            lane[v] = v;
        }
        ss_fold fold = {.lanes = s->lanes, .row = row, .adds = adds, .lane = lane};
        fold.blocks = ss_fold_plan(s->lanes, (ss_span){0, s->lanes}, leaf, s->lanes, adds, NULL, &fold.depth);
        float *a = array(s->m * s->k), *b = array(s->n * s->k), *c = array(s->m * s->n), *bias = array(s->n);
        bool turned = s->kind == FORWARD; /* the weight lies as [n][k] */
        work w = {.run = {.m = s->m, .n = s->n, .k = s->k, .a = a, .a_row = s->k, .a_col = 1, .b = b, .b_row = turned ? 1 : s->n,
                          .b_col = turned ? s->k : 1, .c = c, .c_row = s->n, .bias = bias, .fold = &fold, .positions = 1},
                  .fold = {.m = s->m, .n = s->n, .positions = 1, .a = a, .a_row = s->m, .b = b, .b_row = s->n, .c = c, .c_row = s->n,
                           .block_stride = s->m * s->n, .fold = &fold},
                  .is_fold = is_fold};
        int64_t room = 0;
        for (int table = 0; table < 3; table++)
            for (int backend = 0; backend < 2; backend++) {
                w.fold.backend = (ss_backend)backend;
                if (tables[table]) room = ss_max(room, tables[table]->matmul_fold_scratch(&w.fold, fold.depth, threads));
            }
        w.fold.scratch = array(room);
        /* What OpenBLAS reaches when it may sum all samples in one call. */
        ss_fold whole = {.lanes = 1, .blocks = 1, .depth = 1, .row = (int64_t[]){0, samples}, .adds = (int32_t[]){0}, .lane = (int32_t[]){0}};
        double flops = 2.0 * (double)s->m * (double)s->n * (double)s->k, best[5] = {1e9, 1e9, 1e9, 1e9, 1e9}, peak = 0;
        for (int round = 0; round < rounds; round++)
            for (int path = 0; path < 5; path++) {
                w.kernels = path < 3 ? tables[path] : tables[0] ? tables[0] : tables[2];
                w.run.backend = w.fold.backend = path >= 3 ? SS_BACKEND_OPENBLAS : SS_BACKEND_NATIVE;
                w.run.fold = w.fold.fold = path == 4 ? &whole : &fold;
                if (!w.kernels || (path == 2 && (round > 0 || flops > 1e8))) continue;
                double t = measure(pool, &w, (int)(path == 2 ? 0 : 2e8 / flops) + 1);
                if (t < best[path]) best[path] = t;
                if (path == 0) {
                    double p = peak_avx512();
                    if (p > peak) peak = p;
                }
            }
        static const char *const names[] = {"forward", "input gradient", "weight gradient"};
        printf("%-16s %5d %5d %5d  %8.1f %8.1f %8.1f %8.1f %8.1f  %8.1f  %5.2f %5.2f %5.2f\n", names[s->kind], (int)s->m, (int)s->n, (int)s->k, flops / best[0] * 1e-9,
               flops / best[1] * 1e-9, flops / best[2] * 1e-9, flops / best[3] * 1e-9, flops / best[4] * 1e-9, peak * threads,
               best[3] / best[0], best[4] / best[0], flops / best[0] * 1e-9 / (peak * threads));
        fflush(stdout);
        ss_free(a), ss_free(b), ss_free(c), ss_free(bias), ss_free(w.fold.scratch);
    }
    ss_pool_free(pool);
    return 0;
}
