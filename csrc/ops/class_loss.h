/* Losses of class labels with one term a position: nll_loss, multi_margin. A file defines CLASS_NAME, class_term and class_gradient before it includes this. */
#ifndef SS_OPS_CLASS_LOSS_H
#define SS_OPS_CLASS_LOSS_H
#include "ops/loss.h"
#include "ops/op.h"

enum { SCORES, LABELS, CLASS_WEIGHT, SAMPLE_WEIGHT };
enum { AXIS, IGNORE_INDEX, REDUCTION, CLASS_OWN };
#define CLASS_ATTRS                                                                                                                        \
    {"axis", SS_ATTR_INT, 0, -1, SS_MAX_RANK - 1, "class axis of a sample: 0 (PyTorch's axis 1) or the last (-1)"},                        \
    {"ignore_index", SS_ATTR_INT, -100, INT32_MIN, INT32_MAX, "positions with this label count for nothing"},                              \
    {"reduction", SS_ATTR_INT, LOSS_MEAN, LOSS_MEAN, LOSS_SUM, "0: mean over the weights of the counted labels, 1: sum"}

static inline ss_status class_infer(ss_infer *q, const char *name, ss_error *err) {
    char a[96], b[96];
    ss_shape labels;
    ss_status status = loss_infer(q, name, 1, SAMPLE_WEIGHT, err);
    if (status == SS_OK) status = class_axis_infer(q, name, ss_attr_i(q->attr, AXIS), &labels, err);
    if (status != SS_OK) return status;
    if (q->dtype[LABELS] != SS_I32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs integer labels, got floats", name);
    if (!ss_shape_equal(&q->in[LABELS], &labels))
        return SS_FAIL(err, SS_ERR_SHAPE, "%s of scores %s needs labels of shape %s", name, ss_shape_text(&q->in[SCORES], true, a, sizeof a), ss_shape_text(&labels, true, b, sizeof b));
    if (loss_asks(q, CLASS_WEIGHT)) {
        const ss_shape *x = &q->in[SCORES], *w = &q->in[CLASS_WEIGHT];
        const int64_t classes = x->dim[ss_attr_i(q->attr, AXIS) == 0 ? 0 : x->rank - 1];
        if (w->rank != 1 || w->dim[0] != classes || q->role[CLASS_WEIGHT] != SS_ROLE_BUFFER || q->dtype[CLASS_WEIGHT] != SS_F32)
            return SS_FAIL(err, SS_ERR_SHAPE, "%s needs class weights in a float buffer of shape (%lld)", name, (long long)classes);
    }
    return SS_OK;
}

/* The factor of a position: 0 where its label is ignored. */
static inline real class_factor(const ss_call *c, int32_t label) {
    if (label == ss_attr_i(c->attr, IGNORE_INDEX)) return 0;
    return loss_has(c, CLASS_WEIGHT) ? ((const real *)c->in[CLASS_WEIGHT])[label] : 1;
}

/* per_weight: the denominator counts class weights (nll_loss), else positions. */
static inline ss_status class_prepare(const ss_call *c, const char *name, bool per_weight, ss_error *err) {
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    const int32_t *label = c->in[LABELS];
    const real *w = loss_has(c, CLASS_WEIGHT) ? c->in[CLASS_WEIGHT] : NULL;
    for (int64_t i = 0; w && i < k.classes; i++)
        if (!(w[i] >= 0) || isinf(w[i])) return SS_FAIL(err, SS_ERR_VALUE, "%s: the weight of class %lld is %g; weights are finite and not negative", name, (long long)i, (double)w[i]);
    ss_status status = class_labels_check(c, name, k.positions, k.classes, ss_attr_i(c->attr, IGNORE_INDEX), err);
    if (status == SS_OK) status = loss_check_sample_weights(c, name, SAMPLE_WEIGHT, err);
    if (status != SS_OK) return status;
    if (ss_attr_i(c->attr, REDUCTION) == LOSS_SUM) {
        loss_unit_denominator(c);
        return SS_OK;
    }
    real *lane = c->lane_stat;
    for (int l = 0; l < c->fold->lanes; l++) {
        real sum = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++)
            for (int64_t i = r * k.positions; i < (r + 1) * k.positions; i++) {
                const bool counts = label[i] != ss_attr_i(c->attr, IGNORE_INDEX);
                sum = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r), per_weight ? class_factor(c, label[i]) : (real)counts, sum);
            }
        lane[l] = sum;
    }
    return SS_OK;
}

static int64_t class_stat_len(const ss_call *c, bool backward) {
    (void)c;
    return backward ? 0 : 1;
}

#ifdef CLASS_NAME
static real class_sum(const ss_call *c, int64_t row) {
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    const real *x = c->in[SCORES];
    const int32_t *label = c->in[LABELS];
    real sum = 0;
    for (int64_t i = row * k.positions; i < (row + 1) * k.positions; i++) {
        const real factor = class_factor(c, label[i]);
        if (factor != 0) sum = fma_r(factor, class_term(c, x + i * k.classes, k.classes, label[i]), sum);
    }
    return sum;
}

static void stat(const ss_call *c, bool backward) {
    (void)backward;
    real *lane = c->lane_stat;
    int64_t first, last;
    ss_split(c->fold->lanes, 1, c->thread, c->threads, &first, &last);
    for (int64_t l = first; l < last; l++) {
        real acc = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) acc = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r), class_sum(c, r), acc);
        lane[l] = acc;
    }
}

static void forward(const ss_call *c) {
    real *out = c->out[0];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) out[r] = loss_sample_weight(c, SAMPLE_WEIGHT, r) * class_sum(c, r);
}

static void backward(const ss_call *c) {
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    const real *x = c->in[SCORES];
    const int32_t *label = c->in[LABELS];
    real *g = c->grad_in[SCORES];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; g && r < end; r++)
        for (int64_t i = r * k.positions; i < (r + 1) * k.positions; i++) {
            const real factor = class_factor(c, label[i]);
            real *to = g + i * k.classes;
            for (int64_t j = 0; j < k.classes; j++) to[j] = 0;
            if (factor != 0) class_gradient(c, x + i * k.classes, k.classes, label[i], loss_scale(c, loss_sample_weight(c, SAMPLE_WEIGHT, r) * factor), to);
        }
}
#endif

static void class_cost(const ss_call *c, bool both, ss_cost *cost) {
    double n = (double)ss_shape_count(&c->in_shape[SCORES]);
    cost->flops = n * (both ? 6 : 2);
    cost->bytes = n * sizeof(float) * (both ? 3 : 1);
}

#define CLASS_CASES                                          \
    {.inputs = "B:5 I5:"},                                   \
    {.inputs = "B:5,3 I5:3 - W:"},                           \
    {.attrs = "axis=-1", .inputs = "B:3,5 I5:3"},            \
    {.inputs = "B:5 I5: S1:5"},                              \
    {.attrs = "ignore_index=2", .inputs = "B:5 I5:"},        \
    {.attrs = "reduction=1", .inputs = "B:5 I5: S1:5 W:"},   \
    {.inputs = "B:5 I9:", .expect = SS_ERR_VALUE},           \
    {.inputs = "B:5 I5:2", .expect = SS_ERR_SHAPE},          \
    {.inputs = "B:5 B:", .expect = SS_ERR_DTYPE},            \
    {.inputs = "B:5 I5: S1:4", .expect = SS_ERR_SHAPE},      \
    {.inputs = "B:5 I5: P:5", .expect = SS_ERR_SHAPE},       \
    {.inputs = "B: I5:", .expect = SS_ERR_SHAPE}

#endif
