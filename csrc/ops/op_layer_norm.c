/* LayerNorm, as torch.nn.LayerNorm: each row (the last axes of a sample) by its own mean and variance. */
#include "ops/rownorm.h"

static const ss_attr_spec attrs[] = {
    {"axes", SS_ATTR_INT, 1, 1, SS_MAX_RANK, "how many of the last axes are normalised together"},
    {"eps", SS_ATTR_FLOAT, 1e-5, 0, 1e6, "added to the variance"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return norm_infer(q, "layer_norm", 3, err); }
static void forward(const ss_call *c) { norm_forward(c, true); }
static void backward(const ss_call *c) { norm_backward(c, true); }
static void forward_ref(const ss_call *c) { norm_forward_ref(c, true); }
static void backward_ref(const ss_call *c) { norm_backward_ref(c, true); }

static const ss_op_case cases[] = {
    {.inputs = "B:64 P:64 P:64"},
    {.inputs = "B:3,37 P:37 P:37"},
    {.inputs = "B:5,130 P:130"},
    {.inputs = "B:2,16 - P:16"},
    {.inputs = "B:70"},
    {.inputs = "B:9 - -"},
    {.attrs = "axes=2", .inputs = "B:4,3,5 P:3,5 P:3,5"},
    {.attrs = "axes=3 eps=0.1", .inputs = "B:4,3,5 P:4,3,5 P:4,3,5"},
    {.attrs = "eps=0.1", .inputs = "B:3,2 P:2 P:2"},
    {.inputs = "B:4,100 P:100 P:100", .inference = true},
    {.attrs = "axes=2", .inputs = "B:5 P:5 P:5", .expect = SS_ERR_SHAPE},
    {.attrs = "axes=0", .inputs = "B:5", .expect = SS_ERR_VALUE},
    {.attrs = "eps=-1", .inputs = "B:5", .expect = SS_ERR_VALUE},
    {.inputs = "B:3,5 P:3 P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,5 P:5 P:3,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,5 B:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:", .expect = SS_ERR_SHAPE},
    {.inputs = "P:5", .expect = SS_ERR_VALUE},
    {.inputs = "I4:5", .expect = SS_ERR_DTYPE},
    {.inputs = "B:5 P:5 P:5 P:5", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_layer_norm) = {
    .name = "layer_norm",
    .doc = "`y = (x - mean) / sqrt(var + eps) * weight + bias`, with the mean and the (biased) variance of each row: the last `axes` axes of a sample together. x and y any shape; weight and bias have "
           "the shape of these axes, or are absent.\n\n"
           "Order of sums: along a row 16 interleaved accumulators and a tree over them, for the mean and then for the squares of x - mean; backward, likewise, for g weight and g weight (x - mean). "
           "The gradients of weight and bias are chains over the rows of a sample and the samples of a lane, `fma(g, (x - mean) * inverse, acc)` and `acc + g`; then lanes are folded. "
           "Ba, Kiros, Hinton: \"Layer Normalization\" (2016).",
    .flags = SS_OP_NEEDS_IN | SS_OP_REMADE,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .backward_ref = backward_ref,
    .saved_bytes = norm_saved_bytes,
    .cost = norm_cost,
    .cases = cases,
};
