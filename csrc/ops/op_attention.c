/* attention: softmax(q k^T scale + mask) v, head by head, in blocks. */
#include <math.h>
#include <string.h>
#include "base/philox.h"
#ifndef SS_F64
#include "kernels/matmul_tile.h"
#endif
#include "kernels/rowreduce.h"
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

enum { Q, K, V, MASK, KEEP };
enum { CAUSAL, SCALE, DROPOUT, PACKED };
enum { QUERIES = 64, KEYS = 64, GROUP = 16 }; /* of a block: the order of sums follows from KEYS, so it is a constant; QUERIES and KEYS are multiples of GROUP, GROUP is WIDE */

static const ss_attr_spec attrs[] = {
    {"is_causal", SS_ATTR_BOOL, 0, 0, 1, "1: query t sees the keys 0 to t"},
    {"scale", SS_ATTR_FLOAT, 0, 0, 1e30, "factor of the products; 0: 1 / sqrt(D)"},
    {"p", SS_ATTR_FLOAT, 0, 0, 0.999999, "part of the weights that is dropped in training"},
    {"packed", SS_ATTR_INT, 0, 0, 1 << 20, "heads that lie side by side in q (T, 3 heads D): queries, keys and values; k and v are absent, the result is (T, heads D). Set by the plan. 0: not packed"},
    {0},
};

/* Where rows of features lie: floats between samples, heads and positions. */
typedef struct rows_of {
    int64_t sample, head, row;
} rows_of;

typedef struct attention {
    int64_t heads, kv_heads, group, t, s, d, dv; /* group: query heads for each key head */
    int64_t mask_head, mask_rows;                /* stride of a head in the mask (0: shared); its elements */
    bool causal, batched_mask;
    real scale, p;
    rows_of at_q, at_k, at_v, at_y;
    const real *q, *k, *v, *gy;
    real *y, *gq, *gk, *gv;
} attention;

static rows_of plain_rows(int64_t heads, int64_t length, int64_t features) { return (rows_of){heads * length * features, length * features, features}; }
static real *moved(void *p, int64_t by) { return p ? (real *)p + by : NULL; }

static attention attention_of(const ss_call *c) {
    const ss_shape *q = &c->in_shape[Q], *k = &c->in_shape[K], *v = &c->in_shape[V];
    const int64_t packed = ss_attr_i(c->attr, PACKED);
    attention a = {.causal = c->attr[CAUSAL] != 0, .p = c->training ? (real)c->attr[DROPOUT] : 0, .q = c->in[Q], .y = c->out[0], .gy = c->grad_out[0], .gq = c->grad_in[Q]};
    if (packed) {
        const int64_t width = q->dim[1] / 3;
        a.heads = a.kv_heads = packed, a.t = a.s = q->dim[0], a.d = a.dv = width / packed;
        a.at_q = a.at_k = a.at_v = (rows_of){3 * width * a.t, a.d, 3 * width};
        a.at_y = (rows_of){width * a.t, a.d, width};
        a.k = moved(c->in[Q], width), a.v = moved(c->in[Q], 2 * width), a.gk = moved(c->grad_in[Q], width), a.gv = moved(c->grad_in[Q], 2 * width);
    } else {
        a.heads = q->dim[0], a.kv_heads = k->dim[0], a.t = q->dim[1], a.s = k->dim[1], a.d = q->dim[2], a.dv = v->dim[2];
        a.at_q = plain_rows(a.heads, a.t, a.d), a.at_k = plain_rows(a.kv_heads, a.s, a.d), a.at_v = plain_rows(a.kv_heads, a.s, a.dv), a.at_y = plain_rows(a.heads, a.t, a.dv);
        a.k = c->in[K], a.v = c->in[V], a.gk = c->grad_in[K], a.gv = c->grad_in[V];
    }
    a.group = a.heads / a.kv_heads;
    a.scale = c->attr[SCALE] > 0 ? (real)c->attr[SCALE] : 1 / sqrt_r((real)a.d);
    if (c->n_in > MASK && c->in_shape[MASK].rank >= 0) {
        const ss_shape *m = &c->in_shape[MASK];
        a.mask_head = m->rank == 3 && m->dim[0] > 1 ? a.t * a.s : 0;
        a.mask_rows = ss_shape_count(m);
        a.batched_mask = c->role[MASK] == SS_ROLE_BATCHED;
    }
    return a;
}

