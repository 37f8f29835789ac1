/* AdaptiveMaxPool1d, 2d and 3d, as torch.nn.AdaptiveMaxPool2d. */
#include "ops/pool2d.h"

enum { OUT_H, OUT_W, OUT_D };

static const ss_attr_spec attrs[] = {
    {"out_h", SS_ATTR_INT, 1, 1, 65536, "height of the output"},
    {"out_w", SS_ATTR_INT, 1, 1, 65536, "width of the output, the only extent of 1-d samples"},
    {"out_d", SS_ATTR_INT, 1, 1, 65536, "depth of the output of 3-d samples"},
    {0},
};

static pool_geometry geometry(const double *attr, const ss_shape *x) {
    return pool_adaptive_of(x, ss_attr_i(attr, OUT_D), ss_attr_i(attr, OUT_H), ss_attr_i(attr, OUT_W));
}

static ss_status infer(ss_infer *q, ss_error *err) {
    ss_status status = pool_check_input(q, "adaptive_max_pool2d", err);
    if (status != SS_OK) return status;
    pool_geometry g = geometry(q->attr, &q->in[0]);
    pool_answer(q, &g);
    return SS_OK;
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
    {.attrs = "out_h=3 out_w=2", .inputs = "B:17,7,5"},
    {.attrs = "out_h=4 out_w=5", .inputs = "B:5,7,13"},
    {.attrs = "out_h=5 out_w=7", .inputs = "B:2,3,4"}, /* more outputs than inputs */
    {.attrs = "", .inputs = "B:2,19,21"},
    {.attrs = "out_h=6 out_w=6", .inputs = "B:66,6,6"},
    {.attrs = "out_w=3 out_h=5", .inputs = "B:19,8"}, /* one axis; attributes of the height are not read */
    {.attrs = "out_w=7", .inputs = "B:3,4"},
    {.attrs = "out_d=3 out_h=2 out_w=4", .inputs = "B:17,4,5,6"}, /* three axes */
    {.attrs = "", .inputs = "B:3,4,3,5"},
    {.attrs = "", .inputs = "B:3", .expect = SS_ERR_SHAPE},
    {.attrs = "out_h=0", .inputs = "B:3,8,8", .expect = SS_ERR_VALUE},
    {.attrs = "", .inputs = "I4:3,8,8", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_adaptive_max_pool2d) = {
    .name = "adaptive_max_pool2d",
    .doc = "The largest element of every window, where window i of an axis of n elements with m outputs is `[floor(i n / m), ceil((i + 1) n / m))`. x `(B, C, H, W)`; y `(B, C, out_h, out_w)`. Samples may also have one axis, which gives out_w, or three. "
           "Channels last in memory.\n\n"
           "Of equal elements the first in row-major order wins; NaN wins over numbers. The gradient goes to the winner; where windows overlap, contributions are added in row-major order of the "
           "windows.",
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
