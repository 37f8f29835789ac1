/* Adamax, as torch.optim.Adamax. */
#include "kernels/variant.h"
#include "optim/optim.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 2e-3, 0, 1e30, "step size"},
    {"beta1", 0.9, 0, 0.9999999999999999, "decay of the mean of gradients"},
    {"beta2", 0.999, 0, 0.9999999999999999, "decay of the largest gradient"},
    {"eps", 1e-8, 0, 1e30, "added to the size of each gradient"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty: weight_decay * parameter is added to the gradient"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { RATE, ONE_MINUS_BETA1, DERIVED };

static int slots(const double *hyper) {
    (void)hyper;
    return 2;
}

static void prepare(const double *hyper, int64_t step, double *derived) {
    derived[RATE] = hyper[LR] / (1 - ss_power(hyper[BETA1], step));
    derived[ONE_MINUS_BETA1] = 1 - hyper[BETA1];
}

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    (void)step;
    const float rate = (float)derived[RATE], fresh = (float)derived[ONE_MINUS_BETA1], beta2 = (float)hyper[BETA2], eps = (float)hyper[EPS];
    const float decay = (float)hyper[WEIGHT_DECAY], sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    float *restrict p = param, *restrict mean = slot[0], *restrict largest = slot[1];
    const float *restrict g = grad;

    for (int64_t i = 0; i < n; i++) {
        float d = fma_r(decay, p[i], sign * g[i]);
        mean[i] = fma_r(fresh, d - mean[i], mean[i]);
        largest[i] = max_r(beta2 * largest[i], fabsf(d) + eps);
        p[i] = fma_r(-rate, mean[i] / largest[i], p[i]);
    }
}

const ss_optim SS_FN(ss_optim_adamax) = {
    .name = "adamax",
    .doc = "Adam with the infinity norm.\n\n"
           "    d = grad + weight_decay * param\n"
           "    m = beta1 * m + (1 - beta1) * d;  u = max(beta2 * u, |d| + eps)\n"
           "    param -= lr / (1 - beta1^t) * m / u\n\n"
           "Kingma, Ba: \"Adam: a method for stochastic optimization\", 2015, section 7.1; the formulas are those of torch.optim.Adamax.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"exp_avg", "exp_inf"},
    .prepare = prepare,
    .update = update,
};