static ss_status infer(ss_infer *q, ss_error *err) {
    char x[96], y[96], z[96];
    if (q->n_in < 3 || q->n_in > 5) return SS_FAIL(err, SS_ERR_SHAPE, "attention takes q, k, v and optional masks, not %d inputs", q->n_in);
    if (ss_attr_i(q->attr, PACKED)) {
        const int64_t heads = ss_attr_i(q->attr, PACKED);
        if (q->in[Q].rank != 2 || q->role[Q] != SS_ROLE_BATCHED || q->dtype[Q] != SS_F32 || q->in[Q].dim[1] % (3 * heads) || q->in[K].rank >= 0 || q->in[V].rank >= 0 || q->n_in > 3)
            return SS_FAIL(err, SS_ERR_SHAPE, "attention with %lld packed heads needs floats of shape (B, T, 3 * heads * D) alone", (long long)heads);
        q->n_out = 1;
        q->out[0] = q->in[Q];
        q->out[0].dim[1] /= 3;
        return SS_OK;
    }
    for (int i = 0; i < 3; i++) {
        if (q->in[i].rank != 3 || q->role[i] != SS_ROLE_BATCHED)
            return SS_FAIL(err, SS_ERR_SHAPE, "attention needs batched q, k and v of shape (B, heads, length, features), got %s for input %d",
                           q->in[i].rank < 0 ? "none" : ss_shape_text(&q->in[i], q->role[i] == SS_ROLE_BATCHED, x, sizeof x), i);
        if (q->dtype[i] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "attention needs float q, k and v");
    }
    const ss_shape *a = &q->in[Q], *k = &q->in[K], *v = &q->in[V];
    if (a->dim[2] != k->dim[2] || k->dim[0] != v->dim[0] || k->dim[1] != v->dim[1] || a->dim[0] % k->dim[0])
        return SS_FAIL(err, SS_ERR_SHAPE, "attention: q %s, k %s and v %s do not go together", ss_shape_text(a, true, x, sizeof x), ss_shape_text(k, true, y, sizeof y),
                       ss_shape_text(v, true, z, sizeof z));
    if (q->n_in > MASK && q->in[MASK].rank >= 0) {
        const ss_shape *m = &q->in[MASK];
        bool fits = (m->rank == 2 || m->rank == 3) && m->dim[m->rank - 2] == a->dim[1] && m->dim[m->rank - 1] == k->dim[1];
        if (fits && m->rank == 3) fits = m->dim[0] == 1 || m->dim[0] == a->dim[0];
        if (!fits) return SS_FAIL(err, SS_ERR_SHAPE, "attention: a mask for q %s and k %s has the shape (T, S) or (heads, T, S), not %s", ss_shape_text(a, true, x, sizeof x),
                                  ss_shape_text(k, true, y, sizeof y), ss_shape_text(m, q->role[MASK] == SS_ROLE_BATCHED, z, sizeof z));
        if (q->role[MASK] == SS_ROLE_PARAMETER) return SS_FAIL(err, SS_ERR_VALUE, "attention: the mask must be a buffer or an activation");
        if (q->dtype[MASK] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "attention needs a float mask");
    }
    if (q->n_in > KEEP && q->in[KEEP].rank >= 0) {
        if (q->in[KEEP].rank != 1 || q->in[KEEP].dim[0] != k->dim[1] || q->role[KEEP] != SS_ROLE_BATCHED)
            return SS_FAIL(err, SS_ERR_SHAPE, "attention: the mask of keys must have the shape (B, %lld)", (long long)k->dim[1]);
        if (q->dtype[KEEP] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "attention needs a float mask of keys");
    }
    q->n_out = 1;
    q->out[0] = *a;
    q->out[0].dim[2] = v->dim[2];
    return SS_OK;
}

static int64_t place(const rows_of *at, int64_t sample, int64_t head, int64_t position) { return sample * at->sample + head * at->head + position * at->row; }

/* Positions [t0, t1) of a head become 0. */
static void clear(real *to, const rows_of *at, int64_t sample, int64_t head, int64_t t0, int64_t t1, int64_t features) {
    for (int64_t t = t0; t < t1; t++) memset(to + place(at, sample, head, t), 0, (size_t)features * sizeof(real));
}

/* ---- products of blocks ---- */

