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
