/* square: y = x^2. */
#include "kernels/variant.h"
#include "ops/elementwise.h"
#include "ops/op.h"

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "square", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    for (int64_t i = begin; i < end; i++) y[i] = x[i] * x[i];
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    const real *restrict g = c->grad_out[0];
    real *restrict to = c->grad_in[0];
    for (int64_t i = begin; i < end; i++) to[i] = (x[i] + x[i]) * g[i];
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 1, 2, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:37"},
    {.inputs = "B:3,5,4"},
    {.inputs = "B:"},
    {.inputs = "B:3 B:3", .expect = SS_ERR_SHAPE},
    {.inputs = "P:3", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_square) = {
    .name = "square",
    .doc = "`y = x^2`, element by element, any shape. The gradient is `2 x`.",
    .flags = SS_OP_NEEDS_IN | SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
