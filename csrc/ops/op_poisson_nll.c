/* poisson_nll: negative log-likelihood of counts. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

#define POINTWISE_TERM(p, t, k, w) (k != 0 ? exp_r(p) - (t) * (p) : (p) - (t) * log_r((p) + (real)1e-8))
#define POINTWISE_DP(p, t, k, w) (k != 0 ? exp_r(p) - (t) : 1 - (t) / ((p) + (real)1e-8))
#define POINTWISE_DT(p, t, k, w) (k != 0 ? -(p) : -log_r((p) + (real)1e-8))
#include "ops/pointwise_loss.h"

static const ss_attr_spec attrs[] = {
    POINTWISE_REDUCTION,
    {"log_input", SS_ATTR_FLOAT, 1, 0, 1, "1: the prediction is the logarithm of the rate"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return pointwise_infer(q, "poisson_nll", false, err); }
static ss_status prepare(const ss_call *c, ss_error *err) { return pointwise_prepare_as(c, "poisson_nll", err); }

static const ss_op_case cases[] = {POINTWISE_CASES("B", "B"), {.attrs = "log_input=0", .inputs = "B+:5 B:5"}, {0}};

const ss_op SS_FN(ss_op_poisson_nll) = {
    .name = "poisson_nll",
    .doc = "Poisson negative log-likelihood without the constant: with log_input 1 `e^x - t x`, else `x - t log(x + 1e-8)`.\n\n"
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
