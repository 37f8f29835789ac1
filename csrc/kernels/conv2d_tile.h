/* The microkernel of the convolutions: a matrix product whose operands are found through tables of offsets.
 *
 *   C[c_off[i] + j] = sum over t of  A[row_off[i] + step_off[t]] * B[t*b_step + j]          i < m, t < steps, j < n
 *
 * One fused-multiply-add chain along t for every element, from zero or (resume) from what C holds; then the bias is added. With the right tables
 * this is the forward pass (rows: positions, steps: taps), the gradient of x (rows: positions of x, steps: flipped taps) and the gradient of the
 * weight (rows: taps, steps: positions), read straight from a channels-last image without an im2col copy.
 *
 * A tile of up to 12 rows x 1 vector, 8 x 2, 8 x 3 or 6 x 4 (AVX2: 8 x 1, 6 x 2) stays in registers over the whole chain. How m and n are cut into
 * tiles changes no bits.
 */
#ifndef SS_KERNELS_CONV2D_TILE_H
#define SS_KERNELS_CONV2D_TILE_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/pairs.h"
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
    const int64_t *row_off;  /* [m] strictly ascending */
    const int64_t *step_off; /* [steps] */
    int64_t m, n, steps;
    const float *b;
    int64_t b_step;   /* of a plain B; 0: B is packed in panels (conv_panel), each step of a panel full vectors padded with zeros */
    float *c;
    const int64_t *c_off; /* [m] */
    const float *bias;    /* [n] or NULL */
    bool resume;
    bool pairs;     /* A and B hold pairs of bfloat16 numbers (kernels/pairs.h), steps counts pairs */
    bool runs;      /* steps come in fours: step_off[4i + u] = step_off[4i] + u, steps a multiple of 4 */
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

/* How the tables run, which saves loads: address registers are scarce and every row of a tile wants one.
 * RUNS: steps come in fours of neighbouring elements. ROWS: the tile's rows are neighbouring elements. */
typedef enum conv_mode { CONV_ANY, CONV_RUNS, CONV_ROWS } conv_mode;

enum { CONV_MOST_ROWS = 12 };

/* One step: `a` are the rows' pointers (CONV_ROWS: the first row's), o the step's offset. */
SS_INLINE void conv_step(const int kind, const float *const *a, int64_t o, const float *b, vec_mask mask, vec acc[CONV_MOST_ROWS][CONV_VECTORS], const int R, const int V, const bool part,
                         const conv_mode mode) {
    vec bv[CONV_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) bv[v] = part && v == V - 1 ? vec_load_mask(b + v * VEC_WIDTH, mask) : vec_load(b + v * VEC_WIDTH);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
        vec av = vec_set(mode == CONV_ROWS ? a[0][o + r] : a[r][o]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[r][v] = product(kind, av, bv[v], acc[r][v]);
    }
}

/* part: the last vector is cut by `mask`. R, V, part and mode are constants after inlining. */
SS_INLINE void conv_tile(const int kind, const conv_block *k, int64_t row, int64_t column, const float *b, int64_t b_step, vec_mask mask, const int R, const int V, const bool part, const conv_mode mode) {
    const float *a[CONV_MOST_ROWS];
    vec acc[CONV_MOST_ROWS][CONV_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
        a[r] = k->a + k->row_off[row + r];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[r][v] = vec_zero();
    }
    if (k->resume) {
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const float *c = k->c + k->c_off[row + r] + column;
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) acc[r][v] = part && v == V - 1 ? vec_load_mask(c + v * VEC_WIDTH, mask) : vec_load(c + v * VEC_WIDTH);
        }
    }
    const int64_t *step = k->step_off, *last = step + k->steps;
    if (mode == CONV_RUNS) {
        for (; step < last; step += 4) {
            int64_t o = *step;
#pragma GCC unroll 4
            for (int u = 0; u < 4; u++, b += b_step) conv_step(kind, a, o + u, b, mask, acc, R, V, part, mode);
        }
    } else {
        for (; step < last; step++, b += b_step) conv_step(kind, a, *step, b, mask, acc, R, V, part, mode);
    }
    if (k->bias) {
        const float *bias = k->bias + column;
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            vec bv = part && v == V - 1 ? vec_load_mask(bias + v * VEC_WIDTH, mask) : vec_load(bias + v * VEC_WIDTH);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) acc[r][v] = vec_add(acc[r][v], bv);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
        float *c = k->c + k->c_off[row + r] + column;
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            if (part && v == V - 1) vec_store_mask(c + v * VEC_WIDTH, acc[r][v], mask);
            else vec_store(c + v * VEC_WIDTH, acc[r][v]);
        }
    }
}

