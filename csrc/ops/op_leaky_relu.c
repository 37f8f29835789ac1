/* leaky_relu: y = x where x > 0, negative_slope * x elsewhere. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

static const ss_attr_spec attrs[] = {
    {"negative_slope", SS_ATTR_FLOAT, 0.01, -1e30, 1e30, "slope on the negative side"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "leaky_relu", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    const real slope = (real)c->attr[0];
    for (int64_t i = begin; i < end; i++) y[i] = if_r(x[i] > 0, x[i], slope * x[i]);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    const real slope = (real)c->attr[0];
    for (int64_t i = begin; i < end; i++) gx[i] = if_r(x[i] > 0, gy[i], slope * gy[i]);
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 1, 1, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.attrs = "negative_slope=0.3", .inputs = "B:33"},
    {.attrs = "negative_slope=-2", .inputs = "B:4,4"},
    {.attrs = "negative_slope=nan", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.attrs = "slope=1", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_leaky_relu) = {
    .name = "leaky_relu",
    .doc = "`y = x` where `x > 0`, `negative_slope * x` elsewhere; element by element, any shape. NaN stays NaN.",
    .flags = SS_OP_NEEDS_IN | SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
