/* hardshrink: y = x outside of [-lambda, lambda], 0 inside. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

enum { LAMBDA };
static const ss_attr_spec attrs[] = {
    {"lambda", SS_ATTR_FLOAT, 0.5, 0, 1e30, "half width of the interval that becomes 0"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "hardshrink", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    const real lambda = (real)c->attr[LAMBDA];
    for (int64_t i = begin; i < end; i++) y[i] = if_r(fabs_r(x[i]) <= lambda, 0, x[i]);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    const real lambda = (real)c->attr[LAMBDA];
    for (int64_t i = begin; i < end; i++) gx[i] = if_r(fabs_r(x[i]) <= lambda, 0, gy[i]);
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 3, 3, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.attrs = "lambda=1.25", .inputs = "B:133"},
    {.attrs = "lambda=0", .inputs = "B:9"},
    {.inputs = "B:"},
    {.attrs = "lambda=-1", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_hardshrink) = {
    .name = "hardshrink",
    .doc = "`y = x` where `|x| > lambda`, 0 elsewhere; NaN stays NaN. The gradient is 1 outside of the interval, 0 inside. Element by element, any shape.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
