/* rnn: one layer and direction of a simple (Elman) recurrent network, as torch.nn.RNN. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/recurrent.h"

enum { REVERSE, NONLINEARITY };

static const ss_attr_spec attrs[] = {
    REC_ATTR_REVERSE,
    {"nonlinearity", SS_ATTR_INT, 0, 0, 1, "0: tanh, 1: relu"},
    {0},
};

static void step(const ss_call *c, int64_t n, real *gate, const real *recurrent, real *h, real *memory) {
    (void)memory;
    const real *restrict a = gate, *restrict b = recurrent;
    real *restrict y = h;
    if (ss_attr_i(c->attr, NONLINEARITY))
        for (int64_t i = 0; i < n; i++) y[i] = max_r(a[i] + b[i], 0);
    else
        for (int64_t i = 0; i < n; i++) y[i] = tanh_r(a[i] + b[i]);
}

static void back(const ss_call *c, int64_t n, const real *gate, const real *y, const real *before, real *grad_h, real *grad_memory, real *errors) {
    (void)gate, (void)before, (void)grad_memory;
    real *restrict grad = grad_h, *restrict to = errors;
    if (ss_attr_i(c->attr, NONLINEARITY))
        for (int64_t i = 0; i < n; i++) to[i] = y[i] <= 0 ? 0 : grad[i]; /* false for NaN: the gradient passes, as the value did */
    else
        for (int64_t i = 0; i < n; i++) to[i] = grad[i] * fma_r(-y[i], y[i], 1);
    for (int64_t i = 0; i < n; i++) grad[i] = 0;
}

static const rec_cell cell = {.name = "rnn", .gates = 1, .errors = 1, .forward = step, .backward = back};

static ss_status infer(ss_infer *q, ss_error *err) { return rec_infer(q, &cell, err); }
static void forward(const ss_call *c) { rec_forward(c, &cell); }
static void backward(const ss_call *c) { rec_backward(c, &cell); }
static int64_t scratch_bytes(const ss_call *c, bool back) { return rec_scratch_bytes(c, &cell, back); }
static void cost(const ss_call *c, bool back, ss_cost *out) { rec_cost(c, &cell, back, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:4,3 P:5,3 P:5,5 P:5 P:5 B:5 I5:"},
    {.attrs = "reverse=1", .inputs = "B:4,3 P:5,3 P:5,5 P:5 P:5 B:5 I5:"},
    {.attrs = "nonlinearity=1", .inputs = "B:3,2 P:17,2 P:17,17 P:17 P:17"},
    {.attrs = "nonlinearity=1 reverse=1", .inputs = "B:3,2 P:4,2 P:4,4 - P:4 B:4"},
    {.inputs = "B:1,1 P:1,1 P:1,1"},
    {.inputs = "B:7,20 P:33,20 P:33,33 P:33 - - I8:"},
    {.inputs = "B:4,3 P:5,3 P:5,4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:5,2 P:5,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:10,3 P:10,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:5,3 P:5,5 P:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:5,3 P:5,5 P:5 P:5,1", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:5,3 P:5,5 P:5 P:5 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:5,3 P:5,5 P:5 P:5 P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:5,3 P:5,5 - - - I5:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:5,3 P:5,5 - - - B:", .expect = SS_ERR_DTYPE},
    {.inputs = "B:4,3 B:5,3 P:5,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 P:5,4 P:5,5", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4,3 P:5,3 P:5,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:5,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:5,3 -", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 - P:5,5", .expect = SS_ERR_SHAPE},
    {.inputs = "I4:4,3 P:5,3 P:5,5", .expect = SS_ERR_DTYPE},
    {.attrs = "nonlinearity=2", .inputs = "B:4,3 P:5,3 P:5,5", .expect = SS_ERR_VALUE},
    {0},
};

const ss_op SS_FN(ss_op_rnn) = {
    .name = "rnn",
    .doc = "One layer and one direction of a simple recurrent network: output `(B, T, H)` and the last state h_n `(B, H)`.\n\n"
           "    h_t = act((x_t weight_ih^T + bias_ih) + (h_{t-1} weight_hh^T + bias_hh))    act: tanh, or relu with nonlinearity 1\n\n" REC_DOC("") REC_DOC_END "\n\n"
           "Elman: \"Finding structure in time\", 1990.",
    .flags = SS_OP_NEEDS_IN | SS_OP_NEEDS_OUT | SS_OP_PRODUCT,
    .attrs = attrs,
    .infer = infer,
    .forward_phases = 3,
    .backward_phases = 3,
    .forward = forward,
    .backward = backward,
    .scratch_bytes = scratch_bytes,
    .cost = cost,
    .cases = cases,
};
