/* relayout: the same value in the other memory layout. */
#include <string.h>
#include "kernels/variant.h"
#include "ops/op.h"

enum { TO_CHANNELS_LAST };
static const ss_attr_spec attrs[] = {
    {"to_channels_last", SS_ATTR_BOOL, 1, 0, 1, "layout of the output: 1 channels last, 0 plain"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "relayout takes 1 input, not %d", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "relayout: the input must be an activation, one row a sample");
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "relayout: the input must be float");
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->any_layout = true;
    return SS_OK;
}

enum { STRIP = 16 };

/* to[j][i] = from[i][j] for a matrix m x n, columns [first, first + STRIP) of it, in blocks of 16 x 16. */
static void transpose_strip(int64_t m, int64_t n, int64_t first, const real *restrict from, real *restrict to) {
    int64_t last = ss_min(first + STRIP, n);
    for (int64_t block = 0; block < m; block += STRIP) {
        int64_t stop = ss_min(block + STRIP, m);
        for (int64_t j = first; j < last; j++)
            for (int64_t i = block; i < stop; i++) to[j * m + i] = from[i * n + j];
    }
}

/* Samples of `from`, matrices m x n, transposed into `to`; threads share them by strips of columns. */
static void transpose(const ss_call *c, int64_t m, int64_t n, const real *from, real *to) {
    int64_t strips = ss_round_up(n, STRIP) / STRIP, begin, end;
    if (m == 1 || n == 1) {
        ss_my_elements(c, c->rows * m * n, &begin, &end);
        memcpy(to + begin, from + begin, (size_t)(end - begin) * sizeof(real));
        return;
    }
    ss_split(c->rows * strips, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        int64_t row = u / strips;
        transpose_strip(m, n, u % strips * STRIP, from + row * m * n, to + row * m * n);
    }
}

/* out receives a value that lies in layout `from`, in the layout `to`. */
static void convert(const ss_call *c, ss_layout from, ss_layout to, const real *in, real *out) {
    const ss_shape *s = &c->in_shape[0];
    int64_t channels = s->rank >= 2 ? s->dim[0] : 1, inner = ss_shape_count(s) / channels;
    if (from == to) channels = 1, inner = ss_shape_count(s);
    if (from == SS_PLAIN) transpose(c, channels, inner, in, out);
    else transpose(c, inner, channels, in, out);
}

static ss_layout target(const ss_call *c) { return c->attr[TO_CHANNELS_LAST] != 0 ? SS_CHANNELS_LAST : SS_PLAIN; }

static void forward(const ss_call *c) { convert(c, c->layout, target(c), c->in[0], c->out[0]); }

static void backward(const ss_call *c) { convert(c, target(c), c->layout, c->grad_out[0], c->grad_in[0]); }

static void cost(const ss_call *c, bool both, ss_cost *out) {
    out->flops = 0;
    out->bytes = (double)ss_shape_count(&c->out_shape[0]) * 8 * (both ? 2 : 1);
}

static const ss_op_case cases[] = {
    {.inputs = "B:3,4,5"},
    {.attrs = "to_channels_last=0", .inputs = "B:3,4,5"},
    {.inputs = "B:17,33"},
    {.attrs = "to_channels_last=0", .inputs = "B:35,6,7"},
    {.inputs = "B:1,20"},
    {.inputs = "B:9"},
    {.inputs = "B:"},
    {.attrs = "to_channels_last=2", .inputs = "B:3,4", .expect = SS_ERR_VALUE},
    {.inputs = "B:3 B:3", .expect = SS_ERR_SHAPE},
    {.inputs = "P:3", .expect = SS_ERR_VALUE},
    {.inputs = "I4:3", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_relayout) = {
    .name = "relayout",
    .doc = "The same value in another memory layout: (C, H, W) to (H, W, C) and back. The shape stays; values with fewer than 2 axes are copied. c->layout is the layout of the input. "
           "The plan inserts it where neighbours want different layouts.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
