/* add: y = a + b. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/broadcast.h"

static ss_status infer(ss_infer *q, ss_error *err) { return broadcast_infer(q, "add", err); }

static void forward(const ss_call *c) {
    const real *restrict a = c->in[0], *restrict b = c->in[1];
    real *restrict y = c->out[0];
    int64_t begin, end;
    if (c->role[1] == SS_ROLE_BATCHED) {
        ss_my_elements(c, c->rows * ss_shape_count(&c->in_shape[0]), &begin, &end);
        for (int64_t i = begin; i < end; i++) y[i] = a[i] + b[i];
        return;
    }
    broadcast g = broadcast_of(&c->in_shape[0], &c->in_shape[1]);
    ss_split(c->rows * g.lines, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const real *w = b + broadcast_line(&g, u % g.lines);
        if (g.varies)
            for (int64_t i = 0; i < g.line; i++) y[u * g.line + i] = a[u * g.line + i] + w[i];
        else
            for (int64_t i = 0; i < g.line; i++) y[u * g.line + i] = a[u * g.line + i] + w[0];
    }
}

/* The plan passes the gradients of batched inputs through without a call (SS_OP_PASS); here they are copied. */
static void backward(const ss_call *c) {
    const real *restrict g = c->grad_out[0];
    int64_t begin, end;
    ss_my_elements(c, c->rows * ss_shape_count(&c->in_shape[0]), &begin, &end);
    for (int k = 0; k < 2; k++) {
        real *restrict to = c->grad_in[k];
        if (!to || c->role[k] != SS_ROLE_BATCHED) continue;
        for (int64_t i = begin; i < end; i++) to[i] = g[i];
    }
    if (c->role[1] == SS_ROLE_PARAMETER && c->grad_in[1]) broadcast_gradient(c, NULL);
}

static const ss_op_case cases[] = {
    {.inputs = "B:3,5,7 B:3,5,7"},
    {.inputs = "B: B:"},
    {.inputs = "B:5,33 P:33"},
    {.inputs = "B:5,33 P:5,33"},
    {.inputs = "B:5,3,4 P:5,1,1"},
    {.inputs = "B:2,5,3,4 P:5,1,4"},
    {.inputs = "B:2,1,3,4 P:2,1,1,4"},
    {.inputs = "B:2,3,2,3,4 P:3,1,3,1"},
    {.inputs = "B:6,2 P:"},
    {.inputs = "B:4,3 P:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 P:2,4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 B:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 -", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4 B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 I3:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_add) = {
    .name = "add",
    .doc = "`y = a + b`: two batched inputs of equal shape, or a parameter b that broadcasts to the shape of a sample from its trailing axes. The gradient of a parameter is summed over positions in "
           "row-major order, over the samples of a lane, then over lanes.",
    .flags = SS_OP_PASS | SS_OP_IN_PLACE,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .scratch_bytes = broadcast_scratch,
    .cost = broadcast_cost,
    .cases = cases,
};