/* C (m x n) = [C +] A B, each element one chain along k. Without kernels (references, f64) element by element. */
static void multiply(const ss_call *c, int64_t m, int64_t n, int64_t k, const real *a, int64_t a_row, int64_t a_col, const real *b, int64_t b_row, real *to, int64_t to_row, bool accumulate) {
#ifndef SS_F64
    if (c->kernels) {
        tile_block(m, n, k, a, a_row, a_col, b, b_row, to, to_row, accumulate, NULL);
        return;
    }
#endif
    (void)c;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            real sum = accumulate ? to[i * to_row + j] : 0;
            for (int64_t q = 0; q < k; q++) sum = fma_r(a[i * a_row + q * a_col], b[q * b_row + j], sum);
            to[i * to_row + j] = sum;
        }
}

/* to[e][j] = from[j][e] for the keys of a block; what stands for missing keys is not used. */
static void turn(const real *restrict from, int64_t step, int64_t count, int64_t features, real *restrict to) {
    int64_t e = 0;
#ifndef SS_F64
    for (; e + VEC_WIDTH <= features; e += VEC_WIDTH)
        for (int64_t j = 0; j < count; j += VEC_WIDTH) {
            if (count - j >= VEC_WIDTH) vec_transpose(from + j * step + e, step, VEC_WIDTH, to + e * KEYS + j, KEYS);
            else vec_transpose(from + j * step + e, step, (int)(count - j), to + e * KEYS + j, KEYS);
        }
#endif
    for (; e < features; e++)
        for (int64_t j = 0; j < count; j++) to[e * KEYS + j] = from[j * step + e];
}

/* ---- scores and weights of one query against one block of keys ---- */

/* The products become scores: scaled, masked, -inf where a key is not seen. `given` of the KEYS products were made. */
static void finish_scores(const ss_call *c, const attention *a, int64_t row, int64_t head, int64_t t, int64_t s0, int64_t given, real *restrict x) {
    for (int64_t j = 0; j < KEYS; j++) x[j] *= a->scale;
    if (a->mask_rows) {
        const real *mask = (const real *)c->in[MASK] + (a->batched_mask ? row * a->mask_rows : 0) + head * a->mask_head + t * a->s + s0;
        for (int64_t j = 0; j < given; j++) x[j] += mask[j];
    }
    if (c->n_in > KEEP && c->in_shape[KEEP].rank >= 0) {
        const real *keep = (const real *)c->in[KEEP] + row * a->s + s0;
        for (int64_t j = 0; j < given; j++)
            if (keep[j] == 0) x[j] = -INFINITY;
    }
    const int64_t seen = a->causal ? ss_min(given, t - s0 + 1) : given;
    for (int64_t j = 0; j < KEYS; j++) x[j] = if_r(j < seen, x[j], -(real)INFINITY);
}

/* Factors of dropout: 0 or 1 / (1 - p). Weights count in the order (head, query, key). */
static void drop(const ss_call *c, const attention *a, int64_t row, int64_t head, int64_t t, int64_t s0, int64_t count, real *restrict to) {
    const uint64_t first = (uint64_t)((head * a->t + t) * a->s + s0);
    const real kept = 1 / (1 - a->p);
    ss_random4 r = {{0}};
    for (int64_t j = 0; j < count; j++) {
        const uint64_t element = first + (uint64_t)j;
        if (j == 0 || element % 4 == 0) r = ss_philox(c->seed, (uint32_t)(element / 4), (uint32_t)(c->sample0 + row), c->step, c->op_number);
        to[j] = ss_uniform(r.word[element % 4]) >= (float)a->p ? kept : 0;
    }
}

/* Scores become weights, exp(score - shift). */
static inline void weights(real shift, real *restrict x) {
    if (shift == -INFINITY) {
        for (int64_t j = 0; j < KEYS; j++) x[j] = 0;
        return;
    }
    for (int64_t j = 0; j < KEYS; j++) x[j] = exp_r(x[j] - shift);
}

/* The trees over the blocks of a group's queries: first inside each row, 16 results wide, then over the 16, all rows side by side. */
enum { WIDE = 16 };

static inline void row_sums(const real *restrict x, real *restrict to) { /* j with j + 32, then with j + 16 */
    for (int64_t j = 0; j < WIDE; j++) to[j] = (x[j] + x[j + 32]) + (x[j + 16] + x[j + 48]);
}

static inline void row_maxima(const real *restrict x, real *restrict to) {
    for (int64_t j = 0; j < WIDE; j++) to[j] = max_r(max_r(x[j], x[j + 32]), max_r(x[j + 16], x[j + 48]));
}

