/* Softmax cross entropy, as torch.nn.CrossEntropyLoss, with weights of samples. */
#include "kernels/rowreduce.h"
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/loss.h"
#include "ops/op.h"

enum { LOGITS, TARGET, CLASS_WEIGHT, SAMPLE_WEIGHT };
enum { AXIS, LABEL_SMOOTHING, IGNORE_INDEX, REDUCTION };

static const ss_attr_spec attrs[] = {
    {"axis", SS_ATTR_INT, 0, -1, SS_MAX_RANK - 1, "class axis of a sample: 0 (PyTorch's axis 1) or the last (-1)"},
    {"label_smoothing", SS_ATTR_FLOAT, 0, 0, 1, "this part of every target is spread evenly over the classes"},
    {"ignore_index", SS_ATTR_INT, -100, INT32_MIN, INT32_MAX, "positions with this label count for nothing"},
    {"reduction", SS_ATTR_INT, LOSS_MEAN, LOSS_MEAN, LOSS_SUM, "0: mean, 1: sum"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96], t[96];
    ss_shape labels;
    const ss_shape *x = &q->in[LOGITS], *target = &q->in[TARGET], *weight = &q->in[CLASS_WEIGHT];
    ss_status status = loss_infer(q, "cross_entropy", 1, SAMPLE_WEIGHT, err);
    if (status == SS_OK) status = class_axis_infer(q, "cross_entropy", ss_attr_i(q->attr, AXIS), &labels, err);
    if (status != SS_OK) return status;
    const bool like_labels = ss_shape_equal(target, &labels), like_logits = ss_shape_equal(target, x);
    if (!like_labels && !like_logits)
        return SS_FAIL(err, SS_ERR_SHAPE, "cross_entropy of logits %s needs labels of shape %s or probabilities of shape %s, got targets %s", ss_shape_text(x, true, a, sizeof a),
                       ss_shape_text(&labels, true, b, sizeof b), a, ss_shape_text(target, true, t, sizeof t));
    if (q->dtype[TARGET] != (like_labels ? SS_I32 : SS_F32))
        return SS_FAIL(err, SS_ERR_DTYPE, "cross_entropy of logits %s: targets of shape %s are %s, but these are %s", ss_shape_text(x, true, a, sizeof a), ss_shape_text(target, true, t, sizeof t),
                       like_labels ? "integer labels" : "float probabilities", like_labels ? "floats" : "integers");
    if (loss_asks(q, CLASS_WEIGHT)) {
        const int64_t classes = x->dim[ss_attr_i(q->attr, AXIS) == 0 ? 0 : x->rank - 1];
        if (weight->rank != 1 || weight->dim[0] != classes || q->role[CLASS_WEIGHT] != SS_ROLE_BUFFER)
            return SS_FAIL(err, SS_ERR_SHAPE, "cross_entropy of logits %s needs class weights in a buffer of shape (%lld), got %s of shape %s", ss_shape_text(x, true, a, sizeof a), (long long)classes,
                           q->role[CLASS_WEIGHT] == SS_ROLE_BUFFER ? "a buffer" : q->role[CLASS_WEIGHT] == SS_ROLE_PARAMETER ? "a parameter" : "a batched value",
                           ss_shape_text(weight, q->role[CLASS_WEIGHT] == SS_ROLE_BATCHED, b, sizeof b));
        if (q->dtype[CLASS_WEIGHT] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "cross_entropy needs float class weights, got integers");
    }
    return SS_OK;
}

/* What the rows of one call have in common. With smoothing s the target of class k is weight_k * ((1 - s) * target_k + s / C). */
typedef struct setup {
    class_axis axis;
    bool soft;           /* targets are probabilities */
    bool smooth;
    real keep, even;     /* 1 - s and s / C */
    const real *weight;  /* of classes, or NULL: all 1 */
    real weight_sum;     /* of all classes; needed for smoothed labels */
    int64_t ignore;
} setup;

