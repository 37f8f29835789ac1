/* sub: y = a - b. */
#include "kernels/variant.h"
#include "ops/binary.h"
#include "ops/op.h"

static ss_status infer(ss_infer *q, ss_error *err) { return binary_infer(q, "sub", false, err); }

BINARY_FORWARD(a - b)
BINARY_BACKWARD(g0[i], -g0[i])

static void cost(const ss_call *c, bool both, ss_cost *out) { binary_cost(c, both, 1, 2, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7 B:3,5,7"},
    {.inputs = "B:33 B:33"},
    {.inputs = "B: B:"},
    BINARY_BAD_CASES,
    {0},
};

const ss_op SS_FN(ss_op_sub) = {
    .name = "sub",
    .doc = "`y = a - b`, element by element, two batched inputs of one shape.",
    .flags = SS_OP_IN_PLACE,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
