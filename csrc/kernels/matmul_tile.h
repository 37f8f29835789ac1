/* The register tile of the matrix product: TILE_M rows x TILE_N columns of C stay in registers while k runs.
 *
 * Every output element is one chain acc = fma(A[i][p], B[p][j], acc) with p ascending, from zero or, when `accumulate`, from what C
 * holds: a product cut along k in several calls has the bits of one call. Included by each kernel that multiplies; everything is static.
 */
#ifndef SS_KERNELS_MATMUL_TILE_H
#define SS_KERNELS_MATMUL_TILE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/pairs.h"
#include "kernels/vec.h"

#if defined(__AVX512F__)
enum { TILE_M = 14, TILE_VECTORS = 2 }; /* 28 accumulators of 32 registers */
#elif defined(__AVX2__) && defined(__FMA__)
enum { TILE_M = 6, TILE_VECTORS = 2 }; /* 12 of 16 */
#else
enum { TILE_M = 4, TILE_VECTORS = 4 };
#endif
enum { TILE_N = TILE_VECTORS * VEC_WIDTH };

/* rows and vectors are constants at every call, so the arrays live in registers. `last` masks the last vector. Row pointers stand three
 * rows apart because base + {0, 1, 2} * stride is one addressing mode each. */
SS_INLINE void tile_kernel(const int kind, const int rows, const int vectors, int64_t k, const float *a, int64_t a_row, int64_t a_col, const float *b,
                           int64_t b_row, float *c, int64_t c_row, bool accumulate, const float *bias, vec_mask last, const float *ahead,
                           int64_t ahead_step) {
    vec x[TILE_M][TILE_VECTORS];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) x[i][v] = vec_zero();
    if (accumulate) {
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                const float *from = c + i * c_row + v * VEC_WIDTH;
                x[i][v] = v < vectors - 1 ? vec_load(from) : vec_load_mask(from, last);
            }
    }
    const float *a0 = a, *a3 = a + 3 * a_row, *a6 = a + 6 * a_row, *a9 = a + 9 * a_row, *a12 = a + 12 * a_row;
    for (int64_t p = 0; p < k; p++) {
        vec y[TILE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            y[v] = v < vectors - 1 ? vec_load(b + v * VEC_WIDTH) : vec_load_mask(b + v * VEC_WIDTH, last);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            const float *base = i < 3 ? a0 : i < 6 ? a3 : i < 9 ? a6 : i < 12 ? a9 : a12;
            vec s = vec_set(base[i % 3 * a_row]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) x[i][v] = product(kind, s, y[v], x[i][v]);
        }
        b += b_row;
        __builtin_prefetch(ahead, 0, 2);
        ahead += ahead_step;
        a0 += a_col, a3 += a_col, a6 += a_col, a9 += a_col, a12 += a_col;
    }
    if (bias) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            vec z = v < vectors - 1 ? vec_load(bias + v * VEC_WIDTH) : vec_load_mask(bias + v * VEC_WIDTH, last);
#pragma GCC unroll 14
            for (int i = 0; i < rows; i++) x[i][v] = vec_add(x[i][v], z);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            float *to = c + i * c_row + v * VEC_WIDTH;
            if (v < vectors - 1) vec_store(to, x[i][v]);
            else vec_store_mask(to, x[i][v], last);
        }
}

/* One strip: 1 <= rows <= TILE_M, 1 <= n <= TILE_N. While it multiplies it fetches k lines, ahead_step floats apart, into the second-level cache: the
 * operand that will be copied next lies in rows too far apart for the hardware to guess. ahead_step 0 for none. */
#define SS_TILE(r, v) \
    case (r) * 8 + (v): tile_kernel(SS_TILE_KIND, r, v, k, a, a_row, a_col, b, b_row, c, c_row, accumulate, bias, last, ahead, ahead_step); break;
#if defined(__AVX512F__) || defined(__AVX2__)
#define SS_TILE_ROW(r) SS_TILE(r, 1) SS_TILE(r, 2)
#else
#define SS_TILE_ROW(r) SS_TILE(r, 1) SS_TILE(r, 2) SS_TILE(r, 3) SS_TILE(r, 4)
#endif
#if defined(__AVX512F__)
#define SS_TILE_ROWS SS_TILE_ROW(5) SS_TILE_ROW(6) SS_TILE_ROW(7) SS_TILE_ROW(8) SS_TILE_ROW(9) SS_TILE_ROW(10) SS_TILE_ROW(11) SS_TILE_ROW(12) SS_TILE_ROW(13) SS_TILE_ROW(14)
#elif defined(__AVX2__)
#define SS_TILE_ROWS SS_TILE_ROW(5) SS_TILE_ROW(6)
#else
#define SS_TILE_ROWS
#endif
#define SS_TILE_STRIP(name)                                                                                                                                       \
    static __attribute__((noinline, unused)) void name(int rows, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t b_row, \
                                                       float *c, int64_t c_row, bool accumulate, const float *bias, const float *ahead, int64_t ahead_step) {      \
        int vectors = (int)((n + VEC_WIDTH - 1) / VEC_WIDTH);                                                                                                     \
        vec_mask last = vec_first(n - (int64_t)(vectors - 1) * VEC_WIDTH);                                                                                        \
        switch (rows * 8 + vectors) {                                                                                                                             \
            SS_TILE_ROW(1) SS_TILE_ROW(2) SS_TILE_ROW(3) SS_TILE_ROW(4) SS_TILE_ROWS                                                                              \
            default: __builtin_unreachable();                                                                                                                     \
        }                                                                                                                                                         \
    }
