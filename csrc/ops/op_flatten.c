/* flatten: all axes of a sample become one. */
#include "kernels/variant.h"
#include "ops/op.h"

static ss_status infer(ss_infer *q, ss_error *err) {
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "flatten takes 1 input, not %d", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "flatten: the input must be batched");
    q->n_out = 1;
    q->out[0] = (ss_shape){.rank = 1, .dim = {ss_shape_count(&q->in[0])}};
    q->out_dtype[0] = q->dtype[0];
    return SS_OK;
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    (void)c, (void)both;
    *out = (ss_cost){0, 0};
}

static const ss_op_case cases[] = {
    {.inputs = "B:2,3,4"}, {.inputs = "B:"}, {.inputs = "I5:2,2"}, {.inputs = "P:2,3", .expect = SS_ERR_VALUE}, {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE}, {0},
};

const ss_op SS_FN(ss_op_flatten) = {
    .name = "flatten",
    .doc = "All axes of a sample in row-major order as one: (B, C, H, W) becomes (B, C H W). No work: input and output share memory.",
    .flags = SS_OP_ALIAS,
    .infer = infer,
    .cost = cost,
    .cases = cases,
};
