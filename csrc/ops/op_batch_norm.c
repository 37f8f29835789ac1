/* BatchNorm, as torch.nn.BatchNorm1d, BatchNorm2d and BatchNorm3d, with the statistics of the whole global batch or of groups of lanes; where the plan finds them behind it, with
 * the sum with a residual and the ReLU of the result in the same pass over memory.
 *
 * `saved` keeps four vectors of C for every lane, in the slot of the lane's first sample (the slots of the other samples are not used):
 *   mean, inverse deviation   of the lane's group, written by forward
 *   sum of gy, sum of gy*xhat over the lane, written by the statistics of the backward pass: they become the gradients of beta and gamma
 */
#include <assert.h>
#include <string.h>
#include "kernels/variant.h"
#include "ops/op.h"
#ifndef SS_F64
#include "kernels/vec.h"
#endif

enum { X, GAMMA, BETA, RUNNING_MEAN, RUNNING_VAR, RESIDUAL };
enum { EPS, MOMENTUM, STATS_LANES, USE_RUNNING, CUMULATIVE, RELU };
enum { SAVED_MEAN, SAVED_INVERSE, SAVED_SUM, SAVED_PRODUCT, SAVED_VECTORS };

static const ss_attr_spec attrs[] = {
    {"eps", SS_ATTR_FLOAT, 1e-5, 0, 1e6, "added to the variance"},
    {"momentum", SS_ATTR_FLOAT, 0.1, 0, 1, "weight of the new statistics in the running ones"},
    {"stats_lanes", SS_ATTR_INT, 0, 0, SS_MAX_LANES, "lanes whose samples are normalised together; 0: the whole batch"},
    {"use_running", SS_ATTR_BOOL, 0, 0, 1, "normalise by the running statistics in training too, and leave them alone"},
    {"cumulative", SS_ATTR_BOOL, 0, 0, 1, "running statistics are the plain averages over all steps so far (momentum=None in PyTorch): the weight is 1 / (steps before this one + 1)"},
    {"relu", SS_ATTR_BOOL, 0, 0, 1, "y = max(y, 0) at the end; set by the plan where ReLU follows"},
    {0},
};

static bool absent(const ss_call *c, int i) { return c->n_in <= i || c->in_shape[i].rank < 0; }
static int64_t channels_of(const ss_call *c) { return c->in_shape[X].dim[0]; }
static int64_t positions_of(const ss_call *c) { return ss_shape_count(&c->in_shape[X]) / c->in_shape[X].dim[0]; }
static bool with_relu(const ss_call *c) { return c->attr[RELU] != 0; }
/* Normalised by running statistics: these are constants, and no sums over samples are needed. */
static bool frozen(const ss_call *c) { return !absent(c, RUNNING_MEAN) && (!c->training || c->attr[USE_RUNNING] != 0); }

static real *lane_saved(const ss_call *c, int lane, int vector) {
    return (real *)c->saved + (c->fold->row[lane] * SAVED_VECTORS + vector) * channels_of(c);
}

static ss_status infer(ss_infer *q, ss_error *err) {
    static const char *const names[] = {"x", "gamma", "beta", "running_mean", "running_var", "residual"};
    char a[96];
    if (q->n_in < 1 || q->n_in > 6) return SS_FAIL(err, SS_ERR_SHAPE, "batch_norm takes x, gamma, beta, running_mean, running_var and a residual, not %d inputs", q->n_in);
    const ss_shape *x = &q->in[X];
    if (x->rank < 1 || x->rank > 4 || q->role[X] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "batch_norm needs an input of shape (B, C), (B, C, L), (B, C, H, W) or (B, C, D, H, W), got %s",
                       x->rank < 0 ? "none" : ss_shape_text(x, q->role[X] == SS_ROLE_BATCHED, a, sizeof a));
    for (int i = 0; i < q->n_in; i++)
        if (q->in[i].rank >= 0 && q->dtype[i] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "batch_norm needs floats, got integers as %s", names[i]);
    bool given[5] = {true};
    if (q->n_in > RESIDUAL && q->in[RESIDUAL].rank >= 0 && (q->role[RESIDUAL] != SS_ROLE_BATCHED || !ss_shape_equal(&q->in[RESIDUAL], x)))
        return SS_FAIL(err, SS_ERR_SHAPE, "batch_norm: the residual must have the shape of x, got %s", ss_shape_text(&q->in[RESIDUAL], q->role[RESIDUAL] == SS_ROLE_BATCHED, a, sizeof a));
    for (int i = GAMMA; i < q->n_in && i <= RUNNING_VAR; i++) {
        given[i] = q->in[i].rank >= 0;
        if (given[i] && (q->in[i].rank != 1 || q->in[i].dim[0] != x->dim[0] || q->role[i] == SS_ROLE_BATCHED))
            return SS_FAIL(err, SS_ERR_SHAPE, "batch_norm: %s must have shape (%lld), got %s", names[i], (long long)x->dim[0], ss_shape_text(&q->in[i], q->role[i] == SS_ROLE_BATCHED, a, sizeof a));
        if (given[i] && i >= RUNNING_MEAN && q->role[i] != SS_ROLE_BUFFER) return SS_FAIL(err, SS_ERR_VALUE, "batch_norm: %s must be a buffer", names[i]);
    }
    if (given[RUNNING_MEAN] != given[RUNNING_VAR]) return SS_FAIL(err, SS_ERR_VALUE, "batch_norm needs both running_mean and running_var, or neither");
    if (q->attr[USE_RUNNING] != 0 && !given[RUNNING_MEAN]) return SS_FAIL(err, SS_ERR_VALUE, "batch_norm with use_running needs running_mean and running_var");
    q->n_out = 1;
    q->out[0] = *x;
    q->layout = SS_CHANNELS_LAST;
    return SS_OK;
}

