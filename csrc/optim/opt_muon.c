/* Muon, as torch.optim.Muon, with AdamW for parameters that are no matrices. */
#include <stdbool.h>
#include "kernels/variant.h"
#include "optim/layerwise.h"
#include "optim/matrix.h"

enum { LR, WEIGHT_DECAY, MOMENTUM, NESTEROV, NS_A, NS_B, NS_C, EPS, NS_STEPS, MATCH_RMS, USE_MUON, ADAMW_LR, ADAMW_BETA1, ADAMW_BETA2, ADAMW_EPS, ADAMW_WEIGHT_DECAY, MAXIMIZE };

static const ss_hyper_spec hypers[] = {
    {"lr", 1e-3, 0, 1e30, "step size of matrices"},
    {"weight_decay", 0.1, 0, 1e30, "every step first takes lr * weight_decay * parameter off a matrix"},
    {"momentum", 0.95, 0, 1, "decay of the mean of gradients"},
    {"nesterov", 1, 0, 1, "1: step along the gradient and the mean"},
    {"ns_a", 3.4445, -1e30, 1e30, "coefficient of X in the iteration"},
    {"ns_b", -4.7750, -1e30, 1e30, "coefficient of (X X^T) X"},
    {"ns_c", 2.0315, -1e30, 1e30, "coefficient of (X X^T)^2 X"},
    {"eps", 1e-7, 0, 1e30, "least norm that a direction is divided by"},
    {"ns_steps", 5, 0, 99, "iterations"},
    {"match_rms_adamw", 0, 0, 1, "0: the step is lr * sqrt(max(1, rows / columns)); 1: 0.2 * lr * sqrt(max(rows, columns))"},
    {"use_muon", 1, 0, 1, "0: AdamW for matrices too (embeddings, output layers)"},
    {"adamw_lr", 3e-4, 0, 1e30, "step size of AdamW"},
    {"adamw_beta1", 0.9, 0, 0.9999999999999999, "AdamW's decay of the mean of gradients"},
    {"adamw_beta2", 0.95, 0, 0.9999999999999999, "AdamW's decay of the mean of squared gradients"},
    {"adamw_eps", 1e-10, 0, 1e30, "AdamW's eps"},
    {"adamw_weight_decay", 0, 0, 1e30, "AdamW's weight decay"},
    {"maximize", 0, 0, 1, "1: climb; the gradient is negated"},
    {0},
};

enum { RATE, CORRECTION, KEEP, ONE_MINUS_BETA1, ONE_MINUS_BETA2, ONE_MINUS_MOMENTUM, MATRIX_KEEP, DERIVED };

static int slots(const double *hyper) {
    (void)hyper;
    return 1;
}

static void prepare(const double *hyper, int64_t step, double *derived) {
    derived[RATE] = hyper[ADAMW_LR] / (1 - ss_power(hyper[ADAMW_BETA1], step));
    derived[CORRECTION] = 1 / sqrt(1 - ss_power(hyper[ADAMW_BETA2], step));
    derived[KEEP] = 1 - hyper[ADAMW_LR] * hyper[ADAMW_WEIGHT_DECAY];
    derived[ONE_MINUS_BETA1] = 1 - hyper[ADAMW_BETA1];
    derived[ONE_MINUS_BETA2] = 1 - hyper[ADAMW_BETA2];
    derived[ONE_MINUS_MOMENTUM] = 1 - hyper[MOMENTUM];
    derived[MATRIX_KEEP] = 1 - hyper[LR] * hyper[WEIGHT_DECAY];
}

static bool is_matrix(const double *hyper, const ss_shape *shape) { return shape->rank >= 2 && hyper[USE_MUON] != 0; }

static int64_t extra(const double *hyper, const ss_shape *shape) { return is_matrix(hyper, shape) ? 0 : ss_shape_count(shape); }

enum { PACK_X, RUN_GRAM, PACK_GRAM, RUN_SQUARE, COMBINE, PACK_LAST, RUN_LAST, ADD, ROUND };

