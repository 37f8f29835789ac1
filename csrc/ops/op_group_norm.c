/* GroupNorm and, with one channel a group, InstanceNorm: each sample's groups of channels by their own mean and variance. */
#include <assert.h>
#include "kernels/rowreduce.h"
#include "kernels/variant.h"
#include "ops/op.h"
#ifndef SS_F64
#include "kernels/vec.h"
#endif

enum { X, WEIGHT, BIAS };
enum { GROUPS, EPS };
enum { CHAINS = 4 }; /* position p joins chain p % 4 of its channel */
enum { RUN = 64 };   /* channels that are worked on together, at least, where the groups allow it */

static const ss_attr_spec attrs[] = {
    {"num_groups", SS_ATTR_INT, 1, 1, 1 << 24, "groups of channels; must divide the number of channels"},
    {"eps", SS_ATTR_FLOAT, 1e-5, 0, 1e6, "added to the variance"},
    {0},
};

/* A sample is (positions, channels) in memory; groups are runs of `width` channels. */
typedef struct size {
    int64_t channels, positions, groups, width;
    int64_t unit, units; /* channels of a unit of work (whole groups), units of a sample */
} size;

static size size_of(const ss_call *c) {
    size z = {.channels = c->in_shape[X].dim[0], .groups = ss_attr_i(c->attr, GROUPS)};
    z.positions = ss_shape_count(&c->in_shape[X]) / z.channels;
    z.width = z.channels / z.groups;
    z.unit = z.width * ((RUN + z.width - 1) / z.width);
    z.units = (z.channels + z.unit - 1) / z.unit;
    return z;
}

static const real *optional(const ss_call *c, int input) { return c->n_in > input && c->in_shape[input].rank >= 0 ? c->in[input] : NULL; }

/* Sign and payload of a NaN depend on the instructions that made it; saved bytes must not. */
static real one_nan(real x) { return x == x ? x : (real)NAN; }

static ss_status infer(ss_infer *q, ss_error *err) {
    static const char *const names[] = {"x", "weight", "bias"};
    char a[96];
    if (q->n_in < 1 || q->n_in > 3) return SS_FAIL(err, SS_ERR_SHAPE, "group_norm takes x, weight and bias, not %d inputs", q->n_in);
    const ss_shape *x = &q->in[X];
    if (x->rank < 0 || q->role[X] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "group_norm: the input must be an activation, one row a sample");
    if (x->rank < 1) return SS_FAIL(err, SS_ERR_SHAPE, "group_norm needs an input of shape (B, C, ...), got (B)");
    int64_t groups = (int64_t)q->attr[GROUPS];
    if (x->dim[0] % groups)
        return SS_FAIL(err, SS_ERR_SHAPE, "group_norm: %lld channels of %s cannot be cut into %lld groups", (long long)x->dim[0], ss_shape_text(x, true, a, sizeof a), (long long)groups);
    for (int i = 0; i < q->n_in; i++)
        if (q->in[i].rank >= 0 && q->dtype[i] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "group_norm needs floats, got integers as %s", names[i]);
    for (int i = WEIGHT; i < q->n_in; i++)
        if (q->in[i].rank >= 0 && (q->in[i].rank != 1 || q->in[i].dim[0] != x->dim[0] || q->role[i] == SS_ROLE_BATCHED))
            return SS_FAIL(err, SS_ERR_SHAPE, "group_norm: %s must have shape (%lld), got %s", names[i], (long long)x->dim[0],
                           ss_shape_text(&q->in[i], q->role[i] == SS_ROLE_BATCHED, a, sizeof a));
    q->n_out = 1;
    q->out[0] = *x;
    q->layout = SS_CHANNELS_LAST;
    return SS_OK;
}

/* ---- sums over the positions of a sample, channel by channel: four chains, (0 + 2) + (1 + 3) ---- */

/* to[j] = sum of x. */
static void sums(int64_t positions, int64_t channels, int64_t width, const real *x, real *to) {
#ifndef SS_F64
    for (int64_t j = 0; j < width; j += VEC_WIDTH) {
        const vec_mask m = vec_first(width - j);
        vec acc[CHAINS];
        int64_t p = 0;
#pragma GCC unroll 4
        for (int k = 0; k < CHAINS; k++) acc[k] = vec_zero();
        for (; p + CHAINS <= positions; p += CHAINS)
#pragma GCC unroll 4
            for (int k = 0; k < CHAINS; k++) acc[k] = vec_add(acc[k], vec_load_mask(x + (p + k) * channels + j, m));
#pragma GCC unroll 4
        for (int k = 0; k < CHAINS - 1; k++)
            if (p + k < positions) acc[k] = vec_add(acc[k], vec_load_mask(x + (p + k) * channels + j, m));
        vec_store_mask(to + j, vec_add(vec_add(acc[0], acc[2]), vec_add(acc[1], acc[3])), m);
    }
#else
    for (int64_t j = 0; j < width; j++) {
        real acc[CHAINS] = {0};
        for (int64_t p = 0; p < positions; p++) acc[p % CHAINS] += x[p * channels + j];
        to[j] = (acc[0] + acc[2]) + (acc[1] + acc[3]);
    }
#endif
}

