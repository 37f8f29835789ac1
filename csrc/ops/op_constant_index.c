/* constant_index: whole numbers of a buffer, the same for every sample. */
#include "ops/axis.h"

enum { X, INDEX };

static ss_status infer(ss_infer *q, ss_error *err) {
    if (q->n_in != 2) return SS_FAIL(err, SS_ERR_SHAPE, "constant_index takes 2 inputs, not %d", q->n_in);
    if (q->in[X].rank < 0 || q->role[X] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "constant_index: the first input must be batched, one row a sample");
    if (q->in[INDEX].rank < 0 || q->role[INDEX] != SS_ROLE_BUFFER) return SS_FAIL(err, SS_ERR_VALUE, "constant_index: the numbers must be a buffer");
    if (q->dtype[INDEX] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "constant_index: the buffer must be float");
    q->n_out = 1;
    q->out[0] = q->in[INDEX];
    q->out_dtype[0] = SS_I32;
    return SS_OK;
}

static void forward(const ss_call *c) {
    const int64_t n = ss_shape_count(&c->in_shape[INDEX]);
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    const real *restrict index = c->in[INDEX];
    int32_t *restrict y = c->out[0];
    for (int64_t r = begin; r < end; r++)
        for (int64_t i = 0; i < n; i++) y[r * n + i] = (int32_t)axis_index(c, INDEX, index, i);
}

/* Whole numbers have no gradient. */
static void backward(const ss_call *c) { (void)c; }

static const ss_op_case cases[] = {
    {.inputs = "B:3 S1:4"},
    {.inputs = "I5:3,2 S:4,2"},
    {.inputs = "B:3 S1:"},
    {.inputs = "B:3 P:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:3 B:3", .expect = SS_ERR_VALUE},
    {.inputs = "S:3 S:3", .expect = SS_ERR_VALUE},
    {.inputs = "B:3", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_constant_index) = {
    .name = "constant_index",
    .doc = "The whole numbers of a buffer as int32, the same for every sample: positions for an embedding, for example. Input 0 only says how many samples there are. Numbers below 0 or of 1e9 and more give -1. "
           "No gradient.",
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = axis_cost,
    .cases = cases,
};
