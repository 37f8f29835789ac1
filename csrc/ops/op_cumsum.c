/* cumsum: y = the sums of x along an axis so far. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/reduction.h"

static const ss_attr_spec attrs[] = {
    REDUCTION_ATTRS,
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    ss_status status = reduction_infer(q, "cumsum", err);
    if (status == SS_OK && q->attr[REDUCTION_COUNT] != 1) status = SS_FAIL(err, SS_ERR_VALUE, "cumsum: count=%d, but sums run along one axis", (int)q->attr[REDUCTION_COUNT]);
    if (status == SS_OK) q->out[0] = q->in[0];
    return status;
}

static void forward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict x = (const real *)c->in[0] + at;
        real *restrict y = (real *)c->out[0] + at;
        for (int64_t j = 0; j < width; j++) y[j] = x[j];
        for (int64_t i = 1; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) y[i * r.inner + j] = y[(i - 1) * r.inner + j] + x[i * r.inner + j];
        (void)to;
    }
}

static void backward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict g = (const real *)c->grad_out[0] + at;
        real *restrict gx = (real *)c->grad_in[0] + at;
        const int64_t last = (r.n - 1) * r.inner;
        for (int64_t j = 0; j < width; j++) gx[last + j] = g[last + j];
        for (int64_t i = r.n - 2; i >= 0; i--)
            for (int64_t j = 0; j < width; j++) gx[i * r.inner + j] = gx[(i + 1) * r.inner + j] + g[i * r.inner + j];
        (void)to;
    }
}

static const ss_op_case cases[] = {{.inputs = "B:37"}, {.attrs = "first=1", .inputs = "B:3,50"}, {.attrs = "first=0", .inputs = "B:5,70"}, {.attrs = "first=1", .inputs = "B:2,3,4"}, {.attrs = "count=2", .inputs = "B:2,3", .expect = SS_ERR_VALUE}, {.inputs = "I4:4", .expect = SS_ERR_DTYPE}, {0}};

const ss_op SS_FN(ss_op_cumsum) = {
    .name = "cumsum",
    .doc = "`y_i = x_0 + ... + x_i` along the axis `first`; one chain in order. The gradient is the same sum from the other end.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = reduction_cost,
    .cases = cases,
};