/* ---- sums over the samples of a lane ---- */

/* Forward: mean = (chain of x) / n, and the chain of (x - mean)^2. n = samples * positions of the lane. */
static void lane_moments_ref(const real *x, int64_t n, int64_t channels, real *mean, real *square) {
    for (int64_t c = 0; c < channels; c++) {
        real sum = 0, sum2 = 0;
        for (int64_t i = 0; i < n; i++) sum += x[i * channels + c];
        mean[c] = sum / (real)n;
        for (int64_t i = 0; i < n; i++) {
            real d = x[i * channels + c] - mean[c];
            sum2 = fma_r(d, d, sum2);
        }
        square[c] = sum2;
    }
}

/* y before the ReLU: the forward pass makes it, and the backward pass once more. r: the residual, or NULL. */
static inline real before_relu(real x, const real *r, real mean, real scale, real shift) {
    real y = fma_r(x - mean, scale, shift);
    return r ? y + *r : y;
}

static real scale_of(const ss_call *c, int64_t channel, real inverse) { return absent(c, GAMMA) ? inverse : ((const real *)c->in[GAMMA])[channel] * inverse; }
static real shift_of(const ss_call *c, int64_t channel) { return absent(c, BETA) ? 0 : ((const real *)c->in[BETA])[channel]; }

/* The gradient before the ReLU at element `at` of channel `channel`. */
static real masked(const ss_call *c, int64_t at, int64_t channel, real mean, real inverse) {
    const real *x = c->in[X], *grad = c->grad_out[0], *r = absent(c, RESIDUAL) ? NULL : (const real *)c->in[RESIDUAL] + at;
    return with_relu(c) && before_relu(x[at], r, mean, scale_of(c, channel, inverse), shift_of(c, channel)) <= 0 ? 0 : grad[at];
}

/* Backward: the chain of gy, and the chain of gy * (x - mean) times the inverse deviation; positions from `first` on. */
static void lane_products_ref(const ss_call *call, int64_t first, int64_t n, int64_t channels, const real *mean, const real *inverse, real *sum, real *product) {
    const real *x = call->in[X];
    for (int64_t c = 0; c < channels; c++) {
        real s = 0, p = 0;
        for (int64_t i = first; i < first + n; i++) {
            real g = masked(call, i * channels + c, c, mean[c], inverse[c]);
            s += g;
            p = fma_r(g, x[i * channels + c] - mean[c], p);
        }
        sum[c] = s;
        product[c] = p * inverse[c];
    }
}

#ifndef SS_F64

/* A vector of channels of one lane. A chain cannot be cut, so several chains run side by side to hide the latency of an addition. */
enum { CHAINS = 8 };
typedef struct chain {
    const float *x, *grad, *residual;
    float *a, *b;
    const float *mean, *inverse, *gamma, *beta; /* gamma, beta may be NULL */
    int64_t n;
    vec_mask mask;
    int width;
} chain;

/* Rows [begin, end) of `count` chains (a constant at the calls). */
SS_INLINE void chain_sum(const chain *k, const int count, int64_t begin, int64_t end, int64_t stride, vec *sum) {
    for (int64_t i = begin; i < end; i++)
#pragma GCC unroll 8
        for (int j = 0; j < count; j++) sum[j] = vec_add(sum[j], vec_load_mask(k[j].x + i * stride, k[j].mask));
}

SS_INLINE void chain_square(const chain *k, const int count, int64_t begin, int64_t end, int64_t stride, const vec *mean, vec *sum) {
    for (int64_t i = begin; i < end; i++)
#pragma GCC unroll 8
        for (int j = 0; j < count; j++) {
            vec d = vec_load_mask(k[j].x + i * stride, k[j].mask) - mean[j];
            sum[j] = vec_fma(d, d, sum[j]);
        }
}

