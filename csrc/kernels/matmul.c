/* Matrix product, native backend; and the doors that send a product to a backend.
 *
 * Nothing is packed beforehand: each thread copies what it needs, just before use, into a buffer on its own stack. A packed copy of
 * the weights would have to be made anew in every step, and would be read back from outside the second-level cache.
 *
 * Two ways to put a product on the register tile, chosen by the cost of copying; both have the same bits because each element's chain is the same:
 *   plain    the tile's vectors run along n. A is read in place, panels of B (k x TILE_N) are copied.
 *   turned   the tile's vectors run along m: C^T = B^T A^T. B is read in place and panels of A^T are copied. The forward pass of a
 *            linear layer (B is the transposed weight, m a small batch) copies and transposes the batch instead of the weight.
 */
#include <stddef.h>
#include <string.h>
#include "base/shape.h"
#include "kernels/internal.h"
#define SS_TILE_PAIRS
#include "kernels/matmul_tile.h"

enum {
    PANEL_K = 400,          /* plain: a panel of B stays in the first-level cache */
    TURNED_K = 800,         /* turned: a strip of B does, panels of A^T stream from the second level */
    BUFFER = 96 * 1024,     /* floats on the stack of each thread */
    BLOCK_M = 512,          /* plain: rows of A that stay in the second level while panels of B pass */
    SKEW = 8                /* floats between copied rows */
};

/* Rows whose distance is a multiple of half the span of the first-level cache's sets drive each other out while a tile walks along them: they are copied, a little further apart. */
static bool collides(int64_t row, int64_t col) { return col == 1 && row % 512 == 0; }

static void copy_rows(int64_t rows, int64_t n, const float *from, int64_t from_row, float *to, int64_t to_row) {
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * to_row, from + i * from_row, (size_t)n * sizeof(float));
}

/* The part of the output that one thread computes. */
typedef struct region {
    int64_t m0, m1, n0, n1;
} region;

/* Work of a share in units of one vector operation: multiplications, and copying (transposing costs more). */
static int64_t plain_cost(const ss_matmul *p, int64_t m, int64_t n) {
    int64_t copy = m <= TILE_M && p->b_col == 1 ? 0 : n * p->k * (p->b_col == 1 ? 1 : 4) / 4;
    return m * p->k * ((n + VEC_WIDTH - 1) / VEC_WIDTH) + copy;
}

static int64_t turned_cost(const ss_matmul *p, int64_t m, int64_t n) {
    if (p->b_row != 1) return INT64_MAX; /* a strip of B would be read across its rows */
    int64_t parts = (p->k + TURNED_K - 1) / TURNED_K;
    return n * p->k * ((m + VEC_WIDTH - 1) / VEC_WIDTH) + m * p->k * (p->a_row == 1 ? 1 : 4) / 4 + m * n * (2 * parts - 1) / 2;
}

/* Threads form a grid over the output, the one whose largest share costs least. */
static region share_of(const ss_matmul *p, int thread, int threads) {
    int best = threads;
    int64_t least = INT64_MAX;
    for (int down = 1; down <= threads; down++) {
        if (threads % down) continue;
        int across = threads / down;
        int64_t m = (p->m + down - 1) / down, n = ss_round_up((ss_round_up(p->n, VEC_WIDTH) + across - 1) / across, VEC_WIDTH);
        int64_t cost = ss_min(plain_cost(p, m, n), turned_cost(p, m, n));
        if (cost < least) {
            least = cost;
            best = down;
        }
    }
    region r;
    int across = threads / best;
    ss_split(p->m, 1, thread / across, best, &r.m0, &r.m1);
    ss_split(p->n, VEC_WIDTH, thread % across, across, &r.n0, &r.n1);
    return r;
}

