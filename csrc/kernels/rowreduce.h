/* Reductions of one contiguous row: 16 interleaved accumulators (element i goes to accumulator i % 16, each a chain in order) and a fixed tree over the 16. The same bits in every
 * variant. A row shorter than 16 leaves the other accumulators at their start value.
 *
 * The accumulators are GCC vectors of one register each: as an array of 16 they would be stored and loaded again at every step.
 */
#ifndef SS_KERNELS_ROWREDUCE_H
#define SS_KERNELS_ROWREDUCE_H
#include <stdint.h>
#include <string.h>
#include "kernels/variant.h"
#include "kernels/vmath.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(SS_F64)
enum { RR_LANES = 2 };
typedef int64_t rr_whole;
#elif defined(__AVX512F__)
enum { RR_LANES = 16 };
typedef int32_t rr_whole;
#elif defined(__AVX2__) && defined(__FMA__)
enum { RR_LANES = 8 };
typedef int32_t rr_whole;
#else
enum { RR_LANES = 4 };
typedef int32_t rr_whole;
#endif
enum { RR_WIDTH = 16, RR_PARTS = RR_WIDTH / RR_LANES };
typedef real rr_vector __attribute__((vector_size(RR_LANES * sizeof(real))));
typedef rr_whole rr_mask __attribute__((vector_size(RR_LANES * sizeof(real))));

#define RR_INLINE static inline __attribute__((always_inline))
#define RR_EACH_PART _Pragma("GCC unroll 8") for (int p = 0; p < RR_PARTS; p++)

/* *a = *b * *c + *a, fused, element by element. */
RR_INLINE void rr_fma(rr_vector *a, const rr_vector *b, const rr_vector *c) {
#if !defined(SS_F64) && defined(__AVX512F__)
    *a = (rr_vector)_mm512_fmadd_ps((__m512)*b, (__m512)*c, (__m512)*a);
#elif !defined(SS_F64) && defined(__AVX2__) && defined(__FMA__)
    *a = (rr_vector)_mm256_fmadd_ps((__m256)*b, (__m256)*c, (__m256)*a);
#else
    for (int j = 0; j < RR_LANES; j++) (*a)[j] = fma_r((*b)[j], (*c)[j], (*a)[j]);
#endif
}

/* 16 elements of x. */
RR_INLINE void rr_load(rr_vector *to, const real *x) {
    RR_EACH_PART memcpy(&to[p], x + p * RR_LANES, sizeof to[p]);
}

/* The n < 16 elements of x, then `rest` in the others. */
RR_INLINE void rr_load_some(rr_vector *to, const real *x, int64_t n, real rest) {
#if !defined(SS_F64) && defined(__AVX512F__)
    *to = (rr_vector)_mm512_mask_loadu_ps(_mm512_set1_ps(rest), (__mmask16)((1u << n) - 1), x);
#else
    real t[RR_WIDTH];
    for (int64_t j = 0; j < RR_WIDTH; j++) t[j] = rest;
    for (int64_t j = 0; j < n; j++) t[j] = x[j];
    rr_load(to, t);
#endif
}

/* The tree over the 16: j with j + 8, then j + 4, j + 2, j + 1. */
RR_INLINE real rr_tree_sum(const rr_vector *a) {
    real t[RR_WIDTH];
    memcpy(t, a, sizeof t);
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; j++) t[j] += t[j + width];
    return t[0];
}

/* max_r of two vectors into the first. */
RR_INLINE void rr_max(rr_vector *a, const rr_vector *b) {
    rr_mask keep = (rr_mask)(*a > *b) | (rr_mask)(*a != *a);
    *a = (rr_vector)((keep & (rr_mask)*a) | (~keep & (rr_mask)*b));
}

/* Greatest element; NaN when there is one. n >= 1. */
static inline real row_max(int64_t n, const real *x) {
    rr_vector best[RR_PARTS], v[RR_PARTS];
    int64_t i = 0;
    if (n < RR_WIDTH) rr_load_some(best, x, n, -INFINITY);
    else rr_load(best, x);
    for (i = RR_WIDTH; i + RR_WIDTH <= n; i += RR_WIDTH) {
        rr_load(v, x + i);
        RR_EACH_PART rr_max(&best[p], &v[p]);
    }
    if (i < n) {
        rr_load_some(v, x + i, n - i, -INFINITY);
        RR_EACH_PART rr_max(&best[p], &v[p]);
    }
    real t[RR_WIDTH];
    memcpy(t, best, sizeof t);
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; j++) t[j] = max_r(t[j], t[j + width]);
    return t[0];
}

/* Sum of the row. */
static inline real row_sum(int64_t n, const real *x) {
    rr_vector sum[RR_PARTS] = {{0}}, v[RR_PARTS];
    int64_t i = 0;
    for (; i + RR_WIDTH <= n; i += RR_WIDTH) {
        rr_load(v, x + i);
        RR_EACH_PART sum[p] += v[p];
    }
    if (i < n) {
        rr_load_some(v, x + i, n - i, 0);
        RR_EACH_PART sum[p] += v[p];
    }
    return rr_tree_sum(sum);
}

/* Sum of the products of two rows, each joined by a fused multiply-add. */
static inline real row_dot(int64_t n, const real *x, const real *y) {
    rr_vector sum[RR_PARTS] = {{0}}, v[RR_PARTS], w[RR_PARTS];
    int64_t i = 0;
    for (; i + RR_WIDTH <= n; i += RR_WIDTH) {
        rr_load(v, x + i);
        rr_load(w, y + i);
        RR_EACH_PART rr_fma(&sum[p], &v[p], &w[p]);
    }
    if (i < n) {
        rr_load_some(v, x + i, n - i, 0);
        rr_load_some(w, y + i, n - i, 0);
        RR_EACH_PART rr_fma(&sum[p], &v[p], &w[p]);
    }
    return rr_tree_sum(sum);
}

