/* Convolution kernels: every variant and thread count against plain loops, bit for bit; the openblas backend within rounding, and its bits over threads and sweeps.
 *
 * With an argument ("bench") it prints GFLOP/s of the shapes that the benchmark networks use. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xmmintrin.h>

#include "base/pool.h"
#include "base/shape.h"
#include "kernels/conv2d_naive.h"

enum { GUARD = 64 };
static const float GUARD_VALUE = -12345.5f;
static int failures;

typedef struct shape {
    int64_t height, width, channels, out_channels, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
} shape;

typedef struct deep_shape {
    shape flat;
    int64_t depth, kernel_d, stride_d, pad_d, dilation_d;
} deep_shape;

static const shape SHAPES[] = {
    {5, 5, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1},      {7, 6, 3, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1},   {6, 7, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {8, 8, 16, 32, 3, 3, 2, 2, 1, 1, 1, 1, 1},    {8, 8, 16, 32, 1, 1, 2, 2, 0, 0, 1, 1, 1},   {4, 4, 5, 7, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {9, 11, 4, 6, 3, 2, 2, 3, 1, 0, 2, 1, 2},     {12, 5, 2, 33, 7, 1, 1, 1, 3, 0, 1, 1, 1},   {5, 12, 3, 65, 1, 5, 1, 2, 0, 2, 1, 2, 1},
    {10, 10, 6, 6, 3, 3, 1, 1, 1, 1, 1, 1, 6},    {10, 9, 8, 24, 3, 3, 2, 1, 2, 2, 2, 2, 4},   {3, 3, 2, 9, 3, 3, 1, 1, 0, 0, 1, 1, 1},
    {3, 3, 17, 20, 3, 3, 1, 1, 3, 3, 1, 1, 1},    {4, 4, 3, 8, 2, 2, 4, 4, 0, 0, 1, 1, 1},     {9, 9, 2, 3, 2, 2, 5, 5, 1, 0, 3, 2, 1},
    {16, 16, 8, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1},   {2, 2, 64, 64, 2, 2, 1, 1, 0, 0, 1, 1, 1},   {1, 1, 40, 130, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {8, 8, 4, 4, 8, 8, 8, 8, 0, 0, 1, 1, 2},      {20, 21, 1, 32, 5, 5, 1, 1, 2, 2, 1, 1, 1}, {6, 6, 4, 8, 3, 3, 3, 3, 2, 2, 2, 3, 1},
    {9, 7, 17, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1},    {5, 6, 16, 70, 3, 3, 1, 1, 3, 0, 1, 1, 1},   {17, 18, 64, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {8, 9, 12, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1},    {7, 7, 40, 8, 1, 1, 2, 2, 0, 0, 1, 1, 1},    {20, 17, 20, 32, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {7, 7, 33, 15, 3, 3, 1, 1, 1, 1, 1, 1, 1},    {5, 5, 4, 4, 1, 1, 1, 1, 2, 2, 1, 1, 1},
    /* depthwise: whole vectors and rests, multipliers (16 takes the general path), strides, dilation, one row */
    {10, 9, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 32},  {9, 10, 33, 33, 3, 3, 2, 2, 1, 1, 1, 1, 33}, {8, 8, 5, 10, 3, 3, 1, 1, 1, 1, 1, 1, 5},
    {7, 8, 19, 57, 2, 3, 3, 2, 1, 0, 1, 2, 19},   {3, 4, 2, 32, 3, 3, 1, 1, 1, 1, 1, 1, 2},    {5, 6, 70, 70, 5, 5, 1, 1, 2, 2, 1, 1, 70},
    {1, 30, 12, 24, 1, 5, 1, 1, 0, 2, 1, 1, 12},  {7, 7, 16, 16, 1, 1, 3, 2, 0, 0, 1, 1, 16},  {2, 2, 3, 45, 2, 2, 1, 1, 0, 0, 1, 1, 3},
};

