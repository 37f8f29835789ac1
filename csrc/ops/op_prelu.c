/* prelu: y = x where x > 0, weight * x elsewhere; the weight is trained. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

enum { X, WEIGHT };

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    if (q->n_in != 2) return SS_FAIL(err, SS_ERR_SHAPE, "prelu takes an input and a weight, not %d inputs", q->n_in);
    if (q->in[X].rank < 0 || q->role[X] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "prelu: the input must be an activation, one row a sample");
    if (q->in[WEIGHT].rank < 0 || q->role[WEIGHT] == SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "prelu: the weight must be a parameter");
    if (q->dtype[X] != SS_F32 || q->dtype[WEIGHT] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "prelu: input and weight must be float");
    const ss_shape *x = &q->in[X], *w = &q->in[WEIGHT];
    if (w->rank != 1 || (w->dim[0] != 1 && (x->rank < 1 || w->dim[0] != x->dim[0])))
        return SS_FAIL(err, SS_ERR_SHAPE, "prelu: a weight of shape %s does not fit %s: it has 1 element, or one for each channel (axis 1)", ss_shape_text(w, false, a, sizeof a),
                       ss_shape_text(x, true, b, sizeof b));
    q->n_out = 1;
    q->out[0] = *x;
    q->any_layout = true;
    return SS_OK;
}

/* Element (channel, position) of a sample lies at channel * channel_step + position * position_step. */
typedef struct prelu_size {
    int64_t n, channels, positions, channel_step, position_step;
    bool shared; /* one weight for all */
} prelu_size;

static prelu_size size_of(const ss_call *c) {
    const ss_shape *x = &c->in_shape[X];
    prelu_size z = {.n = ss_shape_count(x), .channels = x->rank ? x->dim[0] : 1, .shared = c->in_shape[WEIGHT].dim[0] == 1};
    z.positions = z.n / z.channels;
    const bool last = c->layout == SS_CHANNELS_LAST && x->rank >= 2;
    z.channel_step = last ? 1 : z.positions;
    z.position_step = last ? z.channels : 1;
    return z;
}

static void forward(const ss_call *c) {
    const prelu_size z = size_of(c);
    const real *w = c->in[WEIGHT];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        const real *restrict x = (const real *)c->in[X] + r * z.n;
        real *restrict y = (real *)c->out[0] + r * z.n;
        if (z.shared)
            for (int64_t i = 0; i < z.n; i++) y[i] = if_r(x[i] > 0, x[i], w[0] * x[i]);
        else if (z.channel_step == 1)
            for (int64_t i = 0; i < z.n; i += z.channels)
                for (int64_t k = 0; k < z.channels; k++) y[i + k] = if_r(x[i + k] > 0, x[i + k], w[k] * x[i + k]);
        else
            for (int64_t k = 0; k < z.channels; k++)
                for (int64_t i = k * z.positions; i < (k + 1) * z.positions; i++) y[i] = if_r(x[i] > 0, x[i], w[k] * x[i]);
    }
}

static void input_gradient(const ss_call *c, const prelu_size *z) {
    const real *w = c->in[WEIGHT];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        const real *restrict x = (const real *)c->in[X] + r * z->n, *restrict g = (const real *)c->grad_out[0] + r * z->n;
        real *restrict gx = (real *)c->grad_in[X] + r * z->n;
        for (int64_t k = 0; k < z->channels; k++) {
            const real slope = w[z->shared ? 0 : k];
            for (int64_t p = 0; p < z->positions; p++) {
                const int64_t i = k * z->channel_step + p * z->position_step;
                gx[i] = if_r(x[i] > 0, g[i], slope * g[i]);
            }
        }
    }
}

/* One chain over positions and samples of a lane for each weight; threads share the weights. */
static void weight_gradient(const ss_call *c, const prelu_size *z) {
    const int64_t weights = c->in_shape[WEIGHT].dim[0];
    int64_t begin, end;
    ss_split(weights, 1, c->thread, c->threads, &begin, &end);
    for (int64_t v = begin; v < end; v++) {
        real stack[64];
        int top = 0;
        for (int l = 0; l < c->fold->lanes; l++) {
            real sum = 0;
            for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) {
                const real *x = (const real *)c->in[X] + r * z->n, *g = (const real *)c->grad_out[0] + r * z->n;
                for (int64_t k = z->shared ? 0 : v; k < (z->shared ? z->channels : v + 1); k++)
                    for (int64_t p = 0; p < z->positions; p++) {
                        const int64_t i = k * z->channel_step + p * z->position_step;
                        sum = fma_r(g[i], min_r(x[i], 0), sum);
                    }
            }
            *ss_fold_slot(stack, 1, top) = sum;
            top = ss_fold_push(stack, 1, top, c->fold->adds[l]);
        }
        for (int block = 0; block < top; block++) ((real *)c->grad_in[WEIGHT])[block * c->block_stride[WEIGHT] + v] = stack[block];
    }
}

static void backward(const ss_call *c) {
    const prelu_size z = size_of(c);
    if (c->grad_in[X]) input_gradient(c, &z);
    if (c->grad_in[WEIGHT]) weight_gradient(c, &z);
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    const double n = (double)ss_shape_count(&c->out_shape[0]);
    out->flops = n * (both ? 5 : 2);
    out->bytes = n * 4 * (both ? 7 : 2);
}

static const ss_op_case cases[] = {
    {.inputs = "B:9 P:1"},
    {.inputs = "B:9 P:9"},
    {.inputs = "B:3,4,5 P:1"},
    {.inputs = "B:3,4,5 P:3"},
    {.inputs = "B:17,6 P:17"},
    {.inputs = "B: P:1"},
    {.inputs = "B:3,4 P:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,4 P:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,4 B:3", .expect = SS_ERR_VALUE},
    {.inputs = "P:3 P:3", .expect = SS_ERR_VALUE},
    {.inputs = "I4:3 P:3", .expect = SS_ERR_DTYPE},
    {.inputs = "B:3", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_prelu) = {
    .name = "prelu",
    .doc = "`y = x` where `x > 0`, `weight x` elsewhere; one weight, or one for each channel (axis 1) (He, Zhang, Ren, Sun, 2015). The gradient of a weight is the sum of `grad_y min(x, 0)`, fused "
           "multiply-adds over positions in row-major order, over the samples of a lane, then over lanes.",
    .flags = SS_OP_NEEDS_IN,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
