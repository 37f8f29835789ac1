/* What operators that move elements along one axis share: a sample seen as (outer, extent, inner) in memory. Inner runs are contiguous.
 *
 * Elements are moved as `real`: a float and an int32 have 4 bytes and plain moves keep their bits. The f64 variant moves floats (doubles) alone.
 */
#ifndef SS_OPS_AXIS_H
#define SS_OPS_AXIS_H
#include <string.h>
#include "kernels/variant.h"
#include "ops/op.h"

#define AXIS_ATTR {"axis", SS_ATTR_INT, 0, -SS_MAX_RANK, SS_MAX_RANK - 1, "axis counted after the batch axis; negative: from the end"}

typedef struct axis_view {
    int64_t outer, extent, inner;
} axis_view;

/* The axis of an attribute among those of `shape`, or -1. */
static inline int axis_number(double attr, const ss_shape *shape) {
    int axis = (int)attr < 0 ? (int)attr + shape->rank : (int)attr;
    return axis >= 0 && axis < shape->rank ? axis : -1;
}

static inline axis_view axis_view_of(const ss_shape *shape, int axis, ss_layout layout) {
    const bool last = layout == SS_CHANNELS_LAST && shape->rank >= 2; /* memory order: axes 1, 2, ..., 0 */
    axis_view v = {1, shape->dim[axis], 1};
    for (int i = 0; i < shape->rank; i++) {
        if (i == axis) continue;
        const bool before = last ? i != 0 && (axis == 0 || i < axis) : i < axis;
        *(before ? &v.outer : &v.inner) *= shape->dim[i];
    }
    return v;
}

/* Input 0 is batched, of either dtype, and has the axis of attribute 0. The output starts as a copy of it. */
static inline ss_status axis_infer(ss_infer *q, const char *name, int n_in, ss_error *err) {
    char text[96];
    if (q->n_in != n_in) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes %d input%s, not %d", name, n_in, n_in == 1 ? "" : "s", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "%s: the input must be an activation, one row a sample", name);
    if (axis_number(q->attr[0], &q->in[0]) < 0)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s: axis %d (counted after the batch axis) does not exist in %s", name, (int)q->attr[0], ss_shape_text(&q->in[0], true, text, sizeof text));
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->out_dtype[0] = q->dtype[0];
    return SS_OK;
}

static inline void axis_copy(real *restrict to, const real *restrict from, int64_t n) {
    if (n < 16) /* a call costs more than a short run */
        for (int64_t i = 0; i < n; i++) to[i] = from[i];
    else memcpy(to, from, (size_t)n * sizeof(real));
}
static inline void axis_zero(real *to, int64_t n) { memset(to, 0, (size_t)n * sizeof(real)); }
static inline void axis_add(real *restrict to, const real *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

static inline void axis_cost(const ss_call *c, bool both, ss_cost *out) {
    out->flops = 0;
    out->bytes = (double)(ss_shape_count(&c->in_shape[0]) + ss_shape_count(&c->out_shape[0])) * 4 * (both ? 2 : 1);
}

/* An index of the data: int32 where it is batched, a whole number in a float where it is a buffer. */
static inline int64_t axis_index(const ss_call *c, int input, const void *index, int64_t at) {
    if (c->role[input] == SS_ROLE_BATCHED) return ((const int32_t *)index)[at];
    const real value = ((const real *)index)[at];
    return value >= 0 && value < (real)1e9 ? (int64_t)value : -1;
}

/* Before the step: batched indices (input `input`, `positions` a sample) lie in [0, bound). Indices that are computed inside the network are not at hand then. */
static inline ss_status axis_check_indices(const ss_call *c, const char *op, int input, int64_t bound, const char *hint, ss_error *err) {
    real *lane = c->lane_stat;
    for (int l = 0; l < c->fold->lanes; l++) lane[l] = 0;
    if (c->role[input] != SS_ROLE_BATCHED || !c->in[input]) return SS_OK;
    const int32_t *index = c->in[input];
    const int64_t positions = ss_shape_count(&c->in_shape[input]);
    for (int64_t i = 0; i < c->rows * positions; i++) {
        if (index[i] >= 0 && index[i] < bound) continue;
        const long long sample = (long long)(c->sample0 + i / positions), position = (long long)(i % positions), most = (long long)bound - 1;
        if (positions == 1) return SS_FAIL(err, SS_ERR_VALUE, "%s: the index of sample %lld of the batch is %d; %s 0 to %lld", op, sample, index[i], hint, most);
        return SS_FAIL(err, SS_ERR_VALUE, "%s: the index of sample %lld of the batch at position %lld is %d; %s 0 to %lld", op, sample, position, index[i], hint, most);
    }
    return SS_OK;
}

#endif