static const deep_shape DEEP_SHAPES[] = {
    {{4, 5, 3, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 4, 3, 1, 1, 1},    {{5, 4, 4, 18, 3, 2, 2, 1, 1, 0, 1, 2, 2}, 7, 2, 3, 2, 2}, {{3, 4, 16, 16, 1, 1, 1, 1, 0, 0, 1, 1, 1}, 5, 3, 2, 0, 1},
    {{4, 4, 18, 18, 3, 3, 1, 2, 1, 1, 1, 1, 18}, 5, 3, 2, 1, 1}, {{4, 3, 6, 12, 2, 2, 2, 1, 0, 1, 1, 1, 6}, 4, 3, 1, 2, 2},
};

typedef struct sweep {
    ss_fold fold;
    int64_t row[SS_MAX_LANES + 1];
    int32_t adds[SS_MAX_LANES], lane[SS_MAX_LANES];
} sweep;

static void sweep_make(sweep *s, int64_t batch, int32_t lanes) {
    ss_span leaf[SS_MAX_LANES];
    int count = 0, depth = 0;
    s->row[0] = 0;
    for (int32_t v = 0; v < lanes; v++) {
        if (ss_lane_begin(v, lanes, batch) == ss_lane_begin(v + 1, lanes, batch)) continue;
        leaf[count] = (ss_span){v, v + 1};
        s->lane[count] = v;
        s->row[++count] = ss_lane_begin(v + 1, lanes, batch);
    }
    int blocks = ss_fold_plan(lanes, (ss_span){0, lanes}, leaf, count, s->adds, NULL, &depth);
    s->fold = (ss_fold){.lanes = count, .blocks = blocks, .depth = depth, .row = s->row, .adds = s->adds, .lane = s->lane};
}

static float *buffer_make(int64_t count, float fill) {
    float *b = aligned_alloc(64, (size_t)(count + 2 * GUARD + 64) / 16 * 64);
    if (!b) exit(2);
    for (int64_t i = 0; i < count + 2 * GUARD; i++) b[i] = i < GUARD || i >= count + GUARD ? GUARD_VALUE : fill;
    return b + GUARD;
}
static void buffer_free(float *b) { free(b - GUARD); }
static int buffer_intact(const float *b, int64_t count) {
    for (int i = 0; i < GUARD; i++)
        if (b[-1 - i] != GUARD_VALUE || b[count + i] != GUARD_VALUE) return 0;
    return 1;
}

static uint64_t state = 1;
static float next(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)((int32_t)(state >> 32)) * 0x1p-31f;
}
static float *buffer_random(int64_t count) {
    float *b = buffer_make(count, 0);
    for (int64_t i = 0; i < count; i++) b[i] = next();
    return b;
}

static ss_conv2d deep_conv_of(const deep_shape *deep, int64_t rows) {
    const shape *s = &deep->flat;
    ss_conv2d p = {.rows = rows, .height = s->height, .width = s->width, .channels = s->channels, .out_channels = s->out_channels, .kernel_h = s->kernel_h, .kernel_w = s->kernel_w,
                   .depth = deep->depth, .kernel_d = deep->kernel_d, .stride_d = deep->stride_d, .pad_d = deep->pad_d, .dilation_d = deep->dilation_d,
                   .stride_h = s->stride_h, .stride_w = s->stride_w, .pad_h = s->pad_h, .pad_w = s->pad_w, .dilation_h = s->dilation_h, .dilation_w = s->dilation_w, .groups = s->groups};
    p.out_depth = (p.depth + 2 * p.pad_d - p.dilation_d * (p.kernel_d - 1) - 1) / p.stride_d + 1;
    p.out_height = (s->height + 2 * s->pad_h - s->dilation_h * (s->kernel_h - 1) - 1) / s->stride_h + 1;
    p.out_width = (s->width + 2 * s->pad_w - s->dilation_w * (s->kernel_w - 1) - 1) / s->stride_w + 1;
    return p;
}
static ss_conv2d conv_of(const shape *s, int64_t rows) { return deep_conv_of(&(deep_shape){*s, 1, 1, 1, 0, 1}, rows); }

static const char *text(const ss_conv2d *s) {
    static char t[220];
    snprintf(t, sizeof t, "%ldx%ldx%ld->%ld kernel %ldx%ld stride %ld,%ld pad %ld,%ld dilation %ld,%ld groups %ld; depth %ld, kernel %ld, stride %ld, pad %ld, dilation %ld", (long)s->height, (long)s->width, (long)s->channels, (long)s->out_channels,
             (long)s->kernel_h, (long)s->kernel_w, (long)s->stride_h, (long)s->stride_w, (long)s->pad_h, (long)s->pad_w, (long)s->dilation_h, (long)s->dilation_w, (long)s->groups,
             (long)s->depth, (long)s->kernel_d, (long)s->stride_d, (long)s->pad_d, (long)s->dilation_d);
    return t;
}

