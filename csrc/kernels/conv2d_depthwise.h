/* The tiles of depthwise convolutions, where each output channel reads one channel of x: vectors run across channels, so nothing is broadcast.
 *
 * Images are read through the tables of conv2d.c: row_off are positions, step_off the taps; channels stand together in memory. Every element is the same chain
 * as in conv2d_tile.h, and how positions, taps and channels are cut into tiles changes no bits.
 */
#ifndef SS_KERNELS_CONV2D_DEPTHWISE_H
#define SS_KERNELS_CONV2D_DEPTHWISE_H
#include "kernels/conv2d_tile.h"

#ifdef SS_CONV_VECTOR

enum { DEPTHWISE_ROWS = 8, DEPTHWISE_TAPS = 8 };

/* Positions that are mapped through all steps: c[c_off[i] + ...] = sum over steps of a[row_off[i] + step_off[t] + ...] * b[t * b_step + ...] + bias. */
typedef struct depthwise_block {
    const float *a;
    const int64_t *row_off, *step_off;
    int64_t m, n, steps; /* positions, channels, steps */
    const float *b;      /* full vectors, padded with zeros */
    int64_t b_step;
    float *c;
    const int64_t *c_off;
    const float *bias; /* [n] or NULL */
} depthwise_block;

/* R positions of one vector of channels. part: the vector is cut by `mask`. R and part are constants after inlining. */
SS_INLINE void depthwise_tile(const depthwise_block *k, int64_t row, int64_t column, vec_mask mask, const int R, const bool part) {
    const float *a[DEPTHWISE_ROWS], *b = k->b + column;
    vec acc[DEPTHWISE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        a[r] = k->a + k->row_off[row + r] + column;
        acc[r] = vec_zero();
    }
    for (int64_t t = 0; t < k->steps; t++, b += k->b_step) {
        int64_t o = k->step_off[t];
        vec bv = vec_load(b);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[r] = vec_fma(part ? vec_load_mask(a[r] + o, mask) : vec_load(a[r] + o), bv, acc[r]);
    }
    if (k->bias) {
        vec bv = part ? vec_load_mask(k->bias + column, mask) : vec_load(k->bias + column);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[r] = vec_add(acc[r], bv);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        float *c = k->c + k->c_off[row + r] + column;
        if (part) vec_store_mask(c, acc[r], mask);
        else vec_store(c, acc[r]);
    }
}

static inline void depthwise_block_run(const depthwise_block *k) {
    for (int64_t column = 0; column < k->n; column += VEC_WIDTH) {
        bool part = k->n - column < VEC_WIDTH;
        vec_mask mask = vec_first(k->n - column);
        int64_t row = 0;
        if (part) {
            for (; row + DEPTHWISE_ROWS <= k->m; row += DEPTHWISE_ROWS) depthwise_tile(k, row, column, mask, DEPTHWISE_ROWS, true);
            for (; row < k->m; row++) depthwise_tile(k, row, column, mask, 1, true);
        } else {
            for (; row + DEPTHWISE_ROWS <= k->m; row += DEPTHWISE_ROWS) depthwise_tile(k, row, column, mask, DEPTHWISE_ROWS, false);
            for (; row < k->m; row++) depthwise_tile(k, row, column, mask, 1, false);
        }
    }
}

/* The weight's gradient over a run of positions: sums[t * sums_step + ...] for the taps [tap, tap + T) of one vector of channels, continued where `resume`. */
typedef struct depthwise_sums {
    const float *a;
    const int64_t *row_off, *tap_off;
    int64_t m, n; /* positions, channels */
    const float *b; /* [m][n]: gradient of y */
    float *sums;
    int64_t sums_step;
    bool resume;
} depthwise_sums;

SS_INLINE void depthwise_sums_tile(const depthwise_sums *k, int64_t tap, int64_t column, vec_mask mask, const int T, const bool part) {
    int64_t o[DEPTHWISE_TAPS];
    vec acc[DEPTHWISE_TAPS];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        o[t] = k->tap_off[tap + t] + column;
        acc[t] = k->resume ? vec_load(k->sums + (tap + t) * k->sums_step + column) : vec_zero();
    }
    const float *b = k->b + column;
    for (int64_t r = 0; r < k->m; r++, b += k->n) {
        const float *a = k->a + k->row_off[r];
        vec bv = part ? vec_load_mask(b, mask) : vec_load(b);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) acc[t] = vec_fma(part ? vec_load_mask(a + o[t], mask) : vec_load(a + o[t]), bv, acc[t]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) vec_store(k->sums + (tap + t) * k->sums_step + column, acc[t]);
}

/* Taps [tap, stop) of the vector of channels that begins at `column`; sums have room for full vectors. */
static inline void depthwise_sums_run(const depthwise_sums *k, int64_t tap, int64_t stop, int64_t column) {
    bool part = k->n - column < VEC_WIDTH;
    vec_mask mask = vec_first(k->n - column);
    for (; tap + DEPTHWISE_TAPS <= stop; tap += DEPTHWISE_TAPS)
        if (part) depthwise_sums_tile(k, tap, column, mask, DEPTHWISE_TAPS, true);
        else depthwise_sums_tile(k, tap, column, mask, DEPTHWISE_TAPS, false);
    for (; tap + 3 <= stop; tap += 3)
        if (part) depthwise_sums_tile(k, tap, column, mask, 3, true);
        else depthwise_sums_tile(k, tap, column, mask, 3, false);
    for (; tap < stop; tap++)
        if (part) depthwise_sums_tile(k, tap, column, mask, 1, true);
        else depthwise_sums_tile(k, tap, column, mask, 1, false);
}

#endif /* SS_CONV_VECTOR */
#endif
