/* slice: every step-th element along one axis, forwards or backwards. */
#include "ops/axis.h"

enum { AXIS, START, STEP, COUNT };
static const ss_attr_spec attrs[] = {
    AXIS_ATTR,
    {"start", SS_ATTR_INT, 0, 0, 1099511627776.0, "first element taken"},
    {"step", SS_ATTR_INT, 1, -1099511627776.0, 1099511627776.0, "distance to the next; negative: backwards; not 0"},
    {"count", SS_ATTR_INT, 1, 1, 1099511627776.0, "elements taken"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    ss_status status = axis_infer(q, "slice", 1, err);
    if (status != SS_OK) return status;
    const int axis = axis_number(q->attr[AXIS], &q->in[0]);
    const int64_t start = ss_attr_i(q->attr, START), step = ss_attr_i(q->attr, STEP), count = ss_attr_i(q->attr, COUNT), extent = q->in[0].dim[axis];
    if (step == 0) return SS_FAIL(err, SS_ERR_VALUE, "slice: step must not be 0");
    /* How many steps fit, without a product that might overflow. */
    const int64_t room = start >= extent ? -1 : step > 0 ? (extent - 1 - start) / step : start / -step;
    if (count - 1 > room)
        return SS_FAIL(err, SS_ERR_SHAPE, "slice: %lld elements from %lld with step %lld do not lie in axis %d of %s", (long long)count, (long long)start, (long long)step, axis,
                       ss_shape_text(&q->in[0], true, text, sizeof text));
    q->out[0].dim[axis] = count;
    q->any_layout = true;
    return SS_OK;
}

typedef struct slice_size {
    axis_view view;
    int64_t start, step, count, begin, end; /* units (row, outer) of this thread */
} slice_size;

static slice_size size_of(const ss_call *c) {
    slice_size z = {.view = axis_view_of(&c->in_shape[0], axis_number(c->attr[AXIS], &c->in_shape[0]), c->layout),
                    .start = ss_attr_i(c->attr, START), .step = ss_attr_i(c->attr, STEP), .count = ss_attr_i(c->attr, COUNT)};
    ss_split(c->rows * z.view.outer, 1, c->thread, c->threads, &z.begin, &z.end);
    return z;
}

static void forward(const ss_call *c) {
    const slice_size z = size_of(c);
    const int64_t inner = z.view.inner;
    for (int64_t u = z.begin; u < z.end; u++) {
        const real *restrict x = (const real *)c->in[0] + (u * z.view.extent + z.start) * inner;
        real *restrict y = (real *)c->out[0] + u * z.count * inner;
        if (z.step == 1) axis_copy(y, x, z.count * inner);
        else if (inner == 1)
            for (int64_t k = 0; k < z.count; k++) y[k] = x[k * z.step];
        else
            for (int64_t k = 0; k < z.count; k++) axis_copy(y + k * inner, x + k * z.step * inner, inner);
    }
}

static void backward(const ss_call *c) {
    const slice_size z = size_of(c);
    const int64_t inner = z.view.inner;
    for (int64_t u = z.begin; u < z.end; u++) {
        const real *restrict g = (const real *)c->grad_out[0] + u * z.count * inner;
        real *whole = (real *)c->grad_in[0] + u * z.view.extent * inner, *to = whole + z.start * inner;
        if (z.step == 1) {
            axis_zero(whole, z.start * inner);
            axis_copy(to, g, z.count * inner);
            axis_zero(to + z.count * inner, (z.view.extent - z.start - z.count) * inner);
            continue;
        }
        axis_zero(whole, z.view.extent * inner);
        if (inner == 1)
            for (int64_t k = 0; k < z.count; k++) to[k * z.step] = g[k];
        else
            for (int64_t k = 0; k < z.count; k++) axis_copy(to + k * z.step * inner, g + k * inner, inner);
    }
}

static const ss_op_case cases[] = {
    {.attrs = "start=2 count=3", .inputs = "B:7"},
    {.attrs = "axis=1 start=1 count=3", .inputs = "B:3,5,4"},
    {.attrs = "axis=-1 start=1 step=2 count=3", .inputs = "B:3,4,6"},
    {.attrs = "axis=1 start=4 step=-1 count=5", .inputs = "B:3,5,4"},
    {.attrs = "axis=0 start=5 step=-2 count=3", .inputs = "B:6,3,5"},
    {.attrs = "axis=1 start=1 step=3 count=2", .inputs = "B:3,5,20"},
    {.attrs = "axis=-1 start=0 count=1", .inputs = "B:3,4,5"},
    {.attrs = "axis=1 start=1 count=2", .inputs = "I9:3,4"},
    {.attrs = "axis=0 start=3 step=-1 count=4", .inputs = "I9:4,3,2"},
    {.attrs = "count=8", .inputs = "B:7", .expect = SS_ERR_SHAPE},
    {.attrs = "start=7", .inputs = "B:7", .expect = SS_ERR_SHAPE},
    {.attrs = "start=3 step=-2 count=3", .inputs = "B:7", .expect = SS_ERR_SHAPE},
    {.attrs = "start=3 step=1099511627776 count=1099511627776", .inputs = "B:7", .expect = SS_ERR_SHAPE},
    {.attrs = "axis=1", .inputs = "B:7", .expect = SS_ERR_SHAPE},
    {.attrs = "step=0", .inputs = "B:7", .expect = SS_ERR_VALUE},
    {.attrs = "count=0", .inputs = "B:7", .expect = SS_ERR_VALUE},
    {.inputs = "P:7", .expect = SS_ERR_VALUE},
    {.inputs = "B:7 B:7", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_slice) = {
    .name = "slice",
    .doc = "The elements `start, start + step, ...` (`count` of them) along `axis`; the other axes stay. A negative step goes backwards (`start = extent - 1, step = -1` flips). Float or int32. "
           "The gradient is 0 where nothing was taken.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = axis_cost,
    .cases = cases,
};
