/* expand: a parameter, once for every sample. */
#include <string.h>
#include "kernels/variant.h"
#include "ops/broadcast.h"
#include "ops/op.h"

enum { ROWS, PARAMETER };
enum { RANK, D0 };

static const ss_attr_spec attrs[] = {
    {"rank", SS_ATTR_INT, 0, 0, SS_MAX_RANK, "axes of the output of one sample"},
    {"d0", SS_ATTR_INT, 1, 1, 9007199254740992.0, "their extents"},
    {"d1", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {"d2", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {"d3", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {"d4", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {"d5", SS_ATTR_INT, 1, 1, 9007199254740992.0, "see d0"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    if (q->n_in != 2 || q->in[ROWS].rank < 0 || q->in[PARAMETER].rank < 0) return SS_FAIL(err, SS_ERR_SHAPE, "expand takes an activation and a parameter");
    if (q->role[ROWS] != SS_ROLE_BATCHED || q->role[PARAMETER] == SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "expand: the first input must be an activation, the second a parameter or buffer");
    if (q->dtype[PARAMETER] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "expand: the parameter must be float");
    ss_shape out = {.rank = (int)ss_attr_i(q->attr, RANK)};
    for (int k = 0; k < out.rank; k++) out.dim[k] = ss_attr_i(q->attr, D0 + k);
    const ss_shape *w = &q->in[PARAMETER];
    bool fits = w->rank <= out.rank;
    for (int k = 0; fits && k < w->rank; k++) fits = w->dim[k] == 1 || w->dim[k] == out.dim[out.rank - w->rank + k];
    if (!fits) return SS_FAIL(err, SS_ERR_SHAPE, "expand: %s does not broadcast to %s", ss_shape_text(w, false, a, sizeof a), ss_shape_text(&out, false, b, sizeof b));
    q->n_out = 1;
    q->out[0] = out;
    return SS_OK;
}

static void forward(const ss_call *c) {
    broadcast g = broadcast_of(&c->out_shape[0], &c->in_shape[PARAMETER]);
    const real *w = c->in[PARAMETER];
    real *restrict y = c->out[0];
    int64_t begin, end;
    ss_split(c->rows * g.lines, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const real *line = w + broadcast_line(&g, u % g.lines);
        if (g.varies) memcpy(y + u * g.line, line, (size_t)g.line * sizeof *y);
        else
            for (int64_t i = 0; i < g.line; i++) y[u * g.line + i] = line[0];
    }
}

/* The call as add's: its first input has the output's shape. */
static ss_call as_add(const ss_call *c) {
    ss_call add = *c;
    add.in_shape[0] = c->out_shape[0];
    return add;
}

static void backward(const ss_call *c) {
    if (c->grad_in[ROWS]) {
        int64_t begin, end;
        ss_my_elements(c, c->rows * ss_shape_count(&c->in_shape[ROWS]), &begin, &end);
        if (end > begin) memset((real *)c->grad_in[ROWS] + begin, 0, (size_t)(end - begin) * sizeof(real));
    }
    if (!c->grad_in[PARAMETER] || c->role[PARAMETER] != SS_ROLE_PARAMETER) return;
    ss_call add = as_add(c);
    broadcast_gradient(&add, NULL);
}

static int64_t scratch_bytes(const ss_call *c, bool backward) {
    ss_call add = as_add(c);
    return broadcast_scratch(&add, backward);
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->out_shape[0]);
    out->flops = both ? n : 0;
    out->bytes = n * 4 * (both ? 2 : 1);
}

static const ss_op_case cases[] = {
    {.attrs = "rank=1 d0=7", .inputs = "B:3 P:7"},
    {.attrs = "rank=2 d0=3 d1=5", .inputs = "I4:2 P:3,5"},
    {.attrs = "rank=3 d0=2 d1=3 d2=5", .inputs = "B: P:3,1"},
    {.attrs = "rank=2 d0=4 d1=5", .inputs = "B:2 P:"},
    {.attrs = "rank=0", .inputs = "B:2 P:"},
    {.attrs = "rank=2 d0=3 d1=5", .inputs = "B:2 S:5"},
    {.attrs = "rank=1 d0=7", .inputs = "B:3 P:6", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=1 d0=7", .inputs = "B:3 P:2,7", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=1 d0=7", .inputs = "B:3", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=1 d0=7", .inputs = "P:3 P:7", .expect = SS_ERR_VALUE},
    {.attrs = "rank=1 d0=7", .inputs = "B:3 B:7", .expect = SS_ERR_VALUE},
    {0},
};

const ss_op SS_FN(ss_op_expand) = {
    .name = "expand",
    .doc = "A parameter or buffer, broadcast to the shape (d0, ...) from its trailing axes, once for every sample. Input 0 gives the number of samples; its values are not read. The gradient of the "
           "parameter is summed over positions in row-major order, over the samples of a lane, then over lanes.",
    .flags = SS_OP_ANY_DTYPE,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .scratch_bytes = scratch_bytes,
    .cost = cost,
    .cases = cases,
};
