/* Connectionist temporal classification, as torch.nn.CTCLoss. */
#include <string.h>
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/loss.h"
#include "ops/op.h"

enum { LOG_PROBS, TARGETS, INPUT_LENGTHS, TARGET_LENGTHS, SAMPLE_WEIGHT };
enum { BLANK, REDUCTION, ZERO_INFINITY };

static const ss_attr_spec attrs[] = {
    {"blank", SS_ATTR_INT, 0, 0, INT32_MAX, "number of the class that stands for no label"},
    {"reduction", SS_ATTR_INT, LOSS_MEAN, LOSS_MEAN, LOSS_SUM, "0: mean, 1: sum"},
    {"zero_infinity", SS_ATTR_BOOL, 0, 0, 1, "1: samples whose target does not fit into their input count as loss 0 and get no gradient"},
    {0},
};

static ss_status infer_lengths(const ss_infer *q, int input, const char *what, ss_error *err) {
    char text[96];
    if (q->in[input].rank != 0 || q->role[input] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "ctc_loss needs %s of shape (B), got %s", what,
                       q->in[input].rank < 0 ? "none" : ss_shape_text(&q->in[input], q->role[input] == SS_ROLE_BATCHED, text, sizeof text));
    if (q->dtype[input] != SS_I32) return SS_FAIL(err, SS_ERR_DTYPE, "ctc_loss needs whole numbers as %s, got floats", what);
    return SS_OK;
}

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    ss_status status = loss_infer(q, "ctc_loss", 2, SAMPLE_WEIGHT, err);
    if (status != SS_OK) return status;
    const ss_shape *x = &q->in[LOG_PROBS], *target = &q->in[TARGETS];
    if (x->rank != 2) return SS_FAIL(err, SS_ERR_SHAPE, "ctc_loss needs log-probabilities of shape (B, steps, classes), got %s", ss_shape_text(x, true, text, sizeof text));
    if (target->rank != 1) return SS_FAIL(err, SS_ERR_SHAPE, "ctc_loss needs targets of shape (B, labels), got %s", ss_shape_text(target, true, text, sizeof text));
    if (q->dtype[TARGETS] != SS_I32) return SS_FAIL(err, SS_ERR_DTYPE, "ctc_loss needs class numbers as targets, got floats");
    if (q->n_in <= TARGET_LENGTHS) return SS_FAIL(err, SS_ERR_SHAPE, "ctc_loss needs log-probabilities, targets, lengths of inputs (or none) and lengths of targets, got %d inputs", q->n_in);
    if (q->in[INPUT_LENGTHS].rank >= 0) status = infer_lengths(q, INPUT_LENGTHS, "lengths of inputs", err);
    if (status == SS_OK) status = infer_lengths(q, TARGET_LENGTHS, "lengths of targets", err);
    if (status != SS_OK) return status;
    if (ss_attr_i(q->attr, BLANK) >= x->dim[1])
        return SS_FAIL(err, SS_ERR_VALUE, "ctc_loss: with %lld classes blank must be 0 to %lld, but is %lld", (long long)x->dim[1], (long long)x->dim[1] - 1, (long long)ss_attr_i(q->attr, BLANK));
    return SS_OK;
}

/* ---- before the step ---- */

static ss_status check_length(const ss_call *c, const char *what, int64_t row, int32_t length, int64_t most, ss_error *err) {
    if (length >= 0 && length <= most) return SS_OK;
    return SS_FAIL(err, SS_ERR_VALUE, "ctc_loss: the %s of sample %lld of the batch is %d; it must be 0 to %lld", what, (long long)(c->sample0 + row), length, (long long)most);
}

