/* soft_margin: logistic loss of targets 1 and -1. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

static inline real log_of_one_plus_exp_minus(real x) { return log1p_r(exp_r(-fabs_r(x))) + max_r(-x, 0); }

#define POINTWISE_TERM(p, t, k, w) log_of_one_plus_exp_minus((t) * (p))
#define POINTWISE_DP(p, t, k, w) (-(t) * (1 - sigmoid_r((t) * (p))))
#define POINTWISE_DT(p, t, k, w) (-(p) * (1 - sigmoid_r((t) * (p))))
#include "ops/pointwise_loss.h"

static const ss_attr_spec attrs[] = {
    POINTWISE_REDUCTION,
    {"unused", SS_ATTR_FLOAT, 0, 0, 0, "none"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return pointwise_infer(q, "soft_margin", false, err); }
static ss_status prepare(const ss_call *c, ss_error *err) { return pointwise_prepare_as(c, "soft_margin", err); }

static const ss_op_case cases[] = {POINTWISE_CASES("B", "B"), {0}};

const ss_op SS_FN(ss_op_soft_margin) = {
    .name = "soft_margin",
    .doc = "Soft margin: `log(1 + e^(-t x))` with targets 1 and -1.\n\n"
           "prediction and target `(B, ...)` of one shape, sample weight `(B)` or absent (all 1); both prediction and target receive a gradient. The loss is the weighted mean of the terms "
           "over all elements (reduction 0), their sum (1), or the sum over elements and mean over samples (2). Where all weights are 0 the gradient is 0.\n\n"
           "Order: the elements of a sample go to 16 interleaved accumulators and a tree over them, then a chain over the samples of a lane.",
    .flags = SS_OP_LOSS | SS_OP_NEEDS_IN | SS_OP_FREE_TARGET,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .prepare = prepare,
    .stat_len = pointwise_stat_len,
    .stat = stat,
    .saved_bytes = pointwise_saved,
    .cost = pointwise_cost,
    .cases = cases,
};
