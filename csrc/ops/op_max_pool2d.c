/* MaxPool1d, 2d and 3d, as torch.nn.MaxPool2d. */
#include "ops/pool2d.h"

enum { DILATION_H = POOL_NEXT, DILATION_W, DILATION_D };

static const ss_attr_spec attrs[] = {
    POOL_ATTRS,
    {"dilation_h", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the height"},
    {"dilation_w", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the width"},
    {"dilation_d", SS_ATTR_INT, 1, 1, 65536, "distance between taps along the depth"},
    {0},
};

static pool_geometry geometry(const double *attr, const ss_shape *x) {
    return pool_of(attr, x, ss_attr_i(attr, DILATION_D), ss_attr_i(attr, DILATION_H), ss_attr_i(attr, DILATION_W));
}

static ss_status infer(ss_infer *q, ss_error *err) {
    ss_status status = pool_check_input(q, "max_pool2d", err);
    if (status != SS_OK) return status;
    pool_geometry g = geometry(q->attr, &q->in[0]);
    status = pool_check_window(&g, &q->in[0], "max_pool2d", err);
    if (status == SS_OK) pool_answer(q, &g);
    return status;
}

static void forward(const ss_call *c) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_max_forward(c, &g, false);
}
static void backward(const ss_call *c) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_max_backward(c, &g, false);
}
static void forward_ref(const ss_call *c) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_max_forward(c, &g, true);
}
static void backward_ref(const ss_call *c) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_max_backward(c, &g, true);
}
static int64_t saved_bytes(const ss_call *c) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    return pool_max_saved(c, &g);
}
static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_cost(c, &g, backward, cost);
}

static const ss_op_case cases[] = {
    {.attrs = "", .inputs = "B:3,8,8"},
    {.attrs = "", .inputs = "B:17,7,5"},
    {.attrs = "kernel_h=3 kernel_w=3 stride_h=2 stride_w=2 pad_h=1 pad_w=1", .inputs = "B:5,9,8"}, /* windows overlap */
    {.attrs = "kernel_h=3 kernel_w=2 stride_h=1 stride_w=1", .inputs = "B:66,5,4"},
    {.attrs = "kernel_h=3 kernel_w=3 stride_h=2 stride_w=2 ceil_mode=1", .inputs = "B:2,8,6"},
    {.attrs = "kernel_h=2 kernel_w=2 stride_h=3 stride_w=3 pad_h=1 pad_w=1 ceil_mode=1", .inputs = "B:2,5,7"},
    {.attrs = "kernel_h=2 kernel_w=3 dilation_h=2 dilation_w=2 stride_h=1 stride_w=1 pad_h=1", .inputs = "B:3,6,8"},
    {.attrs = "kernel_h=17 kernel_w=17 stride_h=2 stride_w=3", .inputs = "B:2,19,21"}, /* more than 256 taps */
    {.attrs = "kernel_h=1 kernel_w=1", .inputs = "B:3,4,4"},
    {.attrs = "kernel_h=1 kernel_w=5 stride_w=2 pad_w=2", .inputs = "B:4,3,9"},
    {.attrs = "", .inputs = "B:19,8"}, /* one axis; attributes of the height are not read */
    {.attrs = "kernel_w=3 stride_w=2 pad_w=1 dilation_w=2 kernel_h=9 ceil_mode=1", .inputs = "B:3,11"},
    {.attrs = "kernel_w=300 stride_w=7", .inputs = "B:2,330"},
    {.attrs = "", .inputs = "B:17,4,5,6"}, /* three axes */
    {.attrs = "kernel_d=3 stride_d=1 pad_d=1 kernel_h=2 stride_h=1 kernel_w=3 stride_w=2 pad_w=1 dilation_h=2 ceil_mode=1", .inputs = "B:3,4,5,6"},
    {.attrs = "kernel_d=7 kernel_h=7 kernel_w=7 stride_d=1 stride_h=1 stride_w=1", .inputs = "B:2,8,7,8"},
    {.attrs = "", .inputs = "B:3", .expect = SS_ERR_SHAPE},
    {.attrs = "kernel_w=9", .inputs = "B:3,8", .expect = SS_ERR_SHAPE},
    {.attrs = "pad_d=2", .inputs = "B:3,8,8,8", .expect = SS_ERR_VALUE},
    {.attrs = "kernel_h=9", .inputs = "B:3,8,8", .expect = SS_ERR_SHAPE},
    {.attrs = "pad_h=2", .inputs = "B:3,8,8", .expect = SS_ERR_VALUE},
    {.attrs = "kernel_h=0", .inputs = "B:3,8,8", .expect = SS_ERR_VALUE},
    {.attrs = "", .inputs = "B:3,8,8 B:3,8,8", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "I4:3,8,8", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_max_pool2d) = {
    .name = "max_pool2d",
    .doc = "The largest element of every window. x `(B, C, H, W)`; y `(B, C, OH, OW)` with `OH = floor((H + 2 pad - dilation (kernel - 1) - 1) / stride) + 1` (`ceil_mode` rounds up as PyTorch does). "
           "Samples may also have one axis `(C, L)`, with the width's attributes, or three `(C, D, H, W)`. Channels last in memory.\n\n"
           "Padding never wins. Of equal elements the first in row-major order wins; NaN wins over numbers. The gradient goes to the winner; where windows overlap, contributions are added in "
           "row-major order of the windows.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .backward_ref = backward_ref,
    .saved_bytes = saved_bytes,
    .cost = cost,
    .cases = cases,
};
