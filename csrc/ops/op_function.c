/* function: forward and backward written in the host language (ss.Function in Python). */
#include <string.h>
#include "kernels/variant.h"
#include "ops/op.h"

enum { ID, RANK, D0 };

static const ss_attr_spec attrs[] = {
    {"id", SS_ATTR_INT, 0, 0, 1 << 20, "number of the function in its host"},
    {"rank", SS_ATTR_INT, 1, 0, SS_MAX_RANK, "axes of the output of one sample"},
    {"d0", SS_ATTR_INT, 1, 1, 9007199254740992.0, "their extents"},
    {"d1", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {"d2", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {"d3", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {"d4", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {"d5", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    bool batched = false;
    for (int k = 0; k < q->n_in; k++) {
        if (q->in[k].rank < 0) return SS_FAIL(err, SS_ERR_SHAPE, "function: input %d is absent", k);
        if (q->role[k] == SS_ROLE_BUFFER) return SS_FAIL(err, SS_ERR_VALUE, "function: input %d is a buffer; inputs are activations and parameters", k);
        if (q->dtype[k] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "function: input %d must be float", k);
        batched |= q->role[k] == SS_ROLE_BATCHED;
    }
    if (!batched) return SS_FAIL(err, SS_ERR_SHAPE, "function needs an activation, one row a sample, among its inputs");
    q->n_out = 1;
    q->out[0] = (ss_shape){.rank = (int)ss_attr_i(q->attr, RANK)};
    for (int k = 0; k < q->out[0].rank; k++) q->out[0].dim[k] = ss_attr_i(q->attr, D0 + k);
    return SS_OK;
}

static void forward(const ss_call *c) {
    if (c->thread != 0) return;
    for (int l = 0; c->host && l < c->fold->lanes; l++)
        c->host->run(c->host, c, (int)ss_attr_i(c->attr, ID), c->fold->row[l], c->fold->row[l + 1], false, NULL);
    if (!c->host) memset(c->out[0], 0, (size_t)(c->rows * ss_shape_count(&c->out_shape[0])) * sizeof(real));
}

/* A stack of partials for each parameter, one after another. */
static int64_t stack_of(const ss_call *c, int input) {
    int64_t at = 0;
    for (int k = 0; k < input; k++)
        if (c->role[k] == SS_ROLE_PARAMETER) at += c->fold->depth * ss_round_up(ss_shape_count(&c->in_shape[k]), 16);
    return at;
}

static int64_t scratch_bytes(const ss_call *c, bool backward) { return backward ? stack_of(c, c->n_in) * (int64_t)sizeof(real) : 0; }

static void backward(const ss_call *c) {
    if (c->thread != 0) return;
    int top = 0;
    for (int k = 0; k < c->n_in; k++) /* without a host, and where a function fails */
        if (c->grad_in[k] && c->role[k] == SS_ROLE_BATCHED) memset(c->grad_in[k], 0, (size_t)(c->rows * ss_shape_count(&c->in_shape[k])) * sizeof(real));
    for (int l = 0; l < c->fold->lanes; l++) {
        float *grad[SS_MAX_IN] = {0};
        for (int k = 0; k < c->n_in; k++) {
            if (!c->grad_in[k] || c->role[k] != SS_ROLE_PARAMETER) continue;
            int64_t count = ss_shape_count(&c->in_shape[k]);
            real *slot = ss_fold_slot((real *)c->scratch + stack_of(c, k), count, top);
            memset(slot, 0, (size_t)count * sizeof(real));
            grad[k] = (float *)slot;
        }
        if (c->host) c->host->run(c->host, c, (int)ss_attr_i(c->attr, ID), c->fold->row[l], c->fold->row[l + 1], true, grad);
        int next = top + 1 - c->fold->adds[l];
        for (int k = 0; k < c->n_in; k++)
            if (grad[k]) ss_fold_push((real *)c->scratch + stack_of(c, k), ss_shape_count(&c->in_shape[k]), top, c->fold->adds[l]);
        top = next;
    }
    for (int k = 0; k < c->n_in; k++) {
        if (!c->grad_in[k] || c->role[k] != SS_ROLE_PARAMETER) continue;
        int64_t count = ss_shape_count(&c->in_shape[k]);
        for (int b = 0; b < top; b++)
            memcpy((real *)c->grad_in[k] + b * c->block_stride[k], ss_fold_slot((real *)c->scratch + stack_of(c, k), count, b), (size_t)count * sizeof(real));
    }
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double n = 0;
    for (int k = 0; k < c->n_in; k++) n += (double)ss_shape_count(&c->in_shape[k]);
    n += (double)ss_shape_count(&c->out_shape[0]);
    out->flops = n * (both ? 300 : 100); /* a guess: Python is slow */
    out->bytes = n * 4 * (both ? 3 : 1);
}

static const ss_op_case cases[] = {
    {.attrs = "rank=1 d0=7", .inputs = "B:7"},
    {.attrs = "rank=2 d0=3 d1=2", .inputs = "B:7 P:4,2 P:3"},
    {.attrs = "rank=0", .inputs = "P:5 B:2"},
    {.attrs = "rank=1 d0=7", .inputs = "P:7", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=1 d0=7", .inputs = "B:7 S:3", .expect = SS_ERR_VALUE},
    {0},
};

const ss_op SS_FN(ss_op_function) = {
    .name = "function",
    .doc = "A function of the host language: `ss.Function` in Python.\n\n"
           "Inputs are activations `(B, ...)` and parameters; the output's shape is given. The host is called for one lane at a time, always with the lane's samples alone, so that its "
           "results do not depend on ranks, threads or sweeps. The gradient of a parameter is the function's own sum over the samples of a lane; lanes are joined by the tree. Without a host the "
           "output and all gradients are 0.",
    .flags = SS_OP_NEEDS_IN | SS_OP_HOST,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .scratch_bytes = scratch_bytes,
    .cost = cost,
    .cases = cases,
};