static int phases(const double *hyper, const ss_shape *shape) { return is_matrix(hyper, shape) ? 3 + ROUND * (int)hyper[NS_STEPS] : 1; }

/* Scratch of a matrix: sums of squares, X, the product with X, the Gram matrix of X's shorter side, its square, and the packed operand. */
typedef struct places {
    double *squares;
    float *x, *y, *gram, *square, *packed;
    int64_t total;
} places;

static places places_of(float *base, const ss_shape *shape, const ss_kernels *kernels) {
    int64_t rows, cols;
    matrix_extents(shape, &rows, &cols);
    const int64_t count = ss_round_up(rows * cols, 16), small = ss_min(rows, cols), large = ss_max(rows, cols), gram = ss_round_up(small * small, 16);
    const int64_t sums = ss_round_up(2 * ss_blocks(rows * cols), 16);
    const int64_t packed = ss_max(ss_max(matrix_packed(kernels, large, small), matrix_packed(kernels, small, small)), matrix_packed(kernels, small, large));
    places at = {.squares = (double *)(void *)base, .total = sums + 2 * count + 2 * gram + packed};
    if (!base) return at;
    at.x = base + sums;
    at.y = at.x + count;
    at.gram = at.y + count;
    at.square = at.gram + gram;
    at.packed = at.square + gram;
    return at;
}

static int64_t scratch(const double *hyper, const ss_shape *shape, const ss_kernels *kernels, ss_backend backend, int threads) {
    (void)backend, (void)threads;
    return is_matrix(hyper, shape) ? places_of(NULL, shape, kernels).total : 0;
}

static void adamw(const ss_whole *w, int64_t begin, int64_t end) {
    const double *hyper = w->hyper, *derived = w->derived;
    const float rate = (float)derived[RATE], correction = (float)derived[CORRECTION], keep = (float)derived[KEEP], eps = (float)hyper[ADAMW_EPS];
    const float fresh1 = (float)derived[ONE_MINUS_BETA1], fresh2 = (float)derived[ONE_MINUS_BETA2], beta2 = (float)hyper[ADAMW_BETA2];
    const float sign = hyper[MAXIMIZE] != 0 ? -1 : 1;
    float *restrict p = w->param, *restrict first = w->slot[0], *restrict second = w->extra;
    const float *restrict g = w->grad;
    for (int64_t i = begin; i < end; i++) {
        float d = sign * g[i];
        first[i] = fma_r(fresh1, d - first[i], first[i]);
        second[i] = fma_r(fresh2 * d, d, beta2 * second[i]);
        p[i] = fma_r(-rate, first[i] / fma_r(sqrtf(second[i]), correction, eps), keep * p[i]);
    }
}

/* The momentum and the direction to be made orthogonal. */
static void begin_matrix(const ss_whole *w, const places *at, int64_t first, int64_t past) {
    const float fresh = (float)w->derived[ONE_MINUS_MOMENTUM], momentum = (float)w->hyper[MOMENTUM], sign = w->hyper[MAXIMIZE] != 0 ? -1 : 1;
    const bool nesterov = w->hyper[NESTEROV] != 0;
    float *restrict mean = w->slot[0], *restrict x = at->x;
    const float *restrict g = w->grad;
    for (int64_t b = first; b < past; b++) {
        const int64_t from = b * SS_BLOCK, to = ss_min(from + SS_BLOCK, w->count);
        for (int64_t i = from; i < to; i++) {
            float d = sign * g[i];
            mean[i] = fma_r(fresh, d - mean[i], mean[i]);
            x[i] = nesterov ? fma_r(momentum, mean[i] - d, d) : mean[i];
        }
        at->squares[b] = (double)row_dot(to - from, x + from, x + from);
    }
}

