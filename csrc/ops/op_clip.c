/* clip: y = x, at least low and at most high. */
#include <math.h>
#include "kernels/variant.h"
#include "ops/elementwise.h"
#include "ops/op.h"

static const ss_attr_spec attrs[] = {
    {"low", SS_ATTR_FLOAT, -INFINITY, -INFINITY, INFINITY, "least value"},
    {"high", SS_ATTR_FLOAT, INFINITY, -INFINITY, INFINITY, "greatest value"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "clip", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    const real low = (real)c->attr[0], high = (real)c->attr[1];
    for (int64_t i = begin; i < end; i++) y[i] = min_r(max_r(x[i], low), high);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    const real *restrict g = c->grad_out[0];
    real *restrict to = c->grad_in[0];
    const real low = (real)c->attr[0], high = (real)c->attr[1];
    for (int64_t i = begin; i < end; i++) to[i] = x[i] >= low && x[i] <= high ? g[i] : 0;
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 2, 2, out); }

static const ss_op_case cases[] = {
    {.attrs = "low=-0.3 high=0.6", .inputs = "B:37"},
    {.attrs = "low=0", .inputs = "B:3,5,4"},
    {.attrs = "high=0.5", .inputs = "B:"},
    {.inputs = "B:7"},
    {.inputs = "B:3 B:3", .expect = SS_ERR_SHAPE},
    {.inputs = "P:3", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_clip) = {
    .name = "clip",
    .doc = "`y = min(max(x, low), high)`, element by element, any shape; NaN stays NaN. The gradient passes where low <= x <= high.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
