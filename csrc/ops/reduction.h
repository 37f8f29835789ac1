/* What reductions share: `count` neighbouring axes from `first` on disappear. A sample is seen as (outer, n, inner); the reduced elements lie `inner` apart.
 *
 * Order: where inner is 1, 16 interleaved accumulators and a tree (kernels/rowreduce.h), otherwise one chain along n for each of the inner elements. */
#ifndef SS_OPS_REDUCTION_H
#define SS_OPS_REDUCTION_H
#include <math.h>
#include "kernels/rowreduce.h"
#include "ops/op.h"

enum { REDUCTION_FIRST, REDUCTION_COUNT };
#define REDUCTION_ATTRS \
    {"first", SS_ATTR_INT, 0, 0, SS_MAX_RANK - 1, "first of the reduced axes, counted after the batch axis"}, \
    {"count", SS_ATTR_INT, 1, 1, SS_MAX_RANK, "how many neighbouring axes are reduced"}

enum { REDUCTION_STRIP = 64 };

typedef struct reduction {
    int64_t outer, n, inner, strips, units; /* units of work: of one sample */
} reduction;

static inline reduction reduction_of(const ss_call *c) {
    const ss_shape *s = &c->in_shape[0];
    const int first = (int)c->attr[REDUCTION_FIRST], end = first + (int)c->attr[REDUCTION_COUNT];
    reduction r = {1, 1, 1, 1, 1};
    for (int i = 0; i < s->rank; i++) *(i < first ? &r.outer : i < end ? &r.n : &r.inner) *= s->dim[i];
    r.strips = (r.inner + REDUCTION_STRIP - 1) / REDUCTION_STRIP;
    r.units = r.outer * r.strips;
    return r;
}

static inline ss_status reduction_infer(ss_infer *q, const char *name, ss_error *err) {
    char text[96];
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes 1 input, not %d", name, q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "%s: the input must be an activation, one row a sample", name);
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s: the input must be float", name);
    const int first = (int)q->attr[REDUCTION_FIRST], count = (int)q->attr[REDUCTION_COUNT], rank = q->in[0].rank;
    if (first + count > rank)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s: axes %d to %d (counted after the batch axis) do not exist in %s", name, first, first + count - 1, ss_shape_text(&q->in[0], true, text, sizeof text));
    q->n_out = 1;
    q->out[0].rank = rank - count;
    for (int i = 0; i < q->out[0].rank; i++) q->out[0].dim[i] = q->in[0].dim[i < first ? i : i + count];
    return SS_OK;
}

/* Where unit u of all rows begins in the input and in the output, and how many inner elements it has. */
static inline int64_t reduction_unit(const reduction *r, int64_t u, int64_t *out, int64_t *width) {
    int64_t strip = u % r->strips, group = u / r->strips; /* group counts rows * outer */
    *width = ss_min(r->inner - strip * REDUCTION_STRIP, REDUCTION_STRIP);
    *out = group * r->inner + strip * REDUCTION_STRIP;
    return group * r->n * r->inner + strip * REDUCTION_STRIP;
}

static inline void reduction_my_units(const ss_call *c, const reduction *r, int64_t *begin, int64_t *end) { ss_split(c->rows * r->units, 1, c->thread, c->threads, begin, end); }

static inline void reduction_cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[0]);
    out->flops = n * (both ? 3 : 1);
    out->bytes = n * 4 * (both ? 3 : 1);
}

#define REDUCTION_CASES(KIND)                                      \
    {.inputs = KIND ":37"},                                        \
    {.attrs = "first=1", .inputs = KIND ":3,50"},                  \
    {.attrs = "first=0", .inputs = KIND ":5,70"},                  \
    {.attrs = "first=1 count=2", .inputs = KIND ":3,4,5"},         \
    {.attrs = "first=1", .inputs = KIND ":2,3,4"},                 \
    {.attrs = "first=0 count=3", .inputs = KIND ":2,3,4"},         \
    {.attrs = "first=1", .inputs = KIND ":3,1,2"},                 \
    {.attrs = "first=1", .inputs = "B:4", .expect = SS_ERR_SHAPE}, \
    {.inputs = "B:", .expect = SS_ERR_SHAPE},                      \
    {.inputs = "P:4", .expect = SS_ERR_VALUE},                     \
    {.inputs = "I4:4", .expect = SS_ERR_DTYPE},                    \
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE}

/* A loop over this thread's units, with x and y at their beginnings. */
#define REDUCTION_EACH                                       \
    reduction r = reduction_of(c);                           \
    int64_t begin, end, at, to, width;                       \
    reduction_my_units(c, &r, &begin, &end);                 \
    for (int64_t u = begin; u < end && (at = reduction_unit(&r, u, &to, &width), 1); u++)

#endif
