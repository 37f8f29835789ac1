/* mean_loss: the mean of terms that other operators computed, as a loss. */
#include "kernels/rowreduce.h"
#include "kernels/variant.h"
#include "ops/loss.h"
#include "ops/op.h"

enum { TERMS, SAMPLE_WEIGHT };
enum { REDUCTION };

static const ss_attr_spec attrs[] = {
    {"reduction", SS_ATTR_INT, LOSS_MEAN, LOSS_MEAN, LOSS_SUM, "0: mean over all elements, 1: sum"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    if (q->n_in < 1 || q->n_in > 2 || q->in[TERMS].rank < 0) return SS_FAIL(err, SS_ERR_SHAPE, "mean_loss takes terms and optional sample weights, not %d inputs", q->n_in);
    if (q->role[TERMS] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_SHAPE, "mean_loss: the terms must be an activation, one row a sample");
    if (q->dtype[TERMS] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "mean_loss needs float terms, got integers");
    if (loss_asks(q, SAMPLE_WEIGHT)) {
        if (q->in[SAMPLE_WEIGHT].rank != 0 || q->role[SAMPLE_WEIGHT] != SS_ROLE_BATCHED)
            return SS_FAIL(err, SS_ERR_SHAPE, "mean_loss needs sample weights of shape (B), got %s", ss_shape_text(&q->in[SAMPLE_WEIGHT], q->role[SAMPLE_WEIGHT] == SS_ROLE_BATCHED, text, sizeof text));
        if (q->dtype[SAMPLE_WEIGHT] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "mean_loss needs float sample weights, got integers");
    }
    q->n_out = 1;
    q->out[0] = (ss_shape){.rank = 0};
    return SS_OK;
}

static ss_status prepare(const ss_call *c, ss_error *err) {
    ss_status status = loss_check_sample_weights(c, "mean_loss", SAMPLE_WEIGHT, err);
    if (status != SS_OK) return status;
    if (ss_attr_i(c->attr, REDUCTION) == LOSS_SUM) {
        loss_unit_denominator(c);
        return SS_OK;
    }
    const real elements = (real)ss_shape_count(&c->in_shape[TERMS]);
    real *lane = c->lane_stat;
    for (int l = 0; l < c->fold->lanes; l++) {
        real sum = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) sum = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r), elements, sum);
        lane[l] = sum;
    }
    return SS_OK;
}

static int64_t stat_len(const ss_call *c, bool backward) {
    (void)c;
    return backward ? 0 : 1;
}

static void stat(const ss_call *c, bool backward) {
    (void)backward;
    const int64_t n = ss_shape_count(&c->in_shape[TERMS]);
    const real *x = c->in[TERMS];
    real *lane = c->lane_stat;
    int64_t first, last;
    ss_split(c->fold->lanes, 1, c->thread, c->threads, &first, &last);
    for (int64_t l = first; l < last; l++) {
        real acc = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1]; r++) acc = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r), row_sum(n, x + r * n), acc);
        lane[l] = acc;
    }
}

static void forward(const ss_call *c) {
    const int64_t n = ss_shape_count(&c->in_shape[TERMS]);
    const real *x = c->in[TERMS];
    real *out = c->out[0];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; r < end; r++) out[r] = loss_sample_weight(c, SAMPLE_WEIGHT, r) * row_sum(n, x + r * n);
}

static void backward(const ss_call *c) {
    const int64_t n = ss_shape_count(&c->in_shape[TERMS]);
    real *restrict to = c->grad_in[TERMS];
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    for (int64_t r = begin; to && r < end; r++) {
        const real scale = loss_scale(c, loss_sample_weight(c, SAMPLE_WEIGHT, r));
        for (int64_t i = 0; i < n; i++) to[r * n + i] = scale;
    }
}

static void cost(const ss_call *c, bool both, ss_cost *cost) {
    double n = (double)ss_shape_count(&c->in_shape[TERMS]);
    cost->flops = n;
    cost->bytes = n * sizeof(float) * (both ? 2 : 1);
}

static const ss_op_case cases[] = {
    {.inputs = "B:5"},
    {.inputs = "B:"},
    {.inputs = "B:3,4,5 W:"},
    {.attrs = "reduction=1", .inputs = "B:37 W:"},
    {.inputs = "B:5 W:5", .expect = SS_ERR_SHAPE},
    {.inputs = "P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "I3:5", .expect = SS_ERR_DTYPE},
    {.inputs = "B:5 I3:", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_mean_loss) = {
    .name = "mean_loss",
    .doc = "The weighted mean (reduction 0) or sum (1) of terms that other operators computed: any loss can be written with it.\n\n"
           "terms `(B, ...)`, sample weight `(B)` or absent (all 1). Order: the elements of a sample go to 16 interleaved accumulators and a tree over them, then a chain over the samples of a lane.",
    .flags = SS_OP_LOSS | SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .prepare = prepare,
    .stat_len = stat_len,
    .stat = stat,
    .cost = cost,
    .cases = cases,
};