static ss_status prepare(const ss_call *c, ss_error *err) {
    const int64_t classes = c->in_shape[LOG_PROBS].dim[1], steps = c->in_shape[LOG_PROBS].dim[0], width = c->in_shape[TARGETS].dim[0], blank = ss_attr_i(c->attr, BLANK);
    const int32_t *input = loss_has(c, INPUT_LENGTHS) ? c->in[INPUT_LENGTHS] : NULL, *labels = c->in[TARGET_LENGTHS], *target = c->in[TARGETS];
    ss_status status = loss_check_sample_weights(c, "ctc_loss", SAMPLE_WEIGHT, err);
    for (int64_t r = 0; r < c->rows && status == SS_OK; r++) {
        if (input) status = check_length(c, "length of the input", r, input[r], steps, err);
        if (status == SS_OK) status = check_length(c, "length of the target", r, labels[r], width, err);
        for (int64_t i = 0; status == SS_OK && i < labels[r]; i++) {
            const int32_t label = target[r * width + i];
            if (label < 0 || label >= classes || label == blank)
                return SS_FAIL(err, SS_ERR_VALUE, "ctc_loss: label %lld of sample %lld of the batch is %d; with %lld classes labels are 0 to %lld, and %lld is the blank", (long long)i,
                               (long long)(c->sample0 + r), label, (long long)classes, (long long)classes - 1, (long long)blank);
        }
    }
    if (status != SS_OK) return status;
    if (ss_attr_i(c->attr, REDUCTION) == LOSS_SUM) {
        loss_unit_denominator(c);
        return SS_OK;
    }
    real *lane = c->lane_stat;
    for (int l = 0; l < c->fold->lanes; l++) {
        real sum = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) sum += loss_sample_weight(c, SAMPLE_WEIGHT, r);
        lane[l] = sum;
    }
    return SS_OK;
}

/* ---- one sample ---- */

/* The states are blank, label 0, blank, label 1, ..., blank. */
typedef struct sample {
    const real *log_prob; /* [steps][classes] */
    const int32_t *target;
    int64_t classes, blank, steps, labels, states, width; /* width: the most states of any sample */
    real share; /* weight of the sample's loss: 1, or 1 / labels for the mean */
    real *loss, *alpha; /* in saved: the loss, then alpha [all steps][width] */
} sample;

static int64_t most_states(const ss_call *c) { return 2 * c->in_shape[TARGETS].dim[0] + 1; }
static int64_t saved_count(const ss_call *c) { return 1 + c->in_shape[LOG_PROBS].dim[0] * most_states(c); }
static int64_t saved_bytes(const ss_call *c) { return saved_count(c) * (int64_t)sizeof(real); }

/* Backward: beta and two rows of terms for each thread. */
static int64_t thread_count(const ss_call *c) { return ss_round_up(3 * most_states(c), 16); }
static int64_t scratch_bytes(const ss_call *c, bool backward) { return backward ? c->threads * thread_count(c) * (int64_t)sizeof(real) : 0; }

static sample sample_of(const ss_call *c, int64_t row) {
    const ss_shape *x = &c->in_shape[LOG_PROBS];
    const int64_t all = x->dim[0];
    sample s = {.classes = x->dim[1], .blank = ss_attr_i(c->attr, BLANK), .width = most_states(c)};
    s.log_prob = (const real *)c->in[LOG_PROBS] + row * all * s.classes;
    s.target = (const int32_t *)c->in[TARGETS] + row * c->in_shape[TARGETS].dim[0];
    s.steps = loss_has(c, INPUT_LENGTHS) ? ((const int32_t *)c->in[INPUT_LENGTHS])[row] : all;
    s.labels = ((const int32_t *)c->in[TARGET_LENGTHS])[row];
    s.states = 2 * s.labels + 1;
    s.share = ss_attr_i(c->attr, REDUCTION) == LOSS_SUM ? 1 : 1 / (real)ss_max(s.labels, 1);
    s.loss = (real *)c->saved + row * saved_count(c);
    s.alpha = s.loss + 1;
    return s;
}

static inline int64_t class_of(const sample *s, int64_t state) { return state & 1 ? s->target[state >> 1] : s->blank; }
/* State i may follow i - 2: both are labels, and different ones. */
static inline bool may_skip(const sample *s, int64_t state) { return (state & 1) && state > 1 && s->target[state >> 1] != s->target[(state >> 1) - 1]; }

/* log(e^a + e^b + e^c); -inf where all three are. */
static inline real log_sum(real a, real b, real c) {
    const real most = max_r(max_r(a, b), c), shift = if_r(most == -(real)INFINITY, 0, most);
    return log_r((exp_r(a - shift) + exp_r(b - shift)) + exp_r(c - shift)) + shift;
}

