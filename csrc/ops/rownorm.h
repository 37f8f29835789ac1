/* What layer_norm and rms_norm share: the last axes of a sample form rows, and each row is normalised by its own mean and inverse deviation (rms_norm: mean 0).
 *
 * `saved` keeps the mean and the inverse deviation of each row. `centred` is a constant at the calls. */
#ifndef SS_OPS_ROWNORM_H
#define SS_OPS_ROWNORM_H
#include <assert.h>
#include "kernels/rowreduce.h"
#include "kernels/variant.h"
#include "ops/op.h"
#ifndef SS_F64
#include "kernels/vec.h"
#endif

enum { NORM_X, NORM_WEIGHT, NORM_BIAS };
enum { NORM_AXES, NORM_EPS };
#define NORM_INLINE static inline __attribute__((always_inline))

/* Sign and payload of a NaN depend on the instructions that made it; saved bytes must not. */
static inline real norm_one_nan(real x) { return x == x ? x : (real)NAN; }

static inline real norm_inverse(real variance, real eps) { return 1 / (real)sqrt(variance + eps); }

/* Elements of a row, rows of a sample. */
static inline int64_t norm_width(const ss_call *c) {
    const ss_shape *s = &c->in_shape[NORM_X];
    int64_t n = 1;
    for (int i = s->rank - (int)c->attr[NORM_AXES]; i < s->rank; i++) n *= s->dim[i];
    return n;
}
static inline int64_t norm_outer(const ss_call *c) { return ss_shape_count(&c->in_shape[NORM_X]) / norm_width(c); }

static inline const real *norm_optional(const ss_call *c, int input) { return c->n_in > input && c->in_shape[input].rank >= 0 ? c->in[input] : NULL; }

