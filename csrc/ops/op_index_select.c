/* index_select: lines of one axis by number. */
#include "ops/axis.h"

enum { X, INDEX };
static const ss_attr_spec attrs[] = {
    AXIS_ATTR,
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    ss_status status = axis_infer(q, "index_select", 2, err);
    if (status != SS_OK) return status;
    if (q->in[INDEX].rank < 0 || q->role[INDEX] == SS_ROLE_PARAMETER) return SS_FAIL(err, SS_ERR_VALUE, "index_select: the indices must come from the data or be a constant");
    const bool batched = q->role[INDEX] == SS_ROLE_BATCHED;
    if (q->dtype[INDEX] != (batched ? SS_I32 : SS_F32)) return SS_FAIL(err, SS_ERR_DTYPE, "index_select: the indices must be whole numbers");
    const int axis = axis_number(q->attr[0], &q->in[X]), more = q->in[INDEX].rank;
    ss_shape out = {.rank = q->in[X].rank - 1 + more};
    if (out.rank > SS_MAX_RANK)
        return SS_FAIL(err, SS_ERR_SHAPE, "index_select: %s with indices of %d axes makes more than %d axes", ss_shape_text(&q->in[X], true, text, sizeof text), more, SS_MAX_RANK);
    for (int i = 0; i < out.rank; i++) out.dim[i] = i < axis ? q->in[X].dim[i] : i < axis + more ? q->in[INDEX].dim[i - axis] : q->in[X].dim[i - more + 1];
    q->out[0] = out;
    q->any_layout = !batched && more == 1; /* the axes stay what they are */
    return SS_OK;
}

typedef struct select_size {
    axis_view view;
    int64_t count, begin, end; /* indices of a sample; units (row, outer) of this thread */
} select_size;

static select_size size_of(const ss_call *c) {
    select_size z = {.view = axis_view_of(&c->in_shape[X], axis_number(c->attr[0], &c->in_shape[X]), c->layout), .count = ss_shape_count(&c->in_shape[INDEX])};
    ss_split(c->rows * z.view.outer, 1, c->thread, c->threads, &z.begin, &z.end);
    return z;
}

/* Where the indices of unit u begin. */
static inline int64_t first_index(const ss_call *c, const select_size *z, int64_t u) { return c->role[INDEX] == SS_ROLE_BATCHED ? u / z->view.outer * z->count : 0; }

static void forward(const ss_call *c) {
    const select_size z = size_of(c);
    const int64_t inner = z.view.inner;
    for (int64_t u = z.begin; u < z.end; u++) {
        const real *x = (const real *)c->in[X] + u * z.view.extent * inner;
        real *y = (real *)c->out[0] + u * z.count * inner;
        const int64_t first = first_index(c, &z, u);
        for (int64_t k = 0; k < z.count; k++) {
            const int64_t i = axis_index(c, INDEX, c->in[INDEX], first + k);
            if (i >= 0 && i < z.view.extent) axis_copy(y + k * inner, x + i * inner, inner);
            else
                for (int64_t j = 0; j < inner; j++) y[k * inner + j] = (real)NAN;
        }
    }
}

static void backward(const ss_call *c) {
    const select_size z = size_of(c);
    const int64_t inner = z.view.inner;
    if (!c->grad_in[X]) return;
    for (int64_t u = z.begin; u < z.end; u++) {
        const real *g = (const real *)c->grad_out[0] + u * z.count * inner;
        real *gx = (real *)c->grad_in[X] + u * z.view.extent * inner;
        const int64_t first = first_index(c, &z, u);
        axis_zero(gx, z.view.extent * inner);
        for (int64_t k = 0; k < z.count; k++) {
            const int64_t i = axis_index(c, INDEX, c->in[INDEX], first + k);
            if (i >= 0 && i < z.view.extent) axis_add(gx + i * inner, g + k * inner, inner);
        }
    }
}

static ss_status prepare(const ss_call *c, ss_error *err) {
    const ss_shape *x = &c->in_shape[X];
    return axis_check_indices(c, "index_select", INDEX, x->dim[axis_number(c->attr[0], x)], "the axis has the elements", err);
}

static const ss_op_case cases[] = {
    {.inputs = "B:5 I5:7"},
    {.attrs = "axis=1", .inputs = "B:3,5,4 I5:9"},
    {.attrs = "axis=-1", .inputs = "B:3,4 I4:2,3"},
    {.attrs = "axis=1", .inputs = "B:3,4,20 I4:"},
    {.inputs = "B:6,3 I6:2,2"},
    {.inputs = "B:5,3 S1:4"},
    {.attrs = "axis=1", .inputs = "B:3,5,4 S1:9"},
    {.attrs = "axis=1", .inputs = "B:3,5 S:2,2"},
    {.attrs = "axis=2", .inputs = "B:3,5,4 S1:"},
    {.attrs = "axis=1", .inputs = "I9:3,5 I5:4"},
    {.attrs = "axis=1", .inputs = "B:3,5 I500:9", .expect = SS_ERR_VALUE},
    {.attrs = "axis=2", .inputs = "B:3,5 I5:9", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,5,2,2 I3:2,2,2,2", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,5 B:4", .expect = SS_ERR_DTYPE},
    {.inputs = "B:3,5 P:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:3,5 -", .expect = SS_ERR_VALUE},
    {.inputs = "P:3,5 I3:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:3,5", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_index_select) = {
    .name = "index_select",
    .doc = "`y[..., k, ...] = x[..., index[k], ...]` along `axis`. The index is int32 with one row a sample, or a buffer of whole numbers that serves all samples; its axes take the place of `axis` "
           "(so ONNX's Gather is this operator). Float or int32 data. Indices from the data are checked before the step; a computed index outside of the axis gives NaN, and no gradient. "
           "The gradient of a line is the sum of those of its copies, one chain in the order of the index.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .prepare = prepare,
    .cost = axis_cost,
    .cases = cases,
};