static setup setup_of(const ss_call *c) {
    const double smoothing = c->attr[LABEL_SMOOTHING];
    setup s = {.axis = class_axis_of(c, ss_attr_i(c->attr, AXIS)), .smooth = smoothing > 0, .keep = (real)(1 - smoothing), .ignore = ss_attr_i(c->attr, IGNORE_INDEX)};
    s.even = (real)(smoothing / (double)s.axis.classes);
    s.soft = c->in_shape[TARGET].rank == c->in_shape[LOGITS].rank;
    s.weight = loss_has(c, CLASS_WEIGHT) ? c->in[CLASS_WEIGHT] : NULL;
    s.weight_sum = !s.smooth || s.soft ? 0 : s.weight ? row_sum(s.axis.classes, s.weight) : (real)s.axis.classes;
    return s;
}

static inline real weight_of(const setup *s, int64_t class) { return s->weight ? s->weight[class] : 1; }

/* ---- before the step ---- */

static ss_status check_probabilities(const ss_call *c, const setup *s, ss_error *err) {
    const real *t = c->in[TARGET];
    const int64_t count = s->axis.classes, rows = c->rows * s->axis.positions;
    for (int64_t i = 0; i < rows; i++, t += count) {
        int bad = 0;
        for (int64_t k = 0; k < count; k++) bad |= !(t[k] >= 0 && t[k] < (real)INFINITY);
        if (!bad) continue;
        int64_t k = 0;
        while (t[k] >= 0 && t[k] < (real)INFINITY) k++;
        return SS_FAIL(err, SS_ERR_VALUE, "cross_entropy: the probability of class %lld for sample %lld of the batch (position %lld) is %g; probabilities are finite and not negative", (long long)k,
                       (long long)(c->sample0 + i / s->axis.positions), (long long)(i % s->axis.positions), (double)t[k]);
    }
    return SS_OK;
}

static ss_status check_class_weights(const setup *s, ss_error *err) {
    for (int64_t k = 0; s->weight && k < s->axis.classes; k++)
        if (!(s->weight[k] >= 0) || isinf(s->weight[k]))
            return SS_FAIL(err, SS_ERR_VALUE, "cross_entropy: the weight of class %lld is %g; weights are finite and not negative", (long long)k, (double)s->weight[k]);
    return SS_OK;
}

static ss_status prepare(const ss_call *c, ss_error *err) {
    const setup s = setup_of(c);
    const int64_t positions = s.axis.positions;
    ss_status status = check_class_weights(&s, err);
    if (status == SS_OK) status = s.soft ? check_probabilities(c, &s, err) : class_labels_check(c, "cross_entropy", positions, s.axis.classes, s.ignore, err);
    if (status == SS_OK) status = loss_check_sample_weights(c, "cross_entropy", SAMPLE_WEIGHT, err);
    if (status != SS_OK) return status;
    if (ss_attr_i(c->attr, REDUCTION) == LOSS_SUM) {
        loss_unit_denominator(c);
        return SS_OK;
    }
    const int32_t *label = c->in[TARGET];
    real *lane = c->lane_stat;
    for (int l = 0; l < c->fold->lanes; l++) {
        real sum = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) {
            const real w = loss_sample_weight(c, SAMPLE_WEIGHT, r);
            if (s.soft) sum = fma_r(w, (real)positions, sum);
            else
                for (int64_t i = r * positions; i < (r + 1) * positions; i++)
                    if (label[i] != s.ignore) sum = fma_r(w, weight_of(&s, label[i]), sum);
        }
        lane[l] = sum;
    }
    return SS_OK;
}

/* ---- rows ---- */

/* Sums over the classes of a row go by blocks: the terms of a block are written down, summed with 16 interleaved accumulators and their tree, and blocks are added in order. */
enum { BLOCK = 1024 };

/* sum of exp(x_k - max) */
static real sum_exp(const real *x, int64_t n, real max) {
    real sum = 0, term[BLOCK];
    for (int64_t base = 0; base < n; base += BLOCK) {
        const int64_t count = ss_min(BLOCK, n - base);
        row_exp(count, x + base, max, term);
        sum += row_sum(count, term);
    }
    return sum;
}

