/* The doors to the heavy kernels. One table per instruction set; all tables give the same bits.
 *
 * Kernels are SPMD: every thread of a rank calls them with its (thread, threads) and takes its share of the outputs; splitting outputs changes no
 * bits. Where a kernel has phases, the caller puts a barrier between them.
 */
#ifndef SS_KERNELS_KERNELS_H
#define SS_KERNELS_KERNELS_H
#include <stdbool.h>
#include <stdint.h>
#include "base/cpu.h"
#include "base/lanes.h"

typedef enum ss_backend { SS_BACKEND_NATIVE, SS_BACKEND_OPENBLAS } ss_backend;

/* C = A B (+ bias added to every row), C row-major with row stride c_row, m x n. A is m x k and B is k x n, both with any strides.
 * Every element is one fused-multiply-add chain along k starting from zero, then the bias is added.
 * Phase 0 `matmul_pack` copies B into `packed`; phase 1 `matmul_run` multiplies. Needs b_packed() floats at `packed`.
 *
 * m counts samples times positions. `fold` tells which rows belong to which lane (positions = rows per sample): the openblas backend makes one call
 * per lane and never merges or cuts them. The native backend does not look at it. */
typedef struct ss_matmul {
    ss_backend backend;
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_col;
    const float *b;
    int64_t b_row, b_col;
    float *c;
    int64_t c_row;
    const float *bias; /* n, or NULL */
    float *packed;
    bool kept; /* native backend: B is multiplied with many A of few rows. matmul_pack copies it into panels at `packed`, ss_matmul_kept() floats, for all matmul_run to come */
    bool bf16; /* native kernels whatever the backend: operands are rounded to bfloat16 and multiplied in pairs along k, fma(even, even, fma(odd, odd, acc)); a missing last is zero */
    const ss_fold *fold;
    int64_t positions;
} ss_matmul;

/* Panels are at most 32 columns wide. */
static inline int64_t ss_matmul_kept(int64_t n, int64_t k) { return (n + 31) / 32 * 32 * k; }

/* Sum over samples: C[j] (m x n, block j of fold->blocks, block_stride floats apart) = sum over the rows r of A[r, :]^T B[r, :].
 * A is rows x m with row stride a_row, B is rows x n with row stride b_row, both contiguous along their second axis, rows = samples * positions.
 * Inside a lane one chain over its rows in order; across lanes the fold program. One phase. scratch: matmul_fold_scratch() floats, shared by the threads. */
typedef struct ss_matmul_fold {
    ss_backend backend;
    int64_t m, n, positions;
    const float *a;
    int64_t a_row;
    const float *b;
    int64_t b_row;
    float *c;
    int64_t c_row, block_stride;
    int64_t most_rows; /* for matmul_fold_scratch: the most rows that there may be, 0 where that is not known */
    float *scratch;
    bool bf16; /* the same, in pairs along the rows of a lane */
    const ss_fold *fold;
} ss_matmul_fold;

/* Convolution, cross-correlation as in PyTorch, channels last, over one to three axes: 2-d with depths of 1, 1-d with heights of 1 as well.
 * x (rows, D, H, W, C), y (rows, OD, OH, OW, O), weight (O, C/groups, KD, KH, KW), bias (O) or NULL.
 * Sums run along (kd, kh, kw, c) inside the group, one chain from zero, padding taps as multiplications by zero; then the bias is added.
 * The gradient of x sums along (kd, kh, kw, o); the gradient of the weight over positions in row-major order inside a sample, samples in a lane, then lanes.
 * The output's extents are the caller's choice: taps may reach any distance beyond the end of x. A transposed convolution is the gradient of x, with x_bias. */
typedef struct ss_conv2d {
    ss_backend backend;
    int64_t rows, depth, height, width, channels, out_depth, out_height, out_width, out_channels, kernel_d, kernel_h, kernel_w;
    int64_t stride_d, stride_h, stride_w, pad_d, pad_h, pad_w, dilation_d, dilation_h, dilation_w, groups;
    const float *x, *weight, *bias;
    float *y;
    const float *grad_y;
    float *grad_x;
    const float *x_bias; /* (C) or NULL: added to grad_x */
    float *grad_weight; /* fold->blocks blocks, block_stride floats apart, in the layout of weight */
    int64_t block_stride;
    bool bf16; /* the gradient of the weight multiplies bfloat16 pairs of neighbouring positions of an image row, the odd one first; the last of an odd row meets a gradient of zero. Not depthwise */
    const ss_fold *fold;
    float *scratch; /* conv2d_scratch() floats */
} ss_conv2d;

typedef enum ss_conv2d_pass { SS_CONV_FORWARD, SS_CONV_BACKWARD } ss_conv2d_pass;

typedef struct ss_kernels {
    const char *name;
    ss_isa isa;

    int64_t (*matmul_packed)(ss_backend backend, int64_t n, int64_t k);
    void (*matmul_pack)(const ss_matmul *p, int thread, int threads);
    void (*matmul_run)(const ss_matmul *p, int thread, int threads);
    int64_t (*matmul_fold_scratch)(const ss_matmul_fold *p, int depth, int threads);
    void (*matmul_fold)(const ss_matmul_fold *p, int thread, int threads);

    /* Floats of scratch for a pass; `depth` is the greatest fold depth. The scratch holds packed weights and per-thread tiles. */
    int64_t (*conv2d_scratch)(const ss_conv2d *p, ss_conv2d_pass pass, int depth, int threads);
    void (*conv2d_pack)(const ss_conv2d *p, ss_conv2d_pass pass, int thread, int threads); /* phase 0 */
    void (*conv2d_forward)(const ss_conv2d *p, int thread, int threads);                   /* phase 1 */
    void (*conv2d_backward)(const ss_conv2d *p, int thread, int threads);                  /* phase 1; skips NULL gradients */

    /* out (block j at j*block_stride) = sums over rows of x (rows x n, row stride x_row), lanes folded. rows = samples * positions. Sums elements of columns [begin, end).
     * stack: fold->depth * (end - begin) floats of this thread's own. */
    void (*column_sum)(const ss_fold *fold, int64_t positions, const float *x, int64_t x_row, int64_t begin, int64_t end, float *out, int64_t block_stride, float *stack);

    /* Sum of products: 16 accumulators and their tree (rowreduce.h). */
    float (*dot)(int64_t n, const float *x, const float *y);
    void (*scale)(int64_t n, float *x, float factor);
    /* Every element into [-most, most]; NaN stays. */
    void (*clamp)(int64_t n, float *x, float most);
    /* to = fma(weight, from - to, to) */
    void (*blend)(int64_t n, float *to, const float *from, float weight);

    /* Eigenvalues, ascending, and eigenvectors (rows) of the symmetric n x n matrix a, which is destroyed. work: 3 n. One thread. NaN throughout when a is not finite. */
    void (*eigh)(int64_t n, double *a, double *values, double *vectors, double *work);

    /* What bounds the others (kernels/measure.h): multiply-adds in registers, returns how many operations; reading n floats. */
    double (*peak_burst)(int64_t rounds);
    float (*read_burst)(int64_t n, const float *x);
} ss_kernels;

/* NULL when this CPU cannot run it. */
const ss_kernels *ss_kernels_for(ss_isa isa);

/* One line about the BLAS library that is linked. */
const char *ss_blas_description(void);

extern const ss_kernels ss_kernels_scalar, ss_kernels_avx2, ss_kernels_avx512;

#endif
