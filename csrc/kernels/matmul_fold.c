/* Products summed over samples: a lane's rows are one chain, lanes join by the fold program while the tile is in registers.
 *
 * Rows pass in chunks of whole lanes as far as they fit; a lane longer than a chunk is cut, its partial waits on the stack and is gone on from. What a
 * tile does with a chunk (which rows, when to join, on which level the result lies) is the same for all tiles, so it is written down once as a list
 * of steps. Level l of a tile's stack lies in block l of the output while there is such a block: what is left at the end lies where it belongs.
 */
#include <stddef.h>
#include "base/shape.h"
#include "kernels/internal.h"
#include "kernels/matmul_tile.h"

#if defined(__AVX512F__)
enum { FOLD_M = 7, PAIR = 1 }; /* two lanes side by side: 2 x 7 x 2 accumulators, and the first join needs no memory */
#else
enum { FOLD_M = TILE_M, PAIR = 0 };
#endif

enum {
    CHUNK = 256,   /* rows: a panel of B stays in the first-level cache */
    SHORT_M = 512, /* rows of the output for which A's chunk is packed at once, when one chunk is all */
    LONG_M = TILE_M * 32, /* with several chunks the stacks of LONG_M x LONG_N outputs wait in memory between chunks */
    LONG_N = 384
};

typedef struct step {
    int row, rows; /* inside the chunk; with pairs `row` is even */
    bool pair;     /* the next `rows` rows are another lane, joined at once */
    bool resume;   /* go on from the top of the stack */
    int joins;     /* with partials below, after the lane (after the pair's own) */
    int level;     /* height of the stack before */
} step;

/* Where the walk over the lanes stands. */
typedef struct walk {
    int lane;
    int64_t row; /* the next row of all */
    int height;
} walk;

/* Writes the steps of the next chunk and returns their number; *rows receives its length. */
static int next_chunk(const ss_matmul_fold *p, walk *w, step *steps, int64_t *rows) {
    const ss_fold *f = p->fold;
    int count = 0;
    int64_t used = 0;
    const int64_t even = p->bf16 ? 1 : 0; /* pairs of rows begin at the beginning of a lane, and the last row of a lane may stand alone */
    while (w->lane < f->lanes && used < CHUNK) {
        int i = w->lane;
        int64_t end = f->row[i + 1] * p->positions, left = end - w->row, begin = f->row[i] * p->positions;
        if (left > CHUNK - used && used > 0) break; /* begin a lane that does not fit in a chunk of its own */
        bool resume = w->row > begin;
        if (PAIR && !resume && !(even && left % 2) && i + 1 < f->lanes && f->adds[i] == 0 && f->adds[i + 1] > 0 && 2 * left <= CHUNK - used &&
            f->row[i + 2] * p->positions - end == left) {
            steps[count++] = (step){(int)used, (int)left, true, false, f->adds[i + 1] - 1, w->height};
            w->height += 1 - (f->adds[i + 1] - 1);
            w->lane += 2;
            w->row += 2 * left;
            used += 2 * left;
            continue;
        }
        int64_t take = ss_min(left, CHUNK - used);
        bool done = take == left;
        int joins = done ? f->adds[i] : 0;
        steps[count++] = (step){(int)used, (int)take, false, resume, joins, w->height};
        w->height += (resume ? 0 : 1) - joins;
        w->lane += done;
        w->row += take;
        used += take;
        if (even && used % 2) used++;
    }
    *rows = used;
    return count;
}

/* Where a tile's stack lies. */
typedef struct tile_stack {
    float *c; /* the tile in block 0 */
    int64_t c_row, block_stride;
    int blocks;
    float *rest; /* levels from `blocks` on, FOLD_M x TILE_N each */
} tile_stack;

