/* Conv2d: 2-d cross-correlation as torch.nn.Conv2d, channels last in memory. The sums are made by kernels/conv2d.c. */
#include <assert.h>
#include "kernels/conv2d_naive.h"
#include "kernels/variant.h"
#include "ops/op.h"

enum { X, WEIGHT, BIAS };
enum { STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W, GROUPS };

static const ss_attr_spec attrs[] = {
    {"stride_h", SS_ATTR_INT, 1, 1, 65536, "step between windows along the height"},
    {"stride_w", SS_ATTR_INT, 1, 1, 65536, "step between windows along the width"},
    {"pad_h", SS_ATTR_INT, 0, 0, 65536, "rows of zeros above and below"},
    {"pad_w", SS_ATTR_INT, 0, 0, 65536, "columns of zeros left and right"},
    {"dilation_h", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the height"},
    {"dilation_w", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the width"},
    {"groups", SS_ATTR_INT, 1, 1, 1 << 20, "channels are cut into this many groups that do not see each other"},
    {0},
};

/* Outputs along one axis; 0 or less: the kernel does not fit. */
static int64_t out_extent(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
    int64_t reach = size + 2 * pad - dilation * (kernel - 1) - 1;
    return reach < 0 ? 0 : reach / stride + 1;
}

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    const ss_shape *x = &q->in[X], *w = &q->in[WEIGHT], *bias = &q->in[BIAS];
    if (q->n_in < 2 || q->n_in > 3) return SS_FAIL(err, SS_ERR_SHAPE, "conv2d takes x, weight and an optional bias, not %d inputs", q->n_in);
    if (x->rank != 3 || q->role[X] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "conv2d needs an input of shape (B, channels, height, width), got %s", x->rank < 0 ? "none" : ss_shape_text(x, q->role[X] == SS_ROLE_BATCHED, a, sizeof a));
    for (int i = 0; i < q->n_in; i++)
        if (q->in[i].rank >= 0 && q->dtype[i] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "conv2d needs float inputs, got integers");
    if (w->rank != 4 || q->role[WEIGHT] == SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "conv2d needs a weight of shape (out_channels, channels / groups, kernel_h, kernel_w), got %s",
                       w->rank < 0 ? "none" : ss_shape_text(w, q->role[WEIGHT] == SS_ROLE_BATCHED, a, sizeof a));
    int64_t groups = ss_attr_i(q->attr, GROUPS);
    if (x->dim[0] % groups || w->dim[0] % groups)
        return SS_FAIL(err, SS_ERR_VALUE, "conv2d with %lld groups needs channels and out_channels that are multiples of it, got %lld and %lld", (long long)groups, (long long)x->dim[0],
                       (long long)w->dim[0]);
    if (w->dim[1] != x->dim[0] / groups)
        return SS_FAIL(err, SS_ERR_SHAPE, "conv2d with weight %s and %lld groups takes %lld channels, got the input %s", ss_shape_text(w, false, a, sizeof a), (long long)groups,
                       (long long)(w->dim[1] * groups), ss_shape_text(x, true, b, sizeof b));
    if (q->n_in > BIAS && bias->rank >= 0 && (bias->rank != 1 || bias->dim[0] != w->dim[0] || q->role[BIAS] == SS_ROLE_BATCHED))
        return SS_FAIL(err, SS_ERR_SHAPE, "conv2d with weight %s needs a bias of shape (%lld), got %s", ss_shape_text(w, false, a, sizeof a), (long long)w->dim[0],
                       ss_shape_text(bias, q->role[BIAS] == SS_ROLE_BATCHED, b, sizeof b));
    int64_t height = out_extent(x->dim[1], w->dim[2], ss_attr_i(q->attr, STRIDE_H), ss_attr_i(q->attr, PAD_H), ss_attr_i(q->attr, DILATION_H));
    int64_t width = out_extent(x->dim[2], w->dim[3], ss_attr_i(q->attr, STRIDE_W), ss_attr_i(q->attr, PAD_W), ss_attr_i(q->attr, DILATION_W));
    if (height < 1 || width < 1)
        return SS_FAIL(err, SS_ERR_SHAPE, "conv2d: a kernel of %lld x %lld, dilated and padded, does not fit the input %s", (long long)w->dim[2], (long long)w->dim[3],
                       ss_shape_text(x, true, b, sizeof b));
    q->n_out = 1;
    q->out[0] = ss_shape_of(3, w->dim[0], height, width, 0);
    q->layout = SS_CHANNELS_LAST;
    return SS_OK;
}

/* The geometry of a call, without pointers. */
static ss_conv2d conv_of(const ss_call *c) {
    const ss_shape *x = &c->in_shape[X], *w = &c->in_shape[WEIGHT], *y = &c->out_shape[0];
    return (ss_conv2d){
        .backend = c->backend, .rows = c->rows, .height = x->dim[1], .width = x->dim[2], .channels = x->dim[0], .out_height = y->dim[1], .out_width = y->dim[2], .out_channels = y->dim[0],
        .kernel_h = w->dim[2], .kernel_w = w->dim[3], .stride_h = ss_attr_i(c->attr, STRIDE_H), .stride_w = ss_attr_i(c->attr, STRIDE_W), .pad_h = ss_attr_i(c->attr, PAD_H),
        .pad_w = ss_attr_i(c->attr, PAD_W), .dilation_h = ss_attr_i(c->attr, DILATION_H), .dilation_w = ss_attr_i(c->attr, DILATION_W), .groups = ss_attr_i(c->attr, GROUPS),
        .block_stride = c->block_stride[WEIGHT], .fold = c->fold,
    };
}

static bool has_bias(const ss_call *c) { return c->n_in > BIAS && c->in_shape[BIAS].rank == 1; }

#ifndef SS_F64

/* Scratch: what the kernel needs | backward: stacks of the bias's sums. */
static int64_t kernel_floats(const ss_call *c, const ss_conv2d *p, bool backward) {
    return ss_round_up(c->kernels->conv2d_scratch(p, backward ? SS_CONV_BACKWARD : SS_CONV_FORWARD, c->fold->depth, c->threads), 16);
}

static int64_t scratch_bytes(const ss_call *c, bool backward) {
    if (!c->kernels) return 0; /* the naive functions need none */
    ss_conv2d p = conv_of(c);
    int64_t stack = backward && has_bias(c) ? ss_round_up(p.out_channels * c->fold->depth, 16) : 0;
    return (kernel_floats(c, &p, backward) + stack) * (int64_t)sizeof(float);
}

static void forward(const ss_call *c) {
    ss_conv2d p = conv_of(c);
    p.x = c->in[X];
    p.weight = c->in[WEIGHT];
    p.bias = has_bias(c) ? c->in[BIAS] : NULL;
    p.y = c->out[0];
    p.scratch = c->scratch;
    if (c->phase == 0) c->kernels->conv2d_pack(&p, SS_CONV_FORWARD, c->thread, c->threads);
    else c->kernels->conv2d_forward(&p, c->thread, c->threads);
}

static void backward(const ss_call *c) {
    ss_conv2d p = conv_of(c);
    p.x = c->in[X];
    p.weight = c->in[WEIGHT];
    p.grad_y = c->grad_out[0];
    p.grad_x = c->grad_in[X];
    p.grad_weight = c->grad_in[WEIGHT];
    p.scratch = c->scratch;
    if (c->phase == 0) {
        c->kernels->conv2d_pack(&p, SS_CONV_BACKWARD, c->thread, c->threads);
        return;
    }
    c->kernels->conv2d_backward(&p, c->thread, c->threads);
    if (!has_bias(c) || !c->grad_in[BIAS]) return;
    int64_t begin, end;
    ss_my_elements(c, p.out_channels, &begin, &end);
    if (begin < end)
        c->kernels->column_sum(c->fold, p.out_height * p.out_width, c->grad_out[0], p.out_channels, begin, end, c->grad_in[BIAS], c->block_stride[BIAS],
                               (float *)c->scratch + kernel_floats(c, &p, true) + begin * c->fold->depth);
}

#endif

static void forward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    ss_conv2d p = conv_of(c);
    conv_naive_forward(&p, c->in[X], c->in[WEIGHT], has_bias(c) ? c->in[BIAS] : NULL, c->out[0], 0, c->rows);
}