/* alpha[t][i] = log of the probability of all ways into state i at step t, step t included. Writes alpha and the loss. */
static void forward_variables(const sample *s) {
    const real none = -(real)INFINITY;
    for (int64_t t = 0; t < s->steps; t++) {
        const real *p = s->log_prob + t * s->classes, *before = s->alpha + (t - 1) * s->width;
        real *now = s->alpha + t * s->width;
        for (int64_t i = 0; i < s->states; i++) {
            real sum;
            if (t == 0) sum = i < 2 ? 0 : none;
            else sum = log_sum(before[i], i > 0 ? before[i - 1] : none, may_skip(s, i) ? before[i - 2] : none);
            now[i] = sum + p[class_of(s, i)];
        }
    }
    if (s->steps == 0) {
        *s->loss = s->labels == 0 ? 0 : (real)INFINITY;
        return;
    }
    const real *last = s->alpha + (s->steps - 1) * s->width;
    *s->loss = -log_sum(last[s->states - 1], s->labels > 0 ? last[s->states - 2] : none, none);
}

/* beta[i] = log of the probability of all ways from state i at step t to the end, step t left out. `term`: beta of step t + 1 plus the log-probability of that step. */
static void backward_variables(const sample *s, int64_t t, real *beta, real *term) {
    const real none = -(real)INFINITY;
    if (t == s->steps - 1) {
        for (int64_t i = 0; i < s->states; i++) beta[i] = i >= s->states - 2 ? 0 : none;
        return;
    }
    const real *p = s->log_prob + (t + 1) * s->classes;
    for (int64_t i = 0; i < s->states; i++) term[i] = beta[i] + p[class_of(s, i)];
    for (int64_t i = 0; i < s->states; i++)
        beta[i] = log_sum(term[i], i + 1 < s->states ? term[i + 1] : none, i + 2 < s->states && may_skip(s, i + 2) ? term[i + 2] : none);
}

static bool left_out(const ss_call *c, const sample *s) { return ss_attr_i(c->attr, ZERO_INFINITY) && *s->loss == (real)INFINITY; }
static real loss_of(const ss_call *c, const sample *s) { return left_out(c, s) ? 0 : *s->loss * s->share; }

/* ---- the operator ---- */

static int64_t stat_len(const ss_call *c, bool backward) {
    (void)c;
    return backward ? 0 : 1;
}

static void stat(const ss_call *c, bool backward) {
    (void)backward;
    real *lane = c->lane_stat;
    int64_t first, last;
    ss_split(c->fold->lanes, 1, c->thread, c->threads, &first, &last);
    for (int64_t l = first; l < last; l++) {
        real acc = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) {
            const sample s = sample_of(c, r);
            forward_variables(&s);
            acc = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r), loss_of(c, &s), acc);
        }
        lane[l] = acc;
    }
}

static void forward(const ss_call *c) {
    real *out = c->out[0];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        const sample s = sample_of(c, r);
        out[r] = loss_sample_weight(c, SAMPLE_WEIGHT, r) * loss_of(c, &s);
    }
}

static void backward(const ss_call *c) {
    if (!c->grad_in[LOG_PROBS]) return;
    const int64_t all = c->in_shape[LOG_PROBS].dim[0];
    real *beta = (real *)c->scratch + c->thread * thread_count(c), *term = beta + most_states(c), *part = term + most_states(c);
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        const sample s = sample_of(c, r);
        real *grad = (real *)c->grad_in[LOG_PROBS] + r * all * s.classes;
        const real scale = loss_scale(c, loss_sample_weight(c, SAMPLE_WEIGHT, r)) * s.share, loss = *s.loss;
        memset(grad, 0, (size_t)(all * s.classes) * sizeof(real));
        if (left_out(c, &s)) continue;
        for (int64_t t = s.steps - 1; t >= 0; t--) {
            const real *alpha = s.alpha + t * s.width;
            real *to = grad + t * s.classes;
            backward_variables(&s, t, beta, term);
            for (int64_t i = 0; i < s.states; i++) part[i] = exp_r((alpha[i] + beta[i]) + loss);
            for (int64_t i = 0; i < s.states; i++) to[class_of(&s, i)] += part[i];
            for (int64_t k = 0; k < s.classes; k++) to[k] = fma_r(-scale, to[k], 0);
        }
    }
}

static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    const double steps = (double)c->in_shape[LOG_PROBS].dim[0], states = (double)most_states(c), classes = (double)c->in_shape[LOG_PROBS].dim[1];
    cost->flops = steps * states * (backward ? 180 : 75) + (backward ? 2 * steps * classes : 0); /* three exponentials and a logarithm a state */
    cost->bytes = steps * (states + classes) * (backward ? 3 : 1) * sizeof(float);
}

