/* Losses that compare prediction and target element by element. A file defines POINTWISE_TERM(p, t, k, w), its derivatives POINTWISE_DP and POINTWISE_DT (k: attribute 1; w: the
 * element's factor from the optional input FACTOR, else 1), and includes this.
 *
 * Order: the elements of a sample go to 16 interleaved accumulators and a fixed tree (as in kernels/rowreduce.h), then a chain over the samples of a lane, fma(weight, sum, acc). */
#ifndef SS_OPS_POINTWISE_LOSS_H
#define SS_OPS_POINTWISE_LOSS_H
#include "kernels/vmath.h"
#include "ops/loss.h"
#include "ops/op.h"

enum { PREDICTION, TARGET, SAMPLE_WEIGHT, FACTOR };
enum { REDUCTION, K };
enum { LOSS_BATCHMEAN = 2 };
#define POINTWISE_REDUCTION {"reduction", SS_ATTR_INT, LOSS_MEAN, LOSS_MEAN, LOSS_BATCHMEAN, "0: mean over all elements, 1: sum, 2: sum over elements, mean over samples"}

/* factors: the loss takes input FACTOR, a buffer of a sample's shape or of its last axes. */
static inline ss_status pointwise_infer(ss_infer *q, const char *name, bool factors, ss_error *err) {
    char a[96], b[96];
    const int n_in = q->n_in;
    if (n_in > (factors ? 4 : 3)) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes at most %d inputs, not %d", name, factors ? 4 : 3, n_in);
    if (n_in == 4) q->n_in = 3;
    ss_status status = loss_infer(q, name, 0, SAMPLE_WEIGHT, err);
    q->n_in = n_in;
    if (status != SS_OK) return status;
    if (!ss_shape_equal(&q->in[PREDICTION], &q->in[TARGET]))
        return SS_FAIL(err, SS_ERR_SHAPE, "%s needs targets of the prediction's shape %s, got %s", name, ss_shape_text(&q->in[PREDICTION], true, a, sizeof a),
                       ss_shape_text(&q->in[TARGET], true, b, sizeof b));
    if (q->dtype[TARGET] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs float targets, got integers", name);
    q->layout = SS_PLAIN;
    if (!loss_asks(q, FACTOR)) return SS_OK;
    const ss_shape *x = &q->in[PREDICTION], *w = &q->in[FACTOR];
    bool fits = q->role[FACTOR] == SS_ROLE_BUFFER && q->dtype[FACTOR] == SS_F32 && w->rank <= x->rank;
    for (int k = 0; fits && k < w->rank; k++) fits = w->dim[k] == x->dim[x->rank - w->rank + k];
    if (!fits) return SS_FAIL(err, SS_ERR_SHAPE, "%s: the factors of elements must be a buffer with the last axes of %s", name, ss_shape_text(x, true, a, sizeof a));
    return SS_OK;
}

static inline ss_status pointwise_prepare_as(const ss_call *c, const char *name, ss_error *err) {
    ss_status status = loss_check_sample_weights(c, name, SAMPLE_WEIGHT, err);
    if (status != SS_OK) return status;
    const int64_t reduction = ss_attr_i(c->attr, REDUCTION);
    if (reduction == LOSS_SUM) {
        loss_unit_denominator(c);
        return SS_OK;
    }
    const real elements = reduction == LOSS_BATCHMEAN ? 1 : (real)ss_shape_count(&c->in_shape[PREDICTION]);
    real *lane = c->lane_stat;
    for (int l = 0; l < c->fold->lanes; l++) {
        real sum = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) sum = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r), elements, sum);
        lane[l] = sum;
    }
    return SS_OK;
}

static inline int64_t pointwise_stat_len(const ss_call *c, bool backward) {
    (void)c;
    return backward ? 0 : 1;
}
static inline int64_t pointwise_saved(const ss_call *c) {
    (void)c;
    return sizeof(real); /* the sample's sum */
}