/* sum of weight_k * (max - x_k) */
static real weighted_distance(const setup *s, const real *x, real max) {
    real sum = 0, term[BLOCK];
    for (int64_t base = 0; base < s->axis.classes; base += BLOCK) {
        const int64_t count = ss_min(BLOCK, s->axis.classes - base);
        for (int64_t i = 0; i < count; i++) term[i] = max - x[base + i];
        sum += s->weight ? row_dot(count, s->weight + base, term) : row_sum(count, term);
    }
    return sum;
}

/* to[i] = the target of class base + i, from probabilities t */
static inline void soft_targets(const setup *s, const real *t, int64_t base, int64_t count, real *restrict to) {
    const real *restrict w = s->weight;
    for (int64_t i = 0; i < count; i++) to[i] = fma_r(s->keep, t[base + i], s->even);
    for (int64_t i = 0; w && i < count; i++) to[i] *= w[base + i];
}

/* *total = sum of targets, *distance = sum of target_k * (max - x_k) */
static void soft_sums(const setup *s, const real *x, const real *t, real max, real *total, real *distance) {
    real targets[BLOCK], term[BLOCK];
    *total = *distance = 0;
    for (int64_t base = 0; base < s->axis.classes; base += BLOCK) {
        const int64_t count = ss_min(BLOCK, s->axis.classes - base);
        soft_targets(s, t, base, count, targets);
        for (int64_t i = 0; i < count; i++) term[i] = max - x[base + i];
        *total += row_sum(count, targets);
        *distance += row_dot(count, targets, term);
    }
}

/* Kept for each row: softmax_k = exp(x_k - max) * inverse; total = the sum of its targets. Zeros where the label is ignored. */
typedef struct row_state {
    real max, inverse, total, loss;
} row_state;

static int64_t saved_bytes(const ss_call *c) { return class_axis_of(c, ss_attr_i(c->attr, AXIS)).positions * (int64_t)sizeof(row_state); }

static row_state row_of(const ss_call *c, const setup *s, int64_t row) {
    const int64_t n = s->axis.classes;
    const real *x = (const real *)c->in[LOGITS] + row * n;
    const int64_t label = s->soft ? 0 : ((const int32_t *)c->in[TARGET])[row];
    row_state a = {0};
    if (!s->soft && label == s->ignore) return a;
    a.max = row_max(n, x);
    const real sum = sum_exp(x, n, a.max);
    a.inverse = 1 / sum;
    const real log_sum = log_r(sum);
    if (s->soft) {
        const real *t = (const real *)c->in[TARGET] + row * n;
        soft_sums(s, x, t, a.max, &a.total, &a.loss);
        a.loss = fma_r(a.total, log_sum, a.loss);
        return a;
    }
    const real own = s->keep * weight_of(s, label);
    a.total = own;
    a.loss = own * (log_sum - (x[label] - a.max));
    if (s->smooth) {
        a.total = fma_r(s->even, s->weight_sum, own);
        a.loss = fma_r(s->even, fma_r(s->weight_sum, log_sum, weighted_distance(s, x, a.max)), a.loss);
    }
    return a;
}

/* Rows of few classes and plain labels go together, a row in each lane of the vectors: one row alone keeps them mostly empty and waits for its own chains. Same trees, same bits. */
enum { GROUP = RR_WIDTH };

static bool grouped(const setup *s) { return !s->soft && !s->smooth && s->axis.classes <= RR_WIDTH; }

