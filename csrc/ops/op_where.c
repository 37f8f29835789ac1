/* where: a where the condition holds, else b. */
#include "kernels/variant.h"
#include "ops/op.h"

enum { CONDITION, A, B };

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    if (q->n_in != 3) return SS_FAIL(err, SS_ERR_SHAPE, "where takes 3 inputs, not %d", q->n_in);
    for (int k = 0; k < 3; k++) {
        if (q->in[k].rank < 0 || q->role[k] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "where: input %d must be an activation, one row a sample", k);
        if (q->dtype[k] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "where: input %d must be float", k);
        if (!ss_shape_equal(&q->in[0], &q->in[k]))
            return SS_FAIL(err, SS_ERR_SHAPE, "where: %s and %s differ", ss_shape_text(&q->in[0], true, a, sizeof a), ss_shape_text(&q->in[k], true, b, sizeof b));
    }
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->any_layout = true;
    return SS_OK;
}

static void forward(const ss_call *c) {
    const real *restrict condition = c->in[CONDITION], *restrict a = c->in[A], *restrict b = c->in[B];
    real *restrict y = c->out[0];
    int64_t begin, end;
    ss_my_elements(c, c->rows * ss_shape_count(&c->out_shape[0]), &begin, &end);
    for (int64_t i = begin; i < end; i++) y[i] = condition[i] != 0 ? a[i] : b[i];
}

static void backward(const ss_call *c) {
    const real *restrict condition = c->in[CONDITION], *restrict g = c->grad_out[0];
    real *restrict none = c->grad_in[CONDITION], *restrict a = c->grad_in[A], *restrict b = c->grad_in[B];
    int64_t begin, end;
    ss_my_elements(c, c->rows * ss_shape_count(&c->out_shape[0]), &begin, &end);
    for (int64_t i = begin; none && i < end; i++) none[i] = 0;
    for (int64_t i = begin; a && i < end; i++) a[i] = condition[i] != 0 ? g[i] : 0;
    for (int64_t i = begin; b && i < end; i++) b[i] = condition[i] != 0 ? 0 : g[i];
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->out_shape[0]);
    out->flops = n * (both ? 3 : 1);
    out->bytes = n * 4 * (both ? 9 : 4);
}

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7 B:3,5,7 B:3,5,7"},
    {.inputs = "B: B: B:"},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 B:3 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 B:4 P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I3:4 B:4 B:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_where) = {
    .name = "where",
    .doc = "`y = a` where the condition is not 0, else `b`: three batched float inputs of one shape. NaN counts as not 0. The condition has no gradient.",
    .flags = SS_OP_NEEDS_IN,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