/* to[column][row] of a square of WIDE x WIDE */
static inline void turn_square(const real *restrict from, real *restrict to) {
#ifndef SS_F64
    for (int64_t i = 0; i < WIDE; i += VEC_WIDTH)
        for (int64_t j = 0; j < WIDE; j += VEC_WIDTH) vec_transpose(from + i * WIDE + j, WIDE, VEC_WIDTH, to + j * WIDE + i, WIDE);
#else
    for (int64_t i = 0; i < WIDE; i++)
        for (int64_t j = 0; j < WIDE; j++) to[j * WIDE + i] = from[i * WIDE + j];
#endif
}

/* j with j + 8, then 4, 2, 1; the results lie in the first row. */
static inline void join_sums(real *restrict t) {
    for (int64_t width = WIDE / 2; width > 0; width /= 2)
        for (int64_t k = 0; k < width * WIDE; k++) t[k] += t[k + width * WIDE];
}

static inline void join_maxima(real *restrict t) {
    for (int64_t width = WIDE / 2; width > 0; width /= 2)
        for (int64_t k = 0; k < width * WIDE; k++) t[k] = max_r(t[k], t[k + width * WIDE]);
}

/* Queries come in groups of GROUP; with is_causal a group is multiplied with the keys up to its last query, so that the count depends on the position alone. */
static inline int64_t given_keys(const attention *a, int64_t t, int64_t s0) {
    const int64_t end = a->causal ? ss_min(a->s, t / GROUP * GROUP + GROUP) : a->s;
    return ss_min(KEYS, end - s0);
}

/* ---- scratch: of one thread ---- */

typedef struct room {
    real *k, *v;        /* turned keys (all blocks of a head) and values (one block) */
    real *p, *dp;       /* weights and their gradients: [QUERIES][KEYS] */
    real *factor;       /* dropout: [KEYS] */
    real *inner;        /* sums of the queries of one head */
    int64_t owner, turned; /* whose keys lie turned in k, and how many blocks of them */
} room;

static int64_t room_of(const ss_call *c, const attention *a, int thread, bool backward, room *r) {
    const int64_t k = (backward ? KEYS : ss_round_up(a->s, KEYS)) * a->d, v = backward ? KEYS * a->dv : 0, block = QUERIES * KEYS, rows = backward ? ss_round_up(a->t, 16) : 0;
    const int64_t total = ss_round_up(k, 16) + ss_round_up(v, 16) + 2 * block + KEYS + rows;
    real *at = (real *)c->scratch + thread * total;
    if (r) {
        *r = (room){.k = at, .owner = -1};
        r->v = at + ss_round_up(k, 16);
        r->p = r->v + ss_round_up(v, 16);
        r->dp = r->p + block;
        r->factor = r->dp + block;
        r->inner = r->factor + KEYS;
    }
    return total;
}

static int64_t scratch_bytes(const ss_call *c, bool backward) {
    attention a = attention_of(c);
    return room_of(c, &a, 0, backward, NULL) * c->threads * (int64_t)sizeof(real);
}

/* The logarithm of each query's sum of weights. */
static int64_t saved_bytes(const ss_call *c) {
    const attention a = attention_of(c);
    return a.heads * a.t * (int64_t)sizeof(real);
}

/* ---- forward: online softmax over blocks of keys (Milakov, Gimelshein, 2018; Dao and others, 2022) ---- */

