/* glu: one half of an axis gates the other. */
#include "kernels/vmath.h"
#include "ops/axis.h"

enum { AXIS, SWISH };
static const ss_attr_spec attrs[] = {
    AXIS_ATTR,
    {"swish", SS_ATTR_BOOL, 0, 0, 1, "0: y = a sigmoid(b); 1: y = a sigmoid(a) b"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    ss_status status = axis_infer(q, "glu", 1, err);
    if (status != SS_OK) return status;
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "glu: the input must be float");
    const int axis = axis_number(q->attr[AXIS], &q->in[0]);
    if (q->in[0].dim[axis] % 2) return SS_FAIL(err, SS_ERR_SHAPE, "glu: axis %d of %s has no two halves", axis, ss_shape_text(&q->in[0], true, text, sizeof text));
    q->out[0].dim[axis] /= 2;
    q->any_layout = true;
    return SS_OK;
}

/* Halves are runs of `half` elements; threads share the runs of all rows. */
static int64_t runs_of(const ss_call *c, int64_t *begin, int64_t *end) {
    const axis_view v = axis_view_of(&c->in_shape[0], axis_number(c->attr[AXIS], &c->in_shape[0]), c->layout);
    ss_split(c->rows * v.outer, 1, c->thread, c->threads, begin, end);
    return v.extent / 2 * v.inner;
}

static void forward(const ss_call *c) {
    int64_t begin, end;
    const int64_t half = runs_of(c, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const real *restrict a = (const real *)c->in[0] + 2 * u * half, *restrict b = a + half;
        real *restrict y = (real *)c->out[0] + u * half;
        if (c->attr[SWISH] != 0)
            for (int64_t i = 0; i < half; i++) y[i] = a[i] * sigmoid_r(a[i]) * b[i];
        else
            for (int64_t i = 0; i < half; i++) y[i] = a[i] * sigmoid_r(b[i]);
    }
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    const int64_t half = runs_of(c, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const real *restrict a = (const real *)c->in[0] + 2 * u * half, *restrict b = a + half, *restrict g = (const real *)c->grad_out[0] + u * half;
        real *restrict ga = (real *)c->grad_in[0] + 2 * u * half, *restrict gb = ga + half;
        if (c->attr[SWISH] != 0)
            for (int64_t i = 0; i < half; i++) {
                const real s = sigmoid_r(a[i]), silu = a[i] * s;
                ga[i] = g[i] * b[i] * fma_r(silu, 1 - s, s);
                gb[i] = g[i] * silu;
            }
        else
            for (int64_t i = 0; i < half; i++) {
                const real s = sigmoid_r(b[i]);
                ga[i] = g[i] * s;
                gb[i] = g[i] * a[i] * (s * (1 - s));
            }
    }
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    const double n = (double)ss_shape_count(&c->out_shape[0]);
    out->flops = n * (both ? 50 : 24);
    out->bytes = n * 4 * (both ? 8 : 3);
}

static const ss_op_case cases[] = {
    {.inputs = "B:8"},
    {.attrs = "axis=-1", .inputs = "B:3,34"},
    {.attrs = "axis=1", .inputs = "B:3,4,5"},
    {.inputs = "B:6,4,5"},
    {.attrs = "swish=1", .inputs = "B:66"},
    {.attrs = "swish=1 axis=1", .inputs = "B:3,4,5"},
    {.attrs = "axis=1", .inputs = "B:4,5", .expect = SS_ERR_SHAPE},
    {.attrs = "axis=2", .inputs = "B:4,4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_glu) = {
    .name = "glu",
    .doc = "With a and b the first and second half of `axis`: `y = a sigmoid(b)` (Dauphin, Fan, Auli, Grangier, 2017), or with `swish=1` `y = a sigmoid(a) b` (SwiGLU: Shazeer, 2020).",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
