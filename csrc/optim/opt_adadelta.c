/* Adadelta, as torch.optim.Adadelta. */
#include "kernels/variant.h"
#include "optim/optim.h"

enum { LR, RHO, EPS, WEIGHT_DECAY, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 1, 0, 1e30, "factor of the step"},
    {"rho", 0.9, 0, 1, "decay of both means of squares"},
    {"eps", 1e-6, 0, 1e30, "added under both roots"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty: weight_decay * parameter is added to the gradient"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { FRESH, DERIVED };

static int slots(const double *hyper) {
    (void)hyper;
    return 2;
}

static void prepare(const double *hyper, int64_t step, double *derived) {
    (void)step;
    derived[FRESH] = 1 - hyper[RHO];
}

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    (void)step;
    const float lr = (float)hyper[LR], rho = (float)hyper[RHO], fresh = (float)derived[FRESH], eps = (float)hyper[EPS];
    const float decay = (float)hyper[WEIGHT_DECAY], sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    float *restrict p = param, *restrict square = slot[0], *restrict moved = slot[1];
    const float *restrict g = grad;

    for (int64_t i = 0; i < n; i++) {
        float d = fma_r(decay, p[i], sign * g[i]);
        square[i] = fma_r(fresh * d, d, rho * square[i]);
        float delta = sqrtf(moved[i] + eps) / sqrtf(square[i] + eps) * d;
        moved[i] = fma_r(fresh * delta, delta, rho * moved[i]);
        p[i] = fma_r(-lr, delta, p[i]);
    }
}

const ss_optim SS_FN(ss_optim_adadelta) = {
    .name = "adadelta",
    .doc = "Adadelta.\n\n"
           "    d = grad + weight_decay * param;  v = rho * v + (1 - rho) * d^2\n"
           "    s = sqrt(u + eps) / sqrt(v + eps) * d;  u = rho * u + (1 - rho) * s^2;  param -= lr * s\n\n"
           "Zeiler: \"ADADELTA: an adaptive learning rate method\", 2012.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"square_avg", "acc_delta"},
    .prepare = prepare,
    .update = update,
};
