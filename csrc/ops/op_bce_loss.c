/* bce_loss: binary cross entropy of probabilities. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

/* Logarithms are at least -100, as in torch.nn.BCELoss; the slope there is 0 by 1e-12 below the quotient. */
static inline real bounded_log(real x) { return max_r(log_r(x), -100); }
static inline real bce_slope(real p, real t) {
    const real room = p * (1 - p);
    return (p - t) / (room > (real)1e-12 || room != room ? room : (real)1e-12);
}

#define POINTWISE_TERM(p, t, k, w) -((t) * bounded_log(p) + (1 - (t)) * bounded_log(1 - (p)))
#define POINTWISE_DP(p, t, k, w) bce_slope(p, t)
#define POINTWISE_DT(p, t, k, w) bounded_log(1 - (p)) - bounded_log(p)
#include "ops/pointwise_loss.h"

static const ss_attr_spec attrs[] = {
    POINTWISE_REDUCTION,
    {"unused", SS_ATTR_FLOAT, 0, 0, 0, "none"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return pointwise_infer(q, "bce_loss", false, err); }
static ss_status prepare(const ss_call *c, ss_error *err) { return pointwise_prepare_as(c, "bce_loss", err); }

static const ss_op_case cases[] = {{.inputs = "W:5 B:5", .no_gradient_check = true}, {.inputs = "W:37 W:37 W:", .no_gradient_check = true}, {.attrs = "reduction=2", .inputs = "B:5,4 B:5,4", .no_gradient_check = true}, {.inputs = "B:5 B:6", .expect = SS_ERR_SHAPE}, {.inputs = "I3:5 B:5", .expect = SS_ERR_DTYPE}, {0}};

const ss_op SS_FN(ss_op_bce_loss) = {
    .name = "bce_loss",
    .doc = "Binary cross entropy of probabilities: `-(t log p + (1 - t) log(1 - p))`, logarithms not below -100.\n\n"
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