/* a: rows (or pairs of rows) of the chunk a_step floats apart; b: the packed panel. */
SS_INLINE void fold_kernel(const int kind, const int rows, const int vectors, const step *steps, int count, const float *a, int64_t a_step, const float *b,
                           const tile_stack *stack, vec_mask last) {
    for (const step *s = steps; s < steps + count; s++) {
        vec x[1 + PAIR][FOLD_M][TILE_VECTORS];
        int level = s->level;
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) x[0][i][v] = vec_zero();
        if (s->resume) {
            level--;
            const float *from = level < stack->blocks ? stack->c + level * stack->block_stride
                                                      : stack->rest + (level - stack->blocks) * (FOLD_M * TILE_N);
            int64_t from_row = level < stack->blocks ? stack->c_row : TILE_N;
#pragma GCC unroll 14
            for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    x[0][i][v] = v < vectors - 1 ? vec_load(from + i * from_row + v * VEC_WIDTH)
                                                 : vec_load_mask(from + i * from_row + v * VEC_WIDTH, last);
        }
        const int unit = kind == PRODUCT_FLOAT ? 1 : 2, length = (s->rows + unit - 1) / unit;
        const float *aa = a + s->row / unit * a_step, *bb = b + s->row / unit * TILE_N;
        if (PAIR && s->pair) {
            const float *a1 = aa + length * a_step, *b1 = bb + length * TILE_N;
#pragma GCC unroll 14
            for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) x[PAIR][i][v] = vec_zero();
            for (int q = 0; q < length; q++) {
                vec y[TILE_VECTORS], z[TILE_VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) y[v] = vec_load(bb + v * VEC_WIDTH);
#pragma GCC unroll 14
                for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++) x[0][i][v] = product(kind, vec_set(aa[i]), y[v], x[0][i][v]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) z[v] = vec_load(b1 + v * VEC_WIDTH);
#pragma GCC unroll 14
                for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++) x[PAIR][i][v] = product(kind, vec_set(a1[i]), z[v], x[PAIR][i][v]);
                aa += a_step, a1 += a_step, bb += TILE_N, b1 += TILE_N;
            }
#pragma GCC unroll 14
            for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) x[0][i][v] = vec_add(x[0][i][v], x[PAIR][i][v]);
        } else {
            for (int q = 0; q < length; q++) {
                vec y[TILE_VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) y[v] = vec_load(bb + v * VEC_WIDTH);
#pragma GCC unroll 14
                for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++) x[0][i][v] = product(kind, vec_set(aa[i]), y[v], x[0][i][v]);
                aa += a_step, bb += TILE_N;
            }
        }
        for (int join = 0; join < s->joins; join++) {
            level--;
            const float *from = level < stack->blocks ? stack->c + level * stack->block_stride
                                                      : stack->rest + (level - stack->blocks) * (FOLD_M * TILE_N);
            int64_t from_row = level < stack->blocks ? stack->c_row : TILE_N;
#pragma GCC unroll 14
            for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) {
                    const float *at = from + i * from_row + v * VEC_WIDTH;
                    x[0][i][v] = vec_add(v < vectors - 1 ? vec_load(at) : vec_load_mask(at, last), x[0][i][v]);
                }
        }
        float *to = level < stack->blocks ? stack->c + level * stack->block_stride : stack->rest + (level - stack->blocks) * (FOLD_M * TILE_N);
        int64_t to_row = level < stack->blocks ? stack->c_row : TILE_N;
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                if (v < vectors - 1) vec_store(to + i * to_row + v * VEC_WIDTH, x[0][i][v]);
                else vec_store_mask(to + i * to_row + v * VEC_WIDTH, x[0][i][v], last);
            }
    }
}

