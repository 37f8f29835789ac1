/* Stochastic gradient descent with momentum, as torch.optim.SGD. */
#include "kernels/variant.h"
#include "optim/optim.h"

enum { LR, MOMENTUM, DAMPENING, WEIGHT_DECAY, NESTEROV, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 0.01, 0, 1e30, "step size"},
    {"momentum", 0, 0, 1e30, "factor of the kept gradient average; 0 keeps none"},
    {"dampening", 0, -1e30, 1e30, "the new gradient enters the average times 1 - dampening, from the second step on"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty: weight_decay * parameter is added to the gradient"},
    {"nesterov", 0, 0, 1, "1: step along gradient + momentum * average; wants momentum > 0 and dampening 0"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { ONE_MINUS_DAMPENING, DERIVED };

static int slots(const double *hyper) { return hyper[MOMENTUM] != 0 ? 1 : 0; }

static void prepare(const double *hyper, int64_t step, double *derived) {
    (void)step;
    derived[ONE_MINUS_DAMPENING] = 1 - hyper[DAMPENING];
}

/* Each loop is one pass over memory in a fixed form: multiplications and additions are joined where it says fma_r and nowhere else. */
static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    const float lr = (float)hyper[LR], momentum = (float)hyper[MOMENTUM], decay = (float)hyper[WEIGHT_DECAY];
    const float sign = hyper[MAXIMIZE] != 0 ? -1 : 1, fresh = (float)derived[ONE_MINUS_DAMPENING];
    float *restrict p = param;
    const float *restrict g = grad;

    if (hyper[MOMENTUM] == 0) {
        for (int64_t i = 0; i < n; i++) p[i] = fma_r(-lr, fma_r(decay, p[i], sign * g[i]), p[i]);
        return;
    }
    float *restrict average = slot[0];
    if (step == 1) { /* the first average is the gradient itself, whatever the dampening */
        const float ahead = hyper[NESTEROV] != 0 ? momentum : 0;
        for (int64_t i = 0; i < n; i++) {
            float d = fma_r(decay, p[i], sign * g[i]);
            average[i] = d;
            p[i] = fma_r(-lr, fma_r(ahead, d, d), p[i]);
        }
    } else if (hyper[NESTEROV] != 0) {
        for (int64_t i = 0; i < n; i++) {
            float d = fma_r(decay, p[i], sign * g[i]);
            float a = fma_r(momentum, average[i], fresh * d);
            average[i] = a;
            p[i] = fma_r(-lr, fma_r(momentum, a, d), p[i]);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            float d = fma_r(decay, p[i], sign * g[i]);
            float a = fma_r(momentum, average[i], fresh * d);
            average[i] = a;
            p[i] = fma_r(-lr, a, p[i]);
        }
    }
}

const ss_optim SS_FN(ss_optim_sgd) = {
    .name = "sgd",
    .doc = "Stochastic gradient descent.\n\n"
           "    d = grad + weight_decay * param\n"
           "    average = d (first step), momentum * average + (1 - dampening) * d (later)\n"
           "    param -= lr * (d + momentum * average if nesterov else average)\n\n"
           "Without momentum the step is `param -= lr * d` and nothing is kept. The formulas are those of torch.optim.SGD, after Sutskever, Martens, Dahl, "
           "Hinton: \"On the importance of initialization and momentum in deep learning\", 2013.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"momentum_buffer"},
    .prepare = prepare,
    .update = update,
};
