/* lstm: one layer and direction of long short-term memory, as torch.nn.LSTM. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/recurrent.h"

static const ss_attr_spec attrs[] = {REC_ATTR_REVERSE, {0}};

/* Kept: i, f, g, o, and the cell state before the step. The pointers never overlap, which lets the compiler use vectors. */
static void units_forward(int64_t n, real *restrict gi, real *restrict gf, real *restrict gg, real *restrict go, real *restrict gc, const real *restrict hi, const real *restrict hf,
                          const real *restrict hg, const real *restrict ho, real *restrict h, real *restrict memory) {
    for (int64_t k = 0; k < n; k++) {
        const real i = sigmoid_r(gi[k] + hi[k]), f = sigmoid_r(gf[k] + hf[k]), g = tanh_r(gg[k] + hg[k]), o = sigmoid_r(go[k] + ho[k]);
        const real before = memory[k], after = fma_r(f, before, i * g);
        memory[k] = after;
        h[k] = o * tanh_r(after);
        gi[k] = i;
        gf[k] = f;
        gg[k] = g;
        go[k] = o;
        gc[k] = before;
    }
}

static void step(const ss_call *c, int64_t n, real *gate, const real *recurrent, real *h, real *memory) {
    (void)c;
    units_forward(n, gate, gate + n, gate + 2 * n, gate + 3 * n, gate + 4 * n, recurrent, recurrent + n, recurrent + 2 * n, recurrent + 3 * n, h, memory);
}

static void units_backward(int64_t n, const real *restrict gi, const real *restrict gf, const real *restrict gg, const real *restrict go, const real *restrict gc, real *restrict grad_h,
                           real *restrict grad_memory, real *restrict ei, real *restrict ef, real *restrict eg, real *restrict eo) {
    for (int64_t k = 0; k < n; k++) {
        const real i = gi[k], f = gf[k], g = gg[k], o = go[k], before = gc[k], squashed = tanh_r(fma_r(f, before, i * g));
        const real dh = grad_h[k], dc = fma_r(dh * o, fma_r(-squashed, squashed, 1), grad_memory[k]);
        ei[k] = dc * g * (i * (1 - i));
        ef[k] = dc * before * (f * (1 - f));
        eg[k] = dc * i * fma_r(-g, g, 1);
        eo[k] = dh * squashed * (o * (1 - o));
        grad_memory[k] = dc * f;
        grad_h[k] = 0;
    }
}

static void back(const ss_call *c, int64_t n, const real *gate, const real *y, const real *before, real *grad_h, real *grad_memory, real *e) {
    (void)c, (void)y, (void)before;
    units_backward(n, gate, gate + n, gate + 2 * n, gate + 3 * n, gate + 4 * n, grad_h, grad_memory, e, e + n, e + 2 * n, e + 3 * n);
}

static const rec_cell cell = {.name = "lstm", .gates = 4, .kept = 5, .errors = 4, .memory = true, .forward = step, .backward = back};

static ss_status infer(ss_infer *q, ss_error *err) { return rec_infer(q, &cell, err); }
static void forward(const ss_call *c) { rec_forward(c, &cell); }
static void backward(const ss_call *c) { rec_backward(c, &cell); }
static int64_t saved_bytes(const ss_call *c) { return rec_saved_bytes(c, &cell); }
static int64_t scratch_bytes(const ss_call *c, bool back) { return rec_scratch_bytes(c, &cell, back); }
static void cost(const ss_call *c, bool back, ss_cost *out) { rec_cost(c, &cell, back, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:4,3 P:20,3 P:20,5 P:20 P:20 B:5 B:5 I5:"},
    {.attrs = "reverse=1", .inputs = "B:4,3 P:20,3 P:20,5 P:20 P:20 B:5 B:5 I5:"},
    {.inputs = "B:3,2 P:68,2 P:68,17"},
    {.attrs = "reverse=1", .inputs = "B:3,2 P:16,2 P:16,4 P:16 - B:4"},
    {.inputs = "B:3,2 P:16,2 P:16,4 - P:16 - B:4"},
    {.inputs = "B:1,1 P:4,1 P:4,1"},
    {.inputs = "B:5,20 P:132,20 P:132,33 P:132 P:132 - - I6:"},
    {.inputs = "B:4,3 P:15,3 P:15,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:20,2 P:20,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:20,3 P:20,5 P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:20,3 P:20,5 P:20 P:20 B:4 B:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:20,3 P:20,5 P:20 P:20 B:5 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:20,3 P:20,5 P:20 P:20 B:5 P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:20,3 P:20,5 P:20 P:20 B:5 I4:5", .expect = SS_ERR_DTYPE},
    {.inputs = "B:4,3 P:20,3 P:20,5 P:20 P:20 B:5 B:5 B:", .expect = SS_ERR_DTYPE},
    {.inputs = "I4:4,3 P:20,3 P:20,5", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_lstm) = {
    .name = "lstm",
    .doc = "One layer and one direction of long short-term memory: output `(B, T, H)`, the last state h_n `(B, H)` and the last cell state c_n `(B, H)`.\n\n"
           "    i, f, o = sigmoid((x_t W^T + b) + (h_{t-1} V^T + c)), each with its own rows\n"
           "    g = tanh((x_t W_g^T + b_g) + (h_{t-1} V_g^T + c_g))\n"
           "    c_t = f * c_{t-1} + i * g\n"
           "    h_t = o * tanh(c_t)\n\n"
           "weight_ih holds W_i, W_f, W_g, W_o one below the other, weight_hh V, bias_ih b, bias_hh c.\n\n" REC_DOC("4") " c0 `(B, H)` or absent (zeros) stands between h0 and lengths." REC_DOC_END "\n\n"
           "Hochreiter and Schmidhuber: \"Long short-term memory\", 1997; Gers, Schmidhuber, Cummins: \"Learning to forget\", 2000.",
    .flags = SS_OP_NEEDS_IN | SS_OP_NEEDS_OUT | SS_OP_PRODUCT,
    .attrs = attrs,
    .infer = infer,
    .forward_phases = 3,
    .backward_phases = 3,
    .forward = forward,
    .backward = backward,
    .saved_bytes = saved_bytes,
    .scratch_bytes = scratch_bytes,
    .cost = cost,
    .cases = cases,
};