/* Queries [t, t + rows) of one group against one block of keys. */
static void forward_group(const ss_call *c, const attention *a, const room *m, int64_t row, int64_t head, int64_t t, int64_t rows, int64_t s0, real *most, real *sum) {
    const int64_t given = given_keys(a, t, s0);
    if (given <= 0) return;
    real *y = a->y + place(&a->at_y, row, head, t);
    multiply(c, rows, given, a->d, a->q + place(&a->at_q, row, head, t), a->at_q.row, 1, m->k + s0 * a->d, KEYS, m->p, KEYS, false);
    real square[WIDE * WIDE] = {0}, turned[WIDE * WIDE], keep[GROUP];
    for (int64_t i = 0; i < rows; i++) {
        finish_scores(c, a, row, head, t + i, s0, given, m->p + i * KEYS);
        row_maxima(m->p + i * KEYS, square + i * WIDE);
    }
    turn_square(square, turned);
    join_maxima(turned);
    for (int64_t i = 0; i < GROUP; i++) {
        const real now = max_r(most[i], turned[i]), factor = exp_r(most[i] - now);
        keep[i] = if_r(most[i] == -INFINITY, 0, factor);
        most[i] = now;
    }
    for (int64_t i = 0; i < rows; i++) {
        weights(most[i], m->p + i * KEYS);
        row_sums(m->p + i * KEYS, square + i * WIDE);
    }
    turn_square(square, turned);
    join_sums(turned);
    for (int64_t i = 0; i < GROUP; i++) sum[i] = fma_r(sum[i], keep[i], turned[i]);
    for (int64_t i = 0; i < rows; i++) {
        real *restrict p = m->p + i * KEYS, *restrict yi = y + i * a->at_y.row;
        const real less = keep[i];
        if (a->p > 0) {
            drop(c, a, row, head, t + i, s0, given, m->factor);
            for (int64_t j = 0; j < given; j++) p[j] *= m->factor[j];
        }
        if (c->bf16)
            for (int64_t j = 0; j < KEYS; j++) p[j] = bf16_r(p[j]);
        for (int64_t e = 0; e < a->dv; e++) yi[e] *= less;
    }
    multiply(c, rows, a->dv, given, m->p, KEYS, 1, a->v + place(&a->at_v, row, head / a->group, s0), a->at_v.row, y, a->at_y.row, true);
}

static void forward_block(const ss_call *c, const attention *a, room *m, int64_t row, int64_t head, int64_t t0) {
    const int64_t t1 = ss_min(t0 + QUERIES, a->t), kv = row * a->kv_heads + head / a->group, first = (row * a->heads + head) * a->t;
    real most[QUERIES], sum[QUERIES];
    for (int64_t i = 0; i < QUERIES; i++) {
        most[i] = -INFINITY;
        sum[i] = 0;
    }
    clear(a->y, &a->at_y, row, head, t0, t1, a->dv);
    if (m->owner != kv) m->owner = kv, m->turned = 0;
    for (int64_t s0 = 0; s0 < a->s && !(a->causal && s0 >= t1); s0 += KEYS) {
        if (s0 / KEYS == m->turned) {
            turn(a->k + place(&a->at_k, row, head / a->group, s0), a->at_k.row, ss_min(KEYS, a->s - s0), a->d, m->k + s0 * a->d);
            m->turned++;
        }
        for (int64_t t = t0; t < t1; t += GROUP) forward_group(c, a, m, row, head, t, ss_min(GROUP, t1 - t), s0, most + t - t0, sum + t - t0);
    }
    real *saved = c->saved;
    for (int64_t t = t0; t < t1; t++) {
        real *restrict y = a->y + place(&a->at_y, row, head, t);
        const real total = sum[t - t0];
        if (saved) saved[first + t] = total > 0 || total != total ? most[t - t0] + log_r(total) : -INFINITY;
        if (total == 0) continue; /* no key is seen: 0 */
        for (int64_t e = 0; e < a->dv; e++) y[e] = y[e] / total;
    }
}

static void forward(const ss_call *c) {
    attention a = attention_of(c);
    room m;
    room_of(c, &a, c->thread, false, &m);
    const int64_t blocks = (a.t + QUERIES - 1) / QUERIES;
    int64_t begin, end;
    ss_split(c->rows * a.heads * blocks, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) forward_block(c, &a, &m, u / (a.heads * blocks), u / blocks % a.heads, u % blocks * QUERIES);
}

/* ---- backward: weights are computed anew, block by block ---- */