static void plain(const ss_matmul *p, region r, float *buffer) {
    int64_t parts = ss_max(1, (p->k + PANEL_K - 1) / PANEL_K);
    const bool skew = collides(p->a_row, p->a_col) && r.n1 - r.n0 > 4 * TILE_N;
    const int64_t block = skew ? (BUFFER - PANEL_K * TILE_N) / (PANEL_K + SKEW) / TILE_M * TILE_M : BLOCK_M;
    float *copy = buffer + PANEL_K * TILE_N;
    for (int64_t i0 = r.m0; i0 < r.m1; i0 += block) {
        int64_t m = ss_min(block, r.m1 - i0), strips = tile_strips(m);
        bool in_place = strips == 1 && p->b_col == 1;
        for (int64_t part = 0; part < parts; part++) {
            int64_t q = p->k * part / parts, k = p->k * (part + 1) / parts - q, a_row = p->a_row;
            const float *a = p->a + i0 * p->a_row + q * p->a_col;
            if (skew) {
                copy_rows(m, k, a, a_row, copy, PANEL_K + SKEW);
                a = copy, a_row = PANEL_K + SKEW;
            }
            const float *bias = part == parts - 1 ? p->bias : NULL;
            for (int64_t j = r.n0; j < r.n1; j += TILE_N) {
                int64_t n = ss_min(TILE_N, r.n1 - j), b_row = TILE_N;
                const float *panel = buffer, *b = p->b + q * p->b_row + j * p->b_col;
                if (in_place) panel = b, b_row = p->b_row;
                else tile_panel(k, n, b, p->b_row, p->b_col, buffer);
                /* The first two strips fetch the two halves of the next panel's rows. */
                const float *ahead = j + TILE_N < r.n1 ? b + TILE_N * p->b_col : p->b + (q + k) * p->b_row + r.n0 * p->b_col;
                for (int64_t s = 0; s < strips; s++) {
                    int64_t i = i0 + tile_begin(m, strips, s), rows = i0 + tile_begin(m, strips, s + 1) - i;
                    tile_strip((int)rows, n, k, a + (i - i0) * a_row, a_row, p->a_col, panel, b_row,
                               p->c + i * p->c_row + j, p->c_row, part > 0, bias ? bias + j : NULL, s < 2 ? ahead + s * 16 : panel, s < 2 ? p->b_row : 0);
                }
            }
        }
    }
}

enum { TURN_ROWS = (TILE_M + VEC_WIDTH - 1) / VEC_WIDTH * VEC_WIDTH };

/* Between C (m x rows at c) and a tile that holds its transpose (rows x m, row stride TILE_N). */
static void turn_in(int64_t m, int rows, const float *c, int64_t c_row, float *tile) {
    for (int64_t i = 0; i < m; i += VEC_WIDTH)
        for (int r = 0; r < rows; r += VEC_WIDTH) {
            float square[VEC_WIDTH * VEC_WIDTH] = {0};
            vec_mask mask = vec_first(rows - r);
            for (int64_t ii = i; ii < ss_min(m, i + VEC_WIDTH); ii++)
                vec_store(square + (ii - i) * VEC_WIDTH, vec_load_mask(c + ii * c_row + r, mask));
            vec_transpose(square, VEC_WIDTH, VEC_WIDTH, tile + r * TILE_N + i, TILE_N);
        }
}

static void turn_out(int64_t m, int rows, const float *tile, float *c, int64_t c_row, const float *bias) {
    for (int64_t i = 0; i < m; i += VEC_WIDTH)
        for (int r = 0; r < rows; r += VEC_WIDTH) {
            float square[VEC_WIDTH * VEC_WIDTH];
            vec_mask mask = vec_first(rows - r);
            vec_transpose(tile + r * TILE_N + i, TILE_N, VEC_WIDTH, square, VEC_WIDTH);
            if (bias) {
                vec z = vec_load_mask(bias + r, mask);
                for (int64_t ii = i; ii < ss_min(m, i + VEC_WIDTH); ii++)
                    vec_store_mask(c + ii * c_row + r, vec_add(vec_load(square + (ii - i) * VEC_WIDTH), z), mask);
            } else {
                for (int64_t ii = i; ii < ss_min(m, i + VEC_WIDTH); ii++)
                    vec_store_mask(c + ii * c_row + r, vec_load(square + (ii - i) * VEC_WIDTH), mask);
            }
        }
}

