/* LocalResponseNorm, as torch.nn.LocalResponseNorm: each element by the squares of its neighbours among the channels. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

enum { SIZE, ALPHA, BETA, K };

static const ss_attr_spec attrs[] = {
    {"size", SS_ATTR_INT, 5, 1, 1 << 24, "neighbouring channels, the element's own included"},
    {"alpha", SS_ATTR_FLOAT, 1e-4, -1e30, 1e30, "factor of the mean square"},
    {"beta", SS_ATTR_FLOAT, 0.75, -1e3, 1e3, "exponent"},
    {"k", SS_ATTR_FLOAT, 1, -1e30, 1e30, "added to the mean square times alpha"},
    {0},
};

static int64_t channels_of(const ss_call *c) { return c->in_shape[0].dim[0]; }
static int64_t positions_of(const ss_call *c) { return ss_shape_count(&c->in_shape[0]) / channels_of(c); }
/* Channel c sees [c - before, c + after]. */
static int64_t before_of(const ss_call *c) { return ss_attr_i(c->attr, SIZE) / 2; }
static int64_t after_of(const ss_call *c) { return (ss_attr_i(c->attr, SIZE) - 1) / 2; }
static real factor_of(const ss_call *c) { return (real)(c->attr[ALPHA] / c->attr[SIZE]); }

static ss_status infer(ss_infer *q, ss_error *err) {
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "local_response_norm takes 1 input, not %d", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "local_response_norm: the input must be an activation, one row a sample");
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "local_response_norm: the input must be float");
    if (q->in[0].rank < 1) return SS_FAIL(err, SS_ERR_SHAPE, "local_response_norm needs an input of shape (B, C, ...), got (B)");
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->layout = SS_CHANNELS_LAST;
    return SS_OK;
}

/* to[c] = the chain over the channels [c - before, c + after] that exist, in order: of a^2, or of a. */
static inline __attribute__((always_inline)) void window(int64_t channels, int64_t before, int64_t after, const real *restrict a, const bool square, real *restrict to) {
    for (int64_t j = 0; j < channels; j++) to[j] = 0;
    for (int64_t t = -ss_min(before, channels - 1); t <= ss_min(after, channels - 1); t++) {
        const int64_t begin = ss_max(0, -t), end = ss_min(channels, channels - t);
        if (square)
            for (int64_t j = begin; j < end; j++) to[j] = fma_r(a[j + t], a[j + t], to[j]);
        else
            for (int64_t j = begin; j < end; j++) to[j] += a[j + t];
    }
}

static void forward(const ss_call *c) {
    const int64_t channels = channels_of(c);
    const real factor = factor_of(c), beta = (real)c->attr[BETA], k = (real)c->attr[K];
    int64_t begin, end;
    ss_split(c->rows * positions_of(c), 1, c->thread, c->threads, &begin, &end);
    for (int64_t p = begin; p < end; p++) {
        const real *restrict x = (const real *)c->in[0] + p * channels;
        real *restrict y = (real *)c->out[0] + p * channels;
        window(channels, before_of(c), after_of(c), x, true, y);
        for (int64_t j = 0; j < channels; j++) y[j] = x[j] * exp_r(-beta * log_r(fma_r(y[j], factor, k)));
    }
}

/* With d = k + alpha/size sum x^2 and s = d^-beta: grad_x = g s - 2 alpha/size beta x (sum of g x s / d over the channels that see this one). */
static void backward(const ss_call *c) {
    const int64_t channels = channels_of(c);
    const real factor = factor_of(c), beta = (real)c->attr[BETA], k = (real)c->attr[K], steep = -2 * factor * beta;
    real *restrict scale = (real *)c->scratch + c->thread * 3 * channels, *restrict term = scale + channels, *restrict sum = term + channels;
    int64_t begin, end;
    ss_split(c->rows * positions_of(c), 1, c->thread, c->threads, &begin, &end);
    for (int64_t p = begin; p < end; p++) {
        const real *restrict x = (const real *)c->in[0] + p * channels, *restrict g = (const real *)c->grad_out[0] + p * channels;
        real *restrict to = (real *)c->grad_in[0] + p * channels;
        window(channels, before_of(c), after_of(c), x, true, sum);
        for (int64_t j = 0; j < channels; j++) {
            real d = fma_r(sum[j], factor, k);
            scale[j] = exp_r(-beta * log_r(d));
            term[j] = g[j] * x[j] * scale[j] / d;
        }
        window(channels, after_of(c), before_of(c), term, false, sum);
        for (int64_t j = 0; j < channels; j++) to[j] = fma_r(steep * x[j], sum[j], g[j] * scale[j]);
    }
}

