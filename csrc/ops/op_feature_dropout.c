/* feature_dropout: whole channels are dropped, as torch.nn.Dropout1d, Dropout2d, Dropout3d and FeatureAlphaDropout. */
#include "ops/dropout.h"

enum { P, ALPHA };

static const ss_attr_spec attrs[] = {
    {"p", SS_ATTR_FLOAT, 0.5, 0, 1, "probability that a channel is dropped"},
    {"alpha", SS_ATTR_BOOL, 0, 0, 1, "0: dropped elements become 0; 1: the values of alpha_dropout"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    ss_status status = dropout_infer(q, "feature_dropout", err);
    if (status == SS_OK && q->in[0].rank < 1) return SS_FAIL(err, SS_ERR_SHAPE, "feature_dropout needs an input of shape (B, C, ...), got (B)");
    return status;
}

static int64_t channels_of(const ss_call *c) { return c->in_shape[0].dim[0]; }

/* Samples [begin, end) with their masks. */
DROPOUT_INLINE void apply(const ss_call *c, const real *x, real *y, const bool alpha, dropout_values v, int64_t begin, int64_t end) {
    const int64_t channels = channels_of(c), positions = ss_shape_count(&c->in_shape[0]) / channels;
    for (int64_t row = begin; row < end; row++) {
        const uint8_t *keep = (const uint8_t *)c->saved + row * channels;
        const int64_t at = row * channels * positions;
        if (c->layout == SS_CHANNELS_LAST)
            for (int64_t p = 0; p < positions; p++) dropout_apply(channels, keep, x + at + p * channels, y + at + p * channels, v, alpha);
        else
            for (int64_t k = 0; k < channels; k++)
                for (int64_t p = 0; p < positions; p++) y[at + k * positions + p] = dropout_one(keep[k] != 0, x[at + k * positions + p], v, alpha);
    }
}

static void forward(const ss_call *c) {
    const int64_t channels = channels_of(c);
    const uint32_t threshold = dropout_threshold(c->attr[P]);
    const bool alpha = c->attr[ALPHA] != 0;
    const dropout_values v = dropout_values_of(c->attr[P], alpha);
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t first = 0; first < channels; first += DROPOUT_BLOCK) {
            uint8_t keep[DROPOUT_BLOCK];
            dropout_draw(c, (uint32_t)(c->sample0 + row), (uint32_t)(first / 4), threshold, keep);
            memcpy((uint8_t *)c->saved + row * channels + first, keep, (size_t)ss_min(DROPOUT_BLOCK, channels - first));
        }
    if (alpha) apply(c, c->in[0], c->out[0], true, v, begin, end);
    else apply(c, c->in[0], c->out[0], false, v, begin, end);
}

static void backward(const ss_call *c) {
    dropout_values v = dropout_values_of(c->attr[P], c->attr[ALPHA] != 0);
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    v.dropped = 0;
    apply(c, c->grad_out[0], c->grad_in[0], false, v, begin, end);
}

static void forward_ref(const ss_call *c) {
    const int64_t channels = channels_of(c), positions = ss_shape_count(&c->in_shape[0]) / channels;
    const bool alpha = c->attr[ALPHA] != 0;
    const dropout_values v = dropout_values_of(c->attr[P], alpha);
    const real *x = c->in[0];
    real *y = c->out[0];
    for (int64_t row = 0; row < c->rows; row++)
        for (int64_t k = 0; k < channels; k++) {
            ss_random4 r = ss_philox(c->seed, (uint32_t)(k / 4), (uint32_t)(c->sample0 + row), c->step, c->op_number);
            bool keep = (double)ss_uniform(r.word[k % 4]) >= c->attr[P];
            ((uint8_t *)c->saved)[row * channels + k] = keep;
            for (int64_t p = 0; p < positions; p++) {
                int64_t at = row * channels * positions + (c->layout == SS_CHANNELS_LAST ? p * channels + k : k * positions + p);
                y[at] = !keep ? v.dropped : alpha ? fma_r(x[at], v.factor, v.shift) : x[at] * v.factor;
            }
        }
}

static int64_t saved_bytes(const ss_call *c) { return channels_of(c); }

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[0]), channels = (double)channels_of(c);
    out->flops = n * (both ? 2 : 1) + 30 * channels;
    out->bytes = n * (both ? 16 : 8) + channels * (both ? 2 : 1);
}

static const ss_op_case cases[] = {
    {.inputs = "B:5,6,7"},
    {.attrs = "p=0.1", .inputs = "B:200,3"},
    {.attrs = "p=0.75", .inputs = "B:11,2,3,2"},
    {.attrs = "alpha=1 p=0.3", .inputs = "B:9,4,3"},
    {.attrs = "alpha=1 p=1", .inputs = "B:9,4"},
    {.attrs = "p=0", .inputs = "B:37"},
    {.attrs = "p=1", .inputs = "B:4,9"},
    {.inputs = "B:", .expect = SS_ERR_SHAPE},
    {.attrs = "p=1.01", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.attrs = "p=nan", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_feature_dropout) = {
    .name = "feature_dropout",
    .doc = "Each channel of each sample is dropped with probability `p`, as one (Tompson and others: \"Efficient Object Localization Using Convolutional Networks\", 2015). x and y `(B, C, ...)`. "
           "Elements of dropped channels become 0 and the others are multiplied by `1 / (1 - p)`; with `alpha` they become what alpha_dropout makes of them. Left out when not training. "
           "A channel stays when its uniform number, Philox4x32-10 at (channel/4, position in the global batch, step, op), is at least p. The mask is kept, a byte a channel.",
    .flags = SS_OP_TRAINING_ONLY,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .saved_bytes = saved_bytes,
    .cost = cost,
    .cases = cases,
};
