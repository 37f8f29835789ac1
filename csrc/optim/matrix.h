/* Products of matrices for optimizers that see a parameter as (first axis, the rest). Always the native kernels: their bits are the same on every machine and for any number of threads, and
 * the threads share one product. */
#ifndef SS_OPTIM_MATRIX_H
#define SS_OPTIM_MATRIX_H
#include "base/shape.h"
#include "kernels/kernels.h"
#include "optim/optim.h"

/* A matrix in place: element (i, j) at data[i * row + j * col]. */
typedef struct matrix {
    const float *data;
    int64_t rows, cols, row, col;
} matrix;

static inline matrix matrix_of(const float *data, int64_t rows, int64_t cols) { return (matrix){data, rows, cols, cols, 1}; }
static inline matrix matrix_transposed(matrix a) { return (matrix){a.data, a.cols, a.rows, a.col, a.row}; }

/* Floats that `packed` of a product with b takes. */
static inline int64_t matrix_packed(const ss_kernels *kernels, int64_t b_rows, int64_t b_cols) {
    return kernels->matmul_packed(SS_BACKEND_NATIVE, b_cols, b_rows);
}

/* c (row-major) = a b: `pack` in one phase, then the product in a later one. */
static inline void matrix_product(const ss_whole *w, bool pack, matrix a, matrix b, float *c, float *packed) {
    const int64_t row[2] = {0, a.rows};
    const int32_t adds[1] = {0}, lane[1] = {0};
    const ss_fold fold = {.lanes = 1, .blocks = 1, .depth = 1, .row = row, .adds = adds, .lane = lane};
    const ss_matmul p = {.backend = SS_BACKEND_NATIVE, .m = a.rows, .n = b.cols, .k = a.cols, .a = a.data, .a_row = a.row, .a_col = a.col, .b = b.data, .b_row = b.row,
                         .b_col = b.col, .c = c, .c_row = b.cols, .packed = packed, .fold = &fold, .positions = 1};
    if (pack) w->kernels->matmul_pack(&p, w->thread, w->threads);
    else w->kernels->matmul_run(&p, w->thread, w->threads);
}

static inline void matrix_extents(const ss_shape *shape, int64_t *rows, int64_t *cols) {
    *rows = shape->rank > 0 ? shape->dim[0] : 1;
    *cols = *rows ? ss_shape_count(shape) / *rows : 0;
}

#endif
