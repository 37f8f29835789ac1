/* power: y = x^exponent for one number. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/elementwise.h"
#include "ops/op.h"
#include "ops/power.h"

enum { EXPONENT };
enum { MOST = 64 }; /* whole exponents up to here are products */

static const ss_attr_spec attrs[] = {
    {"exponent", SS_ATTR_FLOAT, 2, -1e6, 1e6, "the exponent"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "power", err); }

static inline bool is_whole(double exponent) { return exponent == (double)(int)exponent && exponent <= MOST && exponent >= -MOST; }

/* y = x^exponent for elements [begin, end). */
static void raise(double exponent, int64_t begin, int64_t end, const real *restrict x, real *restrict y) {
    if (is_whole(exponent)) {
        for (int64_t i = begin; i < end; i++) y[i] = whole_power_r(x[i], (int)exponent);
    } else if (exponent == 0.5) {
        for (int64_t i = begin; i < end; i++) y[i] = sqrt_r(x[i]);
    } else if (exponent == -0.5) {
        for (int64_t i = begin; i < end; i++) y[i] = 1 / sqrt_r(x[i]);
    } else {
        for (int64_t i = begin; i < end; i++) y[i] = power_r(x[i], (real)exponent);
    }
}

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    raise(c->attr[EXPONENT], begin, end, c->in[0], c->out[0]);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict g = c->grad_out[0];
    real *restrict to = c->grad_in[0];
    const real factor = (real)c->attr[EXPONENT];
    if (factor == 0) {
        for (int64_t i = begin; i < end; i++) to[i] = 0;
        return;
    }
    raise(c->attr[EXPONENT] - 1, begin, end, c->in[0], to);
    for (int64_t i = begin; i < end; i++) to[i] = factor * to[i] * g[i];
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, is_whole(c->attr[EXPONENT]) ? 4 : 45, is_whole(c->attr[EXPONENT]) ? 6 : 47, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:37"},
    {.attrs = "exponent=3", .inputs = "B:3,5,4"},
    {.attrs = "exponent=0", .inputs = "B:7"},
    {.attrs = "exponent=1", .inputs = "B:7"},
    {.attrs = "exponent=-2", .inputs = "B+:7"},
    {.attrs = "exponent=0.5", .inputs = "B+:37"},
    {.attrs = "exponent=-0.5", .inputs = "B+:37"},
    {.attrs = "exponent=1.7", .inputs = "B+:37"},
    {.attrs = "exponent=-2.3", .inputs = "B+:3,4"},
    {.inputs = "B:3 B:3", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_power) = {
    .name = "power",
    .doc = "`y = x^exponent` for one number, element by element, any shape.\n\n"
           "Whole exponents up to 64 are products by repeated squaring, 1/2 and -1/2 roots, others `e^(exponent log x)` with the special values of C's `pow` (NaN for negative x). "
           "The gradient is `exponent x^(exponent - 1)`.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