#define FOLD_TILE(r, v) case (r) * 8 + (v): fold_kernel(FOLD_KIND, r, v, steps, count, a, a_step, b, stack, last); break;
#if defined(__AVX512F__) || defined(__AVX2__)
#define FOLD_ROW(r) FOLD_TILE(r, 1) FOLD_TILE(r, 2)
#else
#define FOLD_ROW(r) FOLD_TILE(r, 1) FOLD_TILE(r, 2) FOLD_TILE(r, 3) FOLD_TILE(r, 4)
#endif
#if defined(__AVX512F__)
#define FOLD_ROWS FOLD_ROW(5) FOLD_ROW(6) FOLD_ROW(7)
#elif defined(__AVX2__)
#define FOLD_ROWS FOLD_ROW(5) FOLD_ROW(6)
#else
#define FOLD_ROWS
#endif
/* The outputs of the next strip, whose lines are far apart, are on their way while this one is computed. */
#define FOLD_STRIP(name)                                                                                                                                     \
    static __attribute__((noinline)) void name(int rows, int64_t n, const step *steps, int count, const float *a, int64_t a_step, const float *b,            \
                                               const tile_stack *stack) {                                                                                    \
        int vectors = (int)((n + VEC_WIDTH - 1) / VEC_WIDTH);                                                                                                \
        vec_mask last = vec_first(n - (int64_t)(vectors - 1) * VEC_WIDTH);                                                                                   \
        for (int i = 0; i < rows; i++) {                                                                                                                     \
            __builtin_prefetch(stack->c + (rows + i) * stack->c_row, 1, 3);                                                                                  \
            __builtin_prefetch(stack->c + (rows + i) * stack->c_row + n - 1, 1, 3);                                                                          \
        }                                                                                                                                                    \
        switch (rows * 8 + vectors) {                                                                                                                        \
            FOLD_ROW(1) FOLD_ROW(2) FOLD_ROW(3) FOLD_ROW(4) FOLD_ROWS                                                                                        \
            default: __builtin_unreachable();                                                                                                                \
        }                                                                                                                                                    \
    }
#define FOLD_KIND PRODUCT_FLOAT
FOLD_STRIP(fold_strip)
#undef FOLD_KIND
#define FOLD_KIND PRODUCT_PAIRS
FOLD_STRIP(fold_pairs_native)
#undef FOLD_KIND
#define FOLD_KIND PRODUCT_PAIRS_EMULATED
FOLD_STRIP(fold_pairs_emulated)
#undef FOLD_KIND

static int64_t strips_of(int64_t m) { return (m + FOLD_M - 1) / FOLD_M; }

/* Strips of A, [strip][row][FOLD_M], strip_floats() apart. Along the rows of A, which are often a power of two apart: down a column, lines would drive each other out of the first-level
 * cache. Each row of a strip is stored as eight floats, of which the next row covers what is too much: a masked store costs several plain ones. */
enum { MOST_STRIPS = (SHORT_M + FOLD_M - 1) / FOLD_M, STRIP_MORE = 8 };

static int64_t strip_floats(int64_t rows) { return rows * FOLD_M + STRIP_MORE; }

static void pack_strips(int64_t rows, int64_t m, int64_t strips, const float *a, int64_t a_row, float *to) {
    const int64_t step = strip_floats(rows);
#if defined(__AVX512F__) || defined(__AVX2__)
    int64_t begin[MOST_STRIPS + 1];
    vec_mask mask[MOST_STRIPS];
    for (int64_t s = 0; s <= strips; s++) begin[s] = tile_begin(m, strips, s);
    for (int64_t s = 0; s < strips; s++) mask[s] = vec_first(begin[s + 1] - begin[s]);
#endif
    for (int64_t q = 0; q < rows; q++, a += a_row, to += FOLD_M)
        for (int64_t s = 0; s < strips; s++) {
#if defined(__AVX512F__)
            _mm256_storeu_ps(to + s * step, _mm512_castps512_ps256(vec_load_mask(a + begin[s], mask[s])));
#elif defined(__AVX2__)
            vec_store(to + s * step, vec_load_mask(a + begin[s], mask[s]));
#else
            for (int64_t i = tile_begin(m, strips, s); i < tile_begin(m, strips, s + 1); i++) to[s * step + i - tile_begin(m, strips, s)] = a[i];
#endif
        }
}

