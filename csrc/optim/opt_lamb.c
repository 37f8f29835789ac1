/* LAMB. */
#include <stdbool.h>
#include "kernels/variant.h"
#include "optim/layerwise.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, ADAPT, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 1e-3, 0, 1e30, "step size"},
    {"beta1", 0.9, 0, 0.9999999999999999, "decay of the mean of gradients"},
    {"beta2", 0.999, 0, 0.9999999999999999, "decay of the mean of squared gradients"},
    {"eps", 1e-6, 0, 1e30, "added to the root of the second moment"},
    {"weight_decay", 0.01, 0, 1e30, "weight_decay * parameter is added to the direction of the step"},
    {"adapt", 1, 0, 1, "0: without the ratio of norms (often for biases and normalisation)"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { UNBIAS, CORRECTION, ONE_MINUS_BETA1, ONE_MINUS_BETA2, DERIVED };

static int slots(const double *hyper) {
    (void)hyper;
    return 2;
}

static void prepare(const double *hyper, int64_t step, double *derived) {
    derived[UNBIAS] = 1 / (1 - ss_power(hyper[BETA1], step));
    derived[CORRECTION] = 1 / sqrt(1 - ss_power(hyper[BETA2], step));
    derived[ONE_MINUS_BETA1] = 1 - hyper[BETA1];
    derived[ONE_MINUS_BETA2] = 1 - hyper[BETA2];
}

static int64_t scratch(const double *hyper, const ss_shape *shape, const ss_kernels *kernels, ss_backend backend, int threads) {
    (void)hyper, (void)kernels, (void)backend, (void)threads;
    return layerwise_scratch(shape, true);
}

/* Phase 0: moments, the direction of the step, and the norms' blocks. Phase 1: the step. */
static void whole(const ss_whole *w) {
    const layerwise l = layerwise_of(w);
    const double *hyper = w->hyper, *derived = w->derived;
    int64_t first, past;
    ss_split(ss_blocks(w->count), 1, w->thread, w->threads, &first, &past);
    const int64_t begin = first * SS_BLOCK, end = ss_min(past * SS_BLOCK, w->count);
    float *restrict p = w->param, *restrict u = l.step;
    if (w->phase == 0) {
        const float unbias = (float)derived[UNBIAS], correction = (float)derived[CORRECTION], eps = (float)hyper[EPS], decay = (float)hyper[WEIGHT_DECAY];
        const float fresh1 = (float)derived[ONE_MINUS_BETA1], fresh2 = (float)derived[ONE_MINUS_BETA2], beta2 = (float)hyper[BETA2];
        const float sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
        float *restrict mean = w->slot[0], *restrict square = w->slot[1];
        const float *restrict g = w->grad;
        for (int64_t b = first; b < past; b++) {
            const int64_t from = b * SS_BLOCK, to = ss_min(from + SS_BLOCK, w->count);
            for (int64_t i = from; i < to; i++) {
                float d = sign * g[i];
                mean[i] = fma_r(fresh1, d - mean[i], mean[i]);
                square[i] = fma_r(fresh2 * d, d, beta2 * square[i]);
                u[i] = fma_r(decay, p[i], unbias * mean[i] / fma_r(sqrtf(square[i]), correction, eps));
            }
            l.param[b] = (double)row_dot(to - from, p + from, p + from);
            l.other[b] = (double)row_dot(to - from, u + from, u + from);
        }
        return;
    }
    double rate = hyper[LR];
    if (hyper[ADAPT] != 0) {
        const double size = layerwise_norm(l.param, w->count), step = layerwise_norm(l.other, w->count);
        if (!(size == 0 || step == 0)) rate *= size / step;
    }
    for (int64_t i = begin; i < end; i++) p[i] = fma_r(-(float)rate, u[i], p[i]);
}

const ss_optim SS_FN(ss_optim_lamb) = {
    .name = "lamb",
    .doc = "LAMB: Adam with a step for each parameter array in proportion to the array's norm.\n\n"
           "    m = beta1 * m + (1 - beta1) * grad;  v = beta2 * v + (1 - beta2) * grad^2\n"
           "    u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * param\n"
           "    param -= lr * ||param|| / ||u|| * u\n\n"
           "The ratio is 1 where one of the norms is 0, and with adapt = 0. Norms: blocks of 4096 elements and a binary tree over them. "
           "You and others: \"Large batch optimization for deep learning: training BERT in 76 minutes\", 2020.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"exp_avg", "exp_avg_sq"},
    .prepare = prepare,
    .whole = whole,
    .phases = layerwise_phases,
    .scratch = scratch,
};