static void backward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    ss_conv2d p = conv_of(c);
    if (c->grad_in[X]) conv_naive_grad_x(&p, c->grad_out[0], c->in[WEIGHT], c->grad_in[X], 0, c->rows);
    if (c->grad_in[WEIGHT]) conv_naive_grad_weight(&p, c->in[X], c->grad_out[0], c->grad_in[WEIGHT], 0, ss_shape_count(&c->in_shape[WEIGHT]));
    if (!has_bias(c) || !c->grad_in[BIAS]) return;
    const real *grad = c->grad_out[0];
    real *grad_bias = c->grad_in[BIAS], stack[32];
    int64_t positions = p.out_height * p.out_width;
    assert(c->fold->depth <= 32);
    for (int64_t o = 0; o < p.out_channels; o++) {
        int top = 0;
        for (int lane = 0; lane < c->fold->lanes; lane++) {
            real sum = 0;
            for (int64_t r = c->fold->row[lane] * positions; r < c->fold->row[lane + 1] * positions; r++) sum += grad[r * p.out_channels + o];
            *ss_fold_slot(stack, 1, top) = sum;
            top = ss_fold_push(stack, 1, top, c->fold->adds[lane]);
        }
        for (int j = 0; j < top; j++) grad_bias[j * c->block_stride[BIAS] + o] = stack[j];
    }
}