static inline ss_status norm_infer(ss_infer *q, const char *name, int most, ss_error *err) {
    static const char *const names[] = {"x", "weight", "bias"};
    char a[96], b[96];
    if (q->n_in < 1 || q->n_in > most) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes 1 to %d inputs, not %d", name, most, q->n_in);
    const ss_shape *x = &q->in[NORM_X];
    if (x->rank < 0 || q->role[NORM_X] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "%s: the input must be an activation, one row a sample", name);
    for (int i = 0; i < q->n_in; i++)
        if (q->in[i].rank >= 0 && q->dtype[i] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs floats, got integers as %s", name, names[i]);
    int axes = (int)q->attr[NORM_AXES];
    if (axes > x->rank) return SS_FAIL(err, SS_ERR_SHAPE, "%s over the last %d axes of %s, which has only %d besides the batch", name, axes, ss_shape_text(x, true, a, sizeof a), x->rank);
    ss_shape row = {.rank = axes};
    for (int i = 0; i < axes; i++) row.dim[i] = x->dim[x->rank - axes + i];
    for (int i = NORM_WEIGHT; i < q->n_in; i++)
        if (q->in[i].rank >= 0 && (!ss_shape_equal(&q->in[i], &row) || q->role[i] == SS_ROLE_BATCHED))
            return SS_FAIL(err, SS_ERR_SHAPE, "%s: %s must have the shape %s of the normalised axes, got %s", name, names[i], ss_shape_text(&row, false, a, sizeof a),
                           ss_shape_text(&q->in[i], q->role[i] == SS_ROLE_BATCHED, b, sizeof b));
    q->n_out = 1;
    q->out[0] = *x;
    return SS_OK;
}

/* ---- forward ---- */

/* y = (x - mean) * inverse, then fused with weight and bias. */
NORM_INLINE void norm_write(int64_t n, const bool centred, const real *restrict x, real mean, real inverse, const real *restrict weight, const real *restrict bias, real *restrict y) {
    if (!centred) mean = 0;
    if (weight && bias)
        for (int64_t i = 0; i < n; i++) y[i] = fma_r((centred ? x[i] - mean : x[i]) * inverse, weight[i], bias[i]);
    else if (weight)
        for (int64_t i = 0; i < n; i++) y[i] = (centred ? x[i] - mean : x[i]) * inverse * weight[i];
    else if (bias)
        for (int64_t i = 0; i < n; i++) y[i] = fma_r(centred ? x[i] - mean : x[i], inverse, bias[i]);
    else
        for (int64_t i = 0; i < n; i++) y[i] = (centred ? x[i] - mean : x[i]) * inverse;
}

NORM_INLINE void norm_rows(const ss_call *c, const bool centred, const int count, int64_t row, int64_t n, const real *weight, const real *bias) {
    const real *x = (const real *)c->in[NORM_X] + row * n, eps = (real)c->attr[NORM_EPS];
    real *y = (real *)c->out[0] + row * n, *saved = c->saved, mean[RR_ROWS] = {0}, inverse[RR_ROWS];
    if (centred) {
        rows_sum(count, n, x, mean);
        for (int r = 0; r < count; r++) mean[r] /= (real)n;
    }
    rows_square(count, n, x, mean, inverse);
    for (int r = 0; r < count; r++) inverse[r] = norm_inverse(inverse[r] / (real)n, eps);
    for (int r = 0; r < count; r++) {
        if (saved) {
            saved[(row + r) * 2] = norm_one_nan(mean[r]);
            saved[(row + r) * 2 + 1] = norm_one_nan(inverse[r]);
        }
        norm_write(n, centred, x + r * n, mean[r], inverse[r], weight, bias, y + r * n);
    }
}

NORM_INLINE void norm_forward(const ss_call *c, const bool centred) {
    const int64_t n = norm_width(c);
    const real *weight = norm_optional(c, NORM_WEIGHT), *bias = norm_optional(c, NORM_BIAS);
    int64_t row, end;
    ss_split(c->rows * norm_outer(c), 1, c->thread, c->threads, &row, &end);
    for (; row + RR_ROWS <= end; row += RR_ROWS) norm_rows(c, centred, RR_ROWS, row, n, weight, bias);
    for (; row < end; row++) norm_rows(c, centred, 1, row, n, weight, bias);
}

/* ---- backward ---- */

/* With h = g weight and the row's sums s of h and p of h (x - mean): grad_x = (h - s/n - (x - mean) * (p/n * inverse^2)) * inverse. */
NORM_INLINE void norm_grad_rows(const ss_call *c, const bool centred, const int count, int64_t row, int64_t n, const real *weight) {
    const real *x = (const real *)c->in[NORM_X] + row * n, *g = (const real *)c->grad_out[0] + row * n, *saved = (const real *)c->saved + row * 2;
    real mean[RR_ROWS], shift[RR_ROWS], slope[RR_ROWS];
    for (int r = 0; r < count; r++) mean[r] = saved[2 * r];
    rows_products(count, n, x, g, weight, mean, shift, slope);
    for (int r = 0; r < count; r++) {
        const real inverse = saved[2 * r + 1], down = shift[r] / (real)n, steep = slope[r] * inverse / (real)n * inverse, centre = mean[r];
        const real *restrict xr = x + r * n, *restrict gr = g + r * n;
        real *restrict to = (real *)c->grad_in[NORM_X] + (row + r) * n;
        if (centred && weight)
            for (int64_t i = 0; i < n; i++) to[i] = fma_r(centre - xr[i], steep, fma_r(gr[i], weight[i], -down)) * inverse;
        else if (centred)
            for (int64_t i = 0; i < n; i++) to[i] = fma_r(centre - xr[i], steep, gr[i] - down) * inverse;
        else if (weight)
            for (int64_t i = 0; i < n; i++) to[i] = fma_r(-xr[i], steep, gr[i] * weight[i]) * inverse;
        else
            for (int64_t i = 0; i < n; i++) to[i] = fma_r(-xr[i], steep, gr[i]) * inverse;
    }
}

/* Columns whose sums stay in registers along the rows of a lane. */
#ifdef SS_F64
enum { NORM_COLUMNS = 16 };
#else
enum { NORM_VECTORS = 4, NORM_COLUMNS = NORM_VECTORS * VEC_WIDTH };
#endif
enum { NORM_DEPTH = 16 };

/* Rows [row, end), columns [0, width) from x and g on: to_weight = the chain of g * ((x - mean) * inverse), to_bias = the chain of g. */
NORM_INLINE void norm_lane_columns(const bool centred, int64_t row, int64_t end, int64_t n, int width, const real *x, const real *g, const real *saved, real *to_weight, real *to_bias) {
#ifdef SS_F64
    for (int j = 0; j < NORM_COLUMNS; j++) to_weight[j] = to_bias[j] = 0;
    for (; row < end; row++)
        for (int j = 0; j < width; j++) {
            real d = centred ? x[row * n + j] - saved[2 * row] : x[row * n + j];
            to_weight[j] = fma_r(g[row * n + j], d * saved[2 * row + 1], to_weight[j]);
            to_bias[j] += g[row * n + j];
        }
#else
    vec w[NORM_VECTORS], b[NORM_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < NORM_VECTORS; v++) w[v] = b[v] = vec_zero();
    if (width == NORM_COLUMNS)
        for (; row < end; row++) {
            const vec mean = vec_set(saved[2 * row]), inverse = vec_set(saved[2 * row + 1]);
#pragma GCC unroll 4
            for (int v = 0; v < NORM_VECTORS; v++) {
                vec d = vec_load(x + row * n + v * VEC_WIDTH), h = vec_load(g + row * n + v * VEC_WIDTH);
                if (centred) d = d - mean;
                w[v] = vec_fma(h, d * inverse, w[v]);
                b[v] = vec_add(b[v], h);
            }
        }
    else
        for (; row < end; row++) {
            const vec mean = vec_set(saved[2 * row]), inverse = vec_set(saved[2 * row + 1]);
#pragma GCC unroll 4
            for (int v = 0; v < NORM_VECTORS; v++) {
                vec_mask m = vec_first(width - v * VEC_WIDTH);
                vec d = vec_load_mask(x + row * n + v * VEC_WIDTH, m), h = vec_load_mask(g + row * n + v * VEC_WIDTH, m);
                if (centred) d = d - mean;
                w[v] = vec_fma(h, d * inverse, w[v]);
                b[v] = vec_add(b[v], h);
            }
        }
#pragma GCC unroll 4
    for (int v = 0; v < NORM_VECTORS; v++) {
        vec_store(to_weight + v * VEC_WIDTH, w[v]);
        vec_store(to_bias + v * VEC_WIDTH, b[v]);
    }
#endif
}

/* The gradients of weight and bias, columns shared by the threads. Either of the two may be NULL. */
NORM_INLINE void norm_grad_parameters(const ss_call *c, const bool centred, int64_t n, real *grad_weight, real *grad_bias) {
    const int64_t outer = norm_outer(c);
    const real *x = c->in[NORM_X], *g = c->grad_out[0], *saved = c->saved;
    real weights[NORM_DEPTH * NORM_COLUMNS], biases[NORM_DEPTH * NORM_COLUMNS];
    int64_t begin, end;
    assert(c->fold->depth <= NORM_DEPTH);
    ss_my_elements(c, n, &begin, &end);
    for (int64_t at = begin; at < end; at += NORM_COLUMNS) {
        const int width = (int)ss_min(NORM_COLUMNS, end - at);
        int top = 0;
        for (int lane = 0; lane < c->fold->lanes; lane++) {
            norm_lane_columns(centred, c->fold->row[lane] * outer, c->fold->row[lane + 1] * outer, n, width, x + at, g + at, saved, ss_fold_slot(weights, NORM_COLUMNS, top),
                              ss_fold_slot(biases, NORM_COLUMNS, top));
            ss_fold_push(weights, NORM_COLUMNS, top, c->fold->adds[lane]);
            top = ss_fold_push(biases, NORM_COLUMNS, top, c->fold->adds[lane]);
        }
        for (int block = 0; block < top; block++)
            for (int j = 0; j < width; j++) {
                if (grad_weight) grad_weight[block * c->block_stride[NORM_WEIGHT] + at + j] = ss_fold_slot(weights, NORM_COLUMNS, block)[j];
                if (grad_bias) grad_bias[block * c->block_stride[NORM_BIAS] + at + j] = ss_fold_slot(biases, NORM_COLUMNS, block)[j];
            }
    }
}

NORM_INLINE void norm_backward(const ss_call *c, const bool centred) {
    const int64_t n = norm_width(c);
    const real *weight = norm_optional(c, NORM_WEIGHT);
    if (c->grad_in[NORM_X]) {
        int64_t row, end;
        ss_split(c->rows * norm_outer(c), 1, c->thread, c->threads, &row, &end);
        for (; row + RR_ROWS <= end; row += RR_ROWS) norm_grad_rows(c, centred, RR_ROWS, row, n, weight);
        for (; row < end; row++) norm_grad_rows(c, centred, 1, row, n, weight);
    }
    real *grad_weight = weight ? c->grad_in[NORM_WEIGHT] : NULL, *grad_bias = norm_optional(c, NORM_BIAS) ? c->grad_in[NORM_BIAS] : NULL;
    if (grad_weight || grad_bias) norm_grad_parameters(c, centred, n, grad_weight, grad_bias);
}

/* ---- references: one row and one column after another ---- */

/* The order of sums of kernels/rowreduce.h: element i joins accumulator i % 16 by `fma(a, b, acc)`; then the tree. */
static inline real norm_ref_tree(real *acc) {
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; j++) acc[j] += acc[j + width];
    return acc[0];
}