/* to[j] = sum of the squares of x - mean[j], fused. */
static void squares(int64_t positions, int64_t channels, int64_t width, const real *x, const real *mean, real *to) {
#ifndef SS_F64
    for (int64_t j = 0; j < width; j += VEC_WIDTH) {
        const vec_mask m = vec_first(width - j);
        const vec centre = vec_load_mask(mean + j, m);
        vec acc[CHAINS];
        int64_t p = 0;
#pragma GCC unroll 4
        for (int k = 0; k < CHAINS; k++) acc[k] = vec_zero();
        for (; p + CHAINS <= positions; p += CHAINS)
#pragma GCC unroll 4
            for (int k = 0; k < CHAINS; k++) {
                vec d = vec_load_mask(x + (p + k) * channels + j, m) - centre;
                acc[k] = vec_fma(d, d, acc[k]);
            }
#pragma GCC unroll 4
        for (int k = 0; k < CHAINS - 1; k++)
            if (p + k < positions) {
                vec d = vec_load_mask(x + (p + k) * channels + j, m) - centre;
                acc[k] = vec_fma(d, d, acc[k]);
            }
        vec_store_mask(to + j, vec_add(vec_add(acc[0], acc[2]), vec_add(acc[1], acc[3])), m);
    }
#else
    for (int64_t j = 0; j < width; j++) {
        real acc[CHAINS] = {0};
        for (int64_t p = 0; p < positions; p++) acc[p % CHAINS] = fma_r(x[p * channels + j] - mean[j], x[p * channels + j] - mean[j], acc[p % CHAINS]);
        to[j] = (acc[0] + acc[2]) + (acc[1] + acc[3]);
    }
#endif
}

/* sum[j] = sum of g, product[j] = sum of g * (x - mean[j]), fused. */
static void products(int64_t positions, int64_t channels, int64_t width, const real *x, const real *g, const real *mean, real *sum, real *product) {
#ifndef SS_F64
    for (int64_t j = 0; j < width; j += VEC_WIDTH) {
        const vec_mask m = vec_first(width - j);
        const vec centre = vec_load_mask(mean + j, m);
        vec s[CHAINS], t[CHAINS];
        int64_t p = 0;
#pragma GCC unroll 4
        for (int k = 0; k < CHAINS; k++) s[k] = t[k] = vec_zero();
        for (; p + CHAINS <= positions; p += CHAINS)
#pragma GCC unroll 4
            for (int k = 0; k < CHAINS; k++) {
                vec h = vec_load_mask(g + (p + k) * channels + j, m);
                s[k] = vec_add(s[k], h);
                t[k] = vec_fma(h, vec_load_mask(x + (p + k) * channels + j, m) - centre, t[k]);
            }
#pragma GCC unroll 4
        for (int k = 0; k < CHAINS - 1; k++)
            if (p + k < positions) {
                vec h = vec_load_mask(g + (p + k) * channels + j, m);
                s[k] = vec_add(s[k], h);
                t[k] = vec_fma(h, vec_load_mask(x + (p + k) * channels + j, m) - centre, t[k]);
            }
        vec_store_mask(sum + j, vec_add(vec_add(s[0], s[2]), vec_add(s[1], s[3])), m);
        vec_store_mask(product + j, vec_add(vec_add(t[0], t[2]), vec_add(t[1], t[3])), m);
    }
#else
    for (int64_t j = 0; j < width; j++) {
        real s[CHAINS] = {0}, t[CHAINS] = {0};
        for (int64_t p = 0; p < positions; p++) {
            s[p % CHAINS] += g[p * channels + j];
            t[p % CHAINS] = fma_r(g[p * channels + j], x[p * channels + j] - mean[j], t[p % CHAINS]);
        }
        sum[j] = (s[0] + s[2]) + (s[1] + s[3]);
        product[j] = (t[0] + t[2]) + (t[1] + t[3]);
    }
#endif
}

/* ---- forward ---- */

static real *saved_of(const ss_call *c, const size *z, int64_t row, int64_t group) { return (real *)c->saved + (row * z->groups + group) * 2; }