/* relu: 0 none, 1 of the result alone, 2 of its sum with a residual. */
SS_INLINE void chain_product(const chain *k, const int count, const int relu, int64_t begin, int64_t end, int64_t stride, const vec *mean, const vec *scale, const vec *shift, vec *sum,
                             vec *product) {
    for (int64_t i = begin; i < end; i++)
#pragma GCC unroll 8
        for (int j = 0; j < count; j++) {
            vec g = vec_load_mask(k[j].grad + i * stride, k[j].mask), d = vec_load_mask(k[j].x + i * stride, k[j].mask) - mean[j];
            if (relu) {
                vec y = vec_fma(d, scale[j], shift[j]);
                if (relu == 2) y = vec_add(y, vec_load_mask(k[j].residual + i * stride, k[j].mask));
                g = vec_where_positive(y, g);
            }
            sum[j] = vec_add(sum[j], g);
            product[j] = vec_fma(g, d, product[j]);
        }
}

/* `count` chains together as far as the shortest goes, then each to its end. */
SS_INLINE void run_moments(const chain *k, const int count, int64_t stride) {
    vec sum[CHAINS], mean[CHAINS];
    int64_t n = k[0].n;
    for (int j = 1; j < count; j++) n = ss_min(n, k[j].n);
#pragma GCC unroll 8
    for (int j = 0; j < count; j++) sum[j] = vec_zero();
    chain_sum(k, count, 0, n, stride, sum);
#pragma GCC unroll 8
    for (int j = 0; j < count; j++) {
        chain_sum(k + j, 1, n, k[j].n, stride, sum + j);
        mean[j] = sum[j] / vec_set((float)k[j].n);
        vec_store_mask(k[j].a, mean[j], k[j].mask);
        sum[j] = vec_zero();
    }
    chain_square(k, count, 0, n, stride, mean, sum);
#pragma GCC unroll 8
    for (int j = 0; j < count; j++) {
        chain_square(k + j, 1, n, k[j].n, stride, mean + j, sum + j);
        vec_store_mask(k[j].b, sum[j], k[j].mask);
    }
}

SS_INLINE void run_products(const chain *k, const int count, const int relu, int64_t stride) {
    vec sum[CHAINS], product[CHAINS], mean[CHAINS], scale[CHAINS], shift[CHAINS];
    int64_t n = k[0].n;
    for (int j = 1; j < count; j++) n = ss_min(n, k[j].n);
#pragma GCC unroll 8
    for (int j = 0; j < count; j++) {
        sum[j] = product[j] = vec_zero();
        mean[j] = vec_load_mask(k[j].mean, k[j].mask);
        scale[j] = vec_load_mask(k[j].inverse, k[j].mask);
        if (k[j].gamma) scale[j] = vec_load_mask(k[j].gamma, k[j].mask) * scale[j];
        shift[j] = vec_zero();
        if (k[j].beta) shift[j] = vec_load_mask(k[j].beta, k[j].mask);
    }
    chain_product(k, count, relu, 0, n, stride, mean, scale, shift, sum, product);
#pragma GCC unroll 8
    for (int j = 0; j < count; j++) {
        chain_product(k + j, 1, relu, n, k[j].n, stride, mean + j, scale + j, shift + j, sum + j, product + j);
        vec_store_mask(k[j].a, sum[j], k[j].mask);
        vec_store_mask(k[j].b, product[j] * vec_load_mask(k[j].inverse, k[j].mask), k[j].mask);
    }
}

static __attribute__((noinline)) void run_forward_chains(const chain *k, int count, int64_t stride) {
    int done = 0;
    for (; count - done >= CHAINS; done += CHAINS) run_moments(k + done, CHAINS, stride);
    for (; count - done >= 4; done += 4) run_moments(k + done, 4, stride);
    for (; done < count; done++) run_moments(k + done, 1, stride);
}

#define BACKWARD_CHAINS(name, relu)                                                                   \
    static __attribute__((noinline)) void name(const chain *k, int count, int64_t stride) {           \
        int done = 0;                                                                                 \
        for (; count - done >= 4; done += 4) run_products(k + done, 4, relu, stride);                 \
        for (; done < count; done++) run_products(k + done, 1, relu, stride);                         \
    }
BACKWARD_CHAINS(run_backward_chains, 0)
BACKWARD_CHAINS(run_relu_chains, 1)
BACKWARD_CHAINS(run_residual_chains, 2)

#endif

/* Where the sums of a lane go: forward into the statistic (mean, centred squares), backward into `saved`. */
static real *lane_result(const ss_call *c, int lane, bool backward, int which) {
    int64_t channels = channels_of(c);
    if (backward) return lane_saved(c, lane, SAVED_SUM + which);
    return (real *)c->lane_stat + lane * (1 + 2 * channels) + 1 + which * channels;
}