static void turned(const ss_matmul *p, region r, float *buffer) {
    int64_t parts = ss_max(1, (p->k + TURNED_K - 1) / TURNED_K);
    int64_t longest = ss_max(1, (p->k + parts - 1) / parts), block = BUFFER / longest / TILE_N * TILE_N;
    float tile[TURN_ROWS * TILE_N] = {0};
    int64_t strips = tile_strips(r.n1 - r.n0);
    for (int64_t i0 = r.m0; i0 < r.m1; i0 += block) {
        int64_t i1 = ss_min(i0 + block, r.m1);
        for (int64_t part = 0; part < parts; part++) {
            int64_t q = p->k * part / parts, k = p->k * (part + 1) / parts - q;
            const float *bias = part == parts - 1 ? p->bias : NULL;
            for (int64_t i = i0; i < i1; i += TILE_N)
                tile_panel(k, ss_min(TILE_N, i1 - i), p->a + i * p->a_row + q * p->a_col, p->a_col, p->a_row, buffer + (i - i0) * k);
            for (int64_t s = 0; s < strips; s++) {
                int64_t j = r.n0 + tile_begin(r.n1 - r.n0, strips, s), rows = r.n0 + tile_begin(r.n1 - r.n0, strips, s + 1) - j;
                for (int64_t i = i0; i < i1; i += TILE_N) {
                    int64_t m = ss_min(TILE_N, i1 - i);
                    float *c = p->c + i * p->c_row + j;
                    if (part > 0) turn_in(m, (int)rows, c, p->c_row, tile);
                    tile_strip((int)rows, m, k, p->b + q * p->b_row + j * p->b_col, p->b_col, p->b_row, buffer + (i - i0) * k, TILE_N, tile,
                               TILE_N, part > 0, NULL, tile, 0);
                    turn_out(m, (int)rows, tile, c, p->c_row, bias ? bias + j : NULL);
                }
            }
        }
    }
}

static void run_native(const ss_matmul *p, int thread, int threads) {
    region r = share_of(p, thread, threads);
    if (r.m0 == r.m1 || r.n0 == r.n1) return;
    _Alignas(64) float buffer[BUFFER];
    if (turned_cost(p, r.m1 - r.m0, r.n1 - r.n0) < plain_cost(p, r.m1 - r.m0, r.n1 - r.n0)) turned(p, r, buffer);
    else plain(p, r, buffer);
}

/* Precision bf16. Both operands are rounded and copied in pairs along k, A in blocks of rows, B in panels. */
enum { PAIRS_K = 512, PAIRS_SKEW = 8 };

/* A panel of B: k x n floats become pairs [(k + 1) / 2][TILE_N]. */
static void pairs_panel(int64_t k, int64_t n, const float *from, int64_t step, int64_t column, float *to) {
    if (column == 1) {
        pairs_of_rows(k, n, from, step, to, TILE_N);
        return;
    }
    if (step == 1) { /* turned: the elements of a column lie side by side */
        const int64_t pairs = (k + 1) / 2;
        for (int64_t j = 0; j < n; j += VEC_WIDTH) {
            float square[VEC_WIDTH * VEC_WIDTH] = {0};
            const int64_t columns = ss_min(VEC_WIDTH, n - j);
            for (int64_t q = 0; q < pairs; q += VEC_WIDTH) {
                const int64_t some = ss_min(VEC_WIDTH, pairs - q);
                pairs_along_rows(columns, ss_min(2 * some, k - 2 * q), from + j * column + 2 * q, column, square, VEC_WIDTH);
                if (some == VEC_WIDTH) vec_transpose(square, VEC_WIDTH, (int)columns, to + q * TILE_N + j, TILE_N);
                else
                    for (int64_t i = 0; i < columns; i++)
                        for (int64_t r = 0; r < some; r++) to[(q + r) * TILE_N + j + i] = square[i * VEC_WIDTH + r];
            }
        }
        return;
    }
    for (int64_t p = 0; p < k; p += 2)
        for (int64_t j = 0; j < n; j++) to[p / 2 * TILE_N + j] = pair_of(from[p * step + j * column], p + 1 < k ? from[(p + 1) * step + j * column] : 0);
}

