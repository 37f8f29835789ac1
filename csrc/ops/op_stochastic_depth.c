/* stochastic_depth: whole samples become 0 with probability p, as torchvision.ops.StochasticDepth. */
#include "kernels/variant.h"
#include "ops/elementwise.h"
#include "ops/op.h"

enum { P, WHOLE_BATCH };

static const ss_attr_spec attrs[] = {
    {"p", SS_ATTR_FLOAT, 0.5, 0, 1, "probability that a sample becomes 0"},
    {"whole_batch", SS_ATTR_BOOL, 0, 0, 1, "0: each sample on its own (\"row\"); 1: one draw a step for all (\"batch\")"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return ew_infer(q, "stochastic_depth", err); }

/* 1 / (1 - p) where the sample stays, 0 where not. */
static real factor_of(const ss_call *c, int64_t row) {
    uint32_t position = c->attr[WHOLE_BATCH] != 0 ? 0 : (uint32_t)(c->sample0 + row);
    ss_random4 r = ss_philox(c->seed, 0, position, c->step, c->op_number);
    return (double)ss_uniform(r.word[0]) >= c->attr[P] ? (real)(1 / (1 - c->attr[P])) : 0;
}

/* Not x * 0: infinities of a branch that is left out do not count. */
static void apply(const ss_call *c, const real *x, real *y) {
    const int64_t n = ss_shape_count(&c->in_shape[0]);
    int64_t begin, end;
    ew_range(c, &begin, &end);
    for (int64_t at = begin; at < end;) {
        const int64_t row = at / n, to = ss_min(end, (row + 1) * n);
        const real factor = factor_of(c, row);
        if (factor != 0)
            for (int64_t i = at; i < to; i++) y[i] = x[i] * factor;
        else
            for (int64_t i = at; i < to; i++) y[i] = 0;
        at = to;
    }
}

static void forward(const ss_call *c) { apply(c, c->in[0], c->out[0]); }
static void backward(const ss_call *c) { apply(c, c->grad_out[0], c->grad_in[0]); }

static void cost(const ss_call *c, bool both, ss_cost *out) { ew_cost(c, both, 1, 1, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:5,6,7"},
    {.attrs = "p=0.2", .inputs = "B:37"},
    {.attrs = "whole_batch=1", .inputs = "B:5,3"},
    {.attrs = "whole_batch=1 p=0.99", .inputs = "B:5,3"},
    {.attrs = "p=0", .inputs = "B:37"},
    {.attrs = "p=1", .inputs = "B:4,9"},
    {.inputs = "B:"},
    {.attrs = "p=1.01", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_stochastic_depth) = {
    .name = "stochastic_depth",
    .doc = "Each sample becomes 0 with probability `p` and is multiplied by `1 / (1 - p)` otherwise; with `whole_batch` one draw a step decides for all. Any shape; left out when not training "
           "(Huang and others: \"Deep Networks with Stochastic Depth\", 2016). A sample stays when its uniform number, the first word of Philox4x32-10 at (0, position in the global batch, step, op), "
           "is at least p; with `whole_batch` the position is 0. Nothing is kept: backward draws again.",
    .flags = SS_OP_TRAINING_ONLY,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