/* Lanes times vectors of channels are dealt to threads. */
static void lane_sums(const ss_call *c, bool backward) {
    int64_t channels = channels_of(c), positions = positions_of(c);
    const real *x = c->in[X];
#ifndef SS_F64
    if (c->kernels) {
        const real *grad = backward ? c->grad_out[0] : NULL;
        int64_t vectors = (channels + VEC_WIDTH - 1) / VEC_WIDTH, begin, end;
        ss_split(c->fold->lanes * vectors, 1, c->thread, c->threads, &begin, &end);
        chain k[CHAINS];
        for (int64_t i = begin; i < end;) {
            int count = 0;
            for (; count < CHAINS && i < end; i++, count++) {
                int lane = (int)(i / vectors);
                int64_t first = i % vectors * VEC_WIDTH, row = c->fold->row[lane] * positions;
                k[count] = (chain){.x = x + row * channels + first, .a = lane_result(c, lane, backward, 0) + first, .b = lane_result(c, lane, backward, 1) + first,
                                   .n = (c->fold->row[lane + 1] - c->fold->row[lane]) * positions, .mask = vec_first(channels - first)};
                if (!backward) continue;
                k[count].grad = grad + row * channels + first;
                k[count].mean = lane_saved(c, lane, SAVED_MEAN) + first;
                k[count].inverse = lane_saved(c, lane, SAVED_INVERSE) + first;
                k[count].residual = absent(c, RESIDUAL) ? NULL : (const float *)c->in[RESIDUAL] + row * channels + first;
                k[count].gamma = absent(c, GAMMA) ? NULL : (const float *)c->in[GAMMA] + first;
                k[count].beta = absent(c, BETA) ? NULL : (const float *)c->in[BETA] + first;
            }
            if (!backward) run_forward_chains(k, count, channels);
            else if (!with_relu(c)) run_backward_chains(k, count, channels);
            else if (absent(c, RESIDUAL)) run_relu_chains(k, count, channels);
            else run_residual_chains(k, count, channels);
        }
        return;
    }
#endif
    if (c->thread) return;
    for (int lane = 0; lane < c->fold->lanes; lane++) {
        int64_t row = c->fold->row[lane] * positions, n = (c->fold->row[lane + 1] - c->fold->row[lane]) * positions;
        real *a = lane_result(c, lane, backward, 0), *b = lane_result(c, lane, backward, 1);
        if (backward) lane_products_ref(c, row, n, channels, lane_saved(c, lane, SAVED_MEAN), lane_saved(c, lane, SAVED_INVERSE), a, b);
        else lane_moments_ref(x + row * channels, n, channels, a, b);
    }
}

/* Statistic: forward (count, mean[C], centred squares[C]), after stat_done (count, mean[C], inverse deviation[C]);
 * backward (count, sum of gy[C], sum of gy*xhat[C]). */
static int64_t stat_len(const ss_call *c, bool backward) {
    (void)backward;
    return frozen(c) ? 0 : 1 + 2 * channels_of(c);
}

static void stat(const ss_call *c, bool backward) {
    int64_t channels = channels_of(c), positions = positions_of(c), vectors = 1;
    lane_sums(c, backward);
#ifndef SS_F64
    if (c->kernels) vectors = (channels + VEC_WIDTH - 1) / VEC_WIDTH; /* the same deal as in lane_sums: each thread copies what it has summed */
    enum { WIDTH = VEC_WIDTH };
#else
    enum { WIDTH = 1 };
#endif
    int64_t begin, end;
    ss_split(c->fold->lanes * vectors, 1, c->thread, c->threads, &begin, &end);
    if (!c->kernels && c->thread) return;
    for (int64_t i = begin; i < end; i++) {
        int lane = (int)(i / vectors);
        int64_t first = c->kernels ? i % vectors * WIDTH : 0, width = c->kernels ? ss_min(WIDTH, channels - first) : channels;
        real *to = (real *)c->lane_stat + lane * (1 + 2 * channels);
        if (first == 0) to[0] = (real)((c->fold->row[lane + 1] - c->fold->row[lane]) * positions);
        if (!backward) continue;
        memcpy(to + 1 + first, lane_saved(c, lane, SAVED_SUM) + first, (size_t)width * sizeof(real));
        memcpy(to + 1 + channels + first, lane_saved(c, lane, SAVED_PRODUCT) + first, (size_t)width * sizeof(real));
    }
}

/* Forward: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979). */
static void join_moments(int64_t channels, real *restrict a, const real *restrict b) {
    real n = a[0] + b[0], part = b[0] / n, weight = a[0] * part;
    real *restrict mean = a + 1, *restrict square = a + 1 + channels;
    const real *restrict mean_b = b + 1, *restrict square_b = b + 1 + channels;
    for (int64_t c = 0; c < channels; c++) {
        real delta = mean_b[c] - mean[c];
        mean[c] = fma_r(delta, part, mean[c]);
        square[c] = fma_r(delta * delta, weight, square[c] + square_b[c]);
    }
    a[0] = n;
}

static void stat_join(const ss_call *c, bool backward, void *a, const void *b) {
    int64_t channels = channels_of(c);
    real *to = a;
    const real *from = b;
    if (!backward) join_moments(channels, to, from);
    else
        for (int64_t i = 0; i < 1 + 2 * channels; i++) to[i] += from[i];
}