/* The most rows of a tile of V vectors, so that accumulators, B and one broadcast fit the registers. */
static inline int64_t conv_rows(int64_t vectors) {
#if defined(__AVX512F__)
    return vectors == 4 ? 6 : vectors == 1 ? 12 : 8;
#else
    return vectors == 2 ? 6 : 8;
#endif
}

/* One function a width and a mode; the switch on rows inside it holds the tiles. */
#define CONV_CASE(R, V, part, mode) \
    case R: conv_tile(CONV_KIND, k, row, column, b, b_step, mask, R, V, part, mode); break;
#define CONV_CASES_6(V, part, mode) \
    CONV_CASE(1, V, part, mode) CONV_CASE(2, V, part, mode) CONV_CASE(3, V, part, mode) CONV_CASE(4, V, part, mode) CONV_CASE(5, V, part, mode) CONV_CASE(6, V, part, mode)
#define CONV_CASES_8(V, part, mode) CONV_CASES_6(V, part, mode) CONV_CASE(7, V, part, mode) CONV_CASE(8, V, part, mode)
#define CONV_CASES_12(V, part, mode) \
    CONV_CASES_8(V, part, mode) CONV_CASE(9, V, part, mode) CONV_CASE(10, V, part, mode) CONV_CASE(11, V, part, mode) CONV_CASE(12, V, part, mode)
#define CONV_TILES(name, cases, V, mode)                                                                                                                                       \
    static __attribute__((noinline)) void name(const conv_block *k, int64_t row, int64_t rows, int64_t column, const float *b, int64_t b_step, vec_mask mask, bool part) {     \
        if (part)                                                                                                                                                              \
            switch (rows) { cases(V, true, mode) default: break; }                                                                                                             \
        else                                                                                                                                                                   \
            switch (rows) { cases(V, false, mode) default: break; }                                                                                                            \
    }

/* The widths of a mode. */
#if defined(__AVX512F__)
#define CONV_WIDTHS(name, mode) \
    CONV_TILES(name##_1, CONV_CASES_12, 1, mode) CONV_TILES(name##_2, CONV_CASES_8, 2, mode) CONV_TILES(name##_3, CONV_CASES_8, 3, mode) CONV_TILES(name##_4, CONV_CASES_6, 4, mode)
#define CONV_ENTRY(name) {name##_1, name##_2, name##_3, name##_4}
#else
#define CONV_WIDTHS(name, mode) CONV_TILES(name##_1, CONV_CASES_8, 1, mode) CONV_TILES(name##_2, CONV_CASES_6, 2, mode)
#define CONV_ENTRY(name) {name##_1, name##_2}
#endif
#define CONV_KIND PRODUCT_FLOAT
CONV_WIDTHS(conv_any, CONV_ANY)
CONV_WIDTHS(conv_runs, CONV_RUNS)
CONV_WIDTHS(conv_rows, CONV_ROWS)
#undef CONV_KIND
#define CONV_KIND PRODUCT_PAIRS
CONV_WIDTHS(conv_pairs, CONV_ANY)
#undef CONV_KIND
#define CONV_KIND PRODUCT_PAIRS_EMULATED
CONV_WIDTHS(conv_emulated, CONV_ANY)
#undef CONV_KIND

typedef void (*conv_tile_function)(const conv_block *k, int64_t row, int64_t rows, int64_t column, const float *b, int64_t b_step, vec_mask mask, bool part);
enum { CONV_PAIRS = CONV_ROWS + 1, CONV_EMULATED, CONV_MODES };
static const conv_tile_function CONV_TILE_TABLE[CONV_MODES][CONV_VECTORS] = {CONV_ENTRY(conv_any), CONV_ENTRY(conv_runs), CONV_ENTRY(conv_rows), CONV_ENTRY(conv_pairs), CONV_ENTRY(conv_emulated)};

/* Rows of the tables ascend, so the first and the last tell. */
static inline int conv_mode_of(const conv_block *k, int64_t row, int64_t rows) {
    if (k->runs) return CONV_RUNS;
    return k->row_off[row + rows - 1] - k->row_off[row] == rows - 1 ? CONV_ROWS : CONV_ANY;
}

static inline void conv_block_run(const conv_block *k) {
    const int64_t panels = conv_panels(k->n);
    const int pairs = !k->pairs ? 0 : pairs_kind() == PRODUCT_PAIRS ? CONV_PAIRS : CONV_EMULATED;
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
            CONV_TILE_TABLE[pairs ? pairs : conv_mode_of(k, row, rows)][vectors - 1](k, row, rows, column, b, b_step, mask, cut);
        }
    }
}

