/* relu: y = max(x, 0). */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/elementwise.h"

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "relu", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    for (int64_t i = begin; i < end; i++) y[i] = max_r(x[i], 0);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict y = c->out[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    /* y <= 0 is false for NaN: the gradient passes, as the value did. */
    for (int64_t i = begin; i < end; i++) gx[i] = y[i] <= 0 ? 0 : gy[i];
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 1, 1, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.inputs = "B:"},
    {.inputs = "B:65"},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_relu) = {
    .name = "relu",
    .doc = "`y = max(x, 0)`, element by element, any shape. NaN stays NaN. The gradient is 0 where `y <= 0`.",
    .flags = SS_OP_NEEDS_OUT | SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
