/* logsumexp: y = log(sum(exp(x))) over axes. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/reduction.h"
#include "kernels/vmath.h"

static const ss_attr_spec attrs[] = {
    REDUCTION_ATTRS,
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    return reduction_infer(q, "logsumexp", err);
}

static void forward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict x = (const real *)c->in[0] + at;
        real *restrict y = (real *)c->out[0] + to;
        real most[REDUCTION_STRIP], sum[REDUCTION_STRIP];
        for (int64_t j = 0; j < width; j++) most[j] = x[j];
        for (int64_t i = 1; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) most[j] = max_r(most[j], x[i * r.inner + j]);
        for (int64_t j = 0; j < width; j++) {
            if (isinf(most[j])) most[j] = 0; /* all -inf, or one inf: the sum itself tells */
            sum[j] = 0;
        }
        for (int64_t i = 0; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) sum[j] += exp_r(x[i * r.inner + j] - most[j]);
        for (int64_t j = 0; j < width; j++) y[j] = most[j] + log_r(sum[j]);
    }
}

static void backward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict x = (const real *)c->in[0] + at, *restrict y = (const real *)c->out[0] + to, *restrict g = (const real *)c->grad_out[0] + to;
        real *restrict gx = (real *)c->grad_in[0] + at;
        for (int64_t i = 0; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) gx[i * r.inner + j] = g[j] * exp_r(x[i * r.inner + j] - y[j]);
    }
}

static const ss_op_case cases[] = {REDUCTION_CASES("B"), {0}};

const ss_op SS_FN(ss_op_logsumexp) = {
    .name = "logsumexp",
    .doc = "`y = max + log(sum(exp(x - max)))` over `count` neighbouring axes from `first` on (the batch axis not counted), which disappear. Order: one chain along the reduced axes. The gradient is `exp(x - y)`.",
    .flags = SS_OP_NEEDS_IN | SS_OP_NEEDS_OUT,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = reduction_cost,
    .cases = cases,
};