/* Running statistics take the join of all groups in order; their variance is the unbiased one (0 for a single value). */
static void update_running(const ss_call *c) {
    int64_t channels = channels_of(c), width = 1 + 2 * channels;
    const real *group = c->stat;
    real momentum = (real)(c->attr[CUMULATIVE] != 0 ? 1 / ((double)c->step + 1) : c->attr[MOMENTUM]), *running_mean = c->in[RUNNING_MEAN], *running_var = c->in[RUNNING_VAR];
    for (int64_t i = 0; i < channels; i++) {
        real joined[3] = {group[0], group[1 + i], group[1 + channels + i]};
        for (int g = 1; g < c->stat_groups; g++) {
            const real *next = group + g * width;
            if (next[0] == 0) continue; /* no samples: the batch has fewer than lanes */
            if (joined[0] == 0) {
                joined[0] = next[0], joined[1] = next[1 + i], joined[2] = next[1 + channels + i];
                continue;
            }
            join_moments(1, joined, (const real[3]){next[0], next[1 + i], next[1 + channels + i]});
        }
        real variance = joined[0] > 1 ? joined[2] / (joined[0] - 1) : 0;
        running_mean[i] = (1 - momentum) * running_mean[i] + momentum * joined[1];
        running_var[i] = (1 - momentum) * running_var[i] + momentum * variance;
    }
}

static real inverse_deviation(real variance, real eps) { return 1 / (real)sqrt(variance + eps); }

static void stat_done(const ss_call *c, bool backward) {
    if (backward) return;
    int64_t channels = channels_of(c);
    if (c->training && !absent(c, RUNNING_MEAN)) update_running(c);
    for (int g = 0; g < c->stat_groups; g++) {
        real *group = (real *)c->stat + g * (1 + 2 * channels);
        for (int64_t i = 0; group[0] > 0 && i < channels; i++) group[1 + channels + i] = inverse_deviation(group[1 + channels + i] / group[0], (real)c->attr[EPS]);
    }
}

static int64_t stat_lanes(const double *attr) { return ss_attr_i(attr, STATS_LANES); }

/* ---- normalisation ---- */

/* Sign and payload of a NaN depend on the instructions that made it; saved bytes must not. */
static real one_nan(real x) { return x == x ? x : (real)NAN; }

/* Runs of channels whose constants are worked out once for a run of positions. */
enum { RUN = 64 };

/* The part of lane `lane` inside the positions [begin, end) of all samples. */
static bool lane_part(const ss_call *c, int lane, int64_t positions, int64_t begin, int64_t end, int64_t *first, int64_t *last) {
    *first = ss_max(begin, c->fold->row[lane] * positions);
    *last = ss_min(end, c->fold->row[lane + 1] * positions);
    return *first < *last;
}

/* y = (x - mean) * (gamma * inverse) + beta, the last two fused; then the residual is added and the ReLU taken. */
static void forward(const ss_call *c) {
    int64_t channels = channels_of(c), positions = positions_of(c), begin, end, first, last;
    const bool relu = with_relu(c);
    ss_split(c->rows * positions, 1, c->thread, c->threads, &begin, &end);
    for (int lane = 0; lane < c->fold->lanes; lane++) {
        if (!lane_part(c, lane, positions, begin, end, &first, &last)) continue;
        const real *stat = frozen(c) ? NULL : (const real *)c->stat + c->stat_group[lane] * (1 + 2 * channels);
        for (int64_t from = 0; from < channels; from += RUN) {
            int n = (int)ss_min(RUN, channels - from);
            real mean[RUN], inverse[RUN], scale[RUN], shift[RUN];
            for (int j = 0; j < n; j++) {
                mean[j] = stat ? stat[1 + from + j] : ((const real *)c->in[RUNNING_MEAN])[from + j];
                inverse[j] = stat ? stat[1 + channels + from + j] : inverse_deviation(((const real *)c->in[RUNNING_VAR])[from + j], (real)c->attr[EPS]);
                scale[j] = scale_of(c, from + j, inverse[j]);
                shift[j] = shift_of(c, from + j);
            }
            if (c->saved && first == c->fold->row[lane] * positions) { /* the thread that begins the lane */
                real *to = lane_saved(c, lane, SAVED_MEAN) + from, *to_inverse = lane_saved(c, lane, SAVED_INVERSE) + from;
                for (int j = 0; j < n; j++) {
                    to[j] = one_nan(mean[j]);
                    to_inverse[j] = one_nan(inverse[j]);
                }
            }
            for (int64_t p = first; p < last; p++) {
                const real *restrict x = (const real *)c->in[X] + p * channels + from;
                real *restrict y = (real *)c->out[0] + p * channels + from;
                const real *restrict r = absent(c, RESIDUAL) ? NULL : (const real *)c->in[RESIDUAL] + p * channels + from;
                for (int j = 0; j < n; j++) {
                    const real value = before_relu(x[j], r ? r + j : NULL, mean[j], scale[j], shift[j]);
                    y[j] = relu ? max_r(value, 0) : value;
                }
            }
        }
    }
}

