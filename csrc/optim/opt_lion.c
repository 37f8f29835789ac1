/* Lion. */
#include "kernels/variant.h"
#include "optim/optim.h"

enum { LR, BETA1, BETA2, WEIGHT_DECAY, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 1e-4, 0, 1e30, "step size: every parameter moves by it"},
    {"beta1", 0.9, 0, 0.9999999999999999, "share of the mean in the direction of the step"},
    {"beta2", 0.99, 0, 0.9999999999999999, "decay of the mean of gradients"},
    {"weight_decay", 0, 0, 1e30, "every step first takes lr * weight_decay * parameter off the parameter"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { KEEP, ONE_MINUS_BETA1, ONE_MINUS_BETA2, DERIVED };

static int slots(const double *hyper) {
    (void)hyper;
    return 1;
}

static void prepare(const double *hyper, int64_t step, double *derived) {
    (void)step;
    derived[KEEP] = 1 - hyper[LR] * hyper[WEIGHT_DECAY];
    derived[ONE_MINUS_BETA1] = 1 - hyper[BETA1];
    derived[ONE_MINUS_BETA2] = 1 - hyper[BETA2];
}

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    (void)step;
    const float lr = (float)hyper[LR], keep = (float)derived[KEEP], sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    const float fresh1 = (float)derived[ONE_MINUS_BETA1], fresh2 = (float)derived[ONE_MINUS_BETA2];
    float *restrict p = param, *restrict mean = slot[0];
    const float *restrict g = grad;

    for (int64_t i = 0; i < n; i++) {
        float d = sign * g[i], mixed = fma_r(fresh1, d - mean[i], mean[i]);
        float direction = mixed > 0 ? 1 : mixed < 0 ? -1 : mixed; /* 0 and NaN stay */
        mean[i] = fma_r(fresh2, d - mean[i], mean[i]);
        p[i] = fma_r(-lr, direction, keep * p[i]);
    }
}

const ss_optim SS_FN(ss_optim_lion) = {
    .name = "lion",
    .doc = "Lion: steps of equal size along the sign of a mean.\n\n"
           "    c = beta1 * m + (1 - beta1) * grad;  m = beta2 * m + (1 - beta2) * grad\n"
           "    param = (1 - lr * weight_decay) * param - lr * sign(c)\n\n"
           "Chen and others: \"Symbolic discovery of optimization algorithms\", 2023.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"exp_avg"},
    .prepare = prepare,
    .update = update,
};
