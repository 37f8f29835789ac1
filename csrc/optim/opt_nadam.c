/* NAdam, as torch.optim.NAdam. */
#include <stdbool.h>
#include "kernels/variant.h"
#include "optim/optim.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, MOMENTUM_DECAY, DECOUPLED, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 2e-3, 0, 1e30, "step size"},
    {"beta1", 0.9, 0, 0.9999999999999999, "decay of the mean of gradients"},
    {"beta2", 0.999, 0, 0.9999999999999999, "decay of the mean of squared gradients"},
    {"eps", 1e-8, 0, 1e30, "added to the root of the second moment"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty, or decoupled"},
    {"momentum_decay", 4e-3, 0, 1e30, "how fast the momentum of a step approaches beta1"},
    {"decoupled_weight_decay", 0, 0, 1, "1: every step first takes lr * weight_decay * parameter off the parameter, as in AdamW"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { GRADIENT_RATE, MEAN_RATE, ONE_MINUS_BETA1, ONE_MINUS_BETA2, CORRECTION, KEEP, PENALTY, DERIVED };

static int slots(const double *hyper) {
    (void)hyper;
    return 2;
}

/* mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2). The product of all mu up to now is formed anew; once it is too small to change 1 - product, it is left at that. */
static void prepare(const double *hyper, int64_t step, double *derived) {
    const double ratio = ss_exponential(hyper[MOMENTUM_DECAY] * -0.040821994520255166); /* 0.96^momentum_decay */
    double product = 1, power = 1;
    for (int64_t t = 1; t <= step && product > 0x1p-70; t++) {
        power *= ratio;
        product *= hyper[BETA1] * (1 - 0.5 * power);
    }
    const double mu = hyper[BETA1] * (1 - 0.5 * ss_power(ratio, step)), next = hyper[BETA1] * (1 - 0.5 * ss_power(ratio, step + 1));
    const bool decoupled = hyper[DECOUPLED] != 0;
    derived[GRADIENT_RATE] = hyper[LR] * (1 - mu) / (1 - product);
    derived[MEAN_RATE] = hyper[LR] * next / (1 - product * next);
    derived[ONE_MINUS_BETA1] = 1 - hyper[BETA1];
    derived[ONE_MINUS_BETA2] = 1 - hyper[BETA2];
    derived[CORRECTION] = 1 / sqrt(1 - ss_power(hyper[BETA2], step));
    derived[KEEP] = decoupled ? 1 - hyper[LR] * hyper[WEIGHT_DECAY] : 1;
    derived[PENALTY] = decoupled ? 0 : hyper[WEIGHT_DECAY];
}

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    (void)step;
    const float ahead = (float)derived[GRADIENT_RATE], rate = (float)derived[MEAN_RATE], correction = (float)derived[CORRECTION], eps = (float)hyper[EPS];
    const float fresh1 = (float)derived[ONE_MINUS_BETA1], fresh2 = (float)derived[ONE_MINUS_BETA2], beta2 = (float)hyper[BETA2];
    const float keep = (float)derived[KEEP], decay = (float)derived[PENALTY], sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    float *restrict p = param, *restrict first = slot[0], *restrict second = slot[1];
    const float *restrict g = grad;

    for (int64_t i = 0; i < n; i++) {
        float d = fma_r(decay, p[i], sign * g[i]);
        first[i] = fma_r(fresh1, d - first[i], first[i]);
        second[i] = fma_r(fresh2 * d, d, beta2 * second[i]);
        float root = fma_r(sqrtf(second[i]), correction, eps);
        p[i] = fma_r(-rate, first[i] / root, fma_r(-ahead, d / root, keep * p[i]));
    }
}

const ss_optim SS_FN(ss_optim_nadam) = {
    .name = "nadam",
    .doc = "Adam with Nesterov momentum.\n\n"
           "    d = grad + weight_decay * param (decoupled: param *= 1 - lr * weight_decay)\n"
           "    m = beta1 * m + (1 - beta1) * d;  v = beta2 * v + (1 - beta2) * d^2;  r = sqrt(v / (1 - beta2^t)) + eps\n"
           "    mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2);  P_t = mu_1 * ... * mu_t\n"
           "    param -= lr * (1 - mu_t) / (1 - P_t) * d / r + lr * mu_(t+1) / (1 - P_(t+1)) * m / r\n\n"
           "P is formed from the present beta1 and momentum_decay. Dozat: \"Incorporating Nesterov momentum into Adam\", 2016; the formulas are those of torch.optim.NAdam.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"exp_avg", "exp_avg_sq"},
    .prepare = prepare,
    .update = update,
};
