/* Top-k accuracy: the part of the labels among the k largest logits. */
#include "kernels/variant.h"
#include "ops/loss.h"
#include "ops/op.h"

enum { LOGITS, LABELS, SAMPLE_WEIGHT };
enum { AXIS, IGNORE_INDEX, TOP };

static const ss_attr_spec attrs[] = {
    {"axis", SS_ATTR_INT, 0, -1, SS_MAX_RANK - 1, "class axis of a sample: 0 (PyTorch's axis 1) or the last (-1)"},
    {"ignore_index", SS_ATTR_INT, -100, INT32_MIN, INT32_MAX, "positions with this label are not counted"},
    {"k", SS_ATTR_INT, 5, 1, 1e9, "how many of the largest logits count"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    ss_shape labels;
    ss_status status = loss_infer(q, "top_k_accuracy", 1, SAMPLE_WEIGHT, err);
    if (status == SS_OK) status = class_axis_infer(q, "top_k_accuracy", ss_attr_i(q->attr, AXIS), &labels, err);
    if (status != SS_OK) return status;
    if (q->dtype[LABELS] != SS_I32) return SS_FAIL(err, SS_ERR_DTYPE, "top_k_accuracy needs integer labels, got floats");
    if (!ss_shape_equal(&q->in[LABELS], &labels))
        return SS_FAIL(err, SS_ERR_SHAPE, "top_k_accuracy of logits %s needs labels of shape %s, got %s", ss_shape_text(&q->in[LOGITS], true, a, sizeof a),
                       ss_shape_text(&labels, true, b, sizeof b), ss_shape_text(&q->in[LABELS], true, (char[96]){0}, 96));
    return SS_OK;
}

static ss_status prepare(const ss_call *c, ss_error *err) {
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    const int64_t ignore = ss_attr_i(c->attr, IGNORE_INDEX);
    const int32_t *label = c->in[LABELS];
    real *lane = c->lane_stat;
    ss_status status = class_labels_check(c, "top_k_accuracy", k.positions, k.classes, ignore, err);
    if (status == SS_OK) status = loss_check_sample_weights(c, "top_k_accuracy", SAMPLE_WEIGHT, err);
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

static int64_t stat_len(const ss_call *c, bool backward) {
    (void)c;
    return backward ? 0 : 1;
}
static int64_t saved_bytes(const ss_call *c) {
    (void)c;
    return sizeof(real); /* the sample's number of right answers */
}

/* Fewer than k logits come before the label's own: larger ones, and equal ones of lower classes. NaN is never among the largest. */
static bool is_right(const real *x, int64_t classes, int64_t label, int64_t k) {
    const real own = x[label];
    int64_t before = own != own ? k : 0;
    for (int64_t i = 0; i < label; i++) before += x[i] >= own;
    for (int64_t i = label + 1; i < classes; i++) before += x[i] > own;
    return before < k;
}

static real count_right(const ss_call *c, const class_axis *k, int64_t row) {
    const int64_t ignore = ss_attr_i(c->attr, IGNORE_INDEX);
    const real *x = c->in[LOGITS];
    const int32_t *label = c->in[LABELS];
    int64_t count = 0;
    for (int64_t i = row * k->positions; i < (row + 1) * k->positions; i++)
        if (label[i] != ignore) count += is_right(x + i * k->classes, k->classes, label[i], ss_attr_i(c->attr, TOP));
    return (real)count;
}

static void stat(const ss_call *c, bool backward) {
    (void)backward;
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    real *lane = c->lane_stat, *saved = c->saved;
    int64_t first, last;
    ss_split(c->fold->lanes, 1, c->thread, c->threads, &first, &last);
    for (int64_t l = first; l < last; l++) {
        real acc = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) {
            real count = count_right(c, &k, r);
            if (saved) saved[r] = count;
            acc = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r), count, acc);
        }
        lane[l] = acc;
    }
}

static void forward(const ss_call *c) {
    const class_axis k = class_axis_of(c, ss_attr_i(c->attr, AXIS));
    const real *saved = c->saved;
    real *out = c->out[0];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) out[r] = saved ? saved[r] : count_right(c, &k, r);
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
    {.inputs = "B:3 I3: -"},
    {.attrs = "k=1", .inputs = "B:6 I6:"},
    {.attrs = "k=3", .inputs = "B:20 I20: W:"},
    {.attrs = "k=0", .inputs = "B:6 I6:", .expect = SS_ERR_VALUE},
    {.attrs = "ignore_index=1", .inputs = "B:3 I3:"},
    {.inputs = "B:4,3,5 I4:3,5"},                          /* per pixel */
    {.inputs = "B:4,6 I4:6 W:"},
    {.attrs = "axis=-1 ignore_index=0", .inputs = "B:6,40 I40:6"}, /* a sequence */
    {.attrs = "axis=1", .inputs = "B:6,5 I5:6"},
    {.inputs = "B:3,2 I3:3", .expect = SS_ERR_SHAPE},
    {.attrs = "axis=-1", .inputs = "B:3,2 I3:2", .expect = SS_ERR_SHAPE},
    {.attrs = "axis=1", .inputs = "B:3,2,2 I3:3,2", .expect = SS_ERR_VALUE},
    {.attrs = "axis=1", .inputs = "B:3 I3:", .expect = SS_ERR_VALUE},
    {.inputs = "B:3 I3: W:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B: I3:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3 B:", .expect = SS_ERR_DTYPE},
    {.inputs = "I3:3 I3:", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_top_k_accuracy) = {
    .name = "top_k_accuracy",
    .doc = "Top-k accuracy: weighted part of the labels whose logit is among the k largest.\n\n"
           "logits `(B, C, ...)` (axis 0, the default) or `(B, ..., C)` (axis -1), integer labels of that shape without C, sample weight `(B)` or absent (all 1).\n\n"
           "Of equally large logits the first count; a label whose logit is NaN is wrong. Positions labelled ignore_index are not counted. A label outside the classes is an error that names the "
           "sample.\n\n"
           "value = sum of weight * right / sum of weight * counted; the node's own value is the sample's number of right positions.",
    .flags = SS_OP_METRIC,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .prepare = prepare,
    .stat_len = stat_len,
    .stat = stat,
    .saved_bytes = saved_bytes,
    .cost = cost,
    .cases = cases,
};