static inline void norm_forward_ref(const ss_call *c, bool centred) {
    const int64_t n = norm_width(c), rows = c->rows * norm_outer(c);
    const real *weight = norm_optional(c, NORM_WEIGHT), *bias = norm_optional(c, NORM_BIAS);
    real *saved = c->saved;
    for (int64_t row = 0; row < rows; row++) {
        const real *x = (const real *)c->in[NORM_X] + row * n;
        real *y = (real *)c->out[0] + row * n, sum[16] = {0}, square[16] = {0}, mean = 0;
        for (int64_t i = 0; i < n; i++) sum[i % 16] += x[i];
        if (centred) mean = norm_ref_tree(sum) / (real)n;
        for (int64_t i = 0; i < n; i++) square[i % 16] = fma_r(x[i] - mean, x[i] - mean, square[i % 16]);
        real inverse = norm_inverse(norm_ref_tree(square) / (real)n, (real)c->attr[NORM_EPS]);
        for (int64_t i = 0; i < n; i++) {
            real d = x[i] - mean;
            if (weight && bias) y[i] = fma_r(d * inverse, weight[i], bias[i]);
            else if (bias) y[i] = fma_r(d, inverse, bias[i]);
            else y[i] = weight ? d * inverse * weight[i] : d * inverse;
        }
        if (saved) {
            saved[row * 2] = norm_one_nan(mean);
            saved[row * 2 + 1] = norm_one_nan(inverse);
        }
    }
}