/* Newton-Schulz: X <- a X + b (X X^T) X + c (X X^T)^2 X. A tall X goes through X^T X instead, without being turned: the result is the same matrix. */
static void iterate(const ss_whole *w, const places *at, int stage, int64_t rows, int64_t cols, int64_t begin, int64_t end) {
    const bool tall = rows > cols;
    const int64_t small = tall ? cols : rows;
    const matrix x = matrix_of(at->x, rows, cols), turned = matrix_transposed(x), gram = matrix_of(at->gram, small, small);
    switch (stage) {
    case PACK_X:
    case RUN_GRAM:
        matrix_product(w, stage == PACK_X, tall ? turned : x, tall ? x : turned, at->gram, at->packed);
        return;
    case PACK_GRAM:
    case RUN_SQUARE:
        matrix_product(w, stage == PACK_GRAM, gram, gram, at->square, at->packed);
        return;
    case COMBINE: {
        int64_t from, to;
        const float b = (float)w->hyper[NS_B], c = (float)w->hyper[NS_C];
        ss_split(small * small, 16, w->thread, w->threads, &from, &to);
        for (int64_t i = from; i < to; i++) at->gram[i] = fma_r(c, at->square[i], b * at->gram[i]);
        return;
    }
    case PACK_LAST:
    case RUN_LAST:
        matrix_product(w, stage == PACK_LAST, tall ? x : gram, tall ? gram : x, at->y, at->packed);
        return;
    default: {
        const float a = (float)w->hyper[NS_A];
        for (int64_t i = begin; i < end; i++) at->x[i] = fma_r(a, at->x[i], at->y[i]);
    }
    }
}

static void whole(const ss_whole *w) {
    int64_t first, past, rows, cols;
    ss_split(ss_blocks(w->count), 1, w->thread, w->threads, &first, &past);
    const int64_t begin = first * SS_BLOCK, end = ss_min(past * SS_BLOCK, w->count);
    if (!is_matrix(w->hyper, w->shape)) {
        adamw(w, begin, end);
        return;
    }
    const places at = places_of(w->scratch, w->shape, w->kernels);
    matrix_extents(w->shape, &rows, &cols);
    const int last = 2 + ROUND * (int)w->hyper[NS_STEPS];
    if (w->phase == 0) {
        begin_matrix(w, &at, first, past);
    } else if (w->phase == 1) {
        const double norm = layerwise_norm(at.squares, w->count);
        const float inverse = (float)(1 / (norm < w->hyper[EPS] ? w->hyper[EPS] : norm));
        for (int64_t i = begin; i < end; i++) at.x[i] *= inverse;
    } else if (w->phase < last) {
        iterate(w, &at, (w->phase - 2) % ROUND, rows, cols, begin, end);
    } else {
        const double r = (double)rows, c = (double)cols, most = r > c ? r : c;
        const float rate = (float)(w->hyper[LR] * (w->hyper[MATCH_RMS] != 0 ? 0.2 * sqrt(most) : r > c ? sqrt(r / c) : 1)), keep = (float)w->derived[MATRIX_KEEP];
        for (int64_t i = begin; i < end; i++) w->param[i] = fma_r(-rate, at.x[i], keep * w->param[i]);
    }
}

const ss_optim SS_FN(ss_optim_muon) = {
    .name = "muon",
    .doc = "Muon: the mean of gradients of a matrix, made nearly orthogonal.\n\n"
           "    m = momentum * m + (1 - momentum) * grad;  u = momentum * m + (1 - momentum) * grad if nesterov else m\n"
           "    X = u / max(||u||, eps);  ns_steps times: A = X X^T, X = a X + (b A + c A^2) X\n"
           "    param = (1 - lr * weight_decay) * param - lr * sqrt(max(1, rows / columns)) * X\n\n"
           "Parameters of two or more axes are seen as matrices (first axis, the rest); others, and all of a group with use_muon = 0, follow AdamW with the "
           "settings adamw_*: its second moment is the state `extra`, its first the momentum buffer. Computed in float32 (torch.optim.Muon iterates in bfloat16). Jordan and "
           "others: \"Muon: an optimizer for hidden layers in neural networks\", 2024; match_rms_adamw: Liu and others: \"Muon is scalable for LLM training\", 2025.",
    .hypers = hypers,
    .derived = DERIVED,
    .slots = slots,
    .slot_names = {"momentum_buffer"},
    .prepare = prepare,
    .whole = whole,
    .phases = phases,
    .scratch = scratch,
    .extra = extra,
};
