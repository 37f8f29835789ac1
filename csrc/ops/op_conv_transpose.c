/* Transposed convolution over one to three axes, as torch.nn.ConvTranspose1d, 2d and 3d: the gradient of a convolution with respect to its image. The sums are made by
 * kernels/conv2d.c, with the roles of image and result exchanged. */
#include "ops/conv.h"

enum { STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W, GROUPS, OUTPUT_PAD_H, OUTPUT_PAD_W, STRIDE_D, PAD_D, DILATION_D, OUTPUT_PAD_D };

static const ss_attr_spec attrs[] = {
    {"stride_h", SS_ATTR_INT, 1, 1, 65536, "distance between the inputs along the height of the output"},
    {"stride_w", SS_ATTR_INT, 1, 1, 65536, "distance between the inputs along the width, which is the only axis of 1-d samples"},
    {"pad_h", SS_ATTR_INT, 0, 0, 65536, "rows cut off above and below"},
    {"pad_w", SS_ATTR_INT, 0, 0, 65536, "columns cut off left and right"},
    {"dilation_h", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the height"},
    {"dilation_w", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the width"},
    {"groups", SS_ATTR_INT, 1, 1, 1 << 20, "channels are cut into this many groups that do not see each other"},
    {"output_pad_h", SS_ATTR_INT, 0, 0, 65536, "further rows below; less than the stride or the dilation"},
    {"output_pad_w", SS_ATTR_INT, 0, 0, 65536, "further columns on the right; less than the stride or the dilation"},
    {"stride_d", SS_ATTR_INT, 1, 1, 65536, "distance between the inputs along the depth of 3-d samples"},
    {"pad_d", SS_ATTR_INT, 0, 0, 65536, "planes cut off in front and behind"},
    {"dilation_d", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the depth"},
    {"output_pad_d", SS_ATTR_INT, 0, 0, 65536, "further planes behind; less than the stride or the dilation"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    ss_status status = conv_check(q, "conv_transpose", "channels, out_channels / groups", err);
    if (status != SS_OK) return status;
    const ss_shape *x = &q->in[CONV_X], *w = &q->in[CONV_WEIGHT];
    int64_t groups = ss_attr_i(q->attr, GROUPS), outputs;
    if (w->dim[0] != x->dim[0])
        return SS_FAIL(err, SS_ERR_SHAPE, "conv_transpose with weight %s takes %lld channels, got the input %s", ss_shape_text(w, false, a, sizeof a), (long long)w->dim[0],
                       ss_shape_text(x, true, b, sizeof b));
    if (x->dim[0] % groups)
        return SS_FAIL(err, SS_ERR_VALUE, "conv_transpose with %lld groups needs channels that are a multiple of it, got %lld", (long long)groups, (long long)x->dim[0]);
    if (!ss_mul(w->dim[1], groups, &outputs)) return SS_FAIL(err, SS_ERR_SHAPE, "conv_transpose: too many channels");
    status = conv_check_bias(q, "conv_transpose", outputs, err);
    if (status != SS_OK) return status;
    int axes = x->rank - 1;
    conv_extents size = conv_extents_of(x, 1), kernel = conv_extents_of(w, 2), stride = conv_attr(q->attr, STRIDE_H, STRIDE_D, axes, 1), out;
    conv_extents dilation = conv_attr(q->attr, DILATION_H, DILATION_D, axes, 1), pad = conv_attr(q->attr, PAD_H, PAD_D, axes, 0), more = conv_attr(q->attr, OUTPUT_PAD_H, OUTPUT_PAD_D, axes, 0);
    for (int i = 0; i < CONV_AXES; i++) {
        if (more.at[i] && more.at[i] >= ss_max(stride.at[i], dilation.at[i]))
            return SS_FAIL(err, SS_ERR_VALUE, "conv_transpose: output_padding %lld must be less than the stride %lld or the dilation %lld", (long long)more.at[i], (long long)stride.at[i],
                           (long long)dilation.at[i]);
        out.at[i] = (size.at[i] - 1) * stride.at[i] - 2 * pad.at[i] + dilation.at[i] * (kernel.at[i] - 1) + more.at[i] + 1;
        if (out.at[i] < 1)
            return SS_FAIL(err, SS_ERR_SHAPE, "conv_transpose: with weight %s the padding leaves nothing of the input %s", ss_shape_text(w, false, a, sizeof a),
                           ss_shape_text(x, true, b, sizeof b));
    }
    q->n_out = 1;
    q->out[0] = conv_shape(axes, outputs, &out);
    q->layout = SS_CHANNELS_LAST;
    return SS_OK;
}

/* The convolution that leads from the output to the input, without pointers. */
static ss_conv2d conv_of(const ss_call *c) {
    int axes = c->in_shape[CONV_X].rank - 1;
    return conv_geometry(c, &c->out_shape[0], &c->in_shape[CONV_X], conv_attr(c->attr, STRIDE_H, STRIDE_D, axes, 1), conv_attr(c->attr, PAD_H, PAD_D, axes, 0),
                         conv_attr(c->attr, DILATION_H, DILATION_D, axes, 1), ss_attr_i(c->attr, GROUPS));
}

#ifndef SS_F64

/* Scratch: forward, the kernel's backward pass | backward, the kernel's forward pass, its backward pass, stacks of the bias's sums. */
static int64_t scratch_bytes(const ss_call *c, bool backward) {
    if (!c->kernels) return 0;
    ss_conv2d p = conv_of(c);
    int64_t more = backward ? conv_floats(c, &p, SS_CONV_FORWARD) + conv_bias_stack(c) : 0;
    return (conv_floats(c, &p, SS_CONV_BACKWARD) + more) * (int64_t)sizeof(float);
}

static void forward(const ss_call *c) {
    ss_conv2d p = conv_of(c);
    p.weight = c->in[CONV_WEIGHT];
    p.grad_y = c->in[CONV_X];
    p.grad_x = c->out[0];
    p.x_bias = conv_has_bias(c) ? c->in[CONV_BIAS] : NULL;
    p.scratch = c->scratch;
    if (c->phase == 0) c->kernels->conv2d_pack(&p, SS_CONV_BACKWARD, c->thread, c->threads);
    else c->kernels->conv2d_backward(&p, c->thread, c->threads);
}

static void backward(const ss_call *c) {
    ss_conv2d input = conv_of(c), weight = input;
    input.weight = c->in[CONV_WEIGHT];
    input.x = c->grad_out[0];
    input.y = c->grad_in[CONV_X];
    input.scratch = c->scratch;
    weight.weight = c->in[CONV_WEIGHT];
    weight.x = c->grad_out[0];
    weight.grad_y = c->in[CONV_X];
    weight.grad_weight = c->grad_in[CONV_WEIGHT];
    weight.scratch = (float *)c->scratch + conv_floats(c, &input, SS_CONV_FORWARD);
    if (c->phase == 0) {
        if (input.y) c->kernels->conv2d_pack(&input, SS_CONV_FORWARD, c->thread, c->threads);
        if (weight.grad_weight) c->kernels->conv2d_pack(&weight, SS_CONV_BACKWARD, c->thread, c->threads);
        return;
    }
    if (input.y) c->kernels->conv2d_forward(&input, c->thread, c->threads);
    if (weight.grad_weight) c->kernels->conv2d_backward(&weight, c->thread, c->threads);
    conv_grad_bias(c, weight.scratch + conv_floats(c, &weight, SS_CONV_BACKWARD));
}

#endif

static void forward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    ss_conv2d p = conv_of(c);
    conv_naive_grad_x(&p, c->in[CONV_X], c->in[CONV_WEIGHT], conv_has_bias(c) ? c->in[CONV_BIAS] : NULL, c->out[0], 0, c->rows);
}

static void backward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    ss_conv2d p = conv_of(c);
    if (c->grad_in[CONV_X]) conv_naive_forward(&p, c->grad_out[0], c->in[CONV_WEIGHT], NULL, c->grad_in[CONV_X], 0, c->rows);
    if (c->grad_in[CONV_WEIGHT]) conv_naive_grad_weight(&p, c->grad_out[0], c->in[CONV_X], c->grad_in[CONV_WEIGHT], 0, ss_shape_count(&c->in_shape[CONV_WEIGHT]));
    if (conv_has_bias(c) && c->grad_in[CONV_BIAS]) conv_naive_grad_bias(c);
}

static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    ss_conv2d p = conv_of(c);
    conv_cost(c, &p, backward, cost);
}

static const ss_op_case cases[] = {
    {.attrs = "", .inputs = "B:3,4,5 P:3,4,3,3 P:4"},
    {.attrs = "pad_h=1 pad_w=1", .inputs = "B:16,5,6 P:16,17,3,3 P:17"}, /* minimal filtering */
    {.attrs = "", .inputs = "B:18,4,5 P:18,16,3,3 P:16"},
    {.attrs = "stride_h=2 stride_w=2", .inputs = "B:8,3,4 P:8,17,2,2 P:17"},
    {.attrs = "stride_h=2 stride_w=2 pad_h=1 pad_w=1", .inputs = "B:6,3,4 P:6,5,4,4 P:5"},
    {.attrs = "stride_h=2 stride_w=3 pad_h=1 output_pad_h=1 output_pad_w=2", .inputs = "B:4,3,2 P:4,3,3,2 P:3"},
    {.attrs = "dilation_h=3 output_pad_h=2 pad_w=1", .inputs = "B:2,3,4 P:2,3,2,3 -"},
    {.attrs = "stride_h=4 stride_w=3", .inputs = "B:3,2,3 P:3,2,2,2 P:2"}, /* positions that no tap reaches: the bias alone */
    {.attrs = "groups=2 stride_w=2", .inputs = "B:4,3,3 P:4,3,2,3 P:6"},
    {.attrs = "groups=17 stride_h=2 stride_w=2 pad_h=1 pad_w=1 output_pad_h=1 output_pad_w=1", .inputs = "B:17,3,3 P:17,1,3,3 P:17"}, /* depthwise */
    {.attrs = "groups=3", .inputs = "B:6,3,2 P:6,1,2,2 P:3"},
    {.attrs = "stride_w=2 pad_w=1 output_pad_w=1", .inputs = "B:5,7 P:5,4,3 P:4"},
    {.attrs = "stride_w=3 groups=4", .inputs = "B:4,5 P:4,1,4"},
    {.attrs = "stride_d=2 stride_h=2 stride_w=2 pad_d=1 pad_w=1 output_pad_d=1", .inputs = "B:3,2,3,2 P:3,4,3,2,2 P:4"},
    {.attrs = "groups=2 dilation_d=2", .inputs = "B:2,3,2,3 P:2,2,2,1,2 P:4"},
    {.attrs = "", .inputs = "B:3,8,8 P:4,3,3,3 P:3", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,8,8 P:3,4,3,3 P:3", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,8,8 P:3,4,3 P:4", .expect = SS_ERR_SHAPE},
    {.attrs = "pad_h=9", .inputs = "B:3,8,8 P:3,4,3,3", .expect = SS_ERR_SHAPE},
    {.attrs = "groups=2", .inputs = "B:3,8,8 P:3,4,3,3", .expect = SS_ERR_VALUE},
    {.attrs = "output_pad_h=2 stride_h=2", .inputs = "B:3,8,8 P:3,4,3,3", .expect = SS_ERR_VALUE},
    {.attrs = "", .inputs = "B:3,8,8 B:3,4,3,3", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,8,8", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "I4:3,8,8 P:3,4,3,3", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_conv_transpose) = {
    .name = "conv_transpose",
    .doc = "`y[o, h] = bias[o] + sum over k and c of x[c, (h + pad - k*dilation) / stride] * weight[c, o, k]`, over the taps k for which the stride divides the distance: what a convolution "
           "with the same attributes does backward.\n\n"
           "x `(B, channels, [[depth,] height,] width)`, weight `(channels, out_channels / groups, [[kernel_d,] kernel_h,] kernel_w)`, bias `(out_channels)` or absent; y `(B, out_channels, ...)` with "
           "`out = (size - 1) stride - 2 pad + dilation (kernel - 1) + output_padding + 1`. The attributes of 1-d samples are those of the width; attributes of axes that are not there are not "
           "read. Activations are channels last in memory.\n\n"
           "Order of sums: one fused-multiply-add chain along (kd, kh, kw, c inside the group) from zero; taps whose distance the stride does not divide are not in it, and taps that meet x outside "
           "of its extents are multiplications by zero; then the bias. The gradient of x is the chain of a convolution of y's gradient, along (kd, kh, kw, o). The gradient of the weight is one chain "
           "over the positions of x of the samples of a lane, in row-major order, that of the bias over the positions of y; lanes are joined by the tree. Minimal filtering "
           "where conv2d uses it.",
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
