/* RAdam, as torch.optim.RAdam. */
#include <stdbool.h>
#include "kernels/variant.h"
#include "optim/optim.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, DECOUPLED, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 1e-3, 0, 1e30, "step size"},
    {"beta1", 0.9, 0, 0.9999999999999999, "decay of the mean of gradients"},
    {"beta2", 0.999, 0, 0.9999999999999999, "decay of the mean of squared gradients"},
    {"eps", 1e-8, 0, 1e30, "added to the root of the second moment"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty, or decoupled"},
    {"decoupled_weight_decay", 0, 0, 1, "1: every step first takes lr * weight_decay * parameter off the parameter, as in AdamW"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { RATE, ADAPTIVE, ONE_MINUS_BETA1, ONE_MINUS_BETA2, KEEP, PENALTY, DERIVED };

static int slots(const double *hyper) {
    (void)hyper;
    return 2;
}

static void prepare(const double *hyper, int64_t step, double *derived) {
    const double power = ss_power(hyper[BETA2], step), unbiased = 1 - power, most = 2 / (1 - hyper[BETA2]) - 1;
    const double length = most - 2 * (double)step * power / unbiased; /* of the approximated simple moving average */
    const bool decoupled = hyper[DECOUPLED] != 0;
    derived[RATE] = hyper[LR] / (1 - ss_power(hyper[BETA1], step));
    derived[ADAPTIVE] = length > 5;
    if (length > 5) derived[RATE] *= sqrt((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)) * sqrt(unbiased);
    derived[ONE_MINUS_BETA1] = 1 - hyper[BETA1];
    derived[ONE_MINUS_BETA2] = 1 - hyper[BETA2];
    derived[KEEP] = decoupled ? 1 - hyper[LR] * hyper[WEIGHT_DECAY] : 1;
    derived[PENALTY] = decoupled ? 0 : hyper[WEIGHT_DECAY];
}

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    (void)step;
    const float rate = (float)derived[RATE], fresh1 = (float)derived[ONE_MINUS_BETA1], fresh2 = (float)derived[ONE_MINUS_BETA2], beta2 = (float)hyper[BETA2];
    const float keep = (float)derived[KEEP], decay = (float)derived[PENALTY], eps = (float)hyper[EPS], sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    float *restrict p = param, *restrict first = slot[0], *restrict second = slot[1];
    const float *restrict g = grad;

    if (derived[ADAPTIVE] != 0) {
        for (int64_t i = 0; i < n; i++) {
            float d = fma_r(decay, p[i], sign * g[i]);
            first[i] = fma_r(fresh1, d - first[i], first[i]);
            second[i] = fma_r(fresh2 * d, d, beta2 * second[i]);
            p[i] = fma_r(-rate, first[i] / (sqrtf(second[i]) + eps), keep * p[i]);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            float d = fma_r(decay, p[i], sign * g[i]);
            first[i] = fma_r(fresh1, d - first[i], first[i]);
            second[i] = fma_r(fresh2 * d, d, beta2 * second[i]);
            p[i] = fma_r(-rate, first[i], keep * p[i]);
        }
    }
}

const ss_optim SS_FN(ss_optim_radam) = {
    .name = "radam",
    .doc = "Rectified Adam.\n\n"
           "    d = grad + weight_decay * param (decoupled: param *= 1 - lr * weight_decay)\n"
           "    m = beta1 * m + (1 - beta1) * d;  v = beta2 * v + (1 - beta2) * d^2\n"
           "    R = 2 / (1 - beta2) - 1;  r = R - 2 * t * beta2^t / (1 - beta2^t)\n"
           "    r > 5:  param -= lr * m / (1 - beta1^t) * sqrt((r - 4) (r - 2) R / ((R - 4) (R - 2) r)) * sqrt(1 - beta2^t) / (sqrt(v) + eps)\n"
           "    else:   param -= lr * m / (1 - beta1^t)\n\n"
           "Liu and others: \"On the variance of the adaptive learning rate and beyond\", 2020; the formulas are those of torch.optim.RAdam.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"exp_avg", "exp_avg_sq"},
    .prepare = prepare,
    .update = update,
};