/* Units of work are runs of whole groups of one sample. Scratch: scale and mean of the channels of every sample. */
static void forward(const ss_call *c) {
    const size z = size_of(c);
    const real *weight = optional(c, WEIGHT), *bias = optional(c, BIAS), eps = (real)c->attr[EPS], count = (real)(z.width * z.positions);
    int64_t begin, end;
    ss_split(c->rows * z.units, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const int64_t row = u / z.units, first = u % z.units * z.unit, width = ss_min(z.unit, z.channels - first);
        const real *x = (const real *)c->in[X] + row * z.positions * z.channels + first;
        real *y = (real *)c->out[0] + row * z.positions * z.channels + first;
        real *restrict scale = (real *)c->scratch + row * 2 * z.channels + first, *restrict mean = scale + z.channels;
        sums(z.positions, z.channels, width, x, scale);
        for (int64_t k = 0; k < width; k += z.width) {
            real m = row_sum(z.width, scale + k) / count;
            for (int64_t j = 0; j < z.width; j++) mean[k + j] = m;
        }
        squares(z.positions, z.channels, width, x, mean, scale);
        for (int64_t k = 0; k < width; k += z.width) {
            real inverse = 1 / (real)sqrt(row_sum(z.width, scale + k) / count + eps);
            if (c->saved) {
                real *to = saved_of(c, &z, row, (first + k) / z.width);
                to[0] = one_nan(mean[k]);
                to[1] = one_nan(inverse);
            }
            for (int64_t j = 0; j < z.width; j++) scale[k + j] = weight ? weight[first + k + j] * inverse : inverse;
        }
        for (int64_t p = 0; p < z.positions; p++) {
            const real *restrict from = x + p * z.channels;
            real *restrict to = y + p * z.channels;
            if (bias)
                for (int64_t j = 0; j < width; j++) to[j] = fma_r(from[j] - mean[j], scale[j], bias[first + j]);
            else
                for (int64_t j = 0; j < width; j++) to[j] = (from[j] - mean[j]) * scale[j];
        }
    }
}

/* ---- backward ---- */

/* Phase 0: sums of a channel over the positions of each sample (kept in scratch for phase 1), and from them the gradient of x. */
static void backward_x(const ss_call *c) {
    const size z = size_of(c);
    const real *weight = optional(c, WEIGHT), count = (real)(z.width * z.positions);
    int64_t begin, end;
    ss_split(c->rows * z.units, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const int64_t row = u / z.units, first = u % z.units * z.unit, width = ss_min(z.unit, z.channels - first), at = row * z.positions * z.channels + first;
        const real *x = (const real *)c->in[X] + at, *g = (const real *)c->grad_out[0] + at;
        real *sum = (real *)c->scratch + row * 2 * z.channels + first, *product = sum + z.channels;
        real *restrict mean = (real *)c->scratch + c->rows * 2 * z.channels + c->thread * 4 * z.unit, *restrict inverse = mean + z.unit;
        real *restrict down = inverse + z.unit, *restrict steep = down + z.unit;
        for (int64_t k = 0; k < width; k += z.width) {
            const real *saved = saved_of(c, &z, row, (first + k) / z.width);
            for (int64_t j = k; j < k + z.width; j++) mean[j] = saved[0], inverse[j] = saved[1];
        }
        products(z.positions, z.channels, width, x, g, mean, sum, product);
        if (!c->grad_in[X]) continue;
        for (int64_t k = 0; k < width; k += z.width) {
            const real *w = weight ? weight + first + k : NULL;
            const real shift = (w ? row_dot(z.width, sum + k, w) : row_sum(z.width, sum + k)) / count;
            const real slope = (w ? row_dot(z.width, product + k, w) : row_sum(z.width, product + k)) * inverse[k] / count * inverse[k];
            for (int64_t j = k; j < k + z.width; j++) down[j] = shift, steep[j] = slope;
        }
        for (int64_t p = 0; p < z.positions; p++) {
            const real *restrict xp = x + p * z.channels, *restrict gp = g + p * z.channels, *restrict w = weight ? weight + first : NULL;
            real *restrict to = (real *)c->grad_in[X] + at + p * z.channels;
            if (weight)
                for (int64_t j = 0; j < width; j++) to[j] = fma_r(mean[j] - xp[j], steep[j], fma_r(gp[j], w[j], -down[j])) * inverse[j];
            else
                for (int64_t j = 0; j < width; j++) to[j] = fma_r(mean[j] - xp[j], steep[j], gp[j] - down[j]) * inverse[j];
        }
    }
}

