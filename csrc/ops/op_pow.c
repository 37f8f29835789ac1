/* pow: y = a^b. */
#include "kernels/variant.h"
#include "ops/power.h"
#include "ops/binary.h"
#include "ops/op.h"

static ss_status infer(ss_infer *q, ss_error *err) { return binary_infer(q, "pow", false, err); }

BINARY_FORWARD(power_r(a, b))
BINARY_BACKWARD(x1[i] == 0 ? 0 : g0[i] * (x1[i] * power_r(x0[i], x1[i] - 1)), x0[i] == 0 && x1[i] >= 0 ? 0 : g0[i] * (y0[i] * log_r(x0[i])))

static void cost(const ss_call *c, bool both, ss_cost *out) { binary_cost(c, both, 45, 80, out); }

static const ss_op_case cases[] = {
    {.inputs = "B+:3,5,7 B:3,5,7"},
    {.inputs = "B+:33 B:33"},
    {.inputs = "B+: B:"},
    BINARY_BAD_CASES,
    {0},
};

const ss_op SS_FN(ss_op_pow) = {
    .name = "pow",
    .doc = "`y = a^b`, element by element, two batched inputs of one shape, from the core's exp and log with the special values of C's `pow` (-0 counts as 0). The gradients are `b a^(b - 1)` and `y log a` (0 where a is 0 and b is not negative).",
    .flags = SS_OP_NEEDS_IN | SS_OP_NEEDS_OUT,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