static void group_of(const ss_call *c, const setup *s, int64_t row, int64_t rows, row_state *state) {
    const int64_t n = s->axis.classes;
    const real *x = (const real *)c->in[LOGITS] + row * n;
    const int32_t *label = (const int32_t *)c->in[TARGET] + row;
    real column[RR_WIDTH][GROUP] = {{0}}, best[RR_WIDTH][GROUP], inverse[GROUP], log_sum[GROUP];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < n; k++) column[k][r] = x[r * n + k];
    memcpy(best, column, sizeof best);
    for (int width = RR_WIDTH / 2; width > 0; width /= 2)
        for (int j = 0; j < width && j + width < n; j++)
            for (int r = 0; r < GROUP; r++) best[j][r] = max_r(best[j][r], best[j + width][r]);
    for (int64_t k = 0; k < n; k++)
        for (int r = 0; r < GROUP; r++) column[k][r] = exp_r(column[k][r] - best[0][r]);
    for (int width = RR_WIDTH / 2; width > 0; width /= 2)
        for (int j = 0; j < width && j + width < n; j++)
            for (int r = 0; r < GROUP; r++) column[j][r] += column[j + width][r];
    for (int r = 0; r < GROUP; r++) inverse[r] = 1 / column[0][r];
    for (int r = 0; r < GROUP; r++) log_sum[r] = log_r(column[0][r]);
    for (int64_t r = 0; r < rows; r++) {
        state[r] = (row_state){0};
        if (label[r] == s->ignore) continue;
        const real own = s->keep * weight_of(s, label[r]);
        state[r] = (row_state){.max = best[0][r], .inverse = inverse[r], .total = own, .loss = own * (log_sum[r] - (x[r * n + label[r]] - best[0][r]))};
    }
}

/* The states of rows that are asked for in order, up to row `end`. */
typedef struct row_reader {
    const ss_call *c;
    const setup *s;
    int64_t end, first, past; /* rows [first, past) are at hand */
    row_state group[GROUP];
} row_reader;

static row_state next_row(row_reader *q, int64_t row) {
    if (!grouped(q->s)) return row_of(q->c, q->s, row);
    if (row >= q->past) {
        q->first = row;
        q->past = ss_min(row + GROUP, q->end);
        group_of(q->c, q->s, row, q->past - row, q->group);
    }
    return q->group[row - q->first];
}

static int64_t stat_len(const ss_call *c, bool backward) {
    (void)c;
    return backward ? 0 : 1;
}

static void stat(const ss_call *c, bool backward) {
    (void)backward;
    const setup s = setup_of(c);
    row_state *saved = c->saved;
    real *lane = c->lane_stat;
    int64_t first, last;
    ss_split(c->fold->lanes, 1, c->thread, c->threads, &first, &last);
    row_reader reader = {.c = c, .s = &s, .end = c->fold->row[last] * s.axis.positions};
    for (int64_t l = first; l < last; l++) {
        real acc = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) {
            const real w = loss_sample_weight(c, SAMPLE_WEIGHT, r);
            for (int64_t i = r * s.axis.positions; i < (r + 1) * s.axis.positions; i++) {
                row_state a = next_row(&reader, i);
                if (saved) saved[i] = a;
                acc = fma_r(w, a.loss, acc);
            }
        }
        lane[l] = acc;
    }
}

static void forward(const ss_call *c) {
    const setup s = setup_of(c);
    const row_state *saved = c->saved;
    real *out = c->out[0];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    row_reader reader = {.c = c, .s = &s, .end = end * s.axis.positions};
    for (int64_t r = begin; r < end; r++) {
        const real w = loss_sample_weight(c, SAMPLE_WEIGHT, r);
        real acc = 0;
        for (int64_t i = r * s.axis.positions; i < (r + 1) * s.axis.positions; i++) acc = fma_r(w, saved ? saved[i].loss : next_row(&reader, i).loss, acc);
        out[r] = acc;
    }
}

/* grad_k = (softmax_k * total - target_k) * weight / denominator */
static void backward_row(const ss_call *c, const setup *s, int64_t row, real scale, const row_state *a) {
    const int64_t n = s->axis.classes;
    const real *restrict x = (const real *)c->in[LOGITS] + row * n, *restrict w = s->weight;
    real *restrict grad = (real *)c->grad_in[LOGITS] + row * n;
    const int64_t label = s->soft ? 0 : ((const int32_t *)c->in[TARGET])[row];
    if (!s->soft && label == s->ignore) {
        for (int64_t i = 0; i < n; i++) grad[i] = 0;
        return;
    }
    const real factor = scale * a->total * a->inverse;
    row_exp(n, x, a->max, grad);
    for (int64_t i = 0; i < n; i++) grad[i] *= factor;
    if (s->soft) {
        const real *t = (const real *)c->in[TARGET] + row * n;
        real target[BLOCK];
        for (int64_t base = 0; base < n; base += BLOCK) {
            const int64_t count = ss_min(BLOCK, n - base);
            soft_targets(s, t, base, count, target);
            for (int64_t i = 0; i < count; i++) grad[base + i] = fma_r(-scale, target[i], grad[base + i]);
        }
        return;
    }
    if (s->smooth) {
        const real even = scale * s->even;
        for (int64_t i = 0; w && i < n; i++) grad[i] = fma_r(-even, w[i], grad[i]);
        for (int64_t i = 0; !w && i < n; i++) grad[i] -= even;
    }
    grad[label] = fma_r(-scale, s->keep * weight_of(s, label), grad[label]);
}

