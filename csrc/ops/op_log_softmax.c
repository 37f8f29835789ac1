/* log_softmax: y = x - max - log(sum of exp(x - max)) along one axis. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/softmax.h"

static ss_status infer(ss_infer *q, ss_error *err) { return softmax_infer(q, "log_softmax", err); }

static void row_forward(int64_t n, const real *restrict x, real *restrict y) {
    real most = row_max(n, x);
    row_exp(n, x, most, y);
    real shift = log_r(row_sum(n, y));
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - most) - shift;
}

/* width neighbouring rows; elements of a row are `stride` apart and join in order. */
static void strip_forward(int64_t n, int64_t stride, int64_t width, const real *restrict x, real *restrict y) {
    real most[SOFTMAX_STRIP], sum[SOFTMAX_STRIP];
    for (int64_t j = 0; j < width; j++) {
        most[j] = x[j];
        sum[j] = 0;
    }
    for (int64_t i = 1; i < n; i++)
        for (int64_t j = 0; j < width; j++) most[j] = max_r(most[j], x[i * stride + j]);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < width; j++) sum[j] += exp_r(x[i * stride + j] - most[j]);
    for (int64_t j = 0; j < width; j++) sum[j] = log_r(sum[j]);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < width; j++) y[i * stride + j] = (x[i * stride + j] - most[j]) - sum[j];
}

static void forward(const ss_call *c) {
    softmax_size z = softmax_size_of(c);
    const real *x = c->in[0];
    real *y = c->out[0];
    int64_t begin, end, width;
    softmax_my_units(c, &z, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        int64_t at = softmax_unit(&z, u, &width);
        if (z.inner == 1) row_forward(z.n, x + at, y + at);
        else strip_forward(z.n, z.inner, width, x + at, y + at);
    }
}

static void row_backward(int64_t n, const real *restrict y, const real *restrict gy, real *restrict gx) {
    real sum = row_sum(n, gy);
    for (int64_t i = 0; i < n; i++) gx[i] = fma_r(-exp_r(y[i]), sum, gy[i]);
}

static void strip_backward(int64_t n, int64_t stride, int64_t width, const real *restrict y, const real *restrict gy, real *restrict gx) {
    real sum[SOFTMAX_STRIP];
    for (int64_t j = 0; j < width; j++) sum[j] = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < width; j++) sum[j] += gy[i * stride + j];
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < width; j++) gx[i * stride + j] = fma_r(-exp_r(y[i * stride + j]), sum[j], gy[i * stride + j]);
}

static void backward(const ss_call *c) {
    softmax_size z = softmax_size_of(c);
    const real *y = c->out[0], *gy = c->grad_out[0];
    real *gx = c->grad_in[0];
    int64_t begin, end, width;
    softmax_my_units(c, &z, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        int64_t at = softmax_unit(&z, u, &width);
        if (z.inner == 1) row_backward(z.n, y + at, gy + at, gx + at);
        else strip_backward(z.n, z.inner, width, y + at, gy + at, gx + at);
    }
}

static const ss_op_case cases[] = {SOFTMAX_CASES, {0}};

const ss_op SS_FN(ss_op_log_softmax) = {
    .name = "log_softmax",
    .doc = "`y = (x - max) - log(sum(exp(x - max)))` along `axis`, any shape with that axis. The sum takes 16 interleaved accumulators and a tree over them where the axis is contiguous "
           "(all later axes have one element), otherwise it goes in order. The gradient is `g - exp(y) sum(g)`.",
    .flags = SS_OP_NEEDS_OUT,
    .attrs = softmax_attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = softmax_cost,
    .cases = cases,
};
