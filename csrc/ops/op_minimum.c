/* minimum: the less of a and b. */
#include "kernels/variant.h"
#include "ops/binary.h"
#include "ops/op.h"

static ss_status infer(ss_infer *q, ss_error *err) { return binary_infer(q, "minimum", false, err); }

BINARY_FORWARD(min_r(a, b))
BINARY_BACKWARD(x0[i] < x1[i] ? g0[i] : x0[i] == x1[i] ? g0[i] / 2 : 0, x1[i] < x0[i] ? g0[i] : x0[i] == x1[i] ? g0[i] / 2 : 0)

static void cost(const ss_call *c, bool both, ss_cost *out) { binary_cost(c, both, 1, 2, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7 B:3,5,7"},
    {.inputs = "B:33 B:33"},
    {.inputs = "B: B:"},
    BINARY_BAD_CASES,
    {0},
};

const ss_op SS_FN(ss_op_minimum) = {
    .name = "minimum",
    .doc = "The less of a and b, element by element, two batched inputs of one shape; NaN if either is. Where both are equal each takes half of the gradient, as in torch.minimum.",
    .flags = SS_OP_NEEDS_IN,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