#ifdef POINTWISE_TERM
/* The sum of the terms of one sample. */
static inline real pointwise_sum(const ss_call *c, int64_t row) {
    const int64_t n = ss_shape_count(&c->in_shape[PREDICTION]), whole = n / 16 * 16, factors = loss_has(c, FACTOR) ? ss_shape_count(&c->in_shape[FACTOR]) : 0;
    const real *restrict p = (const real *)c->in[PREDICTION] + row * n, *restrict t = (const real *)c->in[TARGET] + row * n, *w = factors ? c->in[FACTOR] : NULL;
    const real k = (real)c->attr[K];
    real acc[16] = {0};
    (void)k, (void)w;
    if (factors) {
        for (int64_t i = 0; i < n; i++) acc[i % 16] += POINTWISE_TERM(p[i], t[i], k, w[i % factors]);
    } else {
        for (int64_t i = 0; i < whole; i += 16)
            for (int j = 0; j < 16; j++) acc[j] += POINTWISE_TERM(p[i + j], t[i + j], k, (real)1);
        for (int64_t i = whole; i < n; i++) acc[i - whole] += POINTWISE_TERM(p[i], t[i], k, (real)1);
    }
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; j++) acc[j] += acc[j + width];
    return acc[0];
}

static void stat(const ss_call *c, bool backward) {
    (void)backward;
    int64_t first, last;
    real *lane = c->lane_stat, *saved = c->saved;
    ss_split(c->fold->lanes, 1, c->thread, c->threads, &first, &last);
    for (int64_t l = first; l < last; l++) {
        real acc = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) {
            real sum = pointwise_sum(c, r);
            if (saved) saved[r] = sum;
            acc = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r), sum, acc);
        }
        lane[l] = acc;
    }
}

static void forward(const ss_call *c) {
    int64_t begin, end;
    const real *saved = c->saved;
    real *out = c->out[0];
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) out[r] = loss_sample_weight(c, SAMPLE_WEIGHT, r) * (saved ? saved[r] : pointwise_sum(c, r));
}

static void backward(const ss_call *c) {
    const int64_t n = ss_shape_count(&c->in_shape[PREDICTION]), factors = loss_has(c, FACTOR) ? ss_shape_count(&c->in_shape[FACTOR]) : 0;
    const real *restrict p = c->in[PREDICTION], *restrict t = c->in[TARGET], *w = factors ? c->in[FACTOR] : NULL;
    real *restrict gp = c->grad_in[PREDICTION], *restrict gt = c->grad_in[TARGET];
    const real k = (real)c->attr[K];
    int64_t begin, end;
    (void)k, (void)w;
    ss_my_elements(c, c->rows * n, &begin, &end);
    for (int64_t r = begin / n; r * n < end; r++) {
        const int64_t from = ss_max(begin, r * n), to = ss_min(end, (r + 1) * n);
        const real scale = loss_scale(c, loss_sample_weight(c, SAMPLE_WEIGHT, r));
        if (gp)
            for (int64_t i = from; i < to; i++) gp[i] = scale * (POINTWISE_DP(p[i], t[i], k, w ? w[(i - r * n) % factors] : 1));
        if (gt)
            for (int64_t i = from; i < to; i++) gt[i] = scale * (POINTWISE_DT(p[i], t[i], k, w ? w[(i - r * n) % factors] : 1));
    }
}
#endif

static inline void pointwise_cost(const ss_call *c, bool both, ss_cost *cost) {
    double n = (double)ss_shape_count(&c->in_shape[PREDICTION]);
    cost->flops = n * (both ? 40 : 20);
    cost->bytes = n * sizeof(float) * (both ? 5 : 2);
}

#define POINTWISE_CASES(P, T)                                             \
    {.inputs = P ":5 " T ":5"},                                           \
    {.inputs = P ": " T ":"},                                             \
    {.inputs = P ":3,4,5 " T ":3,4,5"},                                   \
    {.inputs = P ":37 " T ":37 W:"},                                      \
    {.attrs = "reduction=1", .inputs = P ":5 " T ":5 W:"},                \
    {.attrs = "reduction=2", .inputs = P ":5,4 " T ":5,4 W:"},            \
    {.inputs = "B:5 B:6", .expect = SS_ERR_SHAPE},                        \
    {.inputs = "B:5 P:5", .expect = SS_ERR_SHAPE},                        \
    {.inputs = "P:5 B:5", .expect = SS_ERR_SHAPE},                        \
    {.inputs = "B:5 B:5 W:5", .expect = SS_ERR_SHAPE},                    \
    {.inputs = "B:5", .expect = SS_ERR_SHAPE},                            \
    {.inputs = "I3:5 B:5", .expect = SS_ERR_DTYPE},                       \
    {.inputs = "B:5 I3:5", .expect = SS_ERR_DTYPE}

#endif
