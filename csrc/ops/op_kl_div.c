/* kl_div: Kullback-Leibler divergence of log-probabilities. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

/* t log t, 0 at 0. */
static inline real t_log_t(real t) { return t > 0 ? t * log_r(t) : 0 * t; }

#define POINTWISE_TERM(p, t, k, w) (k != 0 ? exp_r(t) * ((t) - (p)) : t_log_t(t) - (t) * (p))
#define POINTWISE_DP(p, t, k, w) (k != 0 ? -exp_r(t) : -(t))
#define POINTWISE_DT(p, t, k, w) (k != 0 ? exp_r(t) * ((t) - (p) + 1) : log_r(t) + 1 - (p))
#include "ops/pointwise_loss.h"

static const ss_attr_spec attrs[] = {
    POINTWISE_REDUCTION,
    {"log_target", SS_ATTR_FLOAT, 0, 0, 1, "1: the target is given as its logarithm"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return pointwise_infer(q, "kl_div", false, err); }
static ss_status prepare(const ss_call *c, ss_error *err) { return pointwise_prepare_as(c, "kl_div", err); }

static const ss_op_case cases[] = {POINTWISE_CASES("B", "B+"), {.attrs = "log_target=1", .inputs = "B:5 B:5"}, {0}};

const ss_op SS_FN(ss_op_kl_div) = {
    .name = "kl_div",
    .doc = "Kullback-Leibler divergence of the target t from log-probabilities x: `t (log t - x)`; with log_target 1 the target is given as its logarithm: `e^t (t - x)`.\n\n"
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