static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    ss_conv2d p = conv_of(c);
    double y = (double)ss_shape_count(&c->out_shape[0]), products = y * (double)(p.kernel_h * p.kernel_w * (p.channels / p.groups));
    cost->flops = products * (backward ? 6 : 2);
    cost->bytes = (y + (double)ss_shape_count(&c->in_shape[X])) * sizeof(float) * (backward ? 3 : 1);
}

static const ss_op_case cases[] = {
    {.attrs = "pad_h=1 pad_w=1", .inputs = "B:3,8,8 P:4,3,3,3 P:4"},
    {.attrs = "pad_h=1 pad_w=1", .inputs = "B:1,7,5 P:5,1,3,3 P:5"},
    {.attrs = "pad_h=1 pad_w=1", .inputs = "B:16,6,6 P:16,16,3,3"},
    {.attrs = "", .inputs = "B:3,5,5 P:33,3,3,3 -"},
    {.attrs = "stride_h=2 stride_w=2 pad_h=1 pad_w=1", .inputs = "B:5,9,8 P:17,5,3,3 P:17"},
    {.attrs = "stride_h=2 stride_w=2", .inputs = "B:8,6,7 P:20,8,1,1"},
    {.attrs = "", .inputs = "B:7,4,4 P:6,7,1,1 P:6"},
    {.attrs = "stride_h=3 stride_w=2 dilation_h=2 pad_h=2", .inputs = "B:2,9,6 P:3,2,3,2 P:3"},
    {.attrs = "groups=2 pad_w=1", .inputs = "B:4,5,4 P:6,2,2,3 P:6"},
    {.attrs = "groups=6 pad_h=1 pad_w=1", .inputs = "B:6,5,5 P:6,1,3,3 P:6"},
    {.attrs = "groups=3", .inputs = "B:3,4,4 P:6,1,2,2 P:6"},
    {.attrs = "pad_h=3", .inputs = "B:2,9,3 P:3,2,7,1 P:3"},
    {.attrs = "pad_w=2 stride_w=2 dilation_w=2", .inputs = "B:2,3,9 P:3,2,1,5 P:3"},
    {.attrs = "stride_h=4 stride_w=4", .inputs = "B:3,8,8 P:5,3,4,4 P:5"},
    {.attrs = "", .inputs = "B:3,4,4 P:2,3,4,4 P:2"}, /* one position */
    {.attrs = "pad_h=2 pad_w=2", .inputs = "B:2,2,2 P:3,2,2,2 P:3"},
    {.attrs = "", .inputs = "B:3,8,8 P:4,2,3,3 P:4", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,8,8 P:4,3,3,3 P:3", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,8,8 P:4,3,9,3 P:4", .expect = SS_ERR_SHAPE},
    {.attrs = "dilation_h=4", .inputs = "B:3,8,8 P:4,3,3,3 P:4", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,8 P:4,3,3,3 P:4", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,8,8 P:4,3,3 P:4", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,8,8 B:4,3,3,3", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,8,8", .expect = SS_ERR_SHAPE},
    {.attrs = "groups=2", .inputs = "B:3,8,8 P:4,1,3,3 P:4", .expect = SS_ERR_VALUE},
    {.attrs = "groups=2", .inputs = "B:4,8,8 P:5,2,3,3", .expect = SS_ERR_VALUE},
    {.attrs = "stride_h=0", .inputs = "B:3,8,8 P:4,3,3,3", .expect = SS_ERR_VALUE},
    {.attrs = "pad_w=-1", .inputs = "B:3,8,8 P:4,3,3,3", .expect = SS_ERR_VALUE},
    {.attrs = "", .inputs = "I4:3,8,8 P:4,3,3,3", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_conv2d) = {
    .name = "conv2d",
    .doc = "`y[o, i, j] = bias[o] + sum over kh, kw, c of x[c, i*stride + kh*dilation - pad, j*stride + kw*dilation - pad] * weight[o, c, kh, kw]`.\n\n"
           "x `(B, channels, height, width)`, weight `(out_channels, channels / groups, kernel_h, kernel_w)`, bias `(out_channels)` or absent; y `(B, out_channels, out_height, out_width)` with "
           "`out = floor((size + 2 pad - dilation (kernel - 1) - 1) / stride) + 1`. Activations are channels last in memory.\n\n"
           "Order of sums: one fused-multiply-add chain along (kh, kw, c) from zero, padding taps as multiplications by zero, then the bias. The gradient of x is one chain along (kh, kw, o); "
           "taps whose distance the stride does not divide are not in it. The gradients of weight and bias are one chain over the positions of the samples of a lane, lanes joined by the tree.",
    .flags = SS_OP_NEEDS_IN | SS_OP_PRODUCT,
    .attrs = attrs,
    .infer = infer,
    .forward_phases = 2,
    .backward_phases = 2,
#ifndef SS_F64
    .forward = forward,
    .backward = backward,
    .scratch_bytes = scratch_bytes,
#else
    .forward = forward_ref,
    .backward = backward_ref,
#endif
    .forward_ref = forward_ref,
    .backward_ref = backward_ref,
    .cost = cost,
    .cases = cases,
};
