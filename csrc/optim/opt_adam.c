/* Adam, as torch.optim.Adam: weight decay is an L2 penalty in the gradient. */
#include "optim/adam_update.h"

static const ss_hyper_spec hypers[] = {
    {"lr", 1e-3, 0, 1e30, "step size"},
    {"beta1", 0.9, 0, 0.9999999999999999, "decay of the mean of gradients"},
    {"beta2", 0.999, 0, 0.9999999999999999, "decay of the mean of squared gradients"},
    {"eps", 1e-8, 0, 1e30, "added to the root of the second moment"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty: weight_decay * parameter is added to the gradient"},
    {"amsgrad", 0, 0, 1, "1: divide by the largest second moment so far"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

static void update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step) {
    (void)step;
    adam_update(n, param, grad, slot, hyper, derived, (float)hyper[ADAM_WEIGHT_DECAY]);
}

const ss_optim SS_FN(ss_optim_adam) = {
    .name = "adam",
    .doc = "Adam.\n\n"
           "    d = grad + weight_decay * param\n"
           "    m = beta1 * m + (1 - beta1) * d;  v = beta2 * v + (1 - beta2) * d^2\n"
           "    param -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)\n\n"
           "With amsgrad, v in the last line is the largest v of any step so far. Kingma, Ba: \"Adam: a method for stochastic optimization\", 2015; "
           "Reddi, Kale, Kumar: \"On the convergence of Adam and beyond\", 2018.",
    .hypers = hypers,
    .derived = ADAM_DERIVED,
    .slots = adam_slots,
    .slot_names = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    .prepare = adam_prepare,
    .update = update,
};
