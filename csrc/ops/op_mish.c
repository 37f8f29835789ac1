/* mish: y = x tanh(log(1 + exp(x))). */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

/* e^x; beyond 20 the result is x itself, whatever stands here. */
static inline real power(real x) { return exp_r(if_r(x > 20, 20, x)); }

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "mish", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    for (int64_t i = begin; i < end; i++) {
        real w = power(x[i]), n = w * (w + 2);
        y[i] = if_r(x[i] > 20, x[i], x[i] * (n / (n + 2)));
    }
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    for (int64_t i = begin; i < end; i++) {
        real w = power(x[i]), n = w * (w + 2), d = 1 / (n + 2), t = n * d;
        gx[i] = gy[i] * if_r(x[i] > 20, 1, fma_r(x[i] * (4 * w * (w + 1) * d), d, t));
    }
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 25, 30, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.inputs = "B:133"},
    {.inputs = "B:"},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_mish) = {
    .name = "mish",
    .doc = "`y = x tanh(log(1 + exp(x)))` (Misra, 2019). With `w = exp(x)` and `n = w (w + 2)` the hyperbolic tangent is `n / (n + 2)`, and the gradient `n / (n + "
           "2) + 4 x w (w + 1) / (n + 2)^2`; from x = 20 on y = x. Element by element, any shape.",
    .flags = SS_OP_NEEDS_IN,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
