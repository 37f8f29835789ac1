/* Shampoo. */
#include <stdbool.h>
#include "kernels/rowreduce.h"
#include "kernels/variant.h"
#include "optim/matrix.h"

enum { LR, MOMENTUM, WEIGHT_DECAY, EPSILON, UPDATE_FREQ, MAX_EXTENT, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 0.1, 0, 1e30, "step size"},
    {"momentum", 0, 0, 1e30, "factor of the kept step; 0 keeps none"},
    {"weight_decay", 0, 0, 1e30, "L2 penalty: weight_decay * parameter is added to the gradient"},
    {"epsilon", 1e-4, 1e-30, 1e30, "what the diagonals of L and R start from"},
    {"update_freq", 10, 1, 1e9, "steps between two computations of the inverse roots"},
    {"max_extent", 1024, 1, 8192, "a longer side keeps the diagonal of its matrix alone"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

static int slots(const double *hyper) { return hyper[MOMENTUM] != 0 ? 1 : 0; }

static bool is_matrix(const ss_shape *shape) { return shape->rank >= 2; }
static bool is_full(const double *hyper, int64_t extent) { return (double)extent <= hyper[MAX_EXTENT]; }

/* One side of a matrix: the sum of G G^T (or G^T G) and its inverse fourth root, or the diagonal of the sum. */
typedef struct side {
    int64_t extent;
    bool full;
    float *sum, *root;
    double *work; /* of its decomposition */
} side;

static int64_t side_extra(const double *hyper, int64_t extent) { return is_full(hyper, extent) ? 2 * ss_round_up(extent * extent, 16) : ss_round_up(extent, 16); }
/* Doubles: the matrix, its vectors, its values and three rows. */
static int64_t side_work(const double *hyper, int64_t extent) { return is_full(hyper, extent) ? ss_round_up(2 * extent * extent + 4 * extent, 16) : 0; }

static int64_t extra(const double *hyper, const ss_shape *shape) {
    int64_t rows, cols;
    if (!is_matrix(shape)) return ss_shape_count(shape);
    matrix_extents(shape, &rows, &cols);
    return side_extra(hyper, rows) + side_extra(hyper, cols);
}

static int64_t packed_of(const ss_kernels *kernels, int64_t rows, int64_t cols) {
    int64_t most = 0;
    const int64_t extents[] = {rows, cols};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) most = ss_max(most, matrix_packed(kernels, extents[i], extents[j]));
    return most;
}

/* Scratch: work of both sides, the gradient, two products, the packed operand. */
static int64_t product_room(const double *hyper, int64_t rows, int64_t cols) {
    int64_t most = rows * cols;
    if (is_full(hyper, rows)) most = ss_max(most, rows * rows);
    if (is_full(hyper, cols)) most = ss_max(most, cols * cols);
    return ss_round_up(most, 16);
}

static int64_t scratch(const double *hyper, const ss_shape *shape, const ss_kernels *kernels, ss_backend backend, int threads) {
    (void)backend, (void)threads;
    int64_t rows, cols;
    if (!is_matrix(shape)) return 0;
    matrix_extents(shape, &rows, &cols);
    return 2 * (side_work(hyper, rows) + side_work(hyper, cols)) + ss_round_up(rows * cols, 16) + 2 * product_room(hyper, rows, cols) + packed_of(kernels, rows, cols);
}

enum { GRADIENT, PACK_LEFT, RUN_LEFT, PACK_RIGHT, RUN_RIGHT, ACCUMULATE, DECOMPOSE, PACK_ROOT_LEFT, ROOT_LEFT, PACK_ROOT_RIGHT, ROOT_RIGHT, PACK_ROWS, ROWS, PACK_COLS, COLS, STEP, PHASES };

static int phases(const double *hyper, const ss_shape *shape) {
    (void)hyper;
    return is_matrix(shape) ? PHASES : 1;
}

