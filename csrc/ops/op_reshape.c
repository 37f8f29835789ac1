/* reshape: the same elements in row-major order under another shape. */
#include "kernels/variant.h"
#include "ops/op.h"

enum { RANK, DIM0 };
#define EXTENT_DOC "extent; -1 (at most once): what the others leave"
static const ss_attr_spec attrs[] = {
    {"rank", SS_ATTR_INT, 1, 0, SS_MAX_RANK, "number of axes after the batch axis"},
    {"d0", SS_ATTR_INT, -1, -1, 1099511627776.0, EXTENT_DOC},
    {"d1", SS_ATTR_INT, -1, -1, 1099511627776.0, EXTENT_DOC},
    {"d2", SS_ATTR_INT, -1, -1, 1099511627776.0, EXTENT_DOC},
    {"d3", SS_ATTR_INT, -1, -1, 1099511627776.0, EXTENT_DOC},
    {"d4", SS_ATTR_INT, -1, -1, 1099511627776.0, EXTENT_DOC},
    {"d5", SS_ATTR_INT, -1, -1, 1099511627776.0, EXTENT_DOC},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "reshape takes 1 input, not %d", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "reshape: the input must be batched");
    ss_shape out = {.rank = (int)q->attr[RANK]};
    int64_t count = ss_shape_count(&q->in[0]), known = 1;
    int open = -1;
    bool fits = true;
    for (int i = 0; i < out.rank; i++) {
        out.dim[i] = ss_attr_i(q->attr, DIM0 + i);
        if (out.dim[i] == -1) {
            if (open >= 0) return SS_FAIL(err, SS_ERR_VALUE, "reshape: only one extent may be -1, axes %d and %d are", open, i);
            open = i;
        } else fits = fits && out.dim[i] > 0 && ss_mul(known, out.dim[i], &known);
    }
    if (open >= 0 && fits) out.dim[open] = count / known;
    fits = fits && (open >= 0 ? count % known == 0 && count >= known : known == count);
    if (!fits) {
        if (open >= 0) out.dim[open] = -1;
        return SS_FAIL(err, SS_ERR_SHAPE, "reshape: %s has %lld elements a sample and does not take the shape %s", ss_shape_text(&q->in[0], true, a, sizeof a), (long long)count,
                       ss_shape_text(&out, true, b, sizeof b));
    }
    q->n_out = 1;
    q->out[0] = out;
    q->out_dtype[0] = q->dtype[0];
    return SS_OK;
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    (void)c, (void)both;
    *out = (ss_cost){0, 0};
}

static const ss_op_case cases[] = {
    {.attrs = "rank=2 d0=6 d1=4", .inputs = "B:2,3,4"},
    {.attrs = "rank=2 d0=-1 d1=4", .inputs = "B:2,3,4"},
    {.inputs = "B:2,3,4"},
    {.attrs = "rank=0", .inputs = "B:1"},
    {.attrs = "rank=3 d0=1 d1=-1 d2=1", .inputs = "B:"},
    {.attrs = "rank=1 d0=6", .inputs = "I9:2,3"},
    {.attrs = "rank=2 d0=-1 d1=-1", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.attrs = "rank=2 d0=3 d1=-1", .inputs = "B:4", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=2 d0=8 d1=-1", .inputs = "B:4", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=1 d0=5", .inputs = "B:4", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=2 d0=0 d1=4", .inputs = "B:4", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=3 d0=1099511627776 d1=1099511627776 d2=4", .inputs = "B:4", .expect = SS_ERR_SHAPE},
    {.attrs = "d0=-2", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.attrs = "rank=7", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {0},
};

const ss_op SS_FN(ss_op_reshape) = {
    .name = "reshape",
    .doc = "The elements of each sample in row-major order under the shape (d0, ..., d[rank-1]); one extent may be -1. The batch axis stays. No work: input and output share memory.",
    .flags = SS_OP_ALIAS,
    .attrs = attrs,
    .infer = infer,
    .cost = cost,
    .cases = cases,
};
