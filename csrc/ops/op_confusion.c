/* Confusion: how often each class was named for each label. */
#include "kernels/variant.h"
#include "ops/loss.h"
#include "ops/op.h"

enum { LOGITS, LABELS, SAMPLE_WEIGHT };
enum { AXIS, IGNORE_INDEX };

static const ss_attr_spec attrs[] = {
    {"axis", SS_ATTR_INT, 0, -1, SS_MAX_RANK - 1, "class axis of a sample: 0 (PyTorch's axis 1) or the last (-1)"},
    {"ignore_index", SS_ATTR_INT, -100, INT32_MIN, INT32_MAX, "positions with this label are not counted"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    ss_shape labels;
    ss_status status = loss_infer(q, "confusion", 1, SAMPLE_WEIGHT, err);
    if (status == SS_OK) status = class_axis_infer(q, "confusion", ss_attr_i(q->attr, AXIS), &labels, err);
    if (status != SS_OK) return status;
    if (q->dtype[LABELS] != SS_I32) return SS_FAIL(err, SS_ERR_DTYPE, "confusion needs integer labels, got floats");
    if (!ss_shape_equal(&q->in[LABELS], &labels))
        return SS_FAIL(err, SS_ERR_SHAPE, "confusion of logits %s needs labels of shape %s, got %s", ss_shape_text(&q->in[LOGITS], true, a, sizeof a),
                       ss_shape_text(&labels, true, b, sizeof b), ss_shape_text(&q->in[LABELS], true, (char[96]){0}, 96));
    return SS_OK;
}

static ss_status prepare(const ss_call *c, ss_error *err) {
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    const int64_t ignore = ss_attr_i(c->attr, IGNORE_INDEX);
    const int32_t *label = c->in[LABELS];
    real *lane = c->lane_stat;
    ss_status status = class_labels_check(c, "confusion", k.positions, k.classes == 1 ? 2 : k.classes, ignore, err);
    if (status == SS_OK) status = loss_check_sample_weights(c, "confusion", SAMPLE_WEIGHT, err);
    if (status != SS_OK) return status;
    for (int l = 0; l < c->fold->lanes; l++) {
        real sum = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) {
            int64_t count = 0;
            for (int64_t i = r * k.positions; i < (r + 1) * k.positions; i++) count += label[i] != ignore;
            sum = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r), (real)count, sum);
        }
        lane[l] = sum;
    }
    return SS_OK;
}

/* Classes counted: a single logit names one of two. */
static int64_t counted(const class_axis *k) { return k->classes == 1 ? 2 : k->classes; }

static int64_t stat_len(const ss_call *c, bool backward) {
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    return backward ? 0 : counted(&k) * counted(&k);
}

/* The first of the largest logits; NaN is never the largest. */
static int64_t named(const real *x, int64_t classes) {
    int64_t best = 0;
    if (classes == 1) return x[0] > 0;
    for (int64_t i = 1; i < classes; i++)
        if (x[i] > x[best] || (x[best] != x[best] && x[i] == x[i])) best = i;
    return best;
}

static void stat(const ss_call *c, bool backward) {
    (void)backward;
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    const int64_t ignore = ss_attr_i(c->attr, IGNORE_INDEX), classes = counted(&k);
    const real *x = c->in[LOGITS];
    const int32_t *label = c->in[LABELS];
    int64_t first, last;
    ss_split(c->fold->lanes, 1, c->thread, c->threads, &first, &last);
    for (int64_t l = first; l < last; l++) {
        real *lane = (real *)c->lane_stat + l * classes * classes;
        for (int64_t i = 0; i < classes * classes; i++) lane[i] = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++)
            for (int64_t i = r * k.positions; i < (r + 1) * k.positions; i++)
                if (label[i] != ignore) lane[label[i] * classes + named(x + i * k.classes, k.classes)] += loss_sample_weight(c, SAMPLE_WEIGHT, r);
    }
}

/* The class that the first position names: a node needs some value. */
static void forward(const ss_call *c) {
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    const real *x = c->in[LOGITS];
    real *out = c->out[0];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) out[r] = (real)named(x + r * k.positions * k.classes, k.classes);
}

static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    (void)backward;
    double n = (double)ss_shape_count(&c->in_shape[LOGITS]);
    cost->flops = n;
    cost->bytes = n * sizeof(float);
}

static const ss_op_case cases[] = {
    {.inputs = "B:10 I10:"},
    {.inputs = "B:3 I3: W:"},
    {.inputs = "B:1 I2:"}, /* binary: logit > 0 */
    {.attrs = "ignore_index=1", .inputs = "B:3 I3:"},
    {.inputs = "B:4,3,5 I4:3,5"},
    {.attrs = "axis=-1 ignore_index=0", .inputs = "B:6,40 I40:6"},
    {.inputs = "B:3,2 I3:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3 I9:", .expect = SS_ERR_VALUE},
    {.inputs = "B:3 I3: W:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B: I3:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3 B:", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_confusion) = {
    .name = "confusion",
    .doc = "Confusion matrix: entry (i, j) is the weighted number of positions with label i for which class j was named.\n\n"
           "logits `(B, C, ...)` (axis 0, the default) or `(B, ..., C)` (axis -1), integer labels of that shape without C, sample weight `(B)` or absent (all 1). The first of equally large logits "
           "is named; NaN never is unless all are. With C = 1 labels are 0 and 1, and a logit above 0 names 1. Positions labelled ignore_index are not counted.\n\n"
           "The measure is a vector of C * C sums (4 with C = 1) in row-major order.",
    .flags = SS_OP_METRIC,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .prepare = prepare,
    .stat_len = stat_len,
    .stat = stat,
    .cost = cost,
    .cases = cases,
};