/* Sum of the squared differences of two rows. */
static inline real row_distance(int64_t n, const real *x, const real *y) {
    rr_vector sum[RR_PARTS] = {{0}}, v[RR_PARTS], w[RR_PARTS];
    int64_t i = 0;
    for (; i + RR_WIDTH <= n; i += RR_WIDTH) {
        rr_load(v, x + i);
        rr_load(w, y + i);
        RR_EACH_PART {
            v[p] -= w[p];
            rr_fma(&sum[p], &v[p], &v[p]);
        }
    }
    if (i < n) {
        rr_load_some(v, x + i, n - i, 0);
        rr_load_some(w, y + i, n - i, 0);
        RR_EACH_PART {
            v[p] -= w[p];
            rr_fma(&sum[p], &v[p], &v[p]);
        }
    }
    return rr_tree_sum(sum);
}

/* Rows side by side, n elements each and one after another in memory: one row's chains leave the processor waiting. `count` is a constant at the calls, at most RR_ROWS. */
enum { RR_ROWS = 4 };
#define RR_EACH_ROW _Pragma("GCC unroll 4") for (int r = 0; r < count; r++)

/* sum[r] = row_sum of row r. */
RR_INLINE void rows_sum(const int count, int64_t n, const real *x, real *sum) {
    rr_vector acc[RR_ROWS][RR_PARTS] = {{{0}}}, v[RR_PARTS];
    int64_t i = 0;
    for (; i + RR_WIDTH <= n; i += RR_WIDTH)
        RR_EACH_ROW {
            rr_load(v, x + r * n + i);
            RR_EACH_PART acc[r][p] += v[p];
        }
    if (i < n)
        RR_EACH_ROW {
            rr_load_some(v, x + r * n + i, n - i, 0);
            RR_EACH_PART acc[r][p] += v[p];
        }
    RR_EACH_ROW sum[r] = rr_tree_sum(acc[r]);
}

/* sum[r] = the squares of x - centre[r], each joined by a fused multiply-add. Accumulators beyond a short row stay 0. */
RR_INLINE void rows_square(const int count, int64_t n, const real *x, const real *centre, real *sum) {
    rr_vector acc[RR_ROWS][RR_PARTS] = {{{0}}}, v[RR_PARTS];
    int64_t i = 0;
    for (; i + RR_WIDTH <= n; i += RR_WIDTH)
        RR_EACH_ROW {
            rr_load(v, x + r * n + i);
            RR_EACH_PART {
                v[p] -= centre[r];
                rr_fma(&acc[r][p], &v[p], &v[p]);
            }
        }
    if (i < n)
        RR_EACH_ROW {
            rr_load_some(v, x + r * n + i, n - i, centre[r]);
            RR_EACH_PART {
                v[p] -= centre[r];
                rr_fma(&acc[r][p], &v[p], &v[p]);
            }
        }
    RR_EACH_ROW sum[r] = rr_tree_sum(acc[r]);
}

/* With h = g * weight (g where weight is NULL): sum[r] = the sum of h, product[r] = the sum of h * (x - centre[r]), fused. */
RR_INLINE void rows_products(const int count, int64_t n, const real *x, const real *g, const real *weight, const real *centre, real *sum, real *product) {
    rr_vector s[RR_ROWS][RR_PARTS] = {{{0}}}, t[RR_ROWS][RR_PARTS] = {{{0}}}, v[RR_PARTS], h[RR_PARTS], w[RR_PARTS] = {{0}};
    int64_t i = 0;
    for (; i + RR_WIDTH <= n; i += RR_WIDTH) {
        if (weight) rr_load(w, weight + i);
        RR_EACH_ROW {
            rr_load(v, x + r * n + i);
            rr_load(h, g + r * n + i);
            RR_EACH_PART {
                v[p] -= centre[r];
                if (weight) h[p] *= w[p];
                s[r][p] += h[p];
                rr_fma(&t[r][p], &h[p], &v[p]);
            }
        }
    }
    if (i < n) {
        if (weight) rr_load_some(w, weight + i, n - i, 0);
        RR_EACH_ROW {
            rr_load_some(v, x + r * n + i, n - i, centre[r]);
            rr_load_some(h, g + r * n + i, n - i, 0);
            RR_EACH_PART {
                v[p] -= centre[r];
                if (weight) h[p] *= w[p];
                s[r][p] += h[p];
                rr_fma(&t[r][p], &h[p], &v[p]);
            }
        }
    }
    RR_EACH_ROW {
        sum[r] = rr_tree_sum(s[r]);
        product[r] = rr_tree_sum(t[r]);
    }
}
#undef RR_EACH_ROW

/* y = exp(x - shift) along the row. The tail is worked on as 16 elements, because a loop's scalar rest costs as much as many whole vectors. */
static inline void row_exp(int64_t n, const real *restrict x, real shift, real *restrict y) {
    int64_t whole = n / RR_WIDTH * RR_WIDTH;
    for (int64_t i = 0; i < whole; i++) y[i] = exp_r(x[i] - shift);
    if (whole == n) return;
    real t[RR_WIDTH] = {0};
    for (int64_t j = 0; j < n - whole; j++) t[j] = x[whole + j];
    for (int j = 0; j < RR_WIDTH; j++) t[j] = exp_r(t[j] - shift);
    for (int64_t j = 0; j < n - whole; j++) y[whole + j] = t[j];
}

#undef RR_EACH_PART
#endif