static void diagonal(const ss_whole *w, int64_t begin, int64_t end) {
    const float lr = (float)w->hyper[LR], decay = (float)w->hyper[WEIGHT_DECAY], eps = (float)w->hyper[EPSILON], momentum = (float)w->hyper[MOMENTUM];
    const float sign = w->hyper[MAXIMIZE] != 0 ? -1 : 1;
    float *restrict p = w->param, *restrict sum = w->extra, *kept = w->hyper[MOMENTUM] != 0 ? w->slot[0] : NULL;
    const float *restrict g = w->grad;
    for (int64_t i = begin; i < end; i++) {
        float d = fma_r(decay, p[i], sign * g[i]);
        sum[i] = fma_r(d, d, w->step == 1 ? eps : sum[i]);
        float step = d / sqrtf(sum[i]);
        if (kept) kept[i] = step = fma_r(momentum, kept[i], step);
        p[i] = fma_r(-lr, step, p[i]);
    }
}

/* sum += product; of the first step: epsilon on the diagonal. Threads share the elements. */
static void accumulate(const ss_whole *w, const side *s, const float *product) {
    int64_t from, to;
    if (!s->full) return;
    ss_split(s->extent * s->extent, 16, w->thread, w->threads, &from, &to);
    for (int64_t i = from; i < to; i++) {
        float start = w->step == 1 ? (i / s->extent == i % s->extent ? (float)w->hyper[EPSILON] : 0) : s->sum[i];
        s->sum[i] = start + product[i];
    }
}

/* Rows v_k * value_k^(-1/8), as floats in the work's matrix: their Gram matrix is the inverse fourth root. */
static void decompose(const ss_whole *w, const side *s) {
    const int64_t n = s->extent;
    double *a = s->work, *vectors = a + n * n, *values = vectors + n * n;
    for (int64_t i = 0; i < n * n; i++) a[i] = (double)s->sum[i];
    w->kernels->eigh(n, a, values, vectors, values + n);
    float *scaled = (float *)(void *)a;
    for (int64_t k = 0; k < n; k++) {
        const double value = values[k] < w->hyper[EPSILON] ? w->hyper[EPSILON] : values[k], factor = 1 / sqrt(sqrt(sqrt(value))); /* no value can be less but for rounding */
        for (int64_t i = 0; i < n; i++) scaled[k * n + i] = (float)(factor * vectors[k * n + i]);
    }
}

