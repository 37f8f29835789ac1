/* SS_BACKEND_OPENBLAS of the convolution, the same for every variant: im2col and one sgemm per lane and group. Contract: ss_conv2d in kernels.h. */
#ifndef SS_KERNELS_CONV2D_BLAS_H
#define SS_KERNELS_CONV2D_BLAS_H
#include "kernels/kernels.h"

int64_t ss_conv2d_blas_scratch(const ss_conv2d *p, ss_conv2d_pass pass, int depth, int threads);
void ss_conv2d_blas_pack(const ss_conv2d *p, ss_conv2d_pass pass, int thread, int threads);
void ss_conv2d_blas_forward(const ss_conv2d *p, int thread, int threads);
void ss_conv2d_blas_backward(const ss_conv2d *p, int thread, int threads);

#endif