static void compare(const ss_conv2d *s, const char *what, const char *path, int threads, const float *want, const float *got, int64_t count, double tolerance) {
    double scale = 0;
    for (int64_t i = 0; i < count; i++) scale = fmax(scale, fabs(want[i]));
    for (int64_t i = 0; i < count; i++)
        if (tolerance == 0 ? memcmp(&want[i], &got[i], 4) != 0 : !(fabs((double)want[i] - got[i]) <= tolerance * scale)) {
            printf("%s: %s %s, %d threads: element %ld is %.9g, expected %.9g\n", text(s), path, what, threads, (long)i, got[i], want[i]);
            failures++;
            break;
        }
    if (!buffer_intact(got, count)) {
        printf("%s: %s %s, %d threads: wrote outside\n", text(s), path, what, threads);
        failures++;
    }
}

typedef struct sizes {
    int64_t x, y, weight;
} sizes;
static sizes sizes_of(const ss_conv2d *p) {
    return (sizes){p->rows * p->depth * p->height * p->width * p->channels, p->rows * p->out_depth * p->out_height * p->out_width * p->out_channels,
                   p->out_channels * (p->channels / p->groups) * p->kernel_d * p->kernel_h * p->kernel_w};
}

/* Threads one after another, phase by phase; scratch full of NaN. */
static void run(const ss_kernels *k, ss_conv2d p, ss_conv2d_pass pass, int threads) {
    int64_t count = k->conv2d_scratch(&p, pass, p.fold->depth, threads);
    p.scratch = buffer_make(count, NAN);
    for (int t = threads - 1; t >= 0; t--) k->conv2d_pack(&p, pass, t, threads);
    for (int t = threads - 1; t >= 0; t--) pass == SS_CONV_FORWARD ? k->conv2d_forward(&p, t, threads) : k->conv2d_backward(&p, t, threads);
    if (!buffer_intact(p.scratch, count)) {
        printf("%s: wrote outside its scratch\n", k->name);
        failures++;
    }
    buffer_free(p.scratch);
}

static void check(ss_conv2d p, int32_t lanes) {
    const ss_conv2d *s = &p;
    int64_t rows = p.rows;
    sizes n = sizes_of(&p);
    sweep sw;
    sweep_make(&sw, rows, lanes);
    p.fold = &sw.fold;
    p.block_stride = n.weight + 3;
    float *x = buffer_random(n.x), *weight = buffer_random(n.weight), *bias = buffer_random(p.out_channels), *grad_y = buffer_random(n.y);
    float *want_y = buffer_make(n.y, 0), *want_x = buffer_make(n.x, 0), *want_w = buffer_make(p.block_stride * sw.fold.blocks, 1);
    conv_naive_forward(&p, x, weight, bias, want_y, 0, rows);
    float *x_bias = buffer_random(p.channels);
    p.x_bias = x_bias;
    conv_naive_grad_x(&p, grad_y, weight, x_bias, want_x, 0, rows);
    conv_naive_grad_weight(&p, x, grad_y, want_w, 0, n.weight);
    p.x = x, p.weight = weight, p.grad_y = grad_y;
    for (int backend = SS_BACKEND_NATIVE; backend <= SS_BACKEND_OPENBLAS; backend++)
        for (ss_isa isa = 0; isa < SS_ISA_COUNT; isa++) {
            const ss_kernels *k = ss_kernels_for(isa);
            if (!k || (backend == SS_BACKEND_OPENBLAS && isa > 0)) continue;
            const char *path = backend == SS_BACKEND_OPENBLAS ? "openblas" : k->name;
            for (int threads = 1; threads <= 3; threads++) {
                p.backend = backend;
                p.bias = bias;
                p.y = buffer_make(n.y, NAN), p.grad_x = buffer_make(n.x, NAN), p.grad_weight = buffer_make(p.block_stride * sw.fold.blocks, 1);
                run(k, p, SS_CONV_FORWARD, threads);
                run(k, p, SS_CONV_BACKWARD, threads);
                double tolerance = backend == SS_BACKEND_OPENBLAS && threads == 1 ? 1e-5 : 0;
                compare(s, "forward", path, threads, want_y, p.y, n.y, tolerance);
                compare(s, "gradient of x", path, threads, want_x, p.grad_x, n.x, tolerance);
                compare(s, "gradient of weight", path, threads, want_w, p.grad_weight, p.block_stride * sw.fold.blocks, tolerance);
                if (tolerance != 0) { /* more threads must give the same bits */
                    memcpy(want_y, p.y, n.y * 4), memcpy(want_x, p.grad_x, n.x * 4), memcpy(want_w, p.grad_weight, p.block_stride * sw.fold.blocks * 4);
                }
                buffer_free(p.y), buffer_free(p.grad_x), buffer_free(p.grad_weight);
            }
        }
    buffer_free(x), buffer_free(weight), buffer_free(bias), buffer_free(grad_y), buffer_free(want_y), buffer_free(want_x), buffer_free(want_w), buffer_free(x_bias);
}