static void whole(const ss_whole *w) {
    int64_t rows, cols, begin, end;
    ss_split(w->count, 16, w->thread, w->threads, &begin, &end);
    if (!is_matrix(w->shape)) {
        diagonal(w, begin, end);
        return;
    }
    const double *hyper = w->hyper;
    matrix_extents(w->shape, &rows, &cols);
    double *work = (double *)(void *)w->scratch;
    side left = {.extent = rows, .full = is_full(hyper, rows), .sum = w->extra, .work = work};
    side right = {.extent = cols, .full = is_full(hyper, cols), .sum = w->extra + side_extra(hyper, rows), .work = work + side_work(hyper, rows)};
    left.root = left.sum + ss_round_up(rows * rows, 16);
    right.root = right.sum + ss_round_up(cols * cols, 16);
    float *gradient = (float *)(void *)(right.work + side_work(hyper, cols));
    float *first = gradient + ss_round_up(rows * cols, 16), *second = first + product_room(hyper, rows, cols), *packed = second + product_room(hyper, rows, cols);
    const matrix g = matrix_of(gradient, rows, cols), turned = matrix_transposed(g);
    const bool renew = (w->step - 1) % (int64_t)hyper[UPDATE_FREQ] == 0;
    int64_t from, to;
    switch (w->phase) {
    case GRADIENT: {
        const float decay = (float)hyper[WEIGHT_DECAY], sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
        for (int64_t i = begin; i < end; i++) gradient[i] = fma_r(decay, w->param[i], sign * w->grad[i]);
        break;
    }
    case PACK_LEFT:
    case RUN_LEFT:
        if (left.full) {
            matrix_product(w, w->phase == PACK_LEFT, g, turned, first, packed);
        } else if (w->phase == RUN_LEFT) {
            ss_split(rows, 1, w->thread, w->threads, &from, &to);
            for (int64_t i = from; i < to; i++)
                left.sum[i] = (w->step == 1 ? (float)hyper[EPSILON] : left.sum[i]) + row_dot(cols, gradient + i * cols, gradient + i * cols);
        }
        break;
    case PACK_RIGHT:
    case RUN_RIGHT:
        if (right.full) {
            matrix_product(w, w->phase == PACK_RIGHT, turned, g, second, packed);
        } else if (w->phase == RUN_RIGHT) {
            ss_split(cols, 16, w->thread, w->threads, &from, &to);
            for (int64_t j = from; j < to && w->step == 1; j++) right.sum[j] = (float)hyper[EPSILON];
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = from; j < to; j++) right.sum[j] = fma_r(gradient[i * cols + j], gradient[i * cols + j], right.sum[j]);
        }
        break;
    case ACCUMULATE:
        accumulate(w, &left, first);
        accumulate(w, &right, second);
        break;
    case DECOMPOSE: /* one thread a side */
        if (renew && left.full && w->thread == 0) decompose(w, &left);
        if (renew && right.full && w->thread == w->threads - 1) decompose(w, &right);
        break;
    case PACK_ROOT_LEFT:
    case ROOT_LEFT:
    case PACK_ROOT_RIGHT:
    case ROOT_RIGHT: {
        const side *s = w->phase <= ROOT_LEFT ? &left : &right;
        const matrix scaled = matrix_of((const float *)(const void *)s->work, s->extent, s->extent);
        if (renew && s->full) matrix_product(w, w->phase == PACK_ROOT_LEFT || w->phase == PACK_ROOT_RIGHT, matrix_transposed(scaled), scaled, s->root, packed);
        break;
    }
    case PACK_ROWS:
    case ROWS:
        if (left.full) {
            matrix_product(w, w->phase == PACK_ROWS, matrix_of(left.root, rows, rows), g, first, packed);
        } else if (w->phase == ROWS) {
            ss_split(rows, 1, w->thread, w->threads, &from, &to);
            for (int64_t i = from; i < to; i++) {
                const float factor = 1 / sqrtf(sqrtf(left.sum[i]));
                for (int64_t j = 0; j < cols; j++) first[i * cols + j] = factor * gradient[i * cols + j];
            }
        }
        break;
    case PACK_COLS:
    case COLS:
        if (right.full) {
            matrix_product(w, w->phase == PACK_COLS, matrix_of(first, rows, cols), matrix_of(right.root, cols, cols), second, packed);
        } else if (w->phase == COLS) {
            ss_split(rows, 1, w->thread, w->threads, &from, &to);
            for (int64_t i = from; i < to; i++)
                for (int64_t j = 0; j < cols; j++) second[i * cols + j] = first[i * cols + j] / sqrtf(sqrtf(right.sum[j]));
        }
        break;
    default: {
        const float lr = (float)hyper[LR], momentum = (float)hyper[MOMENTUM];
        float *kept = hyper[MOMENTUM] != 0 ? w->slot[0] : NULL;
        for (int64_t i = begin; i < end; i++) {
            float step = second[i];
            if (kept) kept[i] = step = fma_r(momentum, kept[i], step);
            w->param[i] = fma_r(-lr, step, w->param[i]);
        }
    }
    }
}

const ss_optim SS_FN(ss_optim_shampoo) = {
    .name = "shampoo",
    .doc = "Shampoo: the gradient of a matrix between the inverse fourth roots of sums over all steps.\n\n"
           "    G = grad + weight_decay * param;  L += G G^T;  R += G^T G (from epsilon * I)\n"
           "    step = L^(-1/4) G R^(-1/4);  b = momentum * b + step;  param -= lr * b\n\n"
           "Parameters of two or more axes are seen as matrices (first axis, the rest); of a side longer than max_extent only the diagonal is kept. Others keep "
           "a sum of squares for each element and step along G / sqrt(sum), as Adagrad. The roots are computed anew every update_freq steps, from eigenvalues in double "
           "by code of this library, so that they have the same bits on every machine. L, R and the roots are the state `extra`. "
           "Gupta, Koren, Singer: \"Shampoo: preconditioned stochastic tensor optimization\", 2018.",
    .hypers = hypers,
    .derived = 0,
    .slots = slots,
    .slot_names = {"momentum_buffer"},
    .whole = whole,
    .phases = phases,
    .scratch = scratch,
    .extra = extra,
};
