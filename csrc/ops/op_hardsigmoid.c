/* hardsigmoid: y = min(max(x + 3, 0), 6) / 6. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "hardsigmoid", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    for (int64_t i = begin; i < end; i++) y[i] = min_r(max_r(x[i] + 3, 0), 6) / 6;
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    for (int64_t i = begin; i < end; i++) gx[i] = if_r((x[i] > -3) & (x[i] < 3), gy[i] / 6, 0);
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 4, 3, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.inputs = "B:133"},
    {.inputs = "B:"},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_hardsigmoid) = {
    .name = "hardsigmoid",
    .doc = "`y = min(max(x + 3, 0), 6) / 6`; the gradient is 1/6 between -3 and 3, 0 elsewhere. Element by element, any shape.",
    .flags = SS_OP_NEEDS_IN,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
