/* gelu: y = x Phi(x), with the normal distribution function or its tanh approximation. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

static const ss_attr_spec attrs[] = {
    {"tanh", SS_ATTR_BOOL, 0, 0, 1, "0: the exact form with erf; 1: the tanh approximation"},
    {0},
};

static const real half = (real)0.5, root_half = (real)0.70710678118654752440, density0 = (real)0.39894228040143267794; /* sqrt(1/2), 1/sqrt(2 pi) */
static const real slope0 = (real)0.79788456080286535588, cubic = (real)0.044715;                                       /* sqrt(2/pi) */

/* Phi(x) */
static inline real normal(real x) { return fma_r(half, erf_r(x * root_half), half); }

static inline real bend(real x) { return tanh_r(slope0 * fma_r(cubic * x, x * x, x)); }

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "gelu", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    if (c->attr[0] != 0)
        for (int64_t i = begin; i < end; i++) y[i] = half * x[i] * (1 + bend(x[i]));
    else
        for (int64_t i = begin; i < end; i++) y[i] = x[i] * normal(x[i]);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    if (c->attr[0] != 0)
        for (int64_t i = begin; i < end; i++) {
            real t = bend(x[i]), inner = slope0 * fma_r(3 * cubic * x[i], x[i], 1);
            gx[i] = gy[i] * fma_r(half * x[i] * fma_r(-t, t, 1), inner, fma_r(half, t, half));
        }
    else
        for (int64_t i = begin; i < end; i++) {
            real density = density0 * exp_r(-half * x[i] * x[i]);
            gx[i] = gy[i] * fma_r(x[i], density, normal(x[i]));
        }
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 30, 45, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.attrs = "tanh=1", .inputs = "B:3,5,7"},
    {.inputs = "B:"},
    {.attrs = "tanh=1", .inputs = "B:100"},
    {.attrs = "tanh=2", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_gelu) = {
    .name = "gelu",
    .doc = "`y = x Phi(x)`, `Phi(x) = (1 + erf(x / sqrt 2)) / 2`, element by element, any shape; "
           "with `tanh=1` the approximation `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (Hendrycks, Gimpel: \"Gaussian error linear units\", 2016).",
    .flags = SS_OP_NEEDS_IN | SS_OP_REMADE | SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
