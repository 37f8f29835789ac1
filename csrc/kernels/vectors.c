/* Elementwise passes and sums of products over plain vectors: clipping of gradients, averages of weights, norms. */
#include "kernels/internal.h"
#include "kernels/rowreduce.h"

float SS_FN(dot)(int64_t n, const float *x, const float *y) { return row_dot(n, x, y); }

void SS_FN(scale)(int64_t n, float *restrict x, float factor) {
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

void SS_FN(clamp)(int64_t n, float *restrict x, float most) {
    for (int64_t i = 0; i < n; i++) x[i] = min_r(max_r(x[i], -most), most);
}

void SS_FN(blend)(int64_t n, float *restrict to, const float *restrict from, float weight) {
    for (int64_t i = 0; i < n; i++) to[i] = fma_r(weight, from[i] - to[i], to[i]);
}