/* Of a run of channels. */
typedef struct run_constants {
    const real *mean, *scale, *beta, *shift, *slope;
} run_constants;

/* Positions [first, last), channels [from, from + n) of backward_x. Constants at the calls: relu 0, 1 (of the result), 2 (of its sum with a residual); constant: no statistics. */
static inline __attribute__((always_inline)) void backward_run(const ss_call *c, const run_constants *k, int64_t first, int64_t last, int64_t from, int n, const int relu, const bool constant) {
    const int64_t channels = channels_of(c);
    const real *in = c->in[X], *grad = c->grad_out[0], *residual = absent(c, RESIDUAL) ? NULL : c->in[RESIDUAL];
    real *grad_x = c->grad_in[X], *grad_residual = residual ? c->grad_in[RESIDUAL] : NULL; /* either may lie over grad */
    for (int64_t p = first; p < last; p++) {
#ifndef SS_F64
        for (int j = 0; j < n; j += VEC_WIDTH) {
            const int64_t at = p * channels + from + j;
            const vec_mask mask = vec_first(n - j);
            vec mean = vec_load_mask(k->mean + j, mask), scale = vec_load_mask(k->scale + j, mask), x = vec_load_mask(in + at, mask), g = vec_load_mask(grad + at, mask);
            if (relu) {
                vec y = vec_fma(x - mean, scale, vec_load_mask(k->beta + j, mask));
                if (relu == 2) y = vec_add(y, vec_load_mask(residual + at, mask));
                g = vec_where_positive(y, g);
            }
            if (grad_residual) vec_store_mask(grad_residual + at, g, mask);
            if (!constant) g = vec_fma(mean - x, vec_load_mask(k->slope + j, mask), g - vec_load_mask(k->shift + j, mask));
            if (grad_x) vec_store_mask(grad_x + at, g * scale, mask);
        }
#else
        for (int j = 0; j < n; j++) {
            const int64_t at = p * channels + from + j;
            const real y = before_relu(in[at], residual ? residual + at : NULL, k->mean[j], k->scale[j], k->beta[j]), g = relu && y <= 0 ? 0 : grad[at];
            if (grad_residual) grad_residual[at] = g;
            if (grad_x) grad_x[at] = constant ? g * k->scale[j] : fma_r(k->mean[j] - in[at], k->slope[j], g - k->shift[j]) * k->scale[j];
        }
#endif
    }
}

/* The gradient of the residual is the one before the ReLU. grad_x = (gy - s/N - (x - mean) * (inverse * p/N)) * (gamma * inverse), s and p the joined sums, N the group's count; gy * (gamma * inverse) when frozen. */
static void backward_x(const ss_call *c) {
    int64_t channels = channels_of(c), positions = positions_of(c), begin, end, first, last;
    const bool constant = frozen(c);
    const int relu = !with_relu(c) ? 0 : absent(c, RESIDUAL) ? 1 : 2;
    ss_split(c->rows * positions, 1, c->thread, c->threads, &begin, &end);
    for (int lane = 0; lane < c->fold->lanes; lane++) {
        if (!lane_part(c, lane, positions, begin, end, &first, &last)) continue;
        const real *stat = constant ? NULL : (const real *)c->stat + c->stat_group[lane] * (1 + 2 * channels);
        for (int64_t from = 0; from < channels; from += RUN) {
            int n = (int)ss_min(RUN, channels - from);
            const real *inverse = lane_saved(c, lane, SAVED_INVERSE) + from;
            real mean[RUN], scale[RUN], shift[RUN], slope[RUN], beta[RUN];
            for (int j = 0; j < n; j++) {
                mean[j] = lane_saved(c, lane, SAVED_MEAN)[from + j];
                scale[j] = scale_of(c, from + j, inverse[j]);
                shift[j] = stat ? stat[1 + from + j] / stat[0] : 0;
                slope[j] = stat ? stat[1 + channels + from + j] / stat[0] * inverse[j] : 0;
                beta[j] = shift_of(c, from + j);
            }
            const run_constants k = {mean, scale, beta, shift, slope};
            if (constant) backward_run(c, &k, first, last, from, n, relu, true);
            else if (relu == 0) backward_run(c, &k, first, last, from, n, 0, false);
            else if (relu == 1) backward_run(c, &k, first, last, from, n, 1, false);
            else backward_run(c, &k, first, last, from, n, 2, false);
        }
    }
}

