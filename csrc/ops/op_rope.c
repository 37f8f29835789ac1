/* rope: rotary positions. */
#include "kernels/variant.h"
#include "ops/op.h"

enum { X, COS, SIN };
enum { INTERLEAVED };

static const ss_attr_spec attrs[] = {
    {"interleaved", SS_ATTR_BOOL, 0, 0, 1, "1: pairs are neighbours (2i, 2i + 1); 0: they lie half the features apart (i, i + D/2)"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96];
    const ss_shape *x = &q->in[X];
    if (q->n_in != 3) return SS_FAIL(err, SS_ERR_SHAPE, "rope takes x and tables of cosines and sines, not %d inputs", q->n_in);
    if (x->rank < 2 || q->role[X] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_SHAPE, "rope needs a batched input (B, ..., T, D)");
    if (x->dim[x->rank - 1] % 2) return SS_FAIL(err, SS_ERR_SHAPE, "rope needs an even number of features, got %s", ss_shape_text(x, true, a, sizeof a));
    for (int i = 0; i < 3; i++)
        if (q->dtype[i] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "rope: input %d must be float", i);
    for (int i = COS; i <= SIN; i++) {
        const ss_shape *w = &q->in[i];
        if (w->rank != 2 || q->role[i] != SS_ROLE_BUFFER || w->dim[0] < x->dim[x->rank - 2] || w->dim[1] != x->dim[x->rank - 1] / 2)
            return SS_FAIL(err, SS_ERR_SHAPE, "rope of %s needs tables in buffers of at least %lld rows and %lld columns", ss_shape_text(x, true, a, sizeof a), (long long)x->dim[x->rank - 2],
                           (long long)x->dim[x->rank - 1] / 2);
    }
    q->n_out = 1;
    q->out[0] = *x;
    return SS_OK;
}

/* sign 1 turns forward, -1 back. */
static void rotate(const ss_call *c, const real *x, real sign, real *y) {
    const ss_shape *s = &c->in_shape[X];
    const int64_t t = s->dim[s->rank - 2], d = s->dim[s->rank - 1], half = d / 2, lines = ss_shape_count(s) / d;
    const bool near = c->attr[INTERLEAVED] != 0;
    int64_t begin, end;
    ss_split(c->rows * lines, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const real *restrict from = x + u * d, *restrict cosine = (const real *)c->in[COS] + u % t * half, *restrict sine = (const real *)c->in[SIN] + u % t * half;
        real *restrict to = y + u * d;
        for (int64_t i = 0; i < half; i++) {
            const int64_t p = near ? 2 * i : i, q = near ? 2 * i + 1 : i + half;
            const real a = from[p], b = from[q], w = sign * sine[i];
            to[p] = fma_r(a, cosine[i], -(b * w));
            to[q] = fma_r(a, w, b * cosine[i]);
        }
    }
}

static void forward(const ss_call *c) { rotate(c, c->in[X], 1, c->out[0]); }
static void backward(const ss_call *c) {
    if (c->grad_in[X]) rotate(c, c->grad_out[0], -1, c->grad_in[X]);
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[X]);
    out->flops = n * (both ? 6 : 3);
    out->bytes = n * 4 * (both ? 4 : 2);
}

static const ss_op_case cases[] = {
    {.inputs = "B:2,5,6 S1:5,3 S:5,3"},
    {.attrs = "interleaved=1", .inputs = "B:5,6 S1:7,3 S1:7,3"},
    {.inputs = "B:2,3,4,8 S1:4,4 S1:4,4"},
    {.inputs = "B:5,7 S1:5,3 S1:5,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5,6 S1:4,3 S1:5,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5,6 P:5,3 S1:5,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:6 S1:5,3 S1:5,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5,6", .expect = SS_ERR_SHAPE},
    {.inputs = "I4:5,6 S1:5,3 S1:5,3", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_rope) = {
    .name = "rope",
    .doc = "Rotary positions: the pair of features (a, b) at position t becomes `(a cos - b sin, a sin + b cos)` with the tables' row t.\n\n"
           "x `(B, ..., T, D)`, tables `(at least T, D/2)` in buffers. Pairs lie half the features apart (GPT-NeoX, Llama), or next to each other with interleaved. The gradient is the rotation back. "
           "Su and others: \"RoFormer: enhanced transformer with rotary position embedding\", 2021.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
