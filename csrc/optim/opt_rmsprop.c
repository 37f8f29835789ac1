/* RMSprop, as torch.optim.RMSprop. */
#include "kernels/variant.h"
#include "optim/optim.h"

enum { LR, ALPHA, EPS, WEIGHT_DECAY, MOMENTUM, CENTERED, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 0.01, 0, 1e30, "step size"},
    {"alpha", 0.99, 0, 1, "decay of the mean of squared gradients"},
    {"eps", 1e-8, 0, 1e30, "added to the root"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty: weight_decay * parameter is added to the gradient"},
    {"momentum", 0, 0, 1e30, "factor of the kept step; 0 keeps none"},
    {"centered", 0, 0, 1, "1: divide by the root of the variance instead of the mean of squares"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { FRESH, DERIVED };

/* Centred without momentum leaves the middle slot unused: slots have fixed places. */
static int slots(const double *hyper) { return hyper[CENTERED] != 0 ? 3 : hyper[MOMENTUM] != 0 ? 2 : 1; }

static void prepare(const double *hyper, int64_t step, double *derived) {
    (void)step;
    derived[FRESH] = 1 - hyper[ALPHA];
}

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    (void)step;
    const float lr = (float)hyper[LR], alpha = (float)hyper[ALPHA], fresh = (float)derived[FRESH], eps = (float)hyper[EPS];
    const float decay = (float)hyper[WEIGHT_DECAY], momentum = (float)hyper[MOMENTUM], sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    float *restrict p = param, *restrict square = slot[0];
    const float *restrict g = grad;

    enum { BLOCK = 256 };
    float step_of[BLOCK]; /* d / (root + eps) of a block */
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
        const int64_t end = begin + BLOCK < n ? begin + BLOCK : n;
        if (hyper[CENTERED] != 0) {
            float *restrict mean = slot[2];
            for (int64_t i = begin; i < end; i++) {
                float d = fma_r(decay, p[i], sign * g[i]);
                square[i] = fma_r(fresh * d, d, alpha * square[i]);
                mean[i] = fma_r(fresh, d - mean[i], mean[i]);
                step_of[i - begin] = d / (sqrtf(max_r(fma_r(-mean[i], mean[i], square[i]), 0)) + eps);
            }
        } else {
            for (int64_t i = begin; i < end; i++) {
                float d = fma_r(decay, p[i], sign * g[i]);
                square[i] = fma_r(fresh * d, d, alpha * square[i]);
                step_of[i - begin] = d / (sqrtf(square[i]) + eps);
            }
        }
        if (hyper[MOMENTUM] != 0) {
            float *restrict kept = slot[1];
            for (int64_t i = begin; i < end; i++) {
                kept[i] = fma_r(momentum, kept[i], step_of[i - begin]);
                p[i] = fma_r(-lr, kept[i], p[i]);
            }
        } else {
            for (int64_t i = begin; i < end; i++) p[i] = fma_r(-lr, step_of[i - begin], p[i]);
        }
    }
}

const ss_optim SS_FN(ss_optim_rmsprop) = {
    .name = "rmsprop",
    .doc = "RMSprop.\n\n"
           "    d = grad + weight_decay * param\n"
           "    v = alpha * v + (1 - alpha) * d^2;  if centered: m = alpha * m + (1 - alpha) * d, v' = max(v - m^2, 0), else v' = v\n"
           "    b = momentum * b + d / (sqrt(v') + eps);  param -= lr * b\n\n"
           "Tieleman, Hinton: lecture 6.5 of \"Neural networks for machine learning\", 2012; centred: Graves: \"Generating sequences with recurrent neural "
           "networks\", 2013. The formulas are those of torch.optim.RMSprop, except that rounding cannot make v' negative.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"square_avg", "momentum_buffer", "grad_avg"},
    .prepare = prepare,
    .update = update,
};
