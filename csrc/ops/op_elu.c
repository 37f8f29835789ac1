/* elu: y = scale x where x > 0, scale alpha (exp(input_scale x) - 1) elsewhere. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

enum { ALPHA, SCALE, INPUT_SCALE };
static const ss_attr_spec attrs[] = {
    {"alpha", SS_ATTR_FLOAT, 1, -1e30, 1e30, "the negative side tends to -scale * alpha"},
    {"scale", SS_ATTR_FLOAT, 1, -1e30, 1e30, "factor of the result"},
    {"input_scale", SS_ATTR_FLOAT, 1, -1e30, 1e30, "factor of the input on the negative side"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "elu", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    const real scale = (real)c->attr[SCALE], negative = (real)(c->attr[SCALE] * c->attr[ALPHA]), inside = (real)c->attr[INPUT_SCALE];
    for (int64_t i = begin; i < end; i++) y[i] = if_r(x[i] > 0, scale * x[i], negative * expm1_r(x[i] * inside));
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    const real scale = (real)c->attr[SCALE], negative = (real)(c->attr[SCALE] * c->attr[ALPHA] * c->attr[INPUT_SCALE]), inside = (real)c->attr[INPUT_SCALE];
    for (int64_t i = begin; i < end; i++) gx[i] = gy[i] * if_r(x[i] > 0, scale, negative * exp_r(x[i] * inside));
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 25, 20, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.attrs = "alpha=0.7", .inputs = "B:133"},
    {.attrs = "alpha=1.6732632423543772 scale=1.0507009873554805", .inputs = "B:4,9"},
    {.attrs = "alpha=2 input_scale=0.5", .inputs = "B:4,9"},
    {.inputs = "B:"},
    {.attrs = "alpha=nan", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_elu) = {
    .name = "elu",
    .doc = "`y = scale x` where `x > 0`, `scale alpha (exp(input_scale x) - 1)` elsewhere: ELU with scale = input_scale = 1 (Clevert, Unterthiner, Hochreiter, "
           "2015), SELU with scale = 1.0507009873554805 and alpha = 1.6732632423543772 (Klambauer et al., 2017), CELU with input_scale = 1 / alpha (Barron, 2017). "
           "Element by element, any shape.",
    .flags = SS_OP_NEEDS_IN | SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
