/* hinge_embedding: distances of pairs that belong together or not. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

#define POINTWISE_TERM(p, t, k, w) ((t) > 0 ? (p) : max_r(k - (p), 0))
#define POINTWISE_DP(p, t, k, w) ((t) > 0 ? 1 : (p) < k ? -1 : 0 * (p))
#define POINTWISE_DT(p, t, k, w) 0 * (t)
#include "ops/pointwise_loss.h"

static const ss_attr_spec attrs[] = {
    POINTWISE_REDUCTION,
    {"margin", SS_ATTR_FLOAT, 1, -1e30, 1e30, "distance beyond which pairs count as apart"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return pointwise_infer(q, "hinge_embedding", false, err); }
static ss_status prepare(const ss_call *c, ss_error *err) { return pointwise_prepare_as(c, "hinge_embedding", err); }

static const ss_op_case cases[] = {{.inputs = "B:5 B:5", .no_gradient_check = true}, {.inputs = "B:37 B:37 W:", .no_gradient_check = true}, {.inputs = "B:5 B:6", .expect = SS_ERR_SHAPE}, {.inputs = "I3:5 B:5", .expect = SS_ERR_DTYPE}, {0}};

const ss_op SS_FN(ss_op_hinge_embedding) = {
    .name = "hinge_embedding",
    .doc = "Hinge embedding: x where the target is 1, `max(0, margin - x)` where it is -1.\n\n"
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