/* Queries [t, t + rows) against the block of keys at s0. All of them are multiplied with `given` keys. */
static void backward_queries(const ss_call *c, const attention *a, const room *m, int64_t row, int64_t head, int64_t t, int64_t rows, int64_t s0, int64_t given) {
    const int64_t kv_head = head / a->group;
    const real *saved = (const real *)c->saved + (row * a->heads + head) * a->t + t, *q = a->q + place(&a->at_q, row, head, t), *g = a->gy + place(&a->at_y, row, head, t);
    multiply(c, rows, given, a->d, q, a->at_q.row, 1, m->k, KEYS, m->p, KEYS, false);
    multiply(c, rows, given, a->dv, g, a->at_y.row, 1, m->v, KEYS, m->dp, KEYS, false);
    for (int64_t i = 0; i < rows; i++) {
        real *restrict p = m->p + i * KEYS, *restrict dp = m->dp + i * KEYS;
        const real inner = m->inner[t + i];
        finish_scores(c, a, row, head, t + i, s0, given, p);
        weights(saved[i], p);
        if (a->p > 0) {
            drop(c, a, row, head, t + i, s0, given, m->factor);
            for (int64_t j = 0; j < given; j++) {
                dp[j] = p[j] * (dp[j] * m->factor[j] - inner);
                p[j] *= m->factor[j];
            }
        } else {
            for (int64_t j = 0; j < KEYS; j++) dp[j] = p[j] * (dp[j] - inner);
        }
        if (c->n_in > MASK && c->grad_in[MASK]) {
            real *restrict gm = (real *)c->grad_in[MASK] + row * a->mask_rows + head * a->mask_head + (t + i) * a->s + s0;
            for (int64_t j = 0; j < given; j++) gm[j] += dp[j];
        }
        for (int64_t j = 0; j < KEYS; j++) dp[j] *= a->scale;
        for (int64_t j = 0; c->bf16 && j < KEYS; j++) p[j] = bf16_r(p[j]), dp[j] = bf16_r(dp[j]);
    }
    if (a->gv) multiply(c, given, a->dv, rows, m->p, 1, KEYS, g, a->at_y.row, a->gv + place(&a->at_v, row, kv_head, s0), a->at_v.row, true);
    if (a->gq) multiply(c, rows, a->d, given, m->dp, KEYS, 1, a->k + place(&a->at_k, row, kv_head, s0), a->at_k.row, a->gq + place(&a->at_q, row, head, t), a->at_q.row, true);
    if (a->gk) multiply(c, given, a->d, rows, m->dp, 1, KEYS, q, a->at_q.row, a->gk + place(&a->at_k, row, kv_head, s0), a->at_k.row, true);
}

/* All query heads of one key head: the sums over queries and heads stay with one thread. */
static void backward_head(const ss_call *c, const attention *a, const room *m, int64_t row, int64_t kv_head) {
    if (a->gk) clear(a->gk, &a->at_k, row, kv_head, 0, a->s, a->d);
    if (a->gv) clear(a->gv, &a->at_v, row, kv_head, 0, a->s, a->dv);
    for (int64_t head = kv_head * a->group; head < (kv_head + 1) * a->group; head++) {
        if (a->gq) clear(a->gq, &a->at_q, row, head, 0, a->t, a->d);
        for (int64_t t = 0; t < a->t; t++) m->inner[t] = row_dot(a->dv, a->gy + place(&a->at_y, row, head, t), a->y + place(&a->at_y, row, head, t));
        for (int64_t s0 = 0; s0 < a->s; s0 += KEYS) {
            const int64_t count = ss_min(KEYS, a->s - s0);
            turn(a->k + place(&a->at_k, row, kv_head, s0), a->at_k.row, count, a->d, m->k);
            turn(a->v + place(&a->at_v, row, kv_head, s0), a->at_v.row, count, a->dv, m->v);
            for (int64_t t = a->causal ? s0 : 0; t < a->t;) { /* groups by themselves where they see different numbers of keys */
                const int64_t given = given_keys(a, t, s0), rows = ss_min(given < count ? GROUP : QUERIES, a->t - t);
                backward_queries(c, a, m, row, head, t, rows, s0, given);
                t += rows;
            }
        }
    }
}

static void backward(const ss_call *c) {
    attention a = attention_of(c);
    room m;
    room_of(c, &a, c->thread, true, &m);
    int64_t begin, end;
    if (c->n_in > KEEP && c->grad_in[KEEP]) { /* a mask of 0 and 1 has no gradient */
        ss_my_elements(c, c->rows * a.s, &begin, &end);
        if (end > begin) memset((real *)c->grad_in[KEEP] + begin, 0, (size_t)(end - begin) * sizeof(real));
    }
    const bool whole = c->n_in > MASK && c->grad_in[MASK]; /* heads share the mask's gradient: a thread takes whole samples */
    const int64_t parts = whole ? 1 : a.kv_heads;
    ss_split(c->rows * parts, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const int64_t row = u / parts;
        if (whole) memset((real *)c->grad_in[MASK] + row * a.mask_rows, 0, (size_t)a.mask_rows * sizeof(real));
        for (int64_t h = whole ? 0 : u % parts; h < (whole ? a.kv_heads : u % parts + 1); h++) backward_head(c, &a, &m, row, h);
    }
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    attention a = attention_of(c);
    double pairs = (double)a.heads * (double)a.t * (double)a.s * (a.causal ? 0.5 : 1);
    out->flops = pairs * (double)(2 * a.d + 2 * a.dv + 20) * (both ? 3.5 : 1);
    out->bytes = (double)(a.heads * a.t * (a.d + a.dv) + a.kv_heads * a.s * (a.d + a.dv)) * 4 * (both ? 3 : 1);
}

