/* cast: int32 to float and back. */
#include "ops/axis.h"

static const ss_attr_spec attrs[] = {
    {"to_int", SS_ATTR_BOOL, 0, 0, 1, "0: int32 to float; 1: float to int32, towards zero"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "cast takes 1 input, not %d", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "cast: the input must be batched, one row a sample");
    const bool to_int = q->attr[0] != 0;
    if (q->dtype[0] != (to_int ? SS_F32 : SS_I32)) return SS_FAIL(err, SS_ERR_DTYPE, "cast: the input is %s already", to_int ? "int32" : "float");
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->out_dtype[0] = to_int ? SS_I32 : SS_F32;
    return SS_OK;
}

/* NaN gives 0, numbers beyond 32 bits the nearest. */
static inline int32_t whole(real x) {
    const real most = (real)2147483648.0;
    if (!(x < most)) return x != x ? 0 : INT32_MAX;
    return x <= -most ? INT32_MIN : (int32_t)x;
}

static void forward(const ss_call *c) {
    int64_t begin, end;
    ss_my_elements(c, c->rows * ss_shape_count(&c->in_shape[0]), &begin, &end);
    if (c->attr[0] != 0) {
        const real *restrict x = c->in[0];
        int32_t *restrict y = c->out[0];
        for (int64_t i = begin; i < end; i++) y[i] = whole(x[i]);
    } else {
        const int32_t *restrict x = c->in[0];
        real *restrict y = c->out[0];
        for (int64_t i = begin; i < end; i++) y[i] = (real)x[i];
    }
}

/* Whole numbers have no gradient. */
static void backward(const ss_call *c) { (void)c; }

static const ss_op_case cases[] = {
    {.inputs = "I1000:3,7"},
    {.attrs = "to_int=1", .inputs = "B:3,17"},
    {.inputs = "I5:"},
    {.inputs = "B:3", .expect = SS_ERR_DTYPE},
    {.attrs = "to_int=1", .inputs = "I5:3", .expect = SS_ERR_DTYPE},
    {.inputs = "S:3", .expect = SS_ERR_VALUE},
    {.inputs = "I5:3 I5:3", .expect = SS_ERR_SHAPE},
    {.attrs = "to_int=2", .inputs = "I5:3", .expect = SS_ERR_VALUE},
    {0},
};

const ss_op SS_FN(ss_op_cast) = {
    .name = "cast",
    .doc = "int32 to float (to the nearest float, ties to even), or with `to_int=1` float to int32: truncated towards zero, NaN to 0, numbers beyond 32 bits to the nearest end. No gradient.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = axis_cost,
    .cases = cases,
};