/* ---- references: one element after another ---- */

static real divisor(const ss_call *c, const real *x, int64_t j) {
    real sum = 0;
    for (int64_t i = ss_max(0, j - before_of(c)); i <= ss_min(channels_of(c) - 1, j + after_of(c)); i++) sum = fma_r(x[i], x[i], sum);
    return fma_r(sum, factor_of(c), (real)c->attr[K]);
}

static void forward_ref(const ss_call *c) {
    const int64_t channels = channels_of(c);
    for (int64_t p = 0; p < c->rows * positions_of(c); p++)
        for (int64_t j = 0; j < channels; j++) {
            const real *x = (const real *)c->in[0] + p * channels;
            ((real *)c->out[0])[p * channels + j] = x[j] * exp_r(-(real)c->attr[BETA] * log_r(divisor(c, x, j)));
        }
}

static void backward_ref(const ss_call *c) {
    const int64_t channels = channels_of(c);
    const real beta = (real)c->attr[BETA];
    for (int64_t p = 0; p < c->rows * positions_of(c); p++)
        for (int64_t j = 0; j < channels; j++) {
            const real *x = (const real *)c->in[0] + p * channels, *g = (const real *)c->grad_out[0] + p * channels;
            real sum = 0;
            for (int64_t i = ss_max(0, j - after_of(c)); i <= ss_min(channels - 1, j + before_of(c)); i++) {
                real d = divisor(c, x, i);
                sum += g[i] * x[i] * exp_r(-beta * log_r(d)) / d;
            }
            ((real *)c->grad_in[0])[p * channels + j] = fma_r(-2 * factor_of(c) * beta * x[j], sum, g[j] * exp_r(-beta * log_r(divisor(c, x, j))));
        }
}

static int64_t scratch_bytes(const ss_call *c, bool backward_pass) { return backward_pass ? c->threads * 3 * channels_of(c) * (int64_t)sizeof(real) : 0; }

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[0]), taps = c->attr[SIZE];
    out->flops = n * (both ? 5 * taps + 90 : 2 * taps + 42);
    out->bytes = n * sizeof(real) * (both ? 5 : 2);
}

static const ss_op_case cases[] = {
    {.inputs = "B:7,3,2"},
    {.attrs = "size=2 alpha=0.5", .inputs = "B:37,4"},
    {.attrs = "size=3 alpha=0.5 beta=0.5 k=2", .inputs = "B:6,2,2,2"},
    {.attrs = "size=4 alpha=2", .inputs = "B:19"},
    {.attrs = "size=1 alpha=1", .inputs = "B:3,3"},
    {.attrs = "size=9 alpha=1", .inputs = "B:3,5"},
    {.inputs = "B:8,3", .inference = true},
    {.attrs = "size=0", .inputs = "B:3,3", .expect = SS_ERR_VALUE},
    {.inputs = "B:", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_local_response_norm) = {
    .name = "local_response_norm",
    .doc = "`y_c = x_c / (k + alpha/size sum x_i^2)^beta` with the sum over the channels i from `c - size/2` to `c + (size - 1)/2` (whole divisions) that exist. x and y `(B, C, ...)`. Channels last in "
           "memory. The power is `exp(-beta log d)`, so the divisor must be positive.\n\n"
           "Order of sums: one fused chain over the channels of a window in order; likewise for the gradient. Krizhevsky, Sutskever, Hinton: \"ImageNet Classification with Deep Convolutional Neural "
           "Networks\" (2012).",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .backward_ref = backward_ref,
    .scratch_bytes = scratch_bytes,
    .cost = cost,
    .cases = cases,
};
