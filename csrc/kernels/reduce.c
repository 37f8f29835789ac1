/* Sums over samples of each column: the gradients of biases and of normalisation parameters. */
#include <stddef.h>
#include "kernels/internal.h"
#include "kernels/vec.h"

enum { WIDE = 4 }; /* vectors side by side: four chains of additions hide the latency of one */

/* `vectors` is a constant at every call; the last vector is masked. Level l of the stack lies in block l of the output while there is one, so what
 * is left at the end lies where it belongs; higher levels lie in `stack`, stack_row floats apart. */
SS_INLINE void sum_columns(const int vectors, const ss_fold *fold, int64_t positions, const float *x, int64_t x_row, float *out,
                           int64_t block_stride, float *stack, int64_t stack_row, vec_mask last) {
    int height = 0;
    for (int lane = 0; lane < fold->lanes; lane++) {
        vec sum[WIDE];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[v] = vec_zero();
        const float *row = x + fold->row[lane] * positions * x_row;
        for (int64_t rows = (fold->row[lane + 1] - fold->row[lane]) * positions; rows > 0; rows--, row += x_row)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[v] = vec_add(sum[v], v < vectors - 1 ? vec_load(row + v * VEC_WIDTH) : vec_load_mask(row + v * VEC_WIDTH, last));
        for (int join = 0; join < fold->adds[lane]; join++) {
            height--;
            const float *from = height < fold->blocks ? out + height * block_stride : stack + (height - fold->blocks) * stack_row;
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[v] = vec_add(v < vectors - 1 ? vec_load(from + v * VEC_WIDTH) : vec_load_mask(from + v * VEC_WIDTH, last), sum[v]);
        }
        float *to = height < fold->blocks ? out + height * block_stride : stack + (height - fold->blocks) * stack_row;
        height++;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            if (v < vectors - 1) vec_store(to + v * VEC_WIDTH, sum[v]);
            else vec_store_mask(to + v * VEC_WIDTH, sum[v], last);
        }
    }
}

void SS_FN(column_sum)(const ss_fold *fold, int64_t positions, const float *x, int64_t x_row, int64_t begin, int64_t end, float *out,
                       int64_t block_stride, float *stack) {
    int64_t stack_row = end - begin, column = begin;
    for (; column + WIDE * VEC_WIDTH <= end; column += WIDE * VEC_WIDTH)
        sum_columns(WIDE, fold, positions, x + column, x_row, out + column, block_stride, stack + (column - begin), stack_row,
                    vec_first(VEC_WIDTH));
    for (; column < end; column += VEC_WIDTH)
        sum_columns(1, fold, positions, x + column, x_row, out + column, block_stride, stack + (column - begin), stack_row,
                    vec_first(end - column));
}
