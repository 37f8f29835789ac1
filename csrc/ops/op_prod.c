/* prod: y = the product of x over axes. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/reduction.h"

static const ss_attr_spec attrs[] = {
    REDUCTION_ATTRS,
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    return reduction_infer(q, "prod", err);
}

static void forward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict x = (const real *)c->in[0] + at;
        real *restrict y = (real *)c->out[0] + to;
        for (int64_t j = 0; j < width; j++) y[j] = x[j];
        for (int64_t i = 1; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) y[j] *= x[i * r.inner + j];
    }
}

static void backward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict x = (const real *)c->in[0] + at, *restrict g = (const real *)c->grad_out[0] + to;
        real *restrict gx = (real *)c->grad_in[0] + at;
        real left[REDUCTION_STRIP];
        for (int64_t j = 0; j < width; j++) left[j] = 1;
        for (int64_t i = 0; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) {
                gx[i * r.inner + j] = left[j];
                left[j] *= x[i * r.inner + j];
            }
        for (int64_t j = 0; j < width; j++) left[j] = g[j];
        for (int64_t i = r.n - 1; i >= 0; i--)
            for (int64_t j = 0; j < width; j++) {
                gx[i * r.inner + j] *= left[j];
                left[j] *= x[i * r.inner + j];
            }
    }
}

static const ss_op_case cases[] = {REDUCTION_CASES("B"), {0}};

const ss_op SS_FN(ss_op_prod) = {
    .name = "prod",
    .doc = "Product over `count` neighbouring axes from `first` on (the batch axis not counted), which disappear. One chain along the reduced axes. The gradient is the product of all other elements, from the left and from the right.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = reduction_cost,
    .cases = cases,
};