/* The same of rows of few classes, one after another in memory: every element meets its row's maximum and factor. */
static void backward_group(const ss_call *c, const setup *s, int64_t row, int64_t rows, const row_state *a) {
    const int64_t n = s->axis.classes, count = rows * n;
    const real *x = (const real *)c->in[LOGITS] + row * n;
    const int32_t *label = (const int32_t *)c->in[TARGET] + row;
    real *grad = (real *)c->grad_in[LOGITS] + row * n;
    real max[GROUP * RR_WIDTH], factor[GROUP * RR_WIDTH], term[GROUP * RR_WIDTH], scale[GROUP];
    for (int64_t r = 0; r < rows; r++) {
        scale[r] = loss_scale(c, loss_sample_weight(c, SAMPLE_WEIGHT, (row + r) / s->axis.positions));
        const real own = scale[r] * a[r].total * a[r].inverse;
        for (int64_t k = 0; k < n; k++) max[r * n + k] = a[r].max, factor[r * n + k] = own;
    }
    const int64_t whole = ss_round_up(count, RR_WIDTH);
    memcpy(term, x, (size_t)count * sizeof *term);
    for (int64_t i = count; i < whole; i++) term[i] = max[i] = factor[i] = 0;
    for (int64_t i = 0; i < whole; i++) term[i] = exp_r(term[i] - max[i]) * factor[i];
    memcpy(grad, term, (size_t)count * sizeof *term);
    for (int64_t r = 0; r < rows; r++) {
        real *to = grad + r * n;
        if (label[r] == s->ignore)
            for (int64_t k = 0; k < n; k++) to[k] = 0;
        else to[label[r]] = fma_r(-scale[r], s->keep * weight_of(s, label[r]), to[label[r]]);
    }
}

static void backward(const ss_call *c) {
    if (!c->grad_in[LOGITS]) return;
    const setup s = setup_of(c);
    const row_state *saved = c->saved;
    int64_t begin, end;
    ss_split(c->rows * s.axis.positions, 1, c->thread, c->threads, &begin, &end);
    if (grouped(&s))
        for (int64_t i = begin; i < end; i += GROUP) backward_group(c, &s, i, ss_min(GROUP, end - i), &saved[i]);
    else
        for (int64_t i = begin; i < end; i++)
            backward_row(c, &s, i, loss_scale(c, loss_sample_weight(c, SAMPLE_WEIGHT, i / s.axis.positions)), &saved[i]);
}

static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    double n = (double)ss_shape_count(&c->in_shape[LOGITS]);
    double target = c->in_shape[TARGET].rank == c->in_shape[LOGITS].rank ? n : 0;
    cost->flops = n * (backward ? 40 : 20); /* an exponential is about 16 */
    cost->bytes = (n * (backward ? 3 : 1) + target * (backward ? 2 : 1)) * sizeof(float);
}