/* Phase 1: over the samples of a lane, the chain `fma(product, inverse, acc)` or `acc + sum`; lanes folded. */
static void fold_parameter(const ss_call *c, int input) {
    const size z = size_of(c);
    real *grad = c->grad_in[input], stack[32];
    int64_t begin, end;
    assert(c->fold->depth <= 32);
    ss_my_elements(c, z.channels, &begin, &end);
    for (int64_t j = begin; j < end; j++) {
        int top = 0;
        for (int lane = 0; lane < c->fold->lanes; lane++) {
            real acc = 0;
            for (int64_t row = c->fold->row[lane]; row < c->fold->row[lane + 1]; row++) {
                const real *channel = (const real *)c->scratch + row * 2 * z.channels + j;
                acc = input == BIAS ? acc + channel[0] : fma_r(channel[z.channels], saved_of(c, &z, row, j / z.width)[1], acc);
            }
            *ss_fold_slot(stack, 1, top) = acc;
            top = ss_fold_push(stack, 1, top, c->fold->adds[lane]);
        }
        for (int block = 0; block < top; block++) grad[block * c->block_stride[input] + j] = stack[block];
    }
}

static void backward(const ss_call *c) {
    if (c->phase == 0) {
        backward_x(c);
        return;
    }
    if (optional(c, WEIGHT) && c->grad_in[WEIGHT]) fold_parameter(c, WEIGHT);
    if (optional(c, BIAS) && c->grad_in[BIAS]) fold_parameter(c, BIAS);
}

/* ---- references ---- */

static real join4(const real *a) { return (a[0] + a[2]) + (a[1] + a[3]); }

/* The 16 accumulators over the channels of a group: channel j joins number j % 16. */
static real tree16(real *a) {
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; j++) a[j] += a[j + width];
    return a[0];
}

static void forward_ref(const ss_call *c) {
    const size z = size_of(c);
    const real *weight = optional(c, WEIGHT), *bias = optional(c, BIAS);
    for (int64_t row = 0; row < c->rows; row++)
        for (int64_t group = 0; group < z.groups; group++) {
            const real *x = (const real *)c->in[X] + row * z.positions * z.channels, count = (real)(z.width * z.positions);
            real *y = (real *)c->out[0] + row * z.positions * z.channels, sum[16] = {0}, square[16] = {0};
            for (int64_t j = 0; j < z.width; j++) {
                real acc[CHAINS] = {0};
                for (int64_t p = 0; p < z.positions; p++) acc[p % CHAINS] += x[p * z.channels + group * z.width + j];
                sum[j % 16] += join4(acc);
            }
            const real mean = tree16(sum) / count;
            for (int64_t j = 0; j < z.width; j++) {
                real acc[CHAINS] = {0};
                for (int64_t p = 0; p < z.positions; p++) {
                    real d = x[p * z.channels + group * z.width + j] - mean;
                    acc[p % CHAINS] = fma_r(d, d, acc[p % CHAINS]);
                }
                square[j % 16] += join4(acc);
            }
            const real inverse = 1 / (real)sqrt(tree16(square) / count + (real)c->attr[EPS]);
            for (int64_t j = group * z.width; j < (group + 1) * z.width; j++)
                for (int64_t p = 0; p < z.positions; p++) {
                    real d = x[p * z.channels + j] - mean, scale = weight ? weight[j] * inverse : inverse;
                    y[p * z.channels + j] = bias ? fma_r(d, scale, bias[j]) : d * scale;
                }
            if (c->saved) {
                saved_of(c, &z, row, group)[0] = one_nan(mean);
                saved_of(c, &z, row, group)[1] = one_nan(inverse);
            }
        }
}