/* The gradient of the weight of few outputs, turned: vectors run along the neighbouring (kw, c) of one image row, rows are outputs.
 *
 *   C[r * c_row + j] = sum over t of  G[t * g_step + r] * A[row_off[t] + j]          r < rows, j < n
 */
#if defined(__AVX512F__)
enum { SPAN_ROWS = 8, SPAN_VECTORS = 3 };
#else
enum { SPAN_ROWS = 6, SPAN_VECTORS = 2 };
#endif

SS_INLINE void span_kernel(const int kind, const int rows, const int vectors, int64_t steps, const float *a, const int64_t *row_off, const float *g, int64_t g_step, float *c, int64_t c_row,
                           bool resume, vec_mask last) {
    vec acc[SPAN_ROWS][SPAN_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) {
            const float *from = c + r * c_row + v * VEC_WIDTH;
            acc[r][v] = !resume ? vec_zero() : v < vectors - 1 ? vec_load(from) : vec_load_mask(from, last);
        }
    for (int64_t t = 0; t < steps; t++, g += g_step) {
        const float *x = a + row_off[t];
        vec b[SPAN_VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) b[v] = v < vectors - 1 ? vec_load(x + v * VEC_WIDTH) : vec_load_mask(x + v * VEC_WIDTH, last);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vec s = vec_set(g[r]);
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) acc[r][v] = product(kind, b[v], s, acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) {
            float *to = c + r * c_row + v * VEC_WIDTH;
            if (v < vectors - 1) vec_store(to, acc[r][v]);
            else vec_store_mask(to, acc[r][v], last);
        }
}

/* 1 <= rows <= SPAN_ROWS, 1 <= n <= SPAN_VECTORS * VEC_WIDTH. */
#define SPAN_CASE(r, v) \
    case (r) * 4 + (v): span_kernel(SPAN_KIND, r, v, steps, a, row_off, g, g_step, c, c_row, resume, last); break;
#if defined(__AVX512F__)
#define SPAN_CASES(r) SPAN_CASE(r, 1) SPAN_CASE(r, 2) SPAN_CASE(r, 3)
#define SPAN_MORE SPAN_CASES(7) SPAN_CASES(8)
#else
#define SPAN_CASES(r) SPAN_CASE(r, 1) SPAN_CASE(r, 2)
#define SPAN_MORE
#endif
#define SPAN_TILE(name)                                                                                                                                                       \
    static __attribute__((noinline)) void name(int rows, int64_t n, int64_t steps, const float *a, const int64_t *row_off, const float *g, int64_t g_step, float *c,          \
                                               int64_t c_row, bool resume) {                                                                                                  \
        int vectors = (int)((n + VEC_WIDTH - 1) / VEC_WIDTH);                                                                                                                 \
        vec_mask last = vec_first(n - (int64_t)(vectors - 1) * VEC_WIDTH);                                                                                                    \
        switch (rows * 4 + vectors) {                                                                                                                                         \
            SPAN_CASES(1) SPAN_CASES(2) SPAN_CASES(3) SPAN_CASES(4) SPAN_CASES(5) SPAN_CASES(6) SPAN_MORE                                                                     \
            default: __builtin_unreachable();                                                                                                                                 \
        }                                                                                                                                                                     \
    }
#define SPAN_KIND PRODUCT_FLOAT
SPAN_TILE(span_tile)
#undef SPAN_KIND
#define SPAN_KIND PRODUCT_PAIRS
SPAN_TILE(span_pairs_native)
#undef SPAN_KIND
#define SPAN_KIND PRODUCT_PAIRS_EMULATED
SPAN_TILE(span_pairs_emulated)
#undef SPAN_KIND

#endif /* SS_CONV_VECTOR */
#endif
