/* tanh: y = tanh(x). */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "tanh", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    for (int64_t i = begin; i < end; i++) y[i] = tanh_r(x[i]);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict y = c->out[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    for (int64_t i = begin; i < end; i++) gx[i] = gy[i] * fma_r(-y[i], y[i], 1);
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 25, 3, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.inputs = "B:"},
    {.inputs = "B:65"},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_tanh) = {
    .name = "tanh",
    .doc = "`y = tanh(x)`, element by element, any shape. The gradient is `1 - y^2`.",
    .flags = SS_OP_NEEDS_OUT | SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
