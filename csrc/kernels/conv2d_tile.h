/* The microkernel of the convolutions: a matrix product whose operands are found through tables of offsets.
 *
 *   C[c_off[i] + j] = sum over t of  A[row_off[i] + step_off[t]] * B[t*b_step + j]          i < m, t < steps, j < n
 *
 * One fused-multiply-add chain along t for every element, from zero or (resume) from what C holds; then the bias is added. With the right tables
 * this is the forward pass (rows: positions, steps: taps), the gradient of x (rows: positions of x, steps: flipped taps) and the gradient of the
 * weight (rows: taps, steps: positions), read straight from a channels-last image without an im2col copy.
 *
 * A tile of up to 8 rows x 4 vectors (AVX2: 2) stays in registers over the whole chain. How m and n are cut into tiles changes no bits.
 */
#ifndef SS_KERNELS_CONV2D_TILE_H
#define SS_KERNELS_CONV2D_TILE_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/vec.h"

#if defined(__AVX512F__)
#define SS_CONV_VECTOR 1
enum { CONV_VECTORS = 4 };
#elif defined(__AVX2__) && defined(__FMA__)
#define SS_CONV_VECTOR 1
enum { CONV_VECTORS = 2 };
#endif
#ifdef SS_CONV_VECTOR

typedef struct conv_block {
    const float *a;
    const int64_t *row_off;  /* [m] */
    const int64_t *step_off; /* [steps] */
    int64_t m, n, steps;
    const float *b;
    int64_t b_step;   /* of a plain B; 0: B is packed in panels (conv_panel), each step of a panel full vectors padded with zeros */
    float *c;
    const int64_t *c_off; /* [m] */
    const float *bias;    /* [n] or NULL */
    bool resume;
} conv_block;

/* Panels: how n columns are cut into runs of at most CONV_VECTORS vectors. Panel j covers the vectors [*begin, *end). */
static inline int64_t conv_panels(int64_t n) {
    int64_t vectors = (n + VEC_WIDTH - 1) / VEC_WIDTH;
    return (vectors + CONV_VECTORS - 1) / CONV_VECTORS;
}
static inline void conv_panel(int64_t n, int64_t panel, int64_t *begin, int64_t *end) {
    int64_t vectors = (n + VEC_WIDTH - 1) / VEC_WIDTH, panels = conv_panels(n);
    *begin = vectors * panel / panels;
    *end = vectors * (panel + 1) / panels;
}

/* part: the last vector is cut by `mask` (loads of B when `b_part`, and of C and bias always). R and V are constants after inlining. */
SS_INLINE void conv_tile(const conv_block *k, int64_t row, int64_t column, const float *b, int64_t b_step, vec_mask mask,
                                                            const int R, const int V, const bool part, const bool b_part) {
    const float *a[8];
    vec acc[8][CONV_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        a[r] = k->a + k->row_off[row + r];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[r][v] = vec_zero();
    }
    if (k->resume) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const float *c = k->c + k->c_off[row + r] + column;
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) acc[r][v] = part && v == V - 1 ? vec_load_mask(c + v * VEC_WIDTH, mask) : vec_load(c + v * VEC_WIDTH);
        }
    }
    const int64_t *step = k->step_off, *last = step + k->steps;
    for (; step < last; step++, b += b_step) {
        int64_t o = *step;
        vec bv[CONV_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) bv[v] = b_part && v == V - 1 ? vec_load_mask(b + v * VEC_WIDTH, mask) : vec_load(b + v * VEC_WIDTH);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            vec av = vec_set(a[r][o]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) acc[r][v] = vec_fma(av, bv[v], acc[r][v]);
        }
    }
    if (k->bias) {
        const float *bias = k->bias + column;
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            vec bv = part && v == V - 1 ? vec_load_mask(bias + v * VEC_WIDTH, mask) : vec_load(bias + v * VEC_WIDTH);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) acc[r][v] = vec_add(acc[r][v], bv);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        float *c = k->c + k->c_off[row + r] + column;
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            if (part && v == V - 1)
                vec_store_mask(c + v * VEC_WIDTH, acc[r][v], mask);
            else
                vec_store(c + v * VEC_WIDTH, acc[r][v]);
        }
    }
}