static const ss_op_case cases[] = {
    {.inputs = "B:10 I10:"},
    {.inputs = "B:1 I1:"},
    {.inputs = "B:17 I17: - W:"},
    {.inputs = "B:5 I5: S1:5"},
    {.inputs = "B:5 I5: S1:5 W:"},
    {.attrs = "ignore_index=2", .inputs = "B:4 I4:"},
    {.attrs = "label_smoothing=0.1", .inputs = "B:33 I33:"},
    {.attrs = "label_smoothing=0.3 ignore_index=0", .inputs = "B:4 I4: S1:4 W:"},
    {.attrs = "reduction=1", .inputs = "B:10 I10: - W:"},
    {.inputs = "B:1100 I1100:"},                                      /* more than one block */
    {.attrs = "label_smoothing=0.2", .inputs = "B:1100 I1100:"},
    {.attrs = "label_smoothing=0.2", .inputs = "B:1100 W:1100"},
    {.inputs = "B:10 W:10"},                                          /* probabilities */
    {.attrs = "label_smoothing=0.2", .inputs = "B:18 W:18 S1:18 W:"},
    {.attrs = "reduction=1", .inputs = "B:3 W:3"},
    {.attrs = "axis=-1", .inputs = "B:6,65 I65:6"},                   /* a sequence */
    {.attrs = "axis=-1 ignore_index=1 label_smoothing=0.1", .inputs = "B:6,5 I5:6 - W:"},
    {.attrs = "axis=1", .inputs = "B:3,20 W:3,20"},
    {.inputs = "B:6,9 I6:9"},                                         /* a sequence, classes first */
    {.inputs = "B:4,3,5 I4:3,5 S1:4 W:"},                             /* per pixel */
    {.attrs = "label_smoothing=0.1", .inputs = "B:4,3,5 W:4,3,5"},
    {.attrs = "ignore_index=1", .inputs = "B:3,2,2,2 I3:2,2,2"},
    {.inputs = "B:4 I5000:", .expect = SS_ERR_VALUE},                 /* labels out of range */
    {.attrs = "axis=-1", .inputs = "B:6,4 I5000:6", .expect = SS_ERR_VALUE},
    {.attrs = "axis=1", .inputs = "B:4,3,5 I3:4,5", .expect = SS_ERR_VALUE},
    {.attrs = "axis=2", .inputs = "B:4 I4:", .expect = SS_ERR_VALUE},
    {.attrs = "label_smoothing=1.5", .inputs = "B:4 I4:", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 I4:4", .expect = SS_ERR_DTYPE},
    {.inputs = "B:4 B:", .expect = SS_ERR_DTYPE},
    {.inputs = "B:4 W:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4,3 I4:4", .expect = SS_ERR_SHAPE},
    {.attrs = "axis=-1", .inputs = "B:4,3 I3:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 I4: S1:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 I4: P:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 I4: S1:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 I4: - W:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B: I4:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4 P:4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "I4:4 I4:", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_cross_entropy) = {
    .name = "cross_entropy",
    .doc = "Softmax cross entropy.\n\n"
           "logits `(B, C, ...)` (axis 0, the default: PyTorch's axis 1) or `(B, ..., C)` (axis -1). Target: integer labels of that shape without C, or float probabilities of the logits' shape. "
           "Class weight `(C)` or absent (all 1), sample weight `(B)` or absent (all 1).\n\n"
           "    target_k = class_weight_k * ((1 - label_smoothing) * (k == label, or probability_k) + label_smoothing / C)\n"
           "    loss of a row = sum_k target_k * (log sum_j exp(x_j - max) - (x_k - max))\n"
           "    loss = sum of sample_weight * loss of row / denominator\n\n"
           "Denominator, as in PyTorch: for labels the sum of sample_weight * class_weight[label] over rows that are not ignored; for probabilities the sum of sample_weight over rows; with reduction 1 (sum) it "
           "is 1. Rows labelled ignore_index count for nothing and get gradient 0, and so does every row when the denominator is 0. Before the step every label must lie in [0, C) or equal "
           "ignore_index, and probabilities and weights must be finite and not negative; the message names the sample. Targets get no gradient. "
           "The node's own value is the sample's sum of sample_weight * loss of row.\n\n"
           "Order of sums: over classes blocks of 1024, in each 16 interleaved accumulators and their tree, blocks in order; over positions of a sample (row-major) and samples of a lane one chain `fma(sample_weight, loss of row, acc)`. "
           "Label smoothing: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: \"Rethinking the inception architecture for computer vision\", 2016.",
    .flags = SS_OP_LOSS | SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .prepare = prepare,
    .stat_len = stat_len,
    .stat = stat,
    .saved_bytes = saved_bytes,
    .cost = cost,
    .cases = cases,
};
