/* smooth_l1_loss: squared error near the target, absolute error beyond beta. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

static inline real smooth_term(real d, real k) { return fabs_r(d) < k ? (real)0.5 * d * d / k : fabs_r(d) - (real)0.5 * k; }
static inline real smooth_slope(real d, real k) { return fabs_r(d) < k ? d / k : d > 0 ? 1 : d < 0 ? -1 : 0 * d; }

#define POINTWISE_TERM(p, t, k, w) smooth_term((p) - (t), k)
#define POINTWISE_DP(p, t, k, w) smooth_slope((p) - (t), k)
#define POINTWISE_DT(p, t, k, w) -smooth_slope((p) - (t), k)
#include "ops/pointwise_loss.h"

static const ss_attr_spec attrs[] = {
    POINTWISE_REDUCTION,
    {"beta", SS_ATTR_FLOAT, 1, 0, 1e30, "where the square ends"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return pointwise_infer(q, "smooth_l1_loss", false, err); }
static ss_status prepare(const ss_call *c, ss_error *err) { return pointwise_prepare_as(c, "smooth_l1_loss", err); }

static const ss_op_case cases[] = {POINTWISE_CASES("B", "B"), {0}};

const ss_op SS_FN(ss_op_smooth_l1_loss) = {
    .name = "smooth_l1_loss",
    .doc = "Smooth L1 with d = prediction - target: `d^2 / (2 beta)` where `|d| < beta`, else `|d| - beta / 2`. Girshick: \"Fast R-CNN\", 2015.\n\n"
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
