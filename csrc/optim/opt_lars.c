/* LARS. */
#include <stdbool.h>
#include "kernels/variant.h"
#include "optim/layerwise.h"

enum { LR, MOMENTUM, DAMPENING, WEIGHT_DECAY, NESTEROV, TRUST, EPS, ADAPT, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 1, 0, 1e30, "step size of the whole network"},
    {"momentum", 0.9, 0, 1e30, "factor of the kept step"},
    {"dampening", 0, -1e30, 1e30, "the new step enters the kept one times 1 - dampening, from the second step on"},
    {"weight_decay", 0, 0, 1e30, "weight_decay * parameter is added to the gradient"},
    {"nesterov", 0, 0, 1, "1: step along new + momentum * kept"},
    {"trust_coefficient", 1e-3, 0, 1e30, "how far a step may move an array, in its norm"},
    {"eps", 1e-8, 0, 1e30, "added to the norm of the gradient"},
    {"adapt", 1, 0, 1, "0: without the ratio of norms (often for biases and normalisation)"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { FRESH, DERIVED };

static int slots(const double *hyper) { return hyper[MOMENTUM] != 0 ? 1 : 0; }

static void prepare(const double *hyper, int64_t step, double *derived) { derived[FRESH] = step == 1 ? 1 : 1 - hyper[DAMPENING]; }

static int64_t scratch(const double *hyper, const ss_shape *shape, const ss_kernels *kernels, ss_backend backend, int threads) {
    (void)hyper, (void)kernels, (void)backend, (void)threads;
    return layerwise_scratch(shape, false);
}

/* Phase 0: the norms' blocks. Phase 1: the step. */
static void whole(const ss_whole *w) {
    const layerwise l = layerwise_of(w);
    const double *hyper = w->hyper;
    int64_t first, past;
    ss_split(ss_blocks(w->count), 1, w->thread, w->threads, &first, &past);
    const int64_t begin = first * SS_BLOCK, end = ss_min(past * SS_BLOCK, w->count);
    float *restrict p = w->param;
    const float *restrict g = w->grad;
    if (w->phase == 0) {
        for (int64_t b = first; b < past; b++) {
            const int64_t from = b * SS_BLOCK, n = ss_min(SS_BLOCK, w->count - from);
            l.param[b] = (double)row_dot(n, p + from, p + from);
            l.other[b] = (double)row_dot(n, g + from, g + from);
        }
        return;
    }
    double rate = hyper[LR];
    if (hyper[ADAPT] != 0) {
        const double size = layerwise_norm(l.param, w->count), gradient = layerwise_norm(l.other, w->count);
        if (!(size == 0 || gradient == 0)) rate *= hyper[TRUST] * size / (gradient + hyper[WEIGHT_DECAY] * size + hyper[EPS]);
    }
    const float lr = (float)rate, decay = (float)hyper[WEIGHT_DECAY], momentum = (float)hyper[MOMENTUM], fresh = (float)w->derived[FRESH];
    const float sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    if (hyper[MOMENTUM] == 0) {
        for (int64_t i = begin; i < end; i++) p[i] = fma_r(-lr, fma_r(decay, p[i], sign * g[i]), p[i]);
        return;
    }
    float *restrict kept = w->slot[0];
    const float ahead = hyper[NESTEROV] != 0 ? momentum : 1, direct = hyper[NESTEROV] != 0 ? 1 : 0;
    for (int64_t i = begin; i < end; i++) {
        float step = lr * fma_r(decay, p[i], sign * g[i]);
        kept[i] = fma_r(momentum, kept[i], fresh * step);
        p[i] -= fma_r(ahead, kept[i], direct * step);
    }
}

const ss_optim SS_FN(ss_optim_lars) = {
    .name = "lars",
    .doc = "LARS: gradient descent with a step size for each parameter array in proportion to the array's norm.\n\n"
           "    r = trust_coefficient * ||param|| / (||grad|| + weight_decay * ||param|| + eps)\n"
           "    s = lr * r * (grad + weight_decay * param);  b = momentum * b + (1 - dampening) * s (first step: s)\n"
           "    param -= s + momentum * b if nesterov else b\n\n"
           "r is 1 where one of the norms is 0, and with adapt = 0. Norms: blocks of 4096 elements and a binary tree over them. "
           "You, Gitman, Ginsburg: \"Large batch training of convolutional networks\", 2017.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"momentum_buffer"},
    .prepare = prepare,
    .whole = whole,
    .phases = layerwise_phases,
    .scratch = scratch,
};
