/* vmath.h and rowreduce.h over arrays, by variant: for tests and benchmarks. A variant may run only where ss_cpu_features allows it. */
#ifndef SS_KERNELS_VMATH_TEST_H
#define SS_KERNELS_VMATH_TEST_H
#include <stdint.h>

typedef void ss_vmath_function(int64_t n, const float *restrict in, float *restrict out);

ss_vmath_function vmath_exp_scalar, vmath_exp_avx2, vmath_exp_avx512;
ss_vmath_function vmath_log_scalar, vmath_log_avx2, vmath_log_avx512;
ss_vmath_function vmath_tanh_scalar, vmath_tanh_avx2, vmath_tanh_avx512;
ss_vmath_function vmath_erf_scalar, vmath_erf_avx2, vmath_erf_avx512;
ss_vmath_function vmath_sigmoid_scalar, vmath_sigmoid_avx2, vmath_sigmoid_avx512;
ss_vmath_function vmath_expm1_scalar, vmath_expm1_avx2, vmath_expm1_avx512;
ss_vmath_function vmath_log1p_scalar, vmath_log1p_avx2, vmath_log1p_avx512;
ss_vmath_function vmath_sin_scalar, vmath_sin_avx2, vmath_sin_avx512;
ss_vmath_function vmath_cos_scalar, vmath_cos_avx2, vmath_cos_avx512;

/* out: greatest element of x, sum of x, sum of the products of x and y. n >= 1. */
typedef void ss_vmath_row_function(int64_t n, const float *x, const float *y, float *out);
ss_vmath_row_function vmath_row_scalar, vmath_row_avx2, vmath_row_avx512;

#endif
