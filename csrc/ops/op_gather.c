/* gather: elements along one axis by number, one number for each element of the output. */
#include "ops/axis.h"

enum { X, INDEX };
static const ss_attr_spec attrs[] = {
    AXIS_ATTR,
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    ss_status status = axis_infer(q, "gather", 2, err);
    if (status != SS_OK) return status;
    if (q->in[INDEX].rank < 0 || q->role[INDEX] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "gather: the indices must be batched, one row a sample");
    if (q->dtype[INDEX] != SS_I32) return SS_FAIL(err, SS_ERR_DTYPE, "gather: the indices must be whole numbers");
    const int axis = axis_number(q->attr[0], &q->in[X]);
    bool fits = q->in[INDEX].rank == q->in[X].rank;
    for (int i = 0; fits && i < q->in[X].rank; i++) fits = i == axis || q->in[INDEX].dim[i] <= q->in[X].dim[i];
    if (!fits)
        return SS_FAIL(err, SS_ERR_SHAPE, "gather: indices of shape %s do not fit %s: as many axes, none longer except axis %d", ss_shape_text(&q->in[INDEX], true, a, sizeof a),
                       ss_shape_text(&q->in[X], true, b, sizeof b), axis);
    q->out[0] = q->in[INDEX];
    return SS_OK;
}

typedef struct gather_size {
    int axis;
    int64_t in, out, line, lines, extent, stride; /* of the axis; stride in the data */
    bool last;                                    /* the axis is the last one */
} gather_size;

static gather_size size_of(const ss_call *c) {
    const ss_shape *x = &c->in_shape[X], *y = &c->out_shape[0];
    gather_size z = {.axis = axis_number(c->attr[0], x), .in = ss_shape_count(x), .out = ss_shape_count(y), .line = y->dim[y->rank - 1], .stride = 1};
    z.lines = z.out / z.line;
    z.extent = x->dim[z.axis];
    z.last = z.axis == x->rank - 1;
    for (int i = z.axis + 1; i < x->rank; i++) z.stride *= x->dim[i];
    return z;
}

/* Offset in the data of the first element of line l of the output, at index 0 of the axis. */
static int64_t line_offset(const ss_call *c, const gather_size *z, int64_t l) {
    const ss_shape *x = &c->in_shape[X], *y = &c->out_shape[0];
    int64_t at = 0, stride = x->dim[x->rank - 1];
    for (int i = y->rank - 2; i >= 0; i--) {
        if (i != z->axis) at += l % y->dim[i] * stride;
        l /= y->dim[i];
        stride *= x->dim[i];
    }
    return at;
}

static void forward(const ss_call *c) {
    const gather_size z = size_of(c);
    int64_t begin, end;
    ss_split(c->rows * z.lines, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const real *x = (const real *)c->in[X] + u / z.lines * z.in + line_offset(c, &z, u % z.lines);
        const int32_t *index = (const int32_t *)c->in[INDEX] + u * z.line;
        real *y = (real *)c->out[0] + u * z.line;
        for (int64_t k = 0; k < z.line; k++) y[k] = index[k] >= 0 && index[k] < z.extent ? x[index[k] * z.stride + (z.last ? 0 : k)] : (real)NAN;
    }
}

static void backward(const ss_call *c) {
    const gather_size z = size_of(c);
    int64_t begin, end;
    if (!c->grad_in[X]) return;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        real *whole = (real *)c->grad_in[X] + r * z.in;
        axis_zero(whole, z.in);
        for (int64_t l = 0; l < z.lines; l++) {
            const int32_t *index = (const int32_t *)c->in[INDEX] + r * z.out + l * z.line;
            const real *g = (const real *)c->grad_out[0] + r * z.out + l * z.line;
            real *gx = whole + line_offset(c, &z, l);
            for (int64_t k = 0; k < z.line; k++)
                if (index[k] >= 0 && index[k] < z.extent) gx[index[k] * z.stride + (z.last ? 0 : k)] += g[k];
        }
    }
}

static ss_status prepare(const ss_call *c, ss_error *err) {
    const ss_shape *x = &c->in_shape[X];
    return axis_check_indices(c, "gather", INDEX, x->dim[axis_number(c->attr[0], x)], "the axis has the elements", err);
}

static const ss_op_case cases[] = {
    {.inputs = "B:5 I5:7"},
    {.attrs = "axis=1", .inputs = "B:3,5,4 I5:3,9,4"},
    {.attrs = "axis=1", .inputs = "B:3,5,4 I5:2,1,3"},
    {.attrs = "axis=-1", .inputs = "B:3,4 I4:3,1"},
    {.attrs = "axis=-1", .inputs = "B:3,2,4 I4:2,2,11"},
    {.attrs = "axis=0", .inputs = "B:6,3,2 I6:2,3,1"},
    {.attrs = "axis=1", .inputs = "I9:3,5 I5:3,4"},
    {.inputs = "B:5 I500:7", .expect = SS_ERR_VALUE},
    {.attrs = "axis=1", .inputs = "B:3,5 I5:4,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,5 I3:5", .expect = SS_ERR_SHAPE},
    {.attrs = "axis=2", .inputs = "B:3,5 I3:3,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,5 B:3,5", .expect = SS_ERR_DTYPE},
    {.inputs = "B:3,5 S:3,5", .expect = SS_ERR_VALUE},
    {.inputs = "B:3", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_gather) = {
    .name = "gather",
    .doc = "`y[i, ..., k, ..., j] = x[i, ..., index[i, ..., k, ..., j], ..., j]` with the index in the place of `axis`, as torch.gather: int32 indices with as many axes as the data, none longer except "
           "`axis`. Float or int32 data. Indices from the data are checked before the step; a computed index outside of the axis gives NaN, and no gradient. The gradient of an element is the sum of "
           "those of its copies, one chain in row-major order of the index.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .prepare = prepare,
    .cost = axis_cost,
    .cases = cases,
};