/* Precision bf16: pairs of rows of the chunk's lanes, strip after strip; a lane's last row may stand alone. */
static void pack_strip_pairs(const step *steps, int count, int64_t rows, int64_t m, int64_t strips, const float *a, int64_t a_row, float *to) {
    const int64_t stride = strip_floats(rows / 2);
    for (const step *s = steps; s < steps + count; s++)
        for (int lane = 0; lane <= s->pair; lane++, a += (int64_t)s->rows * a_row)
            for (int q = 0; 2 * q < s->rows; q++) {
                const float *even = a + 2 * q * a_row, *odd = 2 * q + 1 < s->rows ? even + a_row : NULL;
                float *line = to + ((s->row + lane * s->rows) / 2 + q) * FOLD_M;
                for (int64_t t = 0; t < strips; t++) {
                    const int64_t begin = tile_begin(m, strips, t), end = tile_begin(m, strips, t + 1);
#if defined(__AVX512F__)
                    const vec_mask mask = vec_first(end - begin);
                    const __m512i high = odd ? pairs_round(vec_load_mask(odd + begin, mask)) : _mm512_setzero_si512();
                    _mm256_storeu_ps(line + t * stride, _mm512_castps512_ps256(pairs_join(pairs_round(vec_load_mask(even + begin, mask)), high)));
#else
                    for (int64_t i = begin; i < end; i++) line[t * stride + i - begin] = pair_of(even[i], odd ? odd[i] : 0);
#endif
                }
            }
}

static void pack_panel_pairs(const step *steps, int count, int64_t n, const float *b, int64_t b_row, float *panel) {
    for (const step *s = steps; s < steps + count; s++)
        for (int lane = 0; lane <= s->pair; lane++, b += (int64_t)s->rows * b_row) pairs_of_rows(s->rows, n, b, b_row, panel + (s->row + lane * s->rows) / 2 * TILE_N, TILE_N);
}

/* Floats of a thread: A's strips of one chunk, then the tiles' stacks. `all`: rows of all chunks. */
static int64_t strips_floats(int64_t m, int64_t all) { return ss_round_up(strip_floats(ss_min(all, CHUNK)) * strips_of(ss_min(m, SHORT_M)), 16); }

static int64_t stack_floats(int64_t m, int64_t n, int depth, int64_t all) {
    if (all <= CHUNK) return (int64_t)depth * FOLD_M * TILE_N; /* no tile's stack waits for another chunk */
    return (int64_t)depth * strips_of(ss_min(m, LONG_M)) * FOLD_M * ss_round_up(ss_min(n, LONG_N), TILE_N);
}

static int64_t thread_floats(int64_t m, int64_t n, int depth, int64_t all) {
    return ss_round_up(strips_floats(m, all) + stack_floats(m, n, depth, all), 16);
}

