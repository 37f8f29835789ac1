/* Arrays through the functions of vmath.h, one copy a variant, so that a test can compare bits across variants. */
#include "kernels/rowreduce.h"
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "kernels/vmath_test.h"

void SS_FN(vmath_exp)(int64_t n, const float *restrict in, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = exp_r(in[i]);
}

void SS_FN(vmath_log)(int64_t n, const float *restrict in, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = log_r(in[i]);
}

void SS_FN(vmath_tanh)(int64_t n, const float *restrict in, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = tanh_r(in[i]);
}

void SS_FN(vmath_erf)(int64_t n, const float *restrict in, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = erf_r(in[i]);
}

void SS_FN(vmath_sigmoid)(int64_t n, const float *restrict in, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = sigmoid_r(in[i]);
}

void SS_FN(vmath_expm1)(int64_t n, const float *restrict in, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = expm1_r(in[i]);
}

void SS_FN(vmath_log1p)(int64_t n, const float *restrict in, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = log1p_r(in[i]);
}

void SS_FN(vmath_sin)(int64_t n, const float *restrict in, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = sin_r(in[i]);
}

void SS_FN(vmath_cos)(int64_t n, const float *restrict in, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = cos_r(in[i]);
}

void SS_FN(vmath_row)(int64_t n, const float *x, const float *y, float *out) {
    out[0] = row_max(n, x);
    out[1] = row_sum(n, x);
    out[2] = row_dot(n, x, y);
}
