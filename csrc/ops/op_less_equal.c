/* less_equal: 1 where a <= b, else 0. */
#include "kernels/variant.h"
#include "ops/compare.h"

COMPARISON(less_equal, <=)

const ss_op SS_FN(ss_op_less_equal) = {
    .name = "less_equal",
    .doc = "1 where `a <= b`, else 0, element by element, two batched inputs of one shape, both float or both int32. No gradient flows.",
    .attrs = compare_attrs,
    .infer = infer,
    .forward = forward,
    .backward = compare_backward,
    .cost = compare_cost,
    .cases = cases,
};
