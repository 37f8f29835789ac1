/* Convolution over one to three axes: cross-correlation as torch.nn.Conv1d, Conv2d and Conv3d, channels last in memory. The sums are made by kernels/conv2d.c. */
#include "ops/conv.h"

enum { STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W, GROUPS, PAD_END_H, PAD_END_W, STRIDE_D, PAD_D, DILATION_D, PAD_END_D };

static const ss_attr_spec attrs[] = {
    {"stride_h", SS_ATTR_INT, 1, 1, 65536, "step between windows along the height"},
    {"stride_w", SS_ATTR_INT, 1, 1, 65536, "step between windows along the width, which is the only axis of 1-d samples"},
    {"pad_h", SS_ATTR_INT, 0, 0, 65536, "rows of zeros above"},
    {"pad_w", SS_ATTR_INT, 0, 0, 65536, "columns of zeros on the left"},
    {"dilation_h", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the height"},
    {"dilation_w", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the width"},
    {"groups", SS_ATTR_INT, 1, 1, 1 << 20, "channels are cut into this many groups that do not see each other"},
    {"pad_end_h", SS_ATTR_INT, -1, -1, 65536, "rows of zeros below; -1: as above"},
    {"pad_end_w", SS_ATTR_INT, -1, -1, 65536, "columns of zeros on the right; -1: as on the left"},
    {"stride_d", SS_ATTR_INT, 1, 1, 65536, "step between windows along the depth of 3-d samples"},
    {"pad_d", SS_ATTR_INT, 0, 0, 65536, "planes of zeros in front"},
    {"dilation_d", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the depth"},
    {"pad_end_d", SS_ATTR_INT, -1, -1, 65536, "planes of zeros behind; -1: as in front"},
    {0},
};

/* Outputs along one axis; 0 or less: the kernel does not fit. */
static int64_t out_extent(int64_t size, int64_t kernel, int64_t stride, int64_t pads, int64_t dilation) {
    int64_t reach = size + pads - dilation * (kernel - 1) - 1;
    return reach < 0 ? 0 : reach / stride + 1;
}

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    ss_status status = conv_check(q, "conv2d", "out_channels, channels / groups", err);
    if (status != SS_OK) return status;
    const ss_shape *x = &q->in[CONV_X], *w = &q->in[CONV_WEIGHT];
    int64_t groups = ss_attr_i(q->attr, GROUPS);
    if (x->dim[0] % groups || w->dim[0] % groups)
        return SS_FAIL(err, SS_ERR_VALUE, "conv2d with %lld groups needs channels and out_channels that are multiples of it, got %lld and %lld", (long long)groups, (long long)x->dim[0],
                       (long long)w->dim[0]);
    if (w->dim[1] != x->dim[0] / groups)
        return SS_FAIL(err, SS_ERR_SHAPE, "conv2d with weight %s and %lld groups takes %lld channels, got the input %s", ss_shape_text(w, false, a, sizeof a), (long long)groups,
                       (long long)(w->dim[1] * groups), ss_shape_text(x, true, b, sizeof b));
    status = conv_check_bias(q, "conv2d", w->dim[0], err);
    if (status != SS_OK) return status;
    int axes = x->rank - 1;
    conv_extents size = conv_extents_of(x, 1), kernel = conv_extents_of(w, 2), stride = conv_attr(q->attr, STRIDE_H, STRIDE_D, axes, 1), out;
    conv_extents dilation = conv_attr(q->attr, DILATION_H, DILATION_D, axes, 1), pad = conv_attr(q->attr, PAD_H, PAD_D, axes, 0), end = conv_attr(q->attr, PAD_END_H, PAD_END_D, axes, -1);
    for (int i = 0; i < CONV_AXES; i++) {
        out.at[i] = out_extent(size.at[i], kernel.at[i], stride.at[i], pad.at[i] + (end.at[i] < 0 ? pad.at[i] : end.at[i]), dilation.at[i]);
        if (out.at[i] < 1)
            return SS_FAIL(err, SS_ERR_SHAPE, "conv2d: the kernel of weight %s, dilated and padded, does not fit the input %s", ss_shape_text(w, false, a, sizeof a),
                           ss_shape_text(x, true, b, sizeof b));
    }
    q->n_out = 1;
    q->out[0] = conv_shape(axes, w->dim[0], &out);
    q->layout = SS_CHANNELS_LAST;
    return SS_OK;
}

/* The geometry of a call, without pointers. */
static ss_conv2d conv_of(const ss_call *c) {
    int axes = c->in_shape[CONV_X].rank - 1;
    return conv_geometry(c, &c->in_shape[CONV_X], &c->out_shape[0], conv_attr(c->attr, STRIDE_H, STRIDE_D, axes, 1), conv_attr(c->attr, PAD_H, PAD_D, axes, 0),
                         conv_attr(c->attr, DILATION_H, DILATION_D, axes, 1), ss_attr_i(c->attr, GROUPS));
}

#ifndef SS_F64

/* Scratch: what the kernel needs | backward: stacks of the bias's sums. */
static int64_t scratch_bytes(const ss_call *c, bool backward) {
    if (!c->kernels) return 0; /* the naive functions need none */
    ss_conv2d p = conv_of(c);
    return (conv_floats(c, &p, backward ? SS_CONV_BACKWARD : SS_CONV_FORWARD) + (backward ? conv_bias_stack(c) : 0)) * (int64_t)sizeof(float);
}

static void forward(const ss_call *c) {
    ss_conv2d p = conv_of(c);
    p.x = c->in[CONV_X];
    p.weight = c->in[CONV_WEIGHT];
    p.bias = conv_has_bias(c) ? c->in[CONV_BIAS] : NULL;
    p.y = c->out[0];
    p.scratch = c->scratch;
    if (c->phase == 0) c->kernels->conv2d_pack(&p, SS_CONV_FORWARD, c->thread, c->threads);
    else c->kernels->conv2d_forward(&p, c->thread, c->threads);
}

static void backward(const ss_call *c) {
    ss_conv2d p = conv_of(c);
    p.x = c->in[CONV_X];
    p.weight = c->in[CONV_WEIGHT];
    p.grad_y = c->grad_out[0];
    p.grad_x = c->grad_in[CONV_X];
    p.grad_weight = c->grad_in[CONV_WEIGHT];
    p.scratch = c->scratch;
    if (c->phase == 0) {
        c->kernels->conv2d_pack(&p, SS_CONV_BACKWARD, c->thread, c->threads);
        return;
    }
    c->kernels->conv2d_backward(&p, c->thread, c->threads);
    conv_grad_bias(c, (float *)c->scratch + conv_floats(c, &p, SS_CONV_BACKWARD));
}

#endif

static void forward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    ss_conv2d p = conv_of(c);
    conv_naive_forward(&p, c->in[CONV_X], c->in[CONV_WEIGHT], conv_has_bias(c) ? c->in[CONV_BIAS] : NULL, c->out[0], 0, c->rows);
}

static void backward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    ss_conv2d p = conv_of(c);
    if (c->grad_in[CONV_X]) conv_naive_grad_x(&p, c->grad_out[0], c->in[CONV_WEIGHT], NULL, c->grad_in[CONV_X], 0, c->rows);
    if (c->grad_in[CONV_WEIGHT]) conv_naive_grad_weight(&p, c->in[CONV_X], c->grad_out[0], c->grad_in[CONV_WEIGHT], 0, ss_shape_count(&c->in_shape[CONV_WEIGHT]));
    if (conv_has_bias(c) && c->grad_in[CONV_BIAS]) conv_naive_grad_bias(c);
}