/* The most rows of a tile of V vectors, so that accumulators, B and one broadcast fit the registers. */
static inline int64_t conv_rows(int64_t vectors) {
#if defined(__AVX512F__)
    return vectors == 4 ? 6 : 8;
#else
    return vectors == 2 ? 6 : 8;
#endif
}

#define CONV_TILE_ROWS(V, part, b_part)                                                            \
    switch (rows) {                                                                                \
    case 1: conv_tile(k, row, column, b, b_step, mask, 1, V, part, b_part); break;                 \
    case 2: conv_tile(k, row, column, b, b_step, mask, 2, V, part, b_part); break;                 \
    case 3: conv_tile(k, row, column, b, b_step, mask, 3, V, part, b_part); break;                 \
    case 4: conv_tile(k, row, column, b, b_step, mask, 4, V, part, b_part); break;                 \
    case 5: conv_tile(k, row, column, b, b_step, mask, 5, V, part, b_part); break;                 \
    case 6: conv_tile(k, row, column, b, b_step, mask, 6, V, part, b_part); break;                 \
    case 7: conv_tile(k, row, column, b, b_step, mask, 7, V, part, b_part); break;                 \
    default: conv_tile(k, row, column, b, b_step, mask, 8, V, part, b_part); break;                \
    }
#define CONV_TILE_SHAPE(name, V)                                                                                                                \
    static __attribute__((noinline)) void name(const conv_block *k, int64_t row, int64_t rows, int64_t column, const float *b, int64_t b_step,   \
                                               vec_mask mask, bool part, bool b_part) {                                                        \
        if (!part) {                                                                                                                            \
            CONV_TILE_ROWS(V, false, false)                                                                                                     \
        } else if (!b_part) {                                                                                                                   \
            CONV_TILE_ROWS(V, true, false)                                                                                                      \
        } else {                                                                                                                                \
            CONV_TILE_ROWS(V, true, true)                                                                                                       \
        }                                                                                                                                       \
    }

CONV_TILE_SHAPE(conv_tile_1, 1)
CONV_TILE_SHAPE(conv_tile_2, 2)
#if defined(__AVX512F__)
CONV_TILE_SHAPE(conv_tile_3, 3)
CONV_TILE_SHAPE(conv_tile_4, 4)
#endif

static inline void conv_block_run(const conv_block *k) {
    int64_t panels = conv_panels(k->n);
    for (int64_t panel = 0; panel < panels; panel++) {
        int64_t begin, end;
        conv_panel(k->n, panel, &begin, &end);
        int64_t vectors = end - begin, column = begin * VEC_WIDTH, left = k->n - column;
        bool cut = left < vectors * VEC_WIDTH, packed = k->b_step == 0;
        vec_mask mask = vec_first(cut ? left - (vectors - 1) * VEC_WIDTH : 0);
        const float *b = packed ? k->b + column * k->steps : k->b + column;
        int64_t b_step = packed ? vectors * VEC_WIDTH : k->b_step;
        int64_t tiles = (k->m + conv_rows(vectors) - 1) / conv_rows(vectors);
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t row = k->m * tile / tiles, rows = k->m * (tile + 1) / tiles - row;
            bool b_part = cut && !packed;
            switch (vectors) {
            case 1: conv_tile_1(k, row, rows, column, b, b_step, mask, cut, b_part); break;
            case 2: conv_tile_2(k, row, rows, column, b, b_step, mask, cut, b_part); break;
#if defined(__AVX512F__)
            case 3: conv_tile_3(k, row, rows, column, b, b_step, mask, cut, b_part); break;
            default: conv_tile_4(k, row, rows, column, b, b_step, mask, cut, b_part); break;
#else
            default: break;
#endif
            }
        }
    }
}

#endif /* SS_CONV_VECTOR */
#endif
