/* broadcast_to: axes of extent 1 grow by repetition. */
#include "ops/axis.h"

enum { RANK, DIM0 };
#define EXTENT_DOC "extent; equal to the input's, or any where the input's is 1"
static const ss_attr_spec attrs[] = {
    {"rank", SS_ATTR_INT, 1, 0, SS_MAX_RANK, "number of axes after the batch axis"},
    {"d0", SS_ATTR_INT, 1, 1, 1099511627776.0, EXTENT_DOC},
    {"d1", SS_ATTR_INT, 1, 1, 1099511627776.0, EXTENT_DOC},
    {"d2", SS_ATTR_INT, 1, 1, 1099511627776.0, EXTENT_DOC},
    {"d3", SS_ATTR_INT, 1, 1, 1099511627776.0, EXTENT_DOC},
    {"d4", SS_ATTR_INT, 1, 1, 1099511627776.0, EXTENT_DOC},
    {"d5", SS_ATTR_INT, 1, 1, 1099511627776.0, EXTENT_DOC},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "broadcast_to takes 1 input, not %d", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "broadcast_to: the input must be an activation, one row a sample");
    const ss_shape *x = &q->in[0];
    ss_shape out = {.rank = (int)q->attr[RANK]};
    bool fits = out.rank == x->rank;
    for (int i = 0; i < out.rank; i++) {
        out.dim[i] = ss_attr_i(q->attr, DIM0 + i);
        fits = fits && (x->dim[i] == out.dim[i] || x->dim[i] == 1);
    }
    if (!fits) return SS_FAIL(err, SS_ERR_SHAPE, "broadcast_to: %s does not broadcast to %s", ss_shape_text(x, true, a, sizeof a), ss_shape_text(&out, true, b, sizeof b));
    q->n_out = 1;
    q->out[0] = out;
    q->out_dtype[0] = q->dtype[0];
    return SS_OK;
}

/* Output and input as lines: the trailing axes along which the input always or never grows. */
typedef struct growth {
    bool grows; /* along a line */
    int head;   /* axes that count lines */
    int64_t in, out, line, lines, extent[SS_MAX_RANK], stride[SS_MAX_RANK]; /* stride in the input; 0: grows */
} growth;

static growth growth_of(const ss_call *c) {
    const ss_shape *x = &c->in_shape[0], *y = &c->out_shape[0];
    growth g = {.in = ss_shape_count(x), .out = ss_shape_count(y), .line = 1};
    int64_t stride = g.in;
    for (int i = 0; i < y->rank; i++) {
        stride /= x->dim[i];
        if (y->dim[i] == 1) continue;
        g.extent[g.head] = y->dim[i];
        g.stride[g.head++] = x->dim[i] == 1 ? 0 : stride;
    }
    g.grows = g.head && g.stride[g.head - 1] == 0;
    while (g.head && (g.stride[g.head - 1] == 0) == g.grows) g.line *= g.extent[--g.head];
    g.lines = g.out / g.line;
    return g;
}

static inline int64_t line_offset(const growth *g, int64_t l) {
    int64_t at = 0;
    for (int i = g->head - 1; i >= 0; i--) {
        at += l % g->extent[i] * g->stride[i];
        l /= g->extent[i];
    }
    return at;
}

static void forward(const ss_call *c) {
    const growth g = growth_of(c);
    int64_t begin, end;
    ss_split(c->rows * g.lines, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const real *x = (const real *)c->in[0] + u / g.lines * g.in + line_offset(&g, u % g.lines);
        real *y = (real *)c->out[0] + u * g.line;
        if (g.grows)
            for (int64_t i = 0; i < g.line; i++) y[i] = x[0];
        else axis_copy(y, x, g.line);
    }
}

static void backward(const ss_call *c) {
    const growth g = growth_of(c);
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        real *gx = (real *)c->grad_in[0] + r * g.in;
        axis_zero(gx, g.in);
        for (int64_t l = 0; l < g.lines; l++) {
            const real *gy = (const real *)c->grad_out[0] + r * g.out + l * g.line;
            real *to = gx + line_offset(&g, l);
            if (g.grows) {
                real acc = to[0];
                for (int64_t i = 0; i < g.line; i++) acc += gy[i];
                to[0] = acc;
            } else axis_add(to, gy, g.line);
        }
    }
}

static const ss_op_case cases[] = {
    {.attrs = "rank=2 d0=5 d1=7", .inputs = "B:1,7"},
    {.attrs = "rank=2 d0=5 d1=7", .inputs = "B:5,1"},
    {.attrs = "rank=2 d0=5 d1=7", .inputs = "B:1,1"},
    {.attrs = "rank=4 d0=3 d1=4 d2=2 d3=5", .inputs = "B:3,1,2,1"},
    {.attrs = "rank=4 d0=3 d1=4 d2=2 d3=5", .inputs = "B:1,4,1,5"},
    {.attrs = "rank=3 d0=3 d1=4 d2=2", .inputs = "B:3,4,2"},
    {.attrs = "rank=3 d0=1 d1=4 d2=1", .inputs = "B:1,1,1"},
    {.attrs = "rank=0", .inputs = "B:"},
    {.attrs = "rank=2 d0=5 d1=3", .inputs = "I9:1,3"},
    {.attrs = "rank=2 d0=5 d1=3", .inputs = "I9:5,1"},
    {.attrs = "rank=2 d0=5 d1=7", .inputs = "B:5,2", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=2 d0=5 d1=7", .inputs = "B:7", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=2 d0=5 d1=1", .inputs = "B:5,7", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=1 d0=0", .inputs = "B:1", .expect = SS_ERR_VALUE},
    {.attrs = "rank=1 d0=3", .inputs = "P:1", .expect = SS_ERR_VALUE},
    {.attrs = "rank=1 d0=3", .inputs = "B:1 B:1", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_broadcast_to) = {
    .name = "broadcast_to",
    .doc = "Each axis of extent 1 takes the extent d_i by repetition; the other axes and the batch axis stay. Float or int32. The gradient of an element is the sum of those of its copies, one chain "
           "in row-major order.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = axis_cost,
    .cases = cases,
};
