/* scale: y = x * mul + add, with two constants. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/elementwise.h"

enum { MUL, ADD };
static const ss_attr_spec attrs[] = {
    {"mul", SS_ATTR_FLOAT, 1, -3e38, 3e38, "factor, rounded to float"},
    {"add", SS_ATTR_FLOAT, 0, -3e38, 3e38, "summand, rounded to float"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "scale", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    const real mul = (real)c->attr[MUL], add = (real)c->attr[ADD];
    /* A sum with 0 would turn -0 into +0, so a plain product stays one. */
    if (add == 0)
        for (int64_t i = begin; i < end; i++) y[i] = x[i] * mul;
    else if (mul == 1)
        for (int64_t i = begin; i < end; i++) y[i] = x[i] + add;
    else
        for (int64_t i = begin; i < end; i++) y[i] = fma_r(x[i], mul, add);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    const real mul = (real)c->attr[MUL];
    for (int64_t i = begin; i < end; i++) gx[i] = gy[i] * mul;
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 2, 1, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.attrs = "mul=-2.5", .inputs = "B:33"},
    {.attrs = "add=0.7", .inputs = "B:4,4"},
    {.attrs = "mul=0.1 add=3", .inputs = "B:"},
    {.attrs = "mul=inf", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_scale) = {
    .name = "scale",
    .doc = "`y = x * mul + add` with constants, one rounding; element by element, any shape.",
    .flags = SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