static const ss_op_case cases[] = {
    {.attrs = "blank=4", .inputs = "B:9,5 I4:3 - I4:"}, /* the blank is the last class, so that random labels never are it */
    {.attrs = "blank=4 reduction=1", .inputs = "B:9,5 I4:3 - I4: W:"},
    {.attrs = "blank=2", .inputs = "B:7,3 I2:3 - I4: W:"},
    {.attrs = "blank=6 zero_infinity=1", .inputs = "B:8,7 I6:4 I9: I5:"},
    {.attrs = "blank=20 zero_infinity=1 reduction=1", .inputs = "B:30,21 I20:12 I31: I13: W:"},
    {.attrs = "blank=4", .inputs = "B:5,5 I4:4 I6: I5:", .no_gradient_check = true}, /* infinite losses */
    {.attrs = "blank=1", .inputs = "B:1,2 I1:1 - I1:"},
    {.attrs = "blank=5", .inputs = "B:9,5 I4:3 - I4:", .expect = SS_ERR_VALUE},
    {.attrs = "blank=4", .inputs = "B:9,5 I5:3 - I4:", .expect = SS_ERR_VALUE},
    {.attrs = "blank=4", .inputs = "B:9,5 I500:3 - I4:", .expect = SS_ERR_VALUE},
    {.attrs = "blank=4", .inputs = "B:9,5 I4:3 - I400:", .expect = SS_ERR_VALUE},
    {.attrs = "blank=4", .inputs = "B:9,5 I4:3 I400: I4:", .expect = SS_ERR_VALUE},
    {.inputs = "B:9,5 I4:3 - -", .expect = SS_ERR_SHAPE},
    {.inputs = "B:9,5 I4:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:9,5 I4:3 - I4:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:9,5 I4:3 I4:1 I4:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:9,5 I4: - I4:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:9 I4:3 - I4:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:9,5,2 I4:3 - I4:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:9,5 I4:3 - I4: W:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:9,5 B:3 - I4:", .expect = SS_ERR_DTYPE},
    {.inputs = "B:9,5 I4:3 - B:", .expect = SS_ERR_DTYPE},
    {.inputs = "B:9,5 I4:3 B: I4:", .expect = SS_ERR_DTYPE},
    {.inputs = "I4:9,5 I4:3 - I4:", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_ctc_loss) = {
    .name = "ctc_loss",
    .doc = "Connectionist temporal classification: minus the log-probability of the target, summed over all its alignments with the input.\n\n"
           "log_probs `(B, T, C)`, targets `(B, S)` class numbers, of which the first target_lengths[b] count, input_lengths `(B)` or absent (all T), target_lengths `(B)`, sample weight `(B)` or absent.\n\n"
           "With the states blank, label 0, blank, label 1, ..., blank (l_i the class of state i), alpha_0(i) = log_probs(0, l_i) for the first two states and -inf for the others, and\n\n"
           "    alpha_t(i) = log_probs(t, l_i) + log(e^alpha_{t-1}(i) + e^alpha_{t-1}(i-1) + e^alpha_{t-1}(i-2))\n"
           "    loss of a sample = -log(e^alpha_{T-1}(last) + e^alpha_{T-1}(last but one))\n\n"
           "where the third term stands only for a label that differs from the label before it. An input of length 0 has loss 0 for an empty target and infinity for any other; zero_infinity 1 turns infinite losses, and their gradients, into 0. "
           "With reduction 0 the loss of a sample is divided by its number of labels (at least 1), and the loss is sum of sample_weight * loss of a sample / sum of sample_weight, as PyTorch's mean; with reduction 1 it is the sum. "
           "Before the step lengths and labels are checked; labels must differ from the blank.\n\n"
           "The gradient is the derivative with respect to log_probs: minus the probability that the path is in class k at step t. PyTorch adds exp(log_probs) there, which presumes the log-softmax below; "
           "through a log-softmax both give the same gradient. It is 0 past the input's length.\n\n"
           "Order of sums: in a logarithm (e^a + e^b) + e^c, less the largest of the three; the probability of a class is one chain over the states in order; over the samples of a lane one chain "
           "`fma(sample_weight, loss of a sample, acc)`.\n\n"
           "Graves, Fernandez, Gomez, Schmidhuber: \"Connectionist temporal classification\", 2006.",
    .flags = SS_OP_LOSS | SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .prepare = prepare,
    .stat_len = stat_len,
    .stat = stat,
    .saved_bytes = saved_bytes,
    .scratch_bytes = scratch_bytes,
    .cost = cost,
    .cases = cases,
};