#define SS_TILE_KIND PRODUCT_FLOAT
SS_TILE_STRIP(tile_strip)
#undef SS_TILE_KIND
/* The same of pairs (kernels/pairs.h): k counts pairs. */
#ifdef SS_TILE_PAIRS
#define SS_TILE_KIND PRODUCT_PAIRS
SS_TILE_STRIP(tile_pairs_native)
#undef SS_TILE_KIND
#define SS_TILE_KIND PRODUCT_PAIRS_EMULATED
SS_TILE_STRIP(tile_pairs_emulated)
#undef SS_TILE_KIND
#endif

/* Begin of strip i of m rows cut into `strips` even parts: eight rows are two fours rather than six and two. */
SS_INLINE int64_t tile_begin(int64_t m, int64_t strips, int64_t i) { return m * i / strips; }
SS_INLINE int64_t tile_strips(int64_t m) { return (m + TILE_M - 1) / TILE_M; }

/* Fetches a share of rows x columns floats into the second-level cache: rows lie too far apart for the hardware to guess. */
SS_INLINE void tile_fetch(int64_t share, int64_t shares, int64_t rows, int64_t columns, const float *from, int64_t step) {
    for (int64_t q = rows * share / shares; q < rows * (share + 1) / shares; q++) {
        for (int64_t j = 0; j < columns; j += 16) __builtin_prefetch(from + q * step + j, 0, 2);
        __builtin_prefetch(from + q * step + columns - 1, 0, 2);
    }
}

/* C (m x n, row stride c_row) = [C +] A B [+ bias]. A is read in place with strides a_row, a_col; B has contiguous rows b_row floats apart:
 * a packed panel (b_row = TILE_N, then n <= TILE_N) or any matrix in place. Reads and writes nothing outside the m x k, k x n and m x n
 * elements. k may be 0. `bias` (n, or NULL) is added after the last product: pass it with the last part of k only. */
static __attribute__((unused)) void tile_block(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col,
                                               const float *b, int64_t b_row, float *c, int64_t c_row, bool accumulate, const float *bias) {
    int64_t strips = tile_strips(m);
    for (int64_t j = 0; j < n; j += TILE_N) {
        int64_t columns = n - j < TILE_N ? n - j : TILE_N;
        for (int64_t s = 0; s < strips; s++) {
            int64_t i = tile_begin(m, strips, s), rows = tile_begin(m, strips, s + 1) - i;
            tile_strip((int)rows, columns, k, a + i * a_row, a_row, a_col, b + j, b_row, c + i * c_row + j, c_row, accumulate,
                       bias ? bias + j : NULL, b, 0);
        }
    }
}

/* Packs a panel: to[q * TILE_N + j] = from[q * step + j * column], q < k, j < n <= TILE_N. Columns from n on are unspecified; nothing reads them. */
static __attribute__((unused)) void tile_panel(int64_t k, int64_t n, const float *from, int64_t step, int64_t column, float *to) {
    if (column == 1) {
        int vectors = (int)((n + VEC_WIDTH - 1) / VEC_WIDTH);
        vec_mask last = vec_first(n - (int64_t)(vectors - 1) * VEC_WIDTH);
        for (int64_t q = 0; q < k; q++, from += step, to += TILE_N) {
            for (int v = 0; v < vectors - 1; v++) vec_store(to + v * VEC_WIDTH, vec_load(from + v * VEC_WIDTH));
            vec_store(to + (vectors - 1) * VEC_WIDTH, vec_load_mask(from + (vectors - 1) * VEC_WIDTH, last));
        }
        return;
    }
    int64_t whole = step == 1 ? k / VEC_WIDTH * VEC_WIDTH : 0;
    for (int64_t j = 0; j < n; j += VEC_WIDTH)
        for (int64_t q = 0; q < whole; q += VEC_WIDTH) {
            if (n - j >= VEC_WIDTH) vec_transpose(from + j * column + q, column, VEC_WIDTH, to + q * TILE_N + j, TILE_N);
            else vec_transpose(from + j * column + q, column, (int)(n - j), to + q * TILE_N + j, TILE_N);
        }
    for (int64_t j = 0; j < n; j++)
        for (int64_t q = whole; q < k; q++) to[q * TILE_N + j] = from[q * step + j * column];
}

#endif
