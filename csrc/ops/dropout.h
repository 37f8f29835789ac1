/* What the operators that drop elements share: random numbers, and the pass over single elements. Included by op_*.c alone. */
#ifndef SS_OPS_DROPOUT_H
#define SS_OPS_DROPOUT_H
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "base/philox.h"
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

#define DROPOUT_INLINE static inline __attribute__((always_inline))

static const ss_attr_spec dropout_attrs[] = {
    {"p", SS_ATTR_FLOAT, 0.5, 0, 1, "probability that an element becomes 0"},
    {0},
};

static inline ss_status dropout_infer(ss_infer *q, const char *name, ss_error *err) {
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes 1 input, not %d", name, q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "%s: the input must be an activation, one row a sample", name);
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s: the input must be float", name);
    if (ss_shape_count(&q->in[0]) > (int64_t)1 << 33) return SS_FAIL(err, SS_ERR_SHAPE, "%s: a sample has more elements than the random numbers can count", name);
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->any_layout = true;
    return SS_OK;
}

enum { DROPOUT_BLOCK = 4 * SS_RANDOM_BLOCK };

/* Whether the elements [4 counter, 4 counter + DROPOUT_BLOCK) of a sample stay, by their number in PyTorch's order: 1 or 0. */
static inline void dropout_draw(const ss_call *c, uint32_t position, uint32_t counter, uint32_t threshold, uint8_t *restrict keep) {
    uint32_t word[4][SS_RANDOM_BLOCK];
    ss_philox_block(c->seed, counter, position, c->step, c->op_number, word);
    for (int j = 0; j < SS_RANDOM_BLOCK; j++) {
        keep[4 * j] = (word[0][j] >> 8) >= threshold;
        keep[4 * j + 1] = (word[1][j] >> 8) >= threshold;
        keep[4 * j + 2] = (word[2][j] >> 8) >= threshold;
        keep[4 * j + 3] = (word[3][j] >> 8) >= threshold;
    }
}

/* An element stays when its uniform number, whole/2^24, is at least p. */
static inline uint32_t dropout_threshold(double p) {
    double scaled = p * 0x1p24;
    uint32_t whole = (uint32_t)scaled;
    return whole + ((double)whole < scaled);
}

static inline real dropout_factor(double p) { return p < 1 ? (real)(1 / (1 - p)) : 0; }

/* What becomes of an element that stays (x * factor, with a shift fused), and of one that does not. */
typedef struct dropout_values {
    real factor, shift, dropped;
} dropout_values;

/* alpha: dropped elements take the value where SELU is flat, -1.758..., and the affine map that follows restores mean 0 and variance 1. */
static inline dropout_values dropout_values_of(double p, bool alpha) {
    if (!alpha || p >= 1) return (dropout_values){dropout_factor(p), 0, 0};
    const double flat = 1.7580993408473766, scale = 1 / sqrt((flat * flat * p + 1) * (1 - p));
    return (dropout_values){(real)scale, (real)(flat * scale * p), (real)(flat * scale * (p - 1))};
}

DROPOUT_INLINE real dropout_one(int keep, real x, dropout_values v, const bool alpha) { return if_r(keep, alpha ? fma_r(x, v.factor, v.shift) : x * v.factor, v.dropped); }

DROPOUT_INLINE void dropout_apply(int64_t n, const uint8_t *restrict keep, const real *restrict x, real *restrict y, dropout_values v, const bool alpha) {
    for (int64_t i = 0; i < n; i++) y[i] = dropout_one(keep[i] != 0, x[i], v, alpha);
}

DROPOUT_INLINE void dropout_forward(const ss_call *c, const bool alpha) {
    const ss_shape *s = &c->in_shape[0];
    int64_t n = ss_shape_count(s), channels = s->rank >= 2 ? s->dim[0] : 1, inner = n / channels, begin, end;
    const real *x = c->in[0];
    real *y = c->out[0];
    const dropout_values values = dropout_values_of(c->attr[0], alpha);
    uint8_t *saved = c->saved, keep[DROPOUT_BLOCK];
    uint32_t threshold = dropout_threshold(c->attr[0]);
    int64_t blocks = ss_round_up(n, DROPOUT_BLOCK) / DROPOUT_BLOCK;
    ss_split(c->rows * blocks, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        int64_t row = u / blocks, first = u % blocks * DROPOUT_BLOCK, count = ss_min(DROPOUT_BLOCK, n - first), at = row * n;
        dropout_draw(c, (uint32_t)(c->sample0 + row), (uint32_t)(first / 4), threshold, keep);
        if (c->layout == SS_PLAIN || channels == 1 || inner == 1) {
            dropout_apply(count, keep, x + at + first, y + at + first, values, alpha);
            memcpy(saved + at + first, keep, (size_t)count);
            continue;
        }
        int64_t channel = first / inner, position = first % inner;
        for (int64_t i = 0; i < count; channel++, position = 0)
            for (; i < count && position < inner; i++, position++) {
                int64_t place = at + position * channels + channel;
                saved[place] = keep[i];
                y[place] = dropout_one(keep[i] != 0, x[place], values, alpha);
            }
    }
}

/* The gradient has no shift. */
static inline void dropout_backward(const ss_call *c, const bool alpha) {
    dropout_values values = dropout_values_of(c->attr[0], alpha);
    int64_t begin, end;
    ss_my_elements(c, c->rows * ss_shape_count(&c->in_shape[0]), &begin, &end);
    values.dropped = 0;
    dropout_apply(end - begin, (const uint8_t *)c->saved + begin, (const real *)c->grad_out[0] + begin, (real *)c->grad_in[0] + begin, values, false);
}

/* The definition, one element at a time. */
static inline void dropout_forward_ref(const ss_call *c, const bool alpha) {
    const dropout_values values = dropout_values_of(c->attr[0], alpha);
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
            y[at] = !saved[at] ? values.dropped : alpha ? fma_r(x[at], values.factor, values.shift) : x[at] * values.factor;
        }
}

static inline int64_t dropout_saved_bytes(const ss_call *c) { return ss_shape_count(&c->in_shape[0]); }

static inline void dropout_cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[0]);
    out->flops = n * (both ? 32 : 31);
    out->bytes = n * (both ? 18 : 9);
}

#define DROPOUT_CASES \
    {.inputs = "B:5,6,7"}, \
    {.attrs = "p=0.1", .inputs = "B:1030"}, \
    {.attrs = "p=0.75", .inputs = "B:11,50"}, \
    {.attrs = "p=0", .inputs = "B:37"}, \
    {.attrs = "p=1", .inputs = "B:4,9"}, \
    {.inputs = "B:"}, \
    {.attrs = "p=1.01", .inputs = "B:4", .expect = SS_ERR_VALUE}, \
    {.attrs = "p=-0.1", .inputs = "B:4", .expect = SS_ERR_VALUE}, \
    {.attrs = "p=nan", .inputs = "B:4", .expect = SS_ERR_VALUE}, \
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE}, \
    {.inputs = "P:4", .expect = SS_ERR_VALUE}, \
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE}

#endif
