/* bce_with_logits: binary cross entropy of logits. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

/* log(1 + e^-|x|) + max(-x, 0) = log(1 + e^-x). */
static inline real log_of_one_plus_exp_minus(real x) { return log1p_r(exp_r(-fabs_r(x))) + max_r(-x, 0); }

#define POINTWISE_TERM(p, t, k, w) ((1 - (t)) * (p) + (1 + ((w) - 1) * (t)) * log_of_one_plus_exp_minus(p))
#define POINTWISE_DP(p, t, k, w) ((1 - (t)) - (1 + ((w) - 1) * (t)) * (1 - sigmoid_r(p)))
#define POINTWISE_DT(p, t, k, w) -(p) + ((w) - 1) * log_of_one_plus_exp_minus(p)
#include "ops/pointwise_loss.h"

static const ss_attr_spec attrs[] = {
    POINTWISE_REDUCTION,
    {"unused", SS_ATTR_FLOAT, 0, 0, 0, "none"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return pointwise_infer(q, "bce_with_logits", true, err); }
static ss_status prepare(const ss_call *c, ss_error *err) { return pointwise_prepare_as(c, "bce_with_logits", err); }

static const ss_op_case cases[] = {POINTWISE_CASES("B", "B"), {.inputs = "B:3,5 B:3,5 - S1:5"}, {.inputs = "B:3,5 B:3,5 W: S1:3,5"}, {.inputs = "B:5 B:5 - P:5", .expect = SS_ERR_SHAPE}, {.inputs = "B:5 B:5 - B:5", .expect = SS_ERR_SHAPE}, {.inputs = "B:5 B:5 - P:4", .expect = SS_ERR_SHAPE}, {0}};

const ss_op SS_FN(ss_op_bce_with_logits) = {
    .name = "bce_with_logits",
    .doc = "Binary cross entropy of logits x with sigmoid s: `-(w t log s(x) + (1 - t) log(1 - s(x)))`, exact for large x. w: the factors (pos_weight), 1 where absent.\n\n"
           "prediction and target `(B, ...)` of one shape, sample weight `(B)` or absent (all 1), factors of elements with the last axes of a sample, or absent; both prediction and target receive a gradient. The loss is the weighted mean of the terms "
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
