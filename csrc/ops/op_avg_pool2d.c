/* AvgPool1d, 2d and 3d, as torch.nn.AvgPool2d. */
#include "ops/pool2d.h"

enum { COUNT_INCLUDE_PAD = POOL_NEXT, DIVISOR };

static const ss_attr_spec attrs[] = {
    POOL_ATTRS,
    {"count_include_pad", SS_ATTR_BOOL, 1, 0, 1, "padding counts in the divisor"},
    {"divisor_override", SS_ATTR_INT, 0, 0, 1 << 24, "divide by this instead of the number of elements; 0: off"},
    {0},
};

static pool_geometry geometry(const double *attr, const ss_shape *x) { return pool_of(attr, x, 1, 1, 1); }
static pool_divisor divisor(const ss_call *c) { return (pool_divisor){.include_pad = c->attr[COUNT_INCLUDE_PAD] != 0, .override = ss_attr_i(c->attr, DIVISOR)}; }

static ss_status infer(ss_infer *q, ss_error *err) {
    ss_status status = pool_check_input(q, "avg_pool2d", err);
    if (status != SS_OK) return status;
    pool_geometry g = geometry(q->attr, &q->in[0]);
    status = pool_check_window(&g, &q->in[0], "avg_pool2d", err);
    if (status == SS_OK) pool_answer(q, &g);
    return status;
}

static void forward(const ss_call *c) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_mean_forward(c, &g, divisor(c), false);
}
static void backward(const ss_call *c) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_mean_backward(c, &g, divisor(c), false);
}
static void forward_ref(const ss_call *c) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_mean_forward(c, &g, divisor(c), true);
}
static void backward_ref(const ss_call *c) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_mean_backward(c, &g, divisor(c), true);
}
static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    pool_geometry g = geometry(c->attr, &c->in_shape[0]);
    pool_cost(c, &g, backward, cost);
}

static const ss_op_case cases[] = {
    {.attrs = "", .inputs = "B:3,8,8"},
    {.attrs = "", .inputs = "B:17,7,5"},
    {.attrs = "kernel_h=3 kernel_w=3 stride_h=2 stride_w=2 pad_h=1 pad_w=1", .inputs = "B:5,9,8"},
    {.attrs = "kernel_h=3 kernel_w=3 stride_h=2 stride_w=2 pad_h=1 pad_w=1 count_include_pad=0", .inputs = "B:5,9,8"},
    {.attrs = "kernel_h=3 kernel_w=2 stride_h=2 stride_w=2 pad_h=1 pad_w=1 ceil_mode=1", .inputs = "B:66,8,6"},
    {.attrs = "kernel_h=3 kernel_w=3 stride_h=2 stride_w=2 ceil_mode=1 count_include_pad=0", .inputs = "B:2,8,6"},
    {.attrs = "kernel_h=3 kernel_w=2 stride_h=1 stride_w=1 divisor_override=7", .inputs = "B:4,5,4"},
    {.attrs = "kernel_h=1 kernel_w=5 stride_w=2 pad_w=2", .inputs = "B:4,3,9"},
    {.attrs = "", .inputs = "B:19,8"}, /* one axis; attributes of the height are not read */
    {.attrs = "kernel_w=3 stride_w=2 pad_w=1 kernel_h=9 ceil_mode=1", .inputs = "B:3,10"},
    {.attrs = "kernel_w=3 stride_w=2 pad_w=1 count_include_pad=0", .inputs = "B:3,10"},
    {.attrs = "", .inputs = "B:17,4,5,6"}, /* three axes */
    {.attrs = "kernel_d=3 stride_d=2 pad_d=1 kernel_h=2 stride_h=1 kernel_w=3 stride_w=2 pad_w=1 ceil_mode=1", .inputs = "B:3,4,5,6"},
    {.attrs = "", .inputs = "B:3", .expect = SS_ERR_SHAPE},
    {.attrs = "kernel_w=9", .inputs = "B:3,8", .expect = SS_ERR_SHAPE},
    {.attrs = "pad_d=2", .inputs = "B:3,8,8,8", .expect = SS_ERR_VALUE},
    {.attrs = "kernel_h=9", .inputs = "B:3,8,8", .expect = SS_ERR_SHAPE},
    {.attrs = "pad_h=2", .inputs = "B:3,8,8", .expect = SS_ERR_VALUE},
    {.attrs = "divisor_override=-1", .inputs = "B:3,8,8", .expect = SS_ERR_VALUE},
    {.attrs = "", .inputs = "I4:3,8,8", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_avg_pool2d) = {
    .name = "avg_pool2d",
    .doc = "The mean of every window. x `(B, C, H, W)`; y `(B, C, OH, OW)` with `OH = floor((H + 2 pad - kernel) / stride) + 1` (`ceil_mode` rounds up as PyTorch does). Samples may also have one axis `(C, L)`, with the width's attributes, or three `(C, D, H, W)`. Channels last in memory.\n\n"
           "A window's elements are added in row-major order from zero, padding left out, and divided by their number: padding counts with `count_include_pad`, what `ceil_mode` lets stick out further "
           "never does. The gradient of x adds `grad_y / divisor` in row-major order of the windows.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .backward_ref = backward_ref,
    .cost = cost,
    .cases = cases,
};
