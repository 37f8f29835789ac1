/* gru: one layer and direction of gated recurrent units, as torch.nn.GRU. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/recurrent.h"

static const ss_attr_spec attrs[] = {REC_ATTR_REVERSE, {0}};

/* Kept: r, z, n, and the recurrent sum q of n. The pointers never overlap, which lets the compiler use vectors. */
static void units_forward(int64_t n, real *restrict gr, real *restrict gz, real *restrict gn, real *restrict gq, const real *restrict hr, const real *restrict hz, const real *restrict hn, real *restrict h) {
    for (int64_t i = 0; i < n; i++) {
        const real r = sigmoid_r(gr[i] + hr[i]), z = sigmoid_r(gz[i] + hz[i]), fresh = tanh_r(fma_r(r, hn[i], gn[i]));
        h[i] = fma_r(z, h[i] - fresh, fresh);
        gr[i] = r;
        gz[i] = z;
        gn[i] = fresh;
        gq[i] = hn[i];
    }
}

static void step(const ss_call *c, int64_t n, real *gate, const real *recurrent, real *h, real *memory) {
    (void)c, (void)memory;
    units_forward(n, gate, gate + n, gate + 2 * n, gate + 3 * n, recurrent, recurrent + n, recurrent + 2 * n, h);
}

/* Errors: of r, z, n in the input projection, then of r, z, q in the recurrent product. */
static void units_backward(int64_t n, const real *restrict gr, const real *restrict gz, const real *restrict gn, const real *restrict gq, const real *restrict before, real *restrict grad,
                           real *restrict er, real *restrict ez, real *restrict en, real *restrict fr, real *restrict fz, real *restrict fq) {
    for (int64_t i = 0; i < n; i++) {
        const real g = grad[i], r = gr[i], z = gz[i], fresh = gn[i];
        const real dn = g * (1 - z) * fma_r(-fresh, fresh, 1), dz = g * (before[i] - fresh) * (z * (1 - z)), dr = dn * gq[i] * (r * (1 - r));
        er[i] = fr[i] = dr;
        ez[i] = fz[i] = dz;
        en[i] = dn;
        fq[i] = dn * r;
        grad[i] = g * z;
    }
}

static void back(const ss_call *c, int64_t n, const real *gate, const real *y, const real *before, real *grad_h, real *grad_memory, real *e) {
    (void)c, (void)y, (void)grad_memory;
    units_backward(n, gate, gate + n, gate + 2 * n, gate + 3 * n, before, grad_h, e, e + n, e + 2 * n, e + 3 * n, e + 4 * n, e + 5 * n);
}

static const rec_cell cell = {.name = "gru", .gates = 3, .kept = 4, .errors = 6, .hidden = 3, .forward = step, .backward = back};

static ss_status infer(ss_infer *q, ss_error *err) { return rec_infer(q, &cell, err); }
static void forward(const ss_call *c) { rec_forward(c, &cell); }
static void backward(const ss_call *c) { rec_backward(c, &cell); }
static int64_t saved_bytes(const ss_call *c) { return rec_saved_bytes(c, &cell); }
static int64_t scratch_bytes(const ss_call *c, bool back) { return rec_scratch_bytes(c, &cell, back); }
static void cost(const ss_call *c, bool back, ss_cost *out) { rec_cost(c, &cell, back, out); }

static const ss_op_case cases[] = {
    {.inputs = "B:4,3 P:15,3 P:15,5 P:15 P:15 B:5 I5:"},
    {.attrs = "reverse=1", .inputs = "B:4,3 P:15,3 P:15,5 P:15 P:15 B:5 I5:"},
    {.inputs = "B:3,2 P:51,2 P:51,17"},
    {.attrs = "reverse=1", .inputs = "B:3,2 P:12,2 P:12,4 P:12 - B:4"},
    {.inputs = "B:1,1 P:3,1 P:3,1 - P:3"},
    {.inputs = "B:5,20 P:99,20 P:99,33 P:99 P:99 - I6:"},
    {.inputs = "B:4,3 P:5,3 P:5,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:15,2 P:15,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:15,3 P:15,5 P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:15,3 P:15,5 P:15 P:15 B:15", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:15,3 P:15,5 P:15 P:15 B:5 I5: I5:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 P:15,3 P:15,5 P:15 P:15 B:5 B:", .expect = SS_ERR_DTYPE},
    {.inputs = "I4:4,3 P:15,3 P:15,5", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_gru) = {
    .name = "gru",
    .doc = "One layer and one direction of gated recurrent units: output `(B, T, H)` and the last state h_n `(B, H)`.\n\n"
           "    r = sigmoid((x_t W_r^T + b_r) + (h_{t-1} V_r^T + c_r))\n"
           "    z = sigmoid((x_t W_z^T + b_z) + (h_{t-1} V_z^T + c_z))\n"
           "    n = tanh((x_t W_n^T + b_n) + r * (h_{t-1} V_n^T + c_n))\n"
           "    h_t = n + z * (h_{t-1} - n)\n\n"
           "weight_ih holds W_r, W_z, W_n one below the other, weight_hh V, bias_ih b, bias_hh c; the reset gate acts after the product, as in PyTorch.\n\n" REC_DOC("3") REC_DOC_END "\n\n"
           "Cho and others: \"Learning phrase representations using RNN encoder-decoder for statistical machine translation\", 2014.",
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
