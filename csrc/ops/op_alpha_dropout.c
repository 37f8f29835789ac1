/* alpha_dropout: elements take SELU's flat value with probability p, and an affine map restores mean and variance. */
#include "ops/dropout.h"

static ss_status infer(ss_infer *q, ss_error *err) { return dropout_infer(q, "alpha_dropout", err); }
static void forward(const ss_call *c) { dropout_forward(c, true); }
static void backward(const ss_call *c) { dropout_backward(c, true); }
static void forward_ref(const ss_call *c) { dropout_forward_ref(c, true); }

static const ss_op_case cases[] = {DROPOUT_CASES, {0}};

const ss_op SS_FN(ss_op_alpha_dropout) = {
    .name = "alpha_dropout",
    .doc = "Each element becomes -1.7580993408473766 with probability `p`, and then all are mapped to `a x + b`, which keeps mean 0 and variance 1: `a = 1 / sqrt((1 - p) (1 + p 1.758...^2))`, "
           "`b = 1.758... a p`. All 0 with p = 1. Any shape; left out when not training (Klambauer and others: \"Self-Normalizing Neural Networks\", 2017). "
           "Elements are drawn as in dropout. The mask is kept, a byte an element.",
    .flags = SS_OP_TRAINING_ONLY,
    .attrs = dropout_attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .saved_bytes = dropout_saved_bytes,
    .cost = dropout_cost,
    .cases = cases,
};
