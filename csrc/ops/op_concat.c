/* concat: joins up to 8 values along one axis. */
#include <string.h>
#include "kernels/variant.h"
#include "ops/op.h"

static const ss_attr_spec attrs[] = {
    {"axis", SS_ATTR_INT, 0, -SS_MAX_RANK, SS_MAX_RANK - 1, "axis along which the inputs follow each other, counted after the batch axis; negative: from the end"},
    {0},
};

static int axis_of(const double *attr, int rank) { return (int)attr[0] < 0 ? (int)attr[0] + rank : (int)attr[0]; }

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    if (q->n_in < 1 || q->n_in > SS_MAX_IN) return SS_FAIL(err, SS_ERR_SHAPE, "concat takes 1 to %d inputs, not %d", SS_MAX_IN, q->n_in);
    for (int i = 0; i < q->n_in; i++) {
        if (q->in[i].rank < 0 || q->role[i] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "concat: input %d must be an activation, one row a sample", i);
        if (q->dtype[i] != q->dtype[0]) return SS_FAIL(err, SS_ERR_DTYPE, "concat: input %d is %s, input 0 is not", i, q->dtype[i] == SS_I32 ? "int32" : "float");
    }
    ss_shape out = q->in[0];
    int axis = axis_of(q->attr, out.rank);
    if (axis < 0 || axis >= out.rank)
        return SS_FAIL(err, SS_ERR_SHAPE, "concat: axis %d (counted after the batch axis) does not exist in %s", (int)q->attr[0], ss_shape_text(&q->in[0], true, a, sizeof a));
    for (int i = 1; i < q->n_in; i++) {
        ss_shape other = q->in[i];
        int64_t extent = other.rank == out.rank ? other.dim[axis] : 0;
        if (other.rank == out.rank) other.dim[axis] = q->in[0].dim[axis];
        if (!ss_shape_equal(&other, &q->in[0]))
            return SS_FAIL(err, SS_ERR_SHAPE, "concat: %s and %s (input %d) differ in more than axis %d", ss_shape_text(&q->in[0], true, a, sizeof a), ss_shape_text(&q->in[i], true, b, sizeof b), i, axis);
        if (!ss_add(out.dim[axis], extent, &out.dim[axis])) return SS_FAIL(err, SS_ERR_SHAPE, "concat: axis %d grows too long", axis);
    }
    q->n_out = 1;
    q->out[0] = out;
    q->out_dtype[0] = q->dtype[0];
    q->any_layout = true;
    return SS_OK;
}

/* In memory a sample of input i is `outer` runs of run[i] elements; a row of the output is one run of each input in turn. */
typedef struct concat_size {
    int64_t outer, run[SS_MAX_IN], total;
} concat_size;

static concat_size size_of(const ss_call *c) {
    const ss_shape *out = &c->out_shape[0];
    int axis = axis_of(c->attr, out->rank);
    bool last = c->layout == SS_CHANNELS_LAST && out->rank >= 2; /* memory order: axes 1, 2, ..., 0 */
    concat_size z = {.outer = 1};
    int64_t inner = 1;
    for (int i = 0; i < out->rank; i++) {
        if (i == axis) continue;
        bool before = last ? i != 0 && (axis == 0 || i < axis) : i < axis;
        if (before) z.outer *= out->dim[i];
        else inner *= out->dim[i];
    }
    for (int i = 0; i < c->n_in; i++) {
        z.run[i] = inner * c->in_shape[i].dim[axis];
        z.total += z.run[i];
    }
    return z;
}

static void forward(const ss_call *c) {
    concat_size z = size_of(c);
    int64_t begin, end;
    ss_split(c->rows * z.outer, 1, c->thread, c->threads, &begin, &end);
    real *out = (real *)c->out[0] + begin * z.total;
    for (int64_t u = begin; u < end; u++)
        for (int i = 0; i < c->n_in; i++) {
            memcpy(out, (const real *)c->in[i] + u * z.run[i], (size_t)z.run[i] * sizeof(real));
            out += z.run[i];
        }
}

static void backward(const ss_call *c) {
    concat_size z = size_of(c);
    int64_t begin, end;
    ss_split(c->rows * z.outer, 1, c->thread, c->threads, &begin, &end);
    const real *g = (const real *)c->grad_out[0] + begin * z.total;
    for (int64_t u = begin; u < end; u++)
        for (int i = 0; i < c->n_in; i++) {
            if (c->grad_in[i]) memcpy((real *)c->grad_in[i] + u * z.run[i], g, (size_t)z.run[i] * sizeof(real));
            g += z.run[i];
        }
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    out->flops = 0;
    out->bytes = (double)ss_shape_count(&c->out_shape[0]) * 8 * (both ? 2 : 1);
}

static const ss_op_case cases[] = {
    {.inputs = "B:3,4,5 B:2,4,5"},
    {.attrs = "axis=-1", .inputs = "B:3,4 B:3,1 B:3,7"},
    {.attrs = "axis=1", .inputs = "B:3,4,5 B:3,6,5"},
    {.attrs = "axis=2", .inputs = "B:3,4,5 B:3,4,2"},
    {.inputs = "B:3 B:1 B:2 B:4 B:1 B:1 B:5 B:2"},
    {.inputs = "B:6,2"},
    {.attrs = "axis=1", .inputs = "I9:3,4 I9:3,2"},
    {.attrs = "axis=2", .inputs = "B:3,4 B:3,4", .expect = SS_ERR_SHAPE},
    {.attrs = "axis=1", .inputs = "B:3,4 B:2,4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,4 B:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B: B:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3 P:3", .expect = SS_ERR_VALUE},
    {.inputs = "B:3 I4:3", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_concat) = {
    .name = "concat",
    .doc = "Joins 1 to 8 batched values along `axis`; their other axes agree. Float or int32.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