/* Gradients that are not wanted are left alone; a missing bias adds nothing. */
static void check_absent(void) {
    ss_conv2d p = conv_of(&SHAPES[1], 3);
    sizes n = sizes_of(&p);
    sweep sw;
    sweep_make(&sw, 3, 2);
    p.fold = &sw.fold;
    float *x = buffer_random(n.x), *weight = buffer_random(n.weight), *grad_y = buffer_random(n.y), *want = buffer_make(n.y, 0), *grad_w = buffer_make(n.weight, 0);
    p.x = x, p.weight = weight, p.grad_y = grad_y, p.y = buffer_make(n.y, NAN), p.grad_weight = buffer_make(n.weight, NAN);
    conv_naive_forward(&p, x, weight, NULL, want, 0, 3);
    conv_naive_grad_weight(&p, x, grad_y, grad_w, 0, n.weight);
    for (ss_isa isa = 0; isa < SS_ISA_COUNT; isa++) {
        const ss_kernels *k = ss_kernels_for(isa);
        if (!k) continue;
        run(k, p, SS_CONV_FORWARD, 2);
        run(k, p, SS_CONV_BACKWARD, 2);
        compare(&p, "forward without bias", k->name, 2, want, p.y, n.y, 0);
        compare(&p, "gradient of weight alone", k->name, 2, grad_w, p.grad_weight, n.weight, 0);
    }
    buffer_free(x), buffer_free(weight), buffer_free(grad_y), buffer_free(want), buffer_free(grad_w), buffer_free(p.y), buffer_free(p.grad_weight);
}

/* Processor time, so that other programs on the machine do not count. */
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct job {
    const ss_kernels *k;
    ss_conv2d p;
    ss_conv2d_pass pass;
    ss_pool *pool;
} job;
static void job_run(void *argument, int thread, int threads) {
    job *j = argument;
    j->k->conv2d_pack(&j->p, j->pass, thread, threads);
    ss_pool_barrier(j->pool, thread);
    j->pass == SS_CONV_FORWARD ? j->k->conv2d_forward(&j->p, thread, threads) : j->k->conv2d_backward(&j->p, thread, threads);
}

