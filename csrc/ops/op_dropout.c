/* dropout: elements become 0 with probability p, the others are divided by 1 - p. */
#include "ops/dropout.h"

static ss_status infer(ss_infer *q, ss_error *err) { return dropout_infer(q, "dropout", err); }
static void forward(const ss_call *c) { dropout_forward(c, false); }
static void backward(const ss_call *c) { dropout_backward(c, false); }
static void forward_ref(const ss_call *c) { dropout_forward_ref(c, false); }

static const ss_op_case cases[] = {DROPOUT_CASES, {0}};

const ss_op SS_FN(ss_op_dropout) = {
    .name = "dropout",
    .doc = "Each element becomes 0 with probability `p` and is multiplied by `1 / (1 - p)` otherwise; any shape; left out when not training (Srivastava and others: \"Dropout\", 2014). "
           "An element stays when its uniform number, Philox4x32-10 at (element/4, position in the global batch, step, op), is at least p; elements count in PyTorch's order in any memory layout. "
           "The mask is kept, a byte an element.",
    .flags = SS_OP_TRAINING_ONLY | SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE,
    .attrs = dropout_attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .saved_bytes = dropout_saved_bytes,
    .cost = dropout_cost,
    .cases = cases,
};
