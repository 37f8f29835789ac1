/* dropout: elements become 0 with probability p, the others are divided by 1 - p. */
#include <string.h>
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

static const ss_attr_spec attrs[] = {
    {"p", SS_ATTR_FLOAT, 0.5, 0, 1, "probability that an element becomes 0"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "dropout takes 1 input, not %d", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "dropout: the input must be an activation, one row a sample");
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "dropout: the input must be float");
    if (ss_shape_count(&q->in[0]) > (int64_t)1 << 33) return SS_FAIL(err, SS_ERR_SHAPE, "dropout: a sample has more elements than the random numbers can count");
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->any_layout = true;
    return SS_OK;
}

enum { COUNTERS = 32, BLOCK = 4 * COUNTERS };

/* Whether the elements [4 counter, 4 counter + BLOCK) of a sample stay, by their number in PyTorch's order: 1 or 0. */
static void draw_block(const ss_call *c, uint32_t position, uint32_t counter, uint32_t threshold, uint8_t *restrict keep) {
    uint32_t k0 = (uint32_t)c->seed, k1 = (uint32_t)(c->seed >> 32), step = c->step, op = c->op_number;
    /* ss_philox(seed, counter + j, position, step, op) for all j side by side: rounds outside, so that each round is one vector loop. */
    uint32_t a[COUNTERS], b[COUNTERS], d[COUNTERS], e[COUNTERS];
    for (uint32_t j = 0; j < COUNTERS; j++) {
        a[j] = counter + j;
        b[j] = position;
        d[j] = step;
        e[j] = op;
    }
    for (int round = 0; round < 10; round++) {
        for (int j = 0; j < COUNTERS; j++) {
            uint64_t p = (uint64_t)0xD2511F53u * a[j], q = (uint64_t)0xCD9E8D57u * d[j];
            uint32_t first = (uint32_t)(q >> 32) ^ b[j] ^ k0, third = (uint32_t)(p >> 32) ^ e[j] ^ k1;
            b[j] = (uint32_t)q;
            e[j] = (uint32_t)p;
            a[j] = first;
            d[j] = third;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int j = 0; j < COUNTERS; j++) {
        keep[4 * j] = (a[j] >> 8) >= threshold;
        keep[4 * j + 1] = (b[j] >> 8) >= threshold;
        keep[4 * j + 2] = (d[j] >> 8) >= threshold;
        keep[4 * j + 3] = (e[j] >> 8) >= threshold;
    }
}

/* An element stays when its uniform number, whole/2^24, is at least p. */
static uint32_t threshold_of(double p) {
    double scaled = p * 0x1p24;
    uint32_t whole = (uint32_t)scaled;
    return whole + ((double)whole < scaled);
}

static real factor_of(double p) { return p < 1 ? (real)(1 / (1 - p)) : 0; }

static void apply(int64_t n, const uint8_t *restrict keep, const real *restrict x, real *restrict y, real factor) {
    for (int64_t i = 0; i < n; i++) y[i] = if_r(keep[i] != 0, x[i] * factor, 0);
}

static void forward(const ss_call *c) {
    const ss_shape *s = &c->in_shape[0];
    int64_t n = ss_shape_count(s), channels = s->rank >= 2 ? s->dim[0] : 1, inner = n / channels, begin, end;
    const real *x = c->in[0];
    real *y = c->out[0], factor = factor_of(c->attr[0]);
    uint8_t *saved = c->saved, keep[BLOCK];
    uint32_t threshold = threshold_of(c->attr[0]);
    int64_t blocks = ss_round_up(n, BLOCK) / BLOCK;
    ss_split(c->rows * blocks, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        int64_t row = u / blocks, first = u % blocks * BLOCK, count = ss_min(BLOCK, n - first), at = row * n;
        draw_block(c, (uint32_t)(c->sample0 + row), (uint32_t)(first / 4), threshold, keep);
        if (c->layout == SS_PLAIN || channels == 1 || inner == 1) {
            apply(count, keep, x + at + first, y + at + first, factor);
            memcpy(saved + at + first, keep, (size_t)count);
            continue;
        }
        int64_t channel = first / inner, position = first % inner;
        for (int64_t i = 0; i < count; channel++, position = 0)
            for (; i < count && position < inner; i++, position++) {
                int64_t place = at + position * channels + channel;
                saved[place] = keep[i];
                y[place] = if_r(keep[i] != 0, x[place] * factor, 0);
            }
    }
}

static void backward(const ss_call *c) {
    int64_t begin, end;
    ss_my_elements(c, c->rows * ss_shape_count(&c->in_shape[0]), &begin, &end);
    apply(end - begin, (const uint8_t *)c->saved + begin, (const real *)c->grad_out[0] + begin, (real *)c->grad_in[0] + begin, factor_of(c->attr[0]));
}

/* The definition, one element at a time. */
static void forward_ref(const ss_call *c) {
    const ss_shape *s = &c->in_shape[0];
    int64_t n = ss_shape_count(s), channels = s->rank >= 2 && c->layout == SS_CHANNELS_LAST ? s->dim[0] : 1, inner = n / channels;
    const real *x = c->in[0];
    real *y = c->out[0];
    uint8_t *saved = c->saved;
    for (int64_t row = 0; row < c->rows; row++)
        for (int64_t e = 0; e < n; e++) {
            ss_random4 r = ss_philox(c->seed, (uint32_t)(e / 4), (uint32_t)(c->sample0 + row), c->step, c->op_number);
            int64_t at = row * n + e % inner * channels + e / inner;
            saved[at] = (double)ss_uniform(r.word[e % 4]) >= c->attr[0];
            y[at] = saved[at] ? x[at] * factor_of(c->attr[0]) : 0;
        }
}

static int64_t saved_bytes(const ss_call *c) { return ss_shape_count(&c->in_shape[0]); }

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[0]);
    out->flops = n * (both ? 32 : 31);
    out->bytes = n * (both ? 18 : 9);
}

static const ss_op_case cases[] = {
    {.inputs = "B:5,6,7"},
    {.attrs = "p=0.1", .inputs = "B:1030"},
    {.attrs = "p=0.75", .inputs = "B:11,50"},
    {.attrs = "p=0", .inputs = "B:37"},
    {.attrs = "p=1", .inputs = "B:4,9"},
    {.inputs = "B:"},
    {.attrs = "p=1.01", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.attrs = "p=-0.1", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.attrs = "p=nan", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_dropout) = {
    .name = "dropout",
    .doc = "Each element becomes 0 with probability `p` and is multiplied by `1 / (1 - p)` otherwise; any shape; left out when not training (Srivastava and others: \"Dropout\", 2014). "
           "An element stays when its uniform number, Philox4x32-10 at (element/4, position in the global batch, step, op), is at least p; elements count in PyTorch's order in any memory layout. "
           "The mask is kept, a byte an element.",
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