static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    ss_conv2d p = conv_of(c);
    conv_cost(c, &p, backward, cost);
}

static const ss_op_case cases[] = {
    {.attrs = "pad_h=1 pad_w=1", .inputs = "B:3,8,8 P:4,3,3,3 P:4"},
    {.attrs = "pad_h=1 pad_w=1", .inputs = "B:1,7,5 P:5,1,3,3 P:5"},
    {.attrs = "pad_h=1 pad_w=1", .inputs = "B:16,6,6 P:16,16,3,3"},
    {.attrs = "pad_h=1 pad_w=1", .inputs = "B:17,5,7 P:33,17,3,3 P:33"}, /* minimal filtering */
    {.attrs = "", .inputs = "B:16,7,6 P:40,16,3,3"},
    {.attrs = "pad_h=3 pad_w=2 pad_end_w=0", .inputs = "B:20,4,5 P:18,20,3,3 P:18"},
    {.attrs = "", .inputs = "B:3,5,5 P:33,3,3,3 -"},
    {.attrs = "pad_h=1 pad_w=1 stride_w=2", .inputs = "B:21,5,6 P:9,21,3,3 P:9"}, /* few outputs: the weight's gradient is turned */
    {.attrs = "pad_d=1 pad_w=2", .inputs = "B:12,3,2,4 P:5,12,3,2,3"},
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
    {.attrs = "groups=19 pad_h=1 pad_w=1 stride_h=2", .inputs = "B:19,5,6 P:19,1,3,3 P:19"}, /* depthwise */
    {.attrs = "groups=5 dilation_w=2 pad_w=1", .inputs = "B:5,4,6 P:15,1,2,3 P:15"},
    {.attrs = "pad_h=1 pad_w=1 pad_end_h=2 pad_end_w=0", .inputs = "B:3,5,6 P:4,3,4,3 P:4"}, /* padding="same" with even kernels */
    {.attrs = "pad_end_w=3 stride_w=2 groups=2", .inputs = "B:4,3,6 P:6,2,1,4"},
    {.attrs = "pad_w=1", .inputs = "B:3,11 P:5,3,3 P:5"}, /* one axis */
    {.attrs = "stride_w=2 dilation_w=3 pad_w=2 pad_end_w=1 stride_h=7 pad_h=5", .inputs = "B:4,17 P:33,2,4", .expect = SS_ERR_SHAPE},
    {.attrs = "stride_w=2 dilation_w=3 pad_w=2 pad_end_w=1 stride_h=7 pad_h=5", .inputs = "B:2,17 P:33,2,4"}, /* attributes of missing axes are not read */
    {.attrs = "groups=6 pad_w=2", .inputs = "B:6,9 P:6,1,5 P:6"},
    {.attrs = "pad_d=1 pad_h=1 pad_w=1", .inputs = "B:3,4,5,4 P:5,3,3,3,3 P:5"}, /* three axes */
    {.attrs = "stride_d=2 stride_w=2 dilation_d=2 pad_d=2 pad_end_d=1 pad_w=1 groups=2", .inputs = "B:4,5,3,4 P:6,2,2,2,3 P:6"},
    {.attrs = "groups=3 pad_d=1", .inputs = "B:3,4,3,3 P:3,1,3,1,2"},
    {.attrs = "", .inputs = "B:3,8 P:4,3,9 P:4", .expect = SS_ERR_SHAPE},
    {.attrs = "dilation_d=2", .inputs = "B:3,4,8,8 P:4,3,3,3,3", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3 P:4,3", .expect = SS_ERR_SHAPE},
    {.attrs = "pad_end_h=-2", .inputs = "B:3,8,8 P:4,3,3,3", .expect = SS_ERR_VALUE},
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
           "`out = floor((size + pad + pad_end - dilation (kernel - 1) - 1) / stride) + 1`. Samples may also have one axis, x `(B, channels, length)` and weight `(out_channels, channels / groups, "
           "kernel)`, whose attributes are those of the width; or three, x `(B, channels, depth, height, width)` and a weight with kernel_d before kernel_h. Attributes of axes that are not there are "
           "not read. Activations are channels last in memory.\n\n"
           "Order of sums: one fused-multiply-add chain along (kd, kh, kw, c) from zero, padding taps as multiplications by zero, then the bias. The gradient of x is one chain along (kd, kh, kw, "
           "o); taps whose distance the stride does not divide are not in it. The gradients of weight and bias are one chain over the positions of the samples of a lane, in row-major order, lanes "
           "joined by the tree. Groups of one channel (depthwise convolution) have kernels of their own and the same order of sums.\n\n"
           "3x3 taps on two axes, without stride, dilation and groups, at least 16 channels on both sides and 4 positions along each axis (backend native): y and the gradient of x are computed by "
           "minimal filtering F(2x2, 3x3), 16 products in place of 36 (Winograd, 1980; Lavin, Gray, 2015). The order is that of kernels/conv2d_winograd.h: the chain of each of the 16 places runs along "
           "the channels. An infinite input makes NaN there.",
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