static void bench(ss_isa isa, ss_backend backend, int threads) {
    static const struct {
        shape s;
        int64_t batch;
    } LIST[] = {
        {{28, 28, 1, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 64},   {{14, 14, 32, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 64},  {{32, 32, 3, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 128},
        {{32, 32, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 128}, {{32, 32, 16, 32, 3, 3, 2, 2, 1, 1, 1, 1, 1}, 128}, {{16, 16, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 128},
        {{16, 16, 32, 64, 3, 3, 2, 2, 1, 1, 1, 1, 1}, 128}, {{8, 8, 64, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 128},   {{32, 32, 16, 32, 1, 1, 2, 2, 0, 0, 1, 1, 1}, 128},
        {{14, 14, 128, 128, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 16}, {{14, 14, 256, 64, 1, 1, 1, 1, 0, 0, 1, 1, 1}, 32},
    };
    const ss_kernels *k = ss_kernels_for(isa);
    ss_pool *pool = NULL;
    if (!k || ss_pool_create(threads, true, &pool, NULL) != SS_OK) return;
    printf("%s%s, %d threads: GFLOP/s (by processor time, all threads) forward, gradient of x, gradient of weight\n", k->name, backend == SS_BACKEND_OPENBLAS ? " openblas" : "", threads);
    for (size_t i = 0; i < sizeof LIST / sizeof LIST[0]; i++) {
        ss_conv2d p = conv_of(&LIST[i].s, LIST[i].batch);
        sizes n = sizes_of(&p);
        sweep sw;
        sweep_make(&sw, p.rows, ss_default_lanes(p.rows));
        p.fold = &sw.fold;
        p.backend = backend;
        float *x = buffer_random(n.x), *y = buffer_random(n.y), *weight = buffer_random(n.weight), *bias = buffer_random(p.out_channels), *grad_y = buffer_random(n.y), *grad_x = buffer_random(n.x);
        float *grad_w = buffer_random(n.weight * sw.fold.blocks);
        p.x = x, p.y = y, p.weight = weight, p.bias = bias, p.grad_y = grad_y, p.block_stride = n.weight;
        printf("  %-75s", text(&p));
        for (int pass = 0; pass < 3; pass++) {
            p.grad_x = pass == 1 ? grad_x : NULL;
            p.grad_weight = pass == 2 ? grad_w : NULL;
            job j = {k, p, pass == 0 ? SS_CONV_FORWARD : SS_CONV_BACKWARD, pool};
            j.p.scratch = buffer_make(k->conv2d_scratch(&p, j.pass, sw.fold.depth, threads), 0);
            double best = 1e9, flops = 2.0 * (double)n.y * (double)(p.kernel_h * p.kernel_w * (p.channels / p.groups));
            for (int repeat = 0; repeat < 12; repeat++) {
                double begin = seconds();
                ss_pool_run(pool, job_run, &j, NULL);
                best = fmin(best, (seconds() - begin) / threads);
            }
            printf(" %7.1f", flops / best * 1e-9);
            buffer_free(j.p.scratch);
        }
        printf("\n");
        buffer_free(x), buffer_free(y), buffer_free(weight), buffer_free(bias), buffer_free(grad_y), buffer_free(grad_x), buffer_free(grad_w);
    }
    ss_pool_free(pool);
}

int main(int argc, char **argv) {
    _mm_setcsr(0x1F80 | 0x8000 | 0x0040);
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        for (int threads = 1; threads <= 2; threads++) bench(SS_ISA_AVX512, SS_BACKEND_NATIVE, threads);
        bench(SS_ISA_AVX2, SS_BACKEND_NATIVE, 1);
        bench(SS_ISA_AVX512, SS_BACKEND_OPENBLAS, 1);
        return 0;
    }
    for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++) {
        check(conv_of(&SHAPES[i], 5), 3);
        check(conv_of(&SHAPES[i], 1), 1);
        check(conv_of(&SHAPES[i], 11), 8);
    }
    for (size_t i = 0; i < sizeof DEEP_SHAPES / sizeof DEEP_SHAPES[0]; i++) {
        check(deep_conv_of(&DEEP_SHAPES[i], 5), 3);
        check(deep_conv_of(&DEEP_SHAPES[i], 7), 8);
    }
    check(conv_of(&SHAPES[5], 3), 8); /* empty lanes */
    check(conv_of(&SHAPES[17], 150), 4);
    for (int larger = 0; larger < 2; larger++) { /* outputs that end early, or reach further than the padding: other paddings at the end, transposed convolutions */
        for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++) {
            ss_conv2d p = conv_of(&SHAPES[i], 5);
            p.out_height = larger ? p.out_height + 2 : ss_max(p.out_height - 1, 1);
            p.out_width = larger ? p.out_width + 1 : ss_max(p.out_width - 2, 1);
            check(p, 3);
        }
    }
    check_absent();
    if (failures) {
        printf("%d failures\n", failures);
        return 1;
    }
    printf("convolution: %d flat shapes and %d deep ones, all variants, 1 to 3 threads, equal bits\n", (int)(sizeof SHAPES / sizeof SHAPES[0]), (int)(sizeof DEEP_SHAPES / sizeof DEEP_SHAPES[0]));
    return 0;
}