static void backward_ref(const ss_call *c) {
    if (c->phase == 1) {
        backward(c);
        return;
    }
    const size z = size_of(c);
    const real *weight = optional(c, WEIGHT);
    for (int64_t row = 0; row < c->rows; row++)
        for (int64_t group = 0; group < z.groups; group++) {
            const int64_t at = row * z.positions * z.channels, first = group * z.width;
            const real *x = (const real *)c->in[X] + at, *g = (const real *)c->grad_out[0] + at;
            const real mean = saved_of(c, &z, row, group)[0], inverse = saved_of(c, &z, row, group)[1], count = (real)(z.width * z.positions);
            real sum[16] = {0}, product[16] = {0}, *channel = (real *)c->scratch + row * 2 * z.channels;
            for (int64_t j = 0; j < z.width; j++) {
                real s[CHAINS] = {0}, t[CHAINS] = {0};
                for (int64_t p = 0; p < z.positions; p++) {
                    real h = g[p * z.channels + first + j];
                    s[p % CHAINS] += h;
                    t[p % CHAINS] = fma_r(h, x[p * z.channels + first + j] - mean, t[p % CHAINS]);
                }
                channel[first + j] = join4(s);
                channel[z.channels + first + j] = join4(t);
                sum[j % 16] = weight ? fma_r(join4(s), weight[first + j], sum[j % 16]) : sum[j % 16] + join4(s);
                product[j % 16] = weight ? fma_r(join4(t), weight[first + j], product[j % 16]) : product[j % 16] + join4(t);
            }
            real down = tree16(sum) / count, steep = tree16(product) * inverse / count * inverse;
            for (int64_t p = 0; c->grad_in[X] && p < z.positions; p++)
                for (int64_t j = first; j < first + z.width; j++) {
                    int64_t i = p * z.channels + j;
                    ((real *)c->grad_in[X])[at + i] = fma_r(mean - x[i], steep, weight ? fma_r(g[i], weight[j], -down) : g[i] - down) * inverse;
                }
        }
}

static int64_t saved_bytes(const ss_call *c) { return ss_attr_i(c->attr, GROUPS) * 2 * (int64_t)sizeof(real); }

/* Two vectors of channels a sample; backward also four constants of the channels of a unit for each thread. */
static int64_t scratch_bytes(const ss_call *c, bool backward_pass) {
    const size z = size_of(c);
    return (c->rows * 2 * z.channels + (backward_pass ? c->threads * 4 * z.unit : 0)) * (int64_t)sizeof(real);
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[X]);
    out->flops = n * (both ? 16 : 6);
    out->bytes = n * sizeof(real) * (both ? 9 : 4);
}

static const ss_op_case cases[] = {
    {.attrs = "num_groups=2", .inputs = "B:6,3,3 P:6 P:6"},
    {.attrs = "num_groups=32", .inputs = "B:64,5,5 P:64 P:64"},
    {.attrs = "num_groups=5", .inputs = "B:185,3 P:185 P:185"},
    {.attrs = "num_groups=1", .inputs = "B:100,2,2 P:100 P:100"},
    {.attrs = "num_groups=3", .inputs = "B:3,4,5 P:3 P:3"},
    {.attrs = "num_groups=70 eps=0.1", .inputs = "B:70,3,3"},
    {.attrs = "num_groups=3", .inputs = "B:9,2,3,2 P:9 -"},
    {.attrs = "num_groups=3", .inputs = "B:9,7 - P:9"},
    {.attrs = "num_groups=2", .inputs = "B:12 P:12 P:12"},
    {.attrs = "num_groups=4", .inputs = "B:8,6 P:8 P:8", .inference = true},
    {.attrs = "num_groups=4", .inputs = "B:6,3", .expect = SS_ERR_SHAPE},
    {.attrs = "num_groups=0", .inputs = "B:6,3", .expect = SS_ERR_VALUE},
    {.attrs = "num_groups=2", .inputs = "B:6,3 P:2", .expect = SS_ERR_SHAPE},
    {.attrs = "num_groups=2", .inputs = "B:6,3 P:6 B:6", .expect = SS_ERR_SHAPE},
    {.inputs = "B:", .expect = SS_ERR_SHAPE},
    {.inputs = "P:5", .expect = SS_ERR_VALUE},
    {.inputs = "I4:5", .expect = SS_ERR_DTYPE},
    {.inputs = "B:5 P:5 P:5 P:5", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_group_norm) = {
    .name = "group_norm",
    .doc = "`y = (x - mean) / sqrt(var + eps) * weight + bias`, with the mean and the (biased) variance of each of `num_groups` runs of neighbouring channels of each sample. x and y `(B, C, ...)`; "
           "weight and bias `(C)` or absent. Channels last in memory. As many groups as channels is instance normalisation.\n\n"
           "Order of sums: position p (row-major) of a channel joins chain p % 4 of that channel, the four are joined as (0 + 2) + (1 + 3), and the channels of a group by 16 interleaved accumulators "
           "and a tree over them: for the mean, then for the squares of x - mean; backward for g and g (x - mean), which meet the weight when channels are joined. The gradients of weight and bias are "
           "chains of a channel's sums over the samples of a lane; then lanes are folded. Wu, He: \"Group Normalization\" (2018); Ulyanov, Vedaldi, Lempitsky: \"Instance Normalization\" (2016).",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .backward_phases = 2,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .backward_ref = backward_ref,
    .saved_bytes = saved_bytes,
    .scratch_bytes = scratch_bytes,
    .cost = cost,
    .cases = cases,
};
