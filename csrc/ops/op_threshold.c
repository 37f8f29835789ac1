/* threshold: y = x where x > threshold, value elsewhere. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

enum { THRESHOLD, VALUE };
static const ss_attr_spec attrs[] = {
    {"threshold", SS_ATTR_FLOAT, 0, -1e30, 1e30, "largest number that is replaced"},
    {"value", SS_ATTR_FLOAT, 0, -1e30, 1e30, "what replaces it"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "threshold", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    const real threshold = (real)c->attr[THRESHOLD], value = (real)c->attr[VALUE];
    for (int64_t i = begin; i < end; i++) y[i] = if_r(x[i] <= threshold, value, x[i]);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    const real threshold = (real)c->attr[THRESHOLD];
    for (int64_t i = begin; i < end; i++) gx[i] = if_r(x[i] <= threshold, 0, gy[i]);
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 2, 2, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.attrs = "threshold=0.5 value=-3", .inputs = "B:133"},
    {.inputs = "B:"},
    {.attrs = "threshold=nan", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_threshold) = {
    .name = "threshold",
    .doc = "`y = x` where `x > threshold`, `value` elsewhere; NaN stays NaN. The gradient is 1 above the threshold, 0 elsewhere. Element by element, any shape.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
