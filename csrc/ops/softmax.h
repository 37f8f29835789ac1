/* What softmax and log_softmax share: the axis, and how a value is cut into rows. */
#ifndef SS_OPS_SOFTMAX_H
#define SS_OPS_SOFTMAX_H
#include "kernels/rowreduce.h"
#include "kernels/vmath.h"
#include "ops/op.h"

/* A sample is (outer, n, inner): the row runs along n. */
typedef struct softmax_size {
    int64_t outer, n, inner;
} softmax_size;

enum { SOFTMAX_STRIP = 64 }; /* neighbouring rows that are worked on together when inner > 1 */

static inline softmax_size softmax_size_of(const ss_call *c) {
    const ss_shape *s = &c->in_shape[0];
    int axis = (int)c->attr[0];
    if (axis < 0) axis += s->rank;
    softmax_size z = {1, s->dim[axis], 1};
    for (int i = 0; i < axis; i++) z.outer *= s->dim[i];
    for (int i = axis + 1; i < s->rank; i++) z.inner *= s->dim[i];
    return z;
}

static inline ss_status softmax_infer(ss_infer *q, const char *name, ss_error *err) {
    char text[96];
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes 1 input, not %d", name, q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "%s: the input must be an activation, one row a sample", name);
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s: the input must be float", name);
    int axis = (int)q->attr[0], rank = q->in[0].rank;
    if (axis < -rank || axis >= rank)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s: axis %d (counted after the batch axis) does not exist in %s", name, axis, ss_shape_text(&q->in[0], true, text, sizeof text));
    q->n_out = 1;
    q->out[0] = q->in[0];
    return SS_OK;
}

static inline void softmax_cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[0]);
    out->flops = n * (20 + (both ? 4 : 0));
    out->bytes = n * 4 * (2 + (both ? 3 : 0));
}

/* Work is cut into units: whole rows when inner is 1, otherwise strips of up to SOFTMAX_STRIP neighbouring rows. */
static inline void softmax_my_units(const ss_call *c, const softmax_size *z, int64_t *begin, int64_t *end) {
    ss_split(c->rows * z->outer * ss_round_up(z->inner, SOFTMAX_STRIP) / SOFTMAX_STRIP, 1, c->thread, c->threads, begin, end);
}

/* Where unit u begins, and how many rows are in it; elements of a row are z->inner apart. */
static inline int64_t softmax_unit(const softmax_size *z, int64_t u, int64_t *width) {
    int64_t strips = ss_round_up(z->inner, SOFTMAX_STRIP) / SOFTMAX_STRIP, at = u % strips * SOFTMAX_STRIP;
    *width = ss_min(SOFTMAX_STRIP, z->inner - at);
    return u / strips * z->n * z->inner + at;
}

static const ss_attr_spec softmax_attrs[] = {
    {"axis", SS_ATTR_INT, -1, -SS_MAX_RANK, SS_MAX_RANK - 1, "axis that sums to 1, counted after the batch axis; negative: from the end"},
    {0},
};

#define SOFTMAX_CASES                                                    \
    {.inputs = "B:10"}, {.inputs = "B:3,37"}, {.inputs = "B:2,3,130"},   \
    {.attrs = "axis=0", .inputs = "B:5,70"},                             \
    {.attrs = "axis=-2", .inputs = "B:2,17,3"},                          \
    {.attrs = "axis=1", .inputs = "B:4,16,1"},                           \
    {.attrs = "axis=2", .inputs = "B:4,16", .expect = SS_ERR_SHAPE},     \
    {.attrs = "axis=0.5", .inputs = "B:4", .expect = SS_ERR_VALUE},      \
    {.inputs = "B:", .expect = SS_ERR_SHAPE},                            \
    {.inputs = "P:4", .expect = SS_ERR_VALUE},                           \
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},                       \
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE}

#endif
