/* softplus: y = log(1 + exp(beta x)) / beta. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

enum { BETA, THRESHOLD };
static const ss_attr_spec attrs[] = {
    {"beta", SS_ATTR_FLOAT, 1, 1e-30, 1e30, "sharpness"},
    {"threshold", SS_ATTR_FLOAT, 20, -1e30, 1e30, "beta x above which y = x"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "softplus", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    const real beta = (real)c->attr[BETA], inverse = (real)(1 / c->attr[BETA]), threshold = (real)c->attr[THRESHOLD];
    for (int64_t i = begin; i < end; i++) {
        real t = beta * x[i];
        y[i] = if_r(t > threshold, x[i], inverse * (max_r(t, 0) + log1p_r(exp_r(-fabs_r(t)))));
    }
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    const real beta = (real)c->attr[BETA], threshold = (real)c->attr[THRESHOLD];
    for (int64_t i = begin; i < end; i++) {
        real t = beta * x[i];
        gx[i] = gy[i] * if_r(t > threshold, 1, sigmoid_r(t));
    }
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 50, 25, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.attrs = "beta=2.5 threshold=3", .inputs = "B:133", .no_gradient_check = true /* a step at the threshold */},
    {.attrs = "beta=0.3", .inputs = "B:4,9"},
    {.inputs = "B:"},
    {.attrs = "beta=0", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_softplus) = {
    .name = "softplus",
    .doc = "`y = log(1 + exp(beta x)) / beta`, computed as `(max(t, 0) + log1p(exp(-|t|))) / beta` with `t = beta x`; `y = x` where `t > threshold`. The gradient "
           "is `sigmoid(t)`, and 1 above the threshold. Element by element, any shape.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
