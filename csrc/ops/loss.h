/* What losses and metrics share: the class axis, checks of labels and sample weights, denominators. Included by op_*.c alone. */
#ifndef SS_OPS_LOSS_H
#define SS_OPS_LOSS_H
#include <math.h>
#include <stdbool.h>
#include "kernels/variant.h"
#include "ops/op.h"

enum { LOSS_MEAN, LOSS_SUM };

/* The optional input `index` is there. */
static inline bool loss_has(const ss_call *c, int index) { return c->n_in > index && c->in_shape[index].rank >= 0; }
static inline bool loss_asks(const ss_infer *q, int index) { return q->n_in > index && q->in[index].rank >= 0; }

/* Input 0 is batched float of rank at least `rank`; the weight of samples, if there, batched float scalars. Sets the output: one scalar a sample. */
static inline ss_status loss_infer(ss_infer *q, const char *op, int rank, int sample_weight, ss_error *err) {
    char text[96];
    const ss_shape *x = &q->in[0];
    if (q->n_in < 2 || q->in[1].rank < 0) return SS_FAIL(err, SS_ERR_SHAPE, "%s compares two inputs, got %d", op, q->n_in);
    if (q->n_in > sample_weight + 1) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes at most %d inputs, not %d", op, sample_weight + 1, q->n_in);
    if (x->rank < rank || q->role[0] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s needs a batched input with at least %d axes besides the batch, got %s", op, rank,
                       x->rank < 0 ? "none" : ss_shape_text(x, q->role[0] == SS_ROLE_BATCHED, text, sizeof text));
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs float predictions, got integers", op);
    if (q->role[1] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_SHAPE, "%s needs one target per sample of the batch", op);
    if (loss_asks(q, sample_weight)) {
        if (q->in[sample_weight].rank != 0 || q->role[sample_weight] != SS_ROLE_BATCHED)
            return SS_FAIL(err, SS_ERR_SHAPE, "%s needs sample weights of shape (B), got %s", op,
                           ss_shape_text(&q->in[sample_weight], q->role[sample_weight] == SS_ROLE_BATCHED, text, sizeof text));
        if (q->dtype[sample_weight] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs float sample weights, got integers", op);
    }
    q->n_out = 1;
    q->out[0] = (ss_shape){.rank = 0};
    return SS_OK;
}

static inline real loss_sample_weight(const ss_call *c, int input, int64_t row) { return loss_has(c, input) ? ((const real *)c->in[input])[row] : 1; }

/* Sample weights are finite and not negative. */
static inline ss_status loss_check_sample_weights(const ss_call *c, const char *op, int input, ss_error *err) {
    if (!loss_has(c, input)) return SS_OK;
    const real *w = c->in[input];
    for (int64_t r = 0; r < c->rows; r++)
        if (!(w[r] >= 0) || isinf(w[r]))
            return SS_FAIL(err, SS_ERR_VALUE, "%s: the weight of sample %lld of the batch is %g; weights are finite and not negative", op, (long long)(c->sample0 + r), (double)w[r]);
    return SS_OK;
}

/* A loss that is a plain sum has denominator 1: it stands in the lane of the batch's first sample, and 0 in the others. */
static inline void loss_unit_denominator(const ss_call *c) {
    real *lane = c->lane_stat;
    for (int l = 0; l < c->fold->lanes; l++) lane[l] = c->sample0 + c->fold->row[l] == 0 ? 1 : 0;
}

/* weight / denominator; 0 when the whole batch has no weight, so a batch of padding moves nothing. */
static inline real loss_scale(const ss_call *c, real weight) { return c->denominator > 0 ? (real)ss_loss_weight(c) * weight / (real)c->denominator : 0; }

/* Logits as rows of `classes` values that lie side by side, `positions` rows a sample. */
typedef struct class_axis {
    int64_t classes, positions;
} class_axis;

static inline class_axis class_axis_of(const ss_call *c, int64_t axis) {
    const ss_shape *x = &c->in_shape[0];
    int64_t classes = x->dim[axis == 0 ? 0 : x->rank - 1];
    return (class_axis){classes, ss_shape_count(x) / classes};
}

/* Checks the axis attribute, answers the layout that puts classes side by side, and the labels' shape. */
static inline ss_status class_axis_infer(ss_infer *q, const char *op, int64_t axis, ss_shape *labels, ss_error *err) {
    char text[96];
    const ss_shape *x = &q->in[0];
    if (axis < 0) axis += x->rank;
    if (axis != 0 && axis != x->rank - 1)
        return SS_FAIL(err, SS_ERR_VALUE, "%s takes classes on the first axis after the batch (axis=0) or on the last (axis=-1), not on axis %lld of %s", op, (long long)axis,
                       ss_shape_text(x, true, text, sizeof text));
    q->layout = axis == x->rank - 1 ? SS_PLAIN : SS_CHANNELS_LAST;
    *labels = (ss_shape){.rank = x->rank - 1};
    for (int i = 0; i < labels->rank; i++) labels->dim[i] = x->dim[axis == 0 ? i + 1 : i];
    return SS_OK;
}

/* Labels (input 1) lie in [0, bound) or equal `ignore`. */
static inline ss_status class_labels_check(const ss_call *c, const char *op, int64_t positions, int64_t bound, int64_t ignore, ss_error *err) {
    const int32_t *label = c->in[1];
    for (int64_t i = 0; i < c->rows * positions; i++) {
        if ((label[i] >= 0 && label[i] < bound) || label[i] == ignore) continue;
        long long sample = (long long)(c->sample0 + i / positions), position = (long long)(i % positions);
        if (positions == 1)
            return SS_FAIL(err, SS_ERR_VALUE, "%s: the label of sample %lld of the batch is %d; with %lld classes labels are 0 to %lld, or %lld to be ignored", op, sample, label[i],
                           (long long)bound, (long long)bound - 1, (long long)ignore);
        return SS_FAIL(err, SS_ERR_VALUE, "%s: the label of sample %lld of the batch at position %lld is %d; with %lld classes labels are 0 to %lld, or %lld to be ignored", op, sample,
                       position, label[i], (long long)bound, (long long)bound - 1, (long long)ignore);
    }
    return SS_OK;
}

#endif