/* Lane sums folded into the blocks of a parameter's gradient. */
static void fold_parameter(const ss_call *c, int input, int vector) {
    real *grad = c->grad_in[input], stack[32];
    int64_t begin, end;
    assert(c->fold->depth <= 32);
    ss_my_elements(c, channels_of(c), &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        int top = 0;
        for (int lane = 0; lane < c->fold->lanes; lane++) {
            *ss_fold_slot(stack, 1, top) = lane_saved(c, lane, vector)[i];
            top = ss_fold_push(stack, 1, top, c->fold->adds[lane]);
        }
        for (int j = 0; j < top; j++) grad[j * c->block_stride[input] + i] = stack[j];
    }
}

/* Phase 0 makes the lane sums where no statistic has; phase 1 uses them. */
static void backward(const ss_call *c) {
    bool want_gamma = !absent(c, GAMMA) && c->grad_in[GAMMA], want_beta = !absent(c, BETA) && c->grad_in[BETA];
    if (c->phase == 0) {
        if (frozen(c) && (want_gamma || want_beta)) lane_sums(c, true);
        return;
    }
    if (want_gamma) fold_parameter(c, GAMMA, SAVED_PRODUCT);
    if (want_beta) fold_parameter(c, BETA, SAVED_SUM);
    if (c->grad_in[X] || (!absent(c, RESIDUAL) && c->grad_in[RESIDUAL])) backward_x(c);
}

/* ---- references: one channel after another ---- */

static void forward_ref(const ss_call *c) {
    int64_t channels = channels_of(c), positions = positions_of(c);
    const real *x = c->in[X];
    real *y = c->out[0];
    for (int lane = 0; lane < c->fold->lanes; lane++)
        for (int64_t i = 0; i < channels; i++) {
            const real *stat = frozen(c) ? NULL : (const real *)c->stat + c->stat_group[lane] * (1 + 2 * channels);
            real mean = stat ? stat[1 + i] : ((const real *)c->in[RUNNING_MEAN])[i];
            real inverse = stat ? stat[1 + channels + i] : inverse_deviation(((const real *)c->in[RUNNING_VAR])[i], (real)c->attr[EPS]);
            real scale = scale_of(c, i, inverse), shift = shift_of(c, i);
            if (c->saved) {
                lane_saved(c, lane, SAVED_MEAN)[i] = one_nan(mean);
                lane_saved(c, lane, SAVED_INVERSE)[i] = one_nan(inverse);
            }
            for (int64_t p = c->fold->row[lane] * positions; p < c->fold->row[lane + 1] * positions; p++) {
                int64_t at = p * channels + i;
                real value = before_relu(x[at], absent(c, RESIDUAL) ? NULL : (const real *)c->in[RESIDUAL] + at, mean, scale, shift);
                y[at] = with_relu(c) ? max_r(value, 0) : value;
            }
        }
}

static void backward_ref(const ss_call *c) {
    if (c->phase == 0) {
        if (frozen(c)) lane_sums(c, true);
        return;
    }
    int64_t channels = channels_of(c), positions = positions_of(c);
    const real *x = c->in[X];
    real *grad_x = c->grad_in[X], *grad_residual = absent(c, RESIDUAL) ? NULL : c->grad_in[RESIDUAL];
    for (int lane = 0; (grad_x || grad_residual) && lane < c->fold->lanes; lane++)
        for (int64_t i = 0; i < channels; i++) {
            const real *stat = frozen(c) ? NULL : (const real *)c->stat + c->stat_group[lane] * (1 + 2 * channels);
            real mean = lane_saved(c, lane, SAVED_MEAN)[i], inverse = lane_saved(c, lane, SAVED_INVERSE)[i];
            real scale = scale_of(c, i, inverse);
            for (int64_t p = c->fold->row[lane] * positions; p < c->fold->row[lane + 1] * positions; p++) {
                int64_t at = p * channels + i;
                real g = masked(c, at, i, mean, inverse);
                if (grad_residual) grad_residual[at] = g;
                if (!grad_x) continue;
                if (!stat) grad_x[at] = g * scale;
                else grad_x[at] = fma_r(mean - x[at], stat[1 + channels + i] / stat[0] * inverse, g - stat[1 + i] / stat[0]) * scale;
            }
        }
    if (!absent(c, GAMMA) && c->grad_in[GAMMA]) fold_parameter(c, GAMMA, SAVED_PRODUCT);
    if (!absent(c, BETA) && c->grad_in[BETA]) fold_parameter(c, BETA, SAVED_SUM);
}

static int64_t saved_bytes(const ss_call *c) { return SAVED_VECTORS * channels_of(c) * (int64_t)sizeof(real); }

static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    double n = (double)ss_shape_count(&c->in_shape[X]);
    cost->flops = n * (backward ? 16 : 6);
    cost->bytes = n * sizeof(real) * (backward ? 9 : 4);
}