static const ss_op_case cases[] = {
    {.attrs = "packed=2", .inputs = "B:5,24 - -"},
    {.attrs = "packed=1 is_causal=1", .inputs = "B:70,15 - -"},
    {.attrs = "packed=3 is_causal=1 scale=0.3 p=0.25", .inputs = "B:37,36 - -"},
    {.attrs = "packed=2", .inputs = "B:5,26 - -", .expect = SS_ERR_SHAPE},
    {.attrs = "packed=2", .inputs = "B:5,24 B:5,24 -", .expect = SS_ERR_SHAPE},
    {.inputs = "B:2,5,4 B:2,5,4 B:2,5,4"},
    {.inputs = "B:1,3,7 B:1,9,7 B:1,9,5"},
    {.inputs = "B:4,5,3 B:2,6,3 B:2,6,3"},                         /* grouped queries */
    {.attrs = "is_causal=1", .inputs = "B:2,7,4 B:2,7,4 B:2,7,4"},
    {.attrs = "is_causal=1 scale=0.7", .inputs = "B:1,37,4 B:1,70,4 B:1,70,3"},
    {.attrs = "is_causal=1", .inputs = "B:1,70,3 B:1,70,3 B:1,70,3"},
    {.inputs = "B:2,5,4 B:2,6,4 B:2,6,4 S1:5,6"},
    {.inputs = "B:2,5,4 B:2,6,4 B:2,6,4 B:5,6"},
    {.inputs = "B:2,5,4 B:2,6,4 B:2,6,4 B:2,5,6"},
    {.inputs = "B:2,5,4 B:2,6,4 B:2,6,4 S:1,5,6 W:6"},
    {.attrs = "p=0.4", .inputs = "B:2,5,4 B:2,6,4 B:2,6,4"},
    {.inputs = "B:2,5,4 B:2,6,3 B:2,6,4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:3,5,4 B:2,6,4 B:2,6,4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:2,5,4 B:2,6,4 B:2,5,4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:2,5,4 B:2,6,4 B:2,6,4 S:6,5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:2,5,4 B:2,6,4 B:2,6,4 P:5,6", .expect = SS_ERR_VALUE},
    {.inputs = "B:2,5,4 B:2,6,4 B:2,6,4 - W:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:5,4 B:5,4 B:5,4", .expect = SS_ERR_SHAPE},
    {.inputs = "B:2,5,4 B:2,6,4", .expect = SS_ERR_SHAPE},
    {.inputs = "I4:2,5,4 B:2,6,4 B:2,6,4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_attention) = {
    .name = "attention",
    .doc = "Scaled dot-product attention: `softmax(q k^T scale + mask) v` for each head.\n\n"
           "q `(B, H, T, D)`, k `(B, G, S, D)`, v `(B, G, S, E)`, output `(B, H, T, E)`; H is a multiple of G, and neighbouring query heads share a key head (grouped queries). The additive mask, a "
           "buffer or an activation, has the shape `(T, S)`, `(1, T, S)` or `(H, T, S)`, the mask of keys `(B, S)` is 0 for keys that are not seen. With is_causal query t sees the keys 0 to t. A query "
           "that sees no key gives 0. In training the part p of the weights is dropped.\n\n"
           "Memory grows with T + S, not with T S: weights are made in blocks of 64 keys, with the greatest score so far subtracted, and computed anew in the backward pass (Dao, Fu, Ermon, Rudra, "
           "Re: \"FlashAttention\", 2022).\n\n"
           "Order of sums: products one chain along the features; the sum of a block's weights a tree over its 64 keys, blocks in order; outputs one chain over the keys, rescaled at each "
           "block. The gradient of q is one chain over the keys, those of k and v over blocks of keys, then the query heads of a group, then the queries, in order.",
    .flags = SS_OP_NEEDS_IN | SS_OP_NEEDS_OUT | SS_OP_PRODUCT,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .saved_bytes = saved_bytes,
    .scratch_bytes = scratch_bytes,
    .cost = cost,
    .cases = cases,
};
