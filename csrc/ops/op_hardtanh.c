/* hardtanh: y = min(max(x, min_val), max_val). */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/elementwise.h"

enum { MIN_VAL, MAX_VAL };
static const ss_attr_spec attrs[] = {
    {"min_val", SS_ATTR_FLOAT, -1, -1e30, 1e30, "lower bound"},
    {"max_val", SS_ATTR_FLOAT, 1, -1e30, 1e30, "upper bound, above min_val"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    ss_status status = ew_infer(q, "hardtanh", err);
    if (status != SS_OK) return status;
    if (!(q->attr[MIN_VAL] < q->attr[MAX_VAL])) return SS_FAIL(err, SS_ERR_VALUE, "hardtanh: min_val=%g must be below max_val=%g", q->attr[MIN_VAL], q->attr[MAX_VAL]);
    return SS_OK;
}

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    const real low = (real)c->attr[MIN_VAL], high = (real)c->attr[MAX_VAL];
    for (int64_t i = begin; i < end; i++) y[i] = min_r(max_r(x[i], low), high);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0], *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    const real low = (real)c->attr[MIN_VAL], high = (real)c->attr[MAX_VAL];
    for (int64_t i = begin; i < end; i++) gx[i] = if_r((x[i] > low) & (x[i] < high), gy[i], 0);
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 2, 2, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7"},
    {.attrs = "min_val=0 max_val=6", .inputs = "B:133"},
    {.attrs = "min_val=-0.5 max_val=0.25", .inputs = "B:4,9"},
    {.inputs = "B:"},
    {.attrs = "min_val=1", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_hardtanh) = {
    .name = "hardtanh",
    .doc = "`y = min(max(x, min_val), max_val)`; NaN stays NaN. The gradient is 1 strictly between the bounds, 0 elsewhere. ReLU6 has the bounds 0 and 6. Element "
           "by element, any shape.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