static const ss_op_case cases[] = {
    {.inputs = "B:5,3,4 P:5 P:5 S:5 S1:5"},
    {.inputs = "B:16,5,5 P:16 P:16 S:16 S1:16"},
    {.inputs = "B:7 P:7 P:7 S:7 S1:7"},
    {.inputs = "B:33,6 P:33 P:33 S:33 S1:33"},
    {.inputs = "B:70,2,2 P:70 P:70 S:70 S1:70"},
    {.inputs = "B:1,3,3 P:1 P:1 S:1 S1:1"},
    {.inputs = "B:131 P:131 P:131"},
    {.inputs = "B:4,3,3 - - S:4 S1:4"},
    {.inputs = "B:4,3,3 P:4 - S:4 S1:4"},
    {.inputs = "B:4,3,3"},
    {.attrs = "momentum=0.5 eps=0.1", .inputs = "B:3,2,5 P:3 P:3 S:3 S1:3"},
    {.inputs = "B:3,2,3,2 P:3 P:3 S:3 S1:3"},
    {.attrs = "cumulative=1", .inputs = "B:3,2,5 P:3 P:3 S:3 S1:3"},
    {.attrs = "stats_lanes=2", .inputs = "B:6,3,3 P:6 P:6 S:6 S1:6"},
    {.attrs = "stats_lanes=1", .inputs = "B:18,4 P:18 P:18 S:18 S1:18"},
    {.attrs = "use_running=1", .inputs = "B:5,3,3 P:5 P:5 S1:5 S1:5"},
    {.inputs = "B:19,3,3 P:19 P:19 S1:19 S1:19", .inference = true},
    {.inputs = "B:5,3,3 P:5 P:5", .inference = true},
    {.attrs = "relu=1", .inputs = "B:5,3,4 P:5 P:5 S:5 S1:5"},
    {.attrs = "relu=1", .inputs = "B:33,6 P:33 P:33 S:33 S1:33 B:33,6"},
    {.attrs = "relu=1", .inputs = "B:16,5,5 P:16 P:16 S:16 S1:16 B:16,5,5"},
    {.attrs = "relu=1 stats_lanes=2", .inputs = "B:70,2,2 - - - - B:70,2,2"},
    {.attrs = "relu=1 use_running=1", .inputs = "B:7,3,3 P:7 P:7 S1:7 S1:7 B:7,3,3"},
    {.attrs = "relu=1", .inputs = "B:19,3 P:19 P:19 S1:19 S1:19 B:19,3", .inference = true},
    {.inputs = "B:6,4 P:6 P:6 S:6 S1:6 B:6,4"},
    {.inputs = "B:5,3,3 P:5 P:5 S:5 S1:5 B:5,3,4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5,3,3 P:5 P:5 S:5 S1:5 P:5,3,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5,3,3 P:4 P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5,3,3 P:5 P:5 S:5 S:3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5,3,3 P:5 P:5 S:5", .expect = SS_ERR_VALUE},
    {.inputs = "B:5,3,3 P:5 P:5 P:5 P:5", .expect = SS_ERR_VALUE},
    {.inputs = "B:", .expect = SS_ERR_SHAPE},
    {.inputs = "B:2,3,4,5,2", .expect = SS_ERR_SHAPE},
    {.inputs = "I4:5", .expect = SS_ERR_DTYPE},
    {.attrs = "use_running=1", .inputs = "B:5,3,3 P:5 P:5", .expect = SS_ERR_VALUE},
    {.attrs = "momentum=-1", .inputs = "B:5,3,3 P:5 P:5", .expect = SS_ERR_VALUE},
    {0},
};

const ss_op SS_FN(ss_op_batch_norm) = {
    .name = "batch_norm",
    .doc = "`y = gamma (x - mean) / sqrt(var + eps) + beta`, channel by channel. x and y `(B, C)`, `(B, C, L)`, `(B, C, H, W)` or `(B, C, D, H, W)`; gamma, beta, running_mean, running_var `(C)` or absent. Channels last "
           "in memory.\n\n"
           "In training mean and (biased) variance are those of the whole global batch, or of groups of `stats_lanes` lanes; otherwise, and with `use_running`, the running ones where they are given. "
           "Training updates `running = (1 - momentum) running + momentum new` once a step, with the unbiased variance; groups are joined in order for it. With `cumulative` the "
           "momentum of a step is 1 / (number of the step, counted from 1 in the run).\n\n"
           "Order of sums: inside a lane one chain over samples and positions for the mean, divided by the count, then one fused chain of the squared differences; lanes are joined by Chan's "
           "formula in the tree. A residual of the shape of x is added to y, and with `relu` y = max(y, 0): the plan sets these where an addition and ReLU follow, so that memory is passed over once. Backward: the chains of gy and of gy (x - mean), the second times the inverse deviation, lanes joined by addition. Ioffe, Szegedy (2015).",
    .flags = SS_OP_NEEDS_IN | SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE,
    .attrs = attrs,
    .infer = infer,
    .backward_phases = 2,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .backward_ref = backward_ref,
    .stat_len = stat_len,
    .stat = stat,
    .stat_join = stat_join,
    .stat_done = stat_done,
    .stat_lanes = stat_lanes,
    .saved_bytes = saved_bytes,
    .cost = cost,
    .cases = cases,
};
