/* The functions behind the table of one variant. */
#ifndef SS_KERNELS_INTERNAL_H
#define SS_KERNELS_INTERNAL_H
#include "kernels/kernels.h"
#include "kernels/variant.h"

int64_t SS_FN(matmul_packed)(ss_backend backend, int64_t n, int64_t k);
void SS_FN(matmul_pack)(const ss_matmul *p, int thread, int threads);
void SS_FN(matmul_run)(const ss_matmul *p, int thread, int threads);
int64_t SS_FN(matmul_fold_scratch)(const ss_matmul_fold *p, int depth, int threads);
void SS_FN(matmul_fold)(const ss_matmul_fold *p, int thread, int threads);

/* The openblas backend of the same. */
void SS_FN(matmul_run_openblas)(const ss_matmul *p, int thread, int threads);
int64_t SS_FN(matmul_fold_scratch_openblas)(const ss_matmul_fold *p, int depth, int threads);
void SS_FN(matmul_fold_openblas)(const ss_matmul_fold *p, int thread, int threads);

int64_t SS_FN(conv2d_scratch)(const ss_conv2d *p, ss_conv2d_pass pass, int depth, int threads);
void SS_FN(conv2d_pack)(const ss_conv2d *p, ss_conv2d_pass pass, int thread, int threads);
void SS_FN(conv2d_forward)(const ss_conv2d *p, int thread, int threads);
void SS_FN(conv2d_backward)(const ss_conv2d *p, int thread, int threads);

void SS_FN(column_sum)(const ss_fold *fold, int64_t positions, const float *x, int64_t x_row, int64_t begin, int64_t end, float *out,
                       int64_t block_stride, float *stack);

float SS_FN(dot)(int64_t n, const float *x, const float *y);
void SS_FN(scale)(int64_t n, float *x, float factor);
void SS_FN(clamp)(int64_t n, float *x, float most);
void SS_FN(blend)(int64_t n, float *to, const float *from, float weight);
double SS_FN(peak_burst)(int64_t rounds);
float SS_FN(read_burst)(int64_t n, const float *x);
void SS_FN(eigh)(int64_t n, double *a, double *values, double *vectors, double *work);

#endif
