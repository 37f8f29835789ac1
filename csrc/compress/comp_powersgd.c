/* A matrix as the product of two thin ones, found by one step of power iteration that goes on from the last one. */
#include <math.h>
#include <string.h>
#include "base/philox.h"
#include "kernels/variant.h"
#include "compress/compress.h"

enum { RANK };

static const ss_compress_spec hypers[] = {
    {"rank", 4, 1, 1024, "columns of the two thin matrices"},
    {0},
};

static int64_t rank_of(const ss_compress_call *c) { return ss_min((int64_t)c->hyper[RANK], ss_min(c->rows, c->columns)); }

/* Vectors, and matrices that two thin ones would not make smaller, travel whole in the first round. */
static bool thin(const ss_compress_call *c) { return c->rows > 1 && c->columns > 1 && (c->rows + c->columns) * rank_of(c) < c->rows * c->columns; }

static int64_t bytes(const ss_compress_call *c, int round) {
    if (!thin(c)) return round ? 0 : c->n * 4;
    return (round ? c->columns : c->rows) * rank_of(c) * 4;
}

/* q (columns x r), then p (rows x r). */
static int64_t state(const ss_compress_call *c) { return thin(c) ? (c->rows + c->columns) * rank_of(c) : 0; }

/* to (m x r) = a (m x k, or its transpose where a_row is 1) times b (k x r) */
static void multiply(const ss_compress_call *c, int64_t m, int64_t k, const float *a, int64_t a_row, int64_t a_col, const float *b, float *to) {
    const ss_matmul p = {.m = m, .n = rank_of(c), .k = k, .a = a, .a_row = a_row, .a_col = a_col, .b = b, .b_row = rank_of(c), .b_col = 1, .c = to, .c_row = rank_of(c)};
    c->kernels->matmul_run(&p, 0, 1);
}

/* Before the first step, and where a column has vanished: numbers that all ranks draw alike. */
static void draw_column(const ss_compress_call *c, int64_t rows, int64_t column, float *to, int64_t step) {
    for (int64_t i = 0; i < rows; i++) to[i * step] = ss_uniform(ss_philox(c->seed, (uint32_t)i, c->tensor, (uint32_t)column, 0x80000011u).word[0]) - 0.5f;
}

static void pack(const ss_compress_call *c, int round, const float *x, void *payload) {
    if (!thin(c)) {
        if (!round) memcpy(payload, x, (size_t)c->n * 4);
        return;
    }
    const int64_t r = rank_of(c);
    float *q = c->state, *p = q + c->columns * r;
    if (round) {
        multiply(c, c->columns, c->rows, x, 1, c->columns, p, payload);
        return;
    }
    bool fresh = true;
    for (int64_t i = 0; i < c->columns * r && fresh; i++) fresh = q[i] == 0;
    for (int64_t j = 0; fresh && j < r; j++) draw_column(c, c->columns, j, q + j, r);
    multiply(c, c->rows, c->columns, x, c->columns, 1, q, payload);
}

static void sum(const ss_compress_call *c, int64_t n, const void *const *payload, float *out) {
    memcpy(out, payload[0], (size_t)n * 4);
    for (int k = 1; k < c->ranks; k++) {
        const float *restrict from = payload[k];
        float *restrict to = out;
        for (int64_t i = 0; i < n; i++) to[i] += from[i];
    }
}

/* The columns of p become orthonormal: Gram-Schmidt, each column twice, sums in double in the order of the rows. A column without a part of its own becomes 0. */
static void orthonormalize(int64_t rows, int64_t r, float *p) {
    for (int64_t j = 0; j < r; j++) {
        double length = 0, before = 0;
        for (int64_t i = 0; i < rows; i++) before += (double)p[i * r + j] * (double)p[i * r + j];
        for (int pass = 0; pass < 2; pass++)
            for (int64_t k = 0; k < j; k++) {
                double dot = 0;
                for (int64_t i = 0; i < rows; i++) dot += (double)p[i * r + j] * (double)p[i * r + k];
                for (int64_t i = 0; i < rows; i++) p[i * r + j] = (float)((double)p[i * r + j] - dot * (double)p[i * r + k]);
            }
        for (int64_t i = 0; i < rows; i++) length += (double)p[i * r + j] * (double)p[i * r + j];
        const double inverse = length > 1e-12 * before ? 1 / sqrt(length) : length == length ? 0 : length;
        for (int64_t i = 0; i < rows; i++) p[i * r + j] = (float)((double)p[i * r + j] * inverse);
    }
}

static void merge(const ss_compress_call *c, int round, const void *const *payload, float *out) {
    if (!thin(c)) {
        if (!round) sum(c, c->n, payload, out);
        return;
    }
    const int64_t r = rank_of(c);
    float *q = c->state, *p = q + c->columns * r;
    if (!round) {
        sum(c, c->rows * r, payload, p);
        orthonormalize(c->rows, r, p);
        return;
    }
    sum(c, c->columns * r, payload, q);
    const ss_matmul product = {.m = c->rows, .n = c->columns, .k = r, .a = p, .a_row = r, .a_col = 1, .b = q, .b_row = 1, .b_col = r, .c = out, .c_row = c->columns};
    c->kernels->matmul_run(&product, 0, 1);
    /* A direction that nobody had a gradient in would stay 0 for ever. */
    for (int64_t j = 0; j < r; j++) {
        bool gone = true;
        for (int64_t i = 0; i < c->columns && gone; i++) gone = q[i * r + j] == 0;
        if (gone) draw_column(c, c->columns, j, q + j, r);
    }
}

/* An equal share of what was found: the ranks' errors together are the error of the sum. */
static void subtract(const ss_compress_call *c, const void *payload, const float *total, float *x) {
    (void)payload;
    const float share = 1 / (float)c->ranks;
    for (int64_t i = 0; i < c->n; i++) x[i] = fma_r(-share, total[i], x[i]);
}

static bool exact(const ss_compress_call *c) { return !thin(c); }

const ss_compressor SS_FN(ss_compressor_powersgd) = {
    .name = "powersgd",
    .doc = "A gradient of `rows x columns` (first axis by the others) becomes the product of two thin matrices of `rank` columns by one step of power iteration that goes on from the last step's (Vogels, "
           "Karimireddy, Jaggi: \"PowerSGD\", 2019). Two exchanges a step, (rows + columns) * rank * 4 bytes; vectors travel whole. Needs error feedback.",
    .hypers = hypers, .rounds = 2, .bytes = bytes, .pack = pack, .merge = merge, .subtract = subtract, .state = state, .exact = exact,
};
