/* Mean squared error, as torch.nn.MSELoss, with weights of samples. */
#include "kernels/rowreduce.h"
#include "kernels/variant.h"
#include "ops/loss.h"
#include "ops/op.h"

enum { PREDICTION, TARGET, SAMPLE_WEIGHT };
enum { REDUCTION };

static const ss_attr_spec attrs[] = {
    {"reduction", SS_ATTR_INT, LOSS_MEAN, LOSS_MEAN, LOSS_SUM, "0: mean over all elements, 1: sum"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    ss_status status = loss_infer(q, "mse", 0, SAMPLE_WEIGHT, err);
    if (status != SS_OK) return status;
    if (!ss_shape_equal(&q->in[PREDICTION], &q->in[TARGET]))
        return SS_FAIL(err, SS_ERR_SHAPE, "mse needs targets of the prediction's shape %s, got %s", ss_shape_text(&q->in[PREDICTION], true, a, sizeof a),
                       ss_shape_text(&q->in[TARGET], true, b, sizeof b));
    if (q->dtype[TARGET] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "mse needs float targets, got integers");
    /* Plain: targets are read as the caller gave them. A relayout of theirs would be an activation, which `prepare` refuses. */
    q->layout = SS_PLAIN;
    return SS_OK;
}

static ss_status prepare(const ss_call *c, ss_error *err) {
    ss_status status = loss_check_sample_weights(c, "mse", SAMPLE_WEIGHT, err);
    if (status != SS_OK) return status;
    if (ss_attr_i(c->attr, REDUCTION) == LOSS_SUM) {
        loss_unit_denominator(c);
        return SS_OK;
    }
    const real elements = (real)ss_shape_count(&c->in_shape[PREDICTION]);
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
static int64_t saved_bytes(const ss_call *c) {
    (void)c;
    return sizeof(real); /* the sample's sum of squares */
}

/* Sign and payload of a NaN depend on the instructions that made it; saved bytes must not. */
static real one_nan(real x) { return x == x ? x : (real)NAN; }

/* sum[j] = the sum of squares of sample begin + j: 16 accumulators and their tree. */
static void sums_of_squares(const ss_call *c, int64_t begin, int64_t end, real *sum) {
    const int64_t n = ss_shape_count(&c->in_shape[PREDICTION]);
    const real *p = c->in[PREDICTION], *t = c->in[TARGET];
    if (n == 1) /* the same bits: the other accumulators hold 0 */
        for (int64_t r = begin; r < end; r++) sum[r - begin] = (p[r] - t[r]) * (p[r] - t[r]);
    else
        for (int64_t r = begin; r < end; r++) sum[r - begin] = row_distance(n, p + r * n, t + r * n);
    for (int64_t r = begin; r < end; r++) sum[r - begin] = one_nan(sum[r - begin]);
}

/* The definition: element i of a sample joins accumulator i % 16, which are then joined with those 8, 4, 2 and 1 further on. */
static void sums_of_squares_ref(const ss_call *c, int64_t begin, int64_t end, real *sum) {
    const int64_t n = ss_shape_count(&c->in_shape[PREDICTION]);
    const real *p = c->in[PREDICTION], *t = c->in[TARGET];
    for (int64_t r = begin; r < end; r++) {
        real acc[16] = {0};
        for (int64_t i = 0; i < n; i++) {
            real d = p[r * n + i] - t[r * n + i];
            acc[i % 16] = fma_r(d, d, acc[i % 16]);
        }
        for (int width = 8; width > 0; width /= 2)
            for (int j = 0; j < width; j++) acc[j] += acc[j + width];
        sum[r - begin] = one_nan(acc[0]);
    }
}

static void stat(const ss_call *c, bool backward) {
    (void)backward;
    int64_t first, last;
    real *lane = c->lane_stat, *saved = c->saved;
    ss_split(c->fold->lanes, 1, c->thread, c->threads, &first, &last);
    for (int64_t l = first; l < last; l++) {
        real acc = 0;
        for (int64_t r = c->fold->row[l]; r < c->fold->row[l + 1];) {
            real sum[8];
            int64_t end = ss_min(r + 8, c->fold->row[l + 1]);
            if (c->kernels) sums_of_squares(c, r, end, sum);
            else sums_of_squares_ref(c, r, end, sum);
            for (int64_t j = 0; r + j < end; j++) {
                if (saved) saved[r + j] = sum[j];
                acc = fma_r(loss_sample_weight(c, SAMPLE_WEIGHT, r + j), sum[j], acc);
            }
            r = end;
        }
        lane[l] = acc;
    }
}

static void forward(const ss_call *c) {
    int64_t begin, end;
    const real *saved = c->saved;
    real *out = c->out[0];
    ss_my_rows(c, &begin, &end);
    if (!saved) sums_of_squares(c, begin, end, out + begin);
    for (int64_t r = begin; r < end; r++) out[r] = loss_sample_weight(c, SAMPLE_WEIGHT, r) * (saved ? saved[r] : out[r]);
}

static void backward(const ss_call *c) {
    const int64_t n = ss_shape_count(&c->in_shape[PREDICTION]);
    int64_t begin, end;
    ss_my_elements(c, c->rows * n, &begin, &end);
    for (int64_t r = begin / n; r * n < end; r++) {
        const int64_t from = ss_max(begin, r * n), to = ss_min(end, (r + 1) * n);
        const real scale = loss_scale(c, 2 * loss_sample_weight(c, SAMPLE_WEIGHT, r));
        const real *restrict p = c->in[PREDICTION], *restrict t = c->in[TARGET];
        real *restrict gp = c->grad_in[PREDICTION], *restrict gt = c->grad_in[TARGET];
        if (gp)
            for (int64_t i = from; i < to; i++) gp[i] = scale * (p[i] - t[i]);
        if (gt)
            for (int64_t i = from; i < to; i++) gt[i] = scale * (t[i] - p[i]);
    }
}

static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    double n = (double)ss_shape_count(&c->in_shape[PREDICTION]);
    cost->flops = n * (backward ? 5 : 3);
    cost->bytes = n * sizeof(float) * (backward ? 5 : 2);
}

static const ss_op_case cases[] = {
    {.inputs = "B:5 B:5"},
    {.inputs = "B: B:"},
    {.inputs = "B:3,4,5 W:3,4,5"},
    {.inputs = "B:7 B:7 W:"},
    {.inputs = "B:7 B:7 -"},
    {.inputs = "B:1377 B:1377"},
    {.inputs = "B:16 B:16"},
    {.inputs = "B:2,33 W:2,33 W:"},
    {.attrs = "reduction=1", .inputs = "B:5 B:5"},
    {.attrs = "reduction=1", .inputs = "B:5 B:5 W:"},
    {.attrs = "reduction=2", .inputs = "B:5 B:5", .expect = SS_ERR_VALUE},
    {.inputs = "B:5 B:6", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5 B:5,1", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5 P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "P:5 B:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5 B:5 W:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5 B:5 P:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5 B:5 W: W:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5", .expect = SS_ERR_SHAPE},
    {.inputs = "I3:5 B:5", .expect = SS_ERR_DTYPE},
    {.inputs = "B:5 I3:5", .expect = SS_ERR_DTYPE},
    {.inputs = "B:5 B:5 I3:", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_mse) = {
    .name = "mse",
    .doc = "Mean squared error.\n\n"
           "prediction and target `(B, ...)` of one shape with n elements a sample, sample weight `(B)` or absent (all 1).\n\n"
           "    loss = sum_b weight_b sum_i (prediction_bi - target_bi)^2 / (n sum_b weight_b)\n\n"
           "With reduction 1 (sum) the denominator is 1. Weights are finite and not negative; where all are 0 the gradient is 0. Both inputs receive a gradient. "
           "The node's own value is the sample's weighted sum of squares.\n\n"
           "Order of sums: along the elements of a sample in row-major order 16 interleaved accumulators, `fma(d, d, acc)`, and a tree over them; "
           "then a chain over the samples of a lane, `fma(weight, sum of sample, acc)`.",
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
