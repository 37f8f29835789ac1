/* bf16_round: the nearest bfloat16, kept as a float. */
#include "kernels/variant.h"
#include "ops/elementwise.h"
#include "ops/op.h"

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "bf16_round", err); }

static void forward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict x = c->in[0];
    real *restrict y = c->out[0];
    for (int64_t i = begin; i < end; i++) y[i] = bf16_round((float)x[i]);
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ew_range(c, &begin, &end);
    const real *restrict gy = c->grad_out[0];
    real *restrict gx = c->grad_in[0];
    for (int64_t i = begin; i < end; i++) gx[i] = gy[i];
}

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 4, 0, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:7", .no_gradient_check = true},
    {.inputs = "B:3,5,4", .no_gradient_check = true},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {.inputs = "B:3 B:3", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_bf16_round) = {
    .name = "bf16_round",
    .doc = "`y` = the nearest bfloat16 of x (ties to even), any shape.\n\n"
           "With precision \"bf16\" a plan puts it before operators that multiply matrices or convolve. The gradient passes unchanged (straight through).",
    .flags = SS_OP_PASS | SS_OP_IN_PLACE,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