static inline void norm_backward_ref(const ss_call *c, bool centred) {
    const int64_t n = norm_width(c), outer = norm_outer(c);
    const real *weight = norm_optional(c, NORM_WEIGHT), *saved = c->saved, *x = c->in[NORM_X], *g = c->grad_out[0];
    real *to = c->grad_in[NORM_X];
    for (int64_t row = 0; to && row < c->rows * outer; row++) {
        const real mean = saved[row * 2], inverse = saved[row * 2 + 1];
        real sum[16] = {0}, product[16] = {0};
        for (int64_t i = 0; i < n; i++) {
            real h = weight ? g[row * n + i] * weight[i] : g[row * n + i];
            sum[i % 16] += h;
            product[i % 16] = fma_r(h, x[row * n + i] - mean, product[i % 16]);
        }
        real down = centred ? norm_ref_tree(sum) / (real)n : 0, steep = norm_ref_tree(product) * inverse / (real)n * inverse;
        for (int64_t i = 0; i < n; i++) {
            real h = weight ? (centred ? fma_r(g[row * n + i], weight[i], -down) : g[row * n + i] * weight[i]) : g[row * n + i] - down;
            to[row * n + i] = fma_r(centred ? mean - x[row * n + i] : -x[row * n + i], steep, h) * inverse;
        }
    }
    for (int input = NORM_WEIGHT; input <= NORM_BIAS; input++) {
        real *grad = norm_optional(c, input) ? c->grad_in[input] : NULL, stack[NORM_DEPTH];
        for (int64_t i = 0; grad && i < n; i++) {
            int top = 0;
            for (int lane = 0; lane < c->fold->lanes; lane++) {
                real acc = 0;
                for (int64_t row = c->fold->row[lane] * outer; row < c->fold->row[lane + 1] * outer; row++) {
                    if (input == NORM_BIAS) acc += g[row * n + i];
                    else acc = fma_r(g[row * n + i], (x[row * n + i] - saved[row * 2]) * saved[row * 2 + 1], acc);
                }
                *ss_fold_slot(stack, 1, top) = acc;
                top = ss_fold_push(stack, 1, top, c->fold->adds[lane]);
            }
            for (int block = 0; block < top; block++) grad[block * c->block_stride[input] + i] = stack[block];
        }
    }
}

static inline int64_t norm_saved_bytes(const ss_call *c) { return norm_outer(c) * 2 * (int64_t)sizeof(real); }

static inline void norm_cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[NORM_X]);
    out->flops = n * (both ? 22 : 8);
    out->bytes = n * sizeof(real) * (both ? 7 : 2);
}

#endif
