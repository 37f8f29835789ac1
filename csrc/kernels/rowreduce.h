/* Reductions of one contiguous row: 16 interleaved accumulators (element i goes to accumulator i % 16, each a chain in order) and a fixed tree over the 16. The same bits in every
 * variant. A row shorter than 16 leaves the other accumulators at their start value.
 *
 * Written with GCC's vector type of 16, which becomes one, two or four registers or sixteen scalars: as an array the accumulators would be stored and loaded again at every step.
 */
#ifndef SS_KERNELS_ROWREDUCE_H
#define SS_KERNELS_ROWREDUCE_H
#include <stdint.h>
#include <string.h>
#include "kernels/variant.h"
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

enum { RR_WIDTH = 16 };
typedef real rr_vector __attribute__((vector_size(RR_WIDTH * sizeof(real))));

/* *a = *b * *c + *a, fused, by element. */
static inline __attribute__((always_inline)) void rr_fma(rr_vector *a, const rr_vector *b, const rr_vector *c) {
#if !defined(SS_F64) && defined(__AVX512F__)
    *a = (rr_vector)_mm512_fmadd_ps((__m512)*b, (__m512)*c, (__m512)*a);
#elif !defined(SS_F64) && defined(__AVX2__) && defined(__FMA__)
    __m256 x[2], y[2], z[2];
    memcpy(x, b, sizeof x);
    memcpy(y, c, sizeof y);
    memcpy(z, a, sizeof z);
    z[0] = _mm256_fmadd_ps(x[0], y[0], z[0]);
    z[1] = _mm256_fmadd_ps(x[1], y[1], z[1]);
    memcpy(a, z, sizeof z);
#else
    for (int j = 0; j < RR_WIDTH; j++) (*a)[j] = fma_r((*b)[j], (*c)[j], (*a)[j]);
#endif
}

/* Elements [i, i + 16) of x, those from n on replaced by `rest`. */
static inline __attribute__((always_inline)) void rr_load(rr_vector *to, const real *x, int64_t i, int64_t n, real rest) {
    if (n - i >= RR_WIDTH) {
        memcpy(to, x + i, sizeof *to);
        return;
    }
    real part[RR_WIDTH];
    for (int j = 0; j < RR_WIDTH; j++) part[j] = rest;
    memcpy(part, x + i, (size_t)(n - i) * sizeof(real));
    memcpy(to, part, sizeof *to);
}

/* Tree over the 16: j with j + 8, then j + 4, j + 2, j + 1. */
static inline real rr_tree_sum(const rr_vector *a) {
    real t[RR_WIDTH];
    memcpy(t, a, sizeof t);
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; j++) t[j] += t[j + width];
    return t[0];
}

/* Greatest element; NaN when there is one. n >= 1. */
static inline real row_max(int64_t n, const real *x) {
#ifndef SS_F64
    typedef int32_t whole;
#else
    typedef int64_t whole;
#endif
    typedef whole mask __attribute__((vector_size(RR_WIDTH * sizeof(real))));
    rr_vector best, v;
    rr_load(&best, x, 0, n, -INFINITY);
    for (int64_t i = RR_WIDTH; i < n; i += RR_WIDTH) {
        rr_load(&v, x, i, n, -INFINITY);
        mask keep = (mask)(best > v) | (mask)(best != best);
        best = (rr_vector)((keep & (mask)best) | (~keep & (mask)v));
    }
    real t[RR_WIDTH];
    memcpy(t, &best, sizeof t);
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; j++) t[j] = max_r(t[j], t[j + width]);
    return t[0];
}

/* Sum of the row. */
static inline real row_sum(int64_t n, const real *x) {
    rr_vector sum = {0}, v;
    for (int64_t i = 0; i < n; i += RR_WIDTH) {
        rr_load(&v, x, i, n, 0);
        sum += v;
    }
    return rr_tree_sum(&sum);
}

/* Sum of the products of two rows, each joined by a fused multiply-add. */
static inline real row_dot(int64_t n, const real *x, const real *y) {
    rr_vector sum = {0}, v, w;
    for (int64_t i = 0; i < n; i += RR_WIDTH) {
        rr_load(&v, x, i, n, 0);
        rr_load(&w, y, i, n, 0);
        rr_fma(&sum, &v, &w);
    }
    return rr_tree_sum(&sum);
}

#endif
