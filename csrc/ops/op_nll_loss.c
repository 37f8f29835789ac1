/* nll_loss: negative log-likelihood of class labels, given log-probabilities. */
#include "kernels/variant.h"
#include "ops/op.h"

static inline real class_term(const ss_call *c, const real *x, int64_t classes, int32_t label) {
    (void)c, (void)classes;
    return -x[label];
}

static inline void class_gradient(const ss_call *c, const real *x, int64_t classes, int32_t label, real scale, real *to) {
    (void)c, (void)x, (void)classes;
    to[label] = -scale;
}

#define CLASS_NAME "nll_loss"
#include "ops/class_loss.h"

static const ss_attr_spec attrs[] = {CLASS_ATTRS, {0}};

static ss_status infer(ss_infer *q, ss_error *err) { return class_infer(q, "nll_loss", err); }
static ss_status prepare(const ss_call *c, ss_error *err) { return class_prepare(c, "nll_loss", true, err); }

static const ss_op_case cases[] = {CLASS_CASES, {0}};

const ss_op SS_FN(ss_op_nll_loss) = {
    .name = "nll_loss",
    .doc = "Negative log-likelihood: `-weight_y x_y` for log-probabilities x and the label y of a position.\n\n"
           "Inputs: log-probabilities `(B, C, ...)` or with the classes last, int32 labels, class weights `(C)` in a buffer or absent, sample weights `(B)` or absent. The mean is taken over "
           "the weights of the counted labels. Order: a chain over the positions of a sample, then over the samples of a lane.",
    .flags = SS_OP_LOSS | SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .prepare = prepare,
    .stat_len = class_stat_len,
    .stat = stat,
    .cost = class_cost,
    .cases = cases,
};