static void fold_block(const ss_matmul_fold *p, int64_t i0, int64_t m, int64_t j0, int64_t n, int64_t all, float *scratch) {
    float *packed = scratch, *stacks = scratch + strips_floats(p->m, all);
    int64_t strips = strips_of(m), rows;
    int64_t rest = all <= CHUNK ? 0 : (int64_t)ss_max(p->fold->depth - p->fold->blocks, 0) * FOLD_M * TILE_N;
    const bool native = pairs_kind() == PRODUCT_PAIRS;
    _Alignas(64) float panel[CHUNK * TILE_N];
    step steps[CHUNK];
    walk w = {0, p->fold->row[0] * p->positions, 0};
    for (int64_t first = w.row; w.lane < p->fold->lanes; first = w.row) {
        int count = next_chunk(p, &w, steps, &rows);
        const int64_t panels = (n + TILE_N - 1) / TILE_N, more = ss_min(CHUNK, p->fold->row[p->fold->lanes] * p->positions - w.row);
        int64_t turn = 0;
        if (p->bf16) pack_strip_pairs(steps, count, rows, m, strips, p->a + first * p->a_row + i0, p->a_row, packed);
        else pack_strips(rows, m, strips, p->a + first * p->a_row + i0, p->a_row, packed);
        for (int64_t j = 0; j < n; j += TILE_N) {
            int64_t columns = ss_min(TILE_N, n - j);
            if (p->bf16) pack_panel_pairs(steps, count, columns, p->b + first * p->b_row + j0 + j, p->b_row, panel);
            else tile_panel(rows, columns, p->b + first * p->b_row + j0 + j, p->b_row, 1, panel);
            for (int64_t s = 0; s < strips; s++) {
                int64_t i = tile_begin(m, strips, s), height = tile_begin(m, strips, s + 1) - i;
                if (j + TILE_N < n) tile_fetch(s, strips, w.row - first, ss_min(TILE_N, n - j - TILE_N), p->b + first * p->b_row + j0 + j + TILE_N, p->b_row);
                else if (more > 0) tile_fetch(s, strips, more, ss_min(TILE_N, n), p->b + w.row * p->b_row + j0, p->b_row);
                if (more > 0) tile_fetch(turn++, panels * strips, more, m, p->a + w.row * p->a_row + i0, p->a_row);
                tile_stack stack = {p->c + (i0 + i) * p->c_row + j0 + j, p->c_row, p->block_stride, p->fold->blocks,
                                    stacks + (j / TILE_N * strips + s) * rest};
                if (!p->bf16) fold_strip((int)height, columns, steps, count, packed + s * strip_floats(rows), FOLD_M, panel, &stack);
                else (native ? fold_pairs_native : fold_pairs_emulated)((int)height, columns, steps, count, packed + s * strip_floats(rows / 2), FOLD_M, panel, &stack);
            }
        }
    }
}

static void fold_native(const ss_matmul_fold *p, int thread, int threads) {
    /* Threads form the grid whose largest share is smallest; among equals the one that copies least. */
    int best = 1;
    int64_t least = INT64_MAX;
    for (int down = 1; down <= threads; down++) {
        if (threads % down) continue;
        int across = threads / down;
        int64_t m = (p->m + down - 1) / down, n = ss_round_up((ss_round_up(p->n, VEC_WIDTH) + across - 1) / across, VEC_WIDTH);
        int64_t cost = m * n * 4 + (m + n) * VEC_WIDTH;
        if (cost < least) {
            least = cost;
            best = down;
        }
    }
    int across = threads / best;
    int64_t m0, m1, n0, n1, rows = (p->fold->row[p->fold->lanes] - p->fold->row[0]) * p->positions;
    ss_split(p->m, 1, thread / across, best, &m0, &m1);
    ss_split(p->n, VEC_WIDTH, thread % across, across, &n0, &n1);
    for (int l = 0; p->bf16 && l < p->fold->lanes; l++) rows += (p->fold->row[l + 1] - p->fold->row[l]) * p->positions % 2; /* a row that stands alone takes two places */
    bool one_chunk = rows <= CHUNK;
    int64_t block_m = one_chunk ? SHORT_M : LONG_M, block_n = one_chunk ? ss_max(n1 - n0, 1) : LONG_N;
    float *scratch = p->scratch + thread * thread_floats(p->m, p->n, p->fold->depth, rows);
    for (int64_t i = m0; i < m1; i += block_m)
        for (int64_t j = n0; j < n1; j += block_n)
            fold_block(p, i, ss_min(block_m, m1 - i), j, ss_min(block_n, n1 - j), rows, scratch);
}

int64_t SS_FN(matmul_fold_scratch)(const ss_matmul_fold *p, int depth, int threads) {
    if (p->backend == SS_BACKEND_OPENBLAS && !p->bf16) return SS_FN(matmul_fold_scratch_openblas)(p, depth, threads);
    return threads * thread_floats(p->m, p->n, depth, p->most_rows > 0 ? p->most_rows * (p->bf16 ? 2 : 1) : INT64_MAX); /* as fold_native counts, at most */
}

void SS_FN(matmul_fold)(const ss_matmul_fold *p, int thread, int threads) {
    if (p->backend == SS_BACKEND_OPENBLAS && !p->bf16) SS_FN(matmul_fold_openblas)(p, thread, threads);
    else fold_native(p, thread, threads);
}
