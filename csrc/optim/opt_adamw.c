/* AdamW, as torch.optim.AdamW: weight decay shrinks the parameter itself. */
#include "optim/adam_update.h"

static const ss_hyper_spec hypers[] = {
    {"lr", 1e-3, 0, 1e30, "step size"},
    {"beta1", 0.9, 0, 0.9999999999999999, "decay of the mean of gradients"},
    {"beta2", 0.999, 0, 0.9999999999999999, "decay of the mean of squared gradients"},
    {"eps", 1e-8, 0, 1e30, "added to the root of the second moment"},
    {"weight_decay", 1e-2, 0, 1e30, "every step first takes lr * weight_decay * parameter off the parameter"},
    {"amsgrad", 0, 0, 1, "1: divide by the largest second moment so far"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

static void prepare(const double *hyper, int64_t step, double *derived) {
    adam_prepare(hyper, step, derived);
    derived[ADAM_KEEP] = 1 - hyper[ADAM_LR] * hyper[ADAM_WEIGHT_DECAY];
}

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    (void)step;
    adam_update(n, param, grad, slot, hyper, derived, 0);
}

const ss_optim SS_FN(ss_optim_adamw) = {
    .name = "adamw",
    .doc = "Adam with decoupled weight decay.\n\n"
           "    param *= 1 - lr * weight_decay\n"
           "    m = beta1 * m + (1 - beta1) * grad;  v = beta2 * v + (1 - beta2) * grad^2\n"
           "    param -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)\n\n"
           "With amsgrad, v in the last line is the largest v of any step so far. Loshchilov, Hutter: \"Decoupled weight decay regularization\", 2019.",
    .hypers = hypers,
    .derived = ADAM_DERIVED,
    .slots = adam_slots,
    .slot_names = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    .prepare = prepare,
    .update = update,
};
