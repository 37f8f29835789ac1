/* mul: y = a b, element by element. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/broadcast.h"

static ss_status infer(ss_infer *q, ss_error *err) { return broadcast_infer(q, "mul", err); }

/* out = a w for the parameter w: the outputs, and the gradient of a. */
static void times_parameter(const ss_call *c, const real *restrict a, const real *restrict w, real *restrict out) {
    broadcast g = broadcast_of(&c->in_shape[0], &c->in_shape[1]);
    int64_t begin, end;
    ss_split(c->rows * g.lines, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const real *line = w + broadcast_line(&g, u % g.lines);
        if (g.varies)
            for (int64_t i = 0; i < g.line; i++) out[u * g.line + i] = a[u * g.line + i] * line[i];
        else
            for (int64_t i = 0; i < g.line; i++) out[u * g.line + i] = a[u * g.line + i] * line[0];
    }
}

static void times_batched(const ss_call *c, const real *restrict a, const real *restrict b, real *restrict out) {
    int64_t begin, end;
    ss_my_elements(c, c->rows * ss_shape_count(&c->in_shape[0]), &begin, &end);
    for (int64_t i = begin; i < end; i++) out[i] = a[i] * b[i];
}

static void forward(const ss_call *c) {
    if (c->role[1] == SS_ROLE_BATCHED) times_batched(c, c->in[0], c->in[1], c->out[0]);
    else times_parameter(c, c->in[0], c->in[1], c->out[0]);
}

static void backward(const ss_call *c) {
    if (c->role[1] == SS_ROLE_BATCHED) {
        if (c->grad_in[0]) times_batched(c, c->grad_out[0], c->in[1], c->grad_in[0]);
        if (c->grad_in[1]) times_batched(c, c->grad_out[0], c->in[0], c->grad_in[1]);
        return;
    }
    if (c->grad_in[0]) times_parameter(c, c->grad_out[0], c->in[1], c->grad_in[0]);
    if (c->grad_in[1]) broadcast_gradient(c, c->in[0]);
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

const ss_op SS_FN(ss_op_mul) = {
    .name = "mul",
    .doc = "`y = a b`, element by element: two batched inputs of equal shape, or a parameter b that broadcasts to the shape of a sample from its trailing axes. The gradient of a parameter is summed "
           "(fused multiply-adds) over positions in row-major order, over the samples of a lane, then over lanes.",
    .flags = SS_OP_NEEDS_IN | SS_OP_IN_PLACE,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .scratch_bytes = broadcast_scratch,
    .cost = broadcast_cost,
    .cases = cases,
};
