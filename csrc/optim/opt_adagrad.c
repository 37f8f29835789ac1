/* Adagrad, as torch.optim.Adagrad. */
#include "kernels/variant.h"
#include "optim/optim.h"

enum { LR, LR_DECAY, WEIGHT_DECAY, INITIAL, EPS, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 0.01, 0, 1e30, "step size"},
    {"lr_decay", 0, 0, 1e30, "the step size of step t is lr / (1 + (t - 1) * lr_decay)"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty: weight_decay * parameter is added to the gradient"},
    {"initial_accumulator_value", 0, 0, 1e30, "what the sum of squares starts from"},
    {"eps", 1e-10, 0, 1e30, "added to the root"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { RATE, DERIVED };

static int slots(const double *hyper) {
    (void)hyper;
    return 1;
}

static void prepare(const double *hyper, int64_t step, double *derived) { derived[RATE] = hyper[LR] / (1 + (double)(step - 1) * hyper[LR_DECAY]); }

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    const float rate = (float)derived[RATE], decay = (float)hyper[WEIGHT_DECAY], eps = (float)hyper[EPS], sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    float *restrict p = param, *restrict sum = slot[0];
    const float *restrict g = grad;

    if (step == 1)
        for (int64_t i = 0; i < n; i++) sum[i] = (float)hyper[INITIAL];
    for (int64_t i = 0; i < n; i++) {
        float d = fma_r(decay, p[i], sign * g[i]);
        sum[i] = fma_r(d, d, sum[i]);
        p[i] = fma_r(-rate, d / (sqrtf(sum[i]) + eps), p[i]);
    }
}

const ss_optim SS_FN(ss_optim_adagrad) = {
    .name = "adagrad",
    .doc = "Adagrad.\n\n"
           "    d = grad + weight_decay * param;  s = s + d^2\n"
           "    param -= lr / (1 + (t - 1) * lr_decay) * d / (sqrt(s) + eps)\n\n"
           "s starts from initial_accumulator_value. Duchi, Hazan, Singer: \"Adaptive subgradient methods for online learning and stochastic optimization\", 2011.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"sum"},
    .prepare = prepare,
    .update = update,
};
