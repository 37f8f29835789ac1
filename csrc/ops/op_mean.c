/* mean: y = the mean of x over axes. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/reduction.h"

static const ss_attr_spec attrs[] = {
    REDUCTION_ATTRS,
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    return reduction_infer(q, "mean", err);
}

static void forward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict x = (const real *)c->in[0] + at;
        real *restrict y = (real *)c->out[0] + to;
        if (r.inner == 1) {
            y[0] = row_sum(r.n, x) / (real)r.n;
            continue;
        }
        for (int64_t j = 0; j < width; j++) y[j] = x[j];
        for (int64_t i = 1; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) y[j] += x[i * r.inner + j];
        for (int64_t j = 0; j < width; j++) y[j] = y[j] / (real)r.n;
    }
}

static void backward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict g = (const real *)c->grad_out[0] + to;
        real *restrict gx = (real *)c->grad_in[0] + at;
        for (int64_t i = 0; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) gx[i * r.inner + j] = g[j] / (real)r.n;
    }
}

static const ss_op_case cases[] = {REDUCTION_CASES("B"), {0}};

const ss_op SS_FN(ss_op_mean) = {
    .name = "mean",
    .doc = "Mean over `count` neighbouring axes from `first` on (the batch axis not counted), which disappear. The sum is divided by the number of elements. Order: 16 interleaved accumulators and a tree where no axis follows, otherwise one chain along the reduced axes.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = reduction_cost,
    .cases = cases,
};
