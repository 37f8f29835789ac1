/* Averaged stochastic gradient descent, as torch.optim.ASGD. */
#include "kernels/variant.h"
#include "optim/optim.h"

enum { LR, LAMBD, ALPHA, T0, WEIGHT_DECAY, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 0.01, 0, 1e30, "first step size"},
    {"lambd", 1e-4, 0, 1e30, "decay of the parameter, and of the step size"},
    {"alpha", 0.75, 0, 1e30, "power of the decay of the step size"},
    {"t0", 1e6, 0, 1e30, "step from which on the parameters are averaged"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty: weight_decay * parameter is added to the gradient"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { ETA, KEEP, MU, DERIVED };

static int slots(const double *hyper) {
    (void)hyper;
    return 1;
}

static void prepare(const double *hyper, int64_t step, double *derived) {
    const double before = (double)(step - 1), base = 1 + hyper[LAMBD] * hyper[LR] * before;
    const double eta = base > 1 ? hyper[LR] * ss_exponential(-hyper[ALPHA] * ss_logarithm(base)) : hyper[LR];
    derived[ETA] = eta;
    derived[KEEP] = 1 - hyper[LAMBD] * eta;
    derived[MU] = before - hyper[T0] > 1 ? 1 / (before - hyper[T0]) : 1;
}

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    (void)step;
    const float eta = (float)derived[ETA], keep = (float)derived[KEEP], mu = (float)derived[MU];
    const float decay = (float)hyper[WEIGHT_DECAY], sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    float *restrict p = param, *restrict average = slot[0];
    const float *restrict g = grad;

    for (int64_t i = 0; i < n; i++) p[i] = fma_r(-eta, fma_r(decay, p[i], sign * g[i]), keep * p[i]);
    if (derived[MU] == 1) memcpy(average, p, (size_t)n * 4);
    else
        for (int64_t i = 0; i < n; i++) average[i] = fma_r(mu, p[i] - average[i], average[i]);
}

const ss_optim SS_FN(ss_optim_asgd) = {
    .name = "asgd",
    .doc = "Averaged stochastic gradient descent.\n\n"
           "    eta = lr / (1 + lambd * lr * (t - 1))^alpha\n"
           "    param = (1 - lambd * eta) * param - eta * (grad + weight_decay * param)\n"
           "    ax += (param - ax) / max(1, t - 1 - t0)\n\n"
           "The average is the state `ax`. Polyak, Juditsky: \"Acceleration of stochastic approximation by averaging\", 1992; the formulas are those of torch.optim.ASGD.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"ax"},
    .prepare = prepare,
    .update = update,
};