static void run_pairs(const ss_matmul *p, int thread, int threads) {
    const region r = share_of(p, thread, threads);
    if (r.m0 == r.m1 || r.n0 == r.n1) return;
    _Alignas(64) float buffer[BUFFER];
    float *panel = buffer, *copy = buffer + PAIRS_K / 2 * TILE_N;
    const bool native = pairs_kind() == PRODUCT_PAIRS;
    const int64_t parts = ss_max(1, (p->k + PAIRS_K - 1) / PAIRS_K), row = PAIRS_K / 2 + PAIRS_SKEW, block = (BUFFER - PAIRS_K / 2 * TILE_N) / row / TILE_M * TILE_M;
    for (int64_t i0 = r.m0; i0 < r.m1; i0 += block) {
        const int64_t m = ss_min(block, r.m1 - i0), strips = tile_strips(m);
        for (int64_t part = 0; part < parts; part++) {
            const int64_t q = p->k * part / parts / 2 * 2, k = (part == parts - 1 ? p->k : p->k * (part + 1) / parts / 2 * 2) - q, pairs = (k + 1) / 2;
            const float *a = p->a + i0 * p->a_row + q * p->a_col, *bias = part == parts - 1 ? p->bias : NULL;
            if (p->a_col == 1) pairs_along_rows(m, k, a, p->a_row, copy, row);
            else
                for (int64_t i = 0; i < m; i++)
                    for (int64_t e = 0; e < k; e += 2) copy[i * row + e / 2] = pair_of(a[i * p->a_row + e * p->a_col], e + 1 < k ? a[i * p->a_row + (e + 1) * p->a_col] : 0);
            for (int64_t j = r.n0; j < r.n1; j += TILE_N) {
                const int64_t n = ss_min(TILE_N, r.n1 - j);
                const float *b = p->b + q * p->b_row + j * p->b_col;
                pairs_panel(k, n, b, p->b_row, p->b_col, panel);
                for (int64_t s = 0; s < strips; s++) {
                    const int64_t i = tile_begin(m, strips, s), rows = tile_begin(m, strips, s + 1) - i;
                    (native ? tile_pairs_native : tile_pairs_emulated)((int)rows, n, pairs, copy + i * row, row, 1, panel, TILE_N, p->c + (i0 + i) * p->c_row + j, p->c_row, part > 0,
                                                                      bias ? bias + j : NULL, panel, 0);
                }
            }
        }
    }
}

int64_t SS_FN(matmul_packed)(ss_backend backend, int64_t n, int64_t k) {
    (void)backend, (void)n, (void)k;
    return 0;
}

/* Panels of B one after another, k x TILE_N each. */
void SS_FN(matmul_pack)(const ss_matmul *p, int thread, int threads) {
    if (!p->kept || p->backend != SS_BACKEND_NATIVE) return;
    int64_t begin, end;
    ss_split((p->n + TILE_N - 1) / TILE_N, 1, thread, threads, &begin, &end);
    for (int64_t j = begin * TILE_N; j < ss_min(end * TILE_N, p->n); j += TILE_N)
        tile_panel(p->k, ss_min(TILE_N, p->n - j), p->b + j * p->b_col, p->b_row, p->b_col, p->packed + j * p->k);
}

/* The product with kept panels. A part of a panel stays in the first-level cache while all strips of A pass; the first two strips fetch the next one. */
static void run_kept(const ss_matmul *p, int thread, int threads) {
    int64_t begin, end, strips = tile_strips(p->m), parts = ss_max(1, (p->k + PANEL_K - 1) / PANEL_K);
    ss_split((p->n + TILE_N - 1) / TILE_N, 1, thread, threads, &begin, &end);
    for (int64_t j = begin * TILE_N; j < ss_min(end * TILE_N, p->n); j += TILE_N)
        for (int64_t part = 0; part < parts; part++) {
            int64_t q = p->k * part / parts, k = p->k * (part + 1) / parts - q, n = ss_min(TILE_N, p->n - j);
            const float *panel = p->packed + j * p->k + q * TILE_N, *bias = part == parts - 1 ? p->bias : NULL;
            for (int64_t s = 0; s < strips; s++) {
                int64_t i = tile_begin(p->m, strips, s), rows = tile_begin(p->m, strips, s + 1) - i;
                tile_strip((int)rows, n, k, p->a + i * p->a_row + q * p->a_col, p->a_row, p->a_col, panel, TILE_N, p->c + i * p->c_row + j, p->c_row, part > 0,
                           bias ? bias + j : NULL, panel + k * TILE_N + s * k * 16, s < 2 ? 16 : 0);
            }
        }
}

void SS_FN(matmul_run)(const ss_matmul *p, int thread, int threads) {
    if (p->bf16) run_pairs(p, thread, threads);
    else if (p->backend == SS_BACKEND_OPENBLAS) SS_FN(matmul_run_openblas)(p, thread, threads);
    else if (p->kept) run_kept(p, thread, threads);
    else run_native(p, thread, threads);
}
