/* The pass that Adam and AdamW share. They differ in where the weight decay enters. Included by opt_adam.c and opt_adamw.c alone.
 *
 * Every element is computed in one fixed form, so instruction sets and splits of the range give the same bits:
 *   d = fma(l2, p, sign * g)                   Adam's decay; l2 = 0 in AdamW; sign = -1 to maximize
 *   m = fma(1 - beta1, d - m, m)
 *   v = fma((1 - beta2) * d, d, beta2 * v)
 *   p = fma(-rate, m / fma(sqrt(v), 1 / sqrt(1 - beta2^t), eps), keep * p)      AdamW's decay; keep = 1 in Adam
 */
#ifndef SS_OPTIM_ADAM_UPDATE_H
#define SS_OPTIM_ADAM_UPDATE_H
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif
#include "kernels/variant.h"
#include "optim/optim.h"

enum { ADAM_LR, ADAM_BETA1, ADAM_BETA2, ADAM_EPS, ADAM_WEIGHT_DECAY, ADAM_AMSGRAD, ADAM_MAXIMIZE };
enum { ADAM_RATE, ADAM_ONE_MINUS_BETA1, ADAM_ONE_MINUS_BETA2, ADAM_CORRECTION, ADAM_KEEP, ADAM_DERIVED };

static inline int adam_slots(const double *hyper) { return hyper[ADAM_AMSGRAD] != 0 ? 3 : 2; }

static inline void adam_prepare(const double *hyper, int64_t step, double *derived) {
    derived[ADAM_RATE] = hyper[ADAM_LR] / (1 - ss_power(hyper[ADAM_BETA1], step));
    derived[ADAM_ONE_MINUS_BETA1] = 1 - hyper[ADAM_BETA1];
    derived[ADAM_ONE_MINUS_BETA2] = 1 - hyper[ADAM_BETA2];
    derived[ADAM_CORRECTION] = 1 / sqrt(1 - ss_power(hyper[ADAM_BETA2], step));
    derived[ADAM_KEEP] = 1;
}

enum { ADAM_BLOCK = 256 };

/* x[i] = sqrt(x[i]) for a multiple of 16 elements. Written out because gcc keeps sqrtf in a loop scalar as long as errno might be read. */
static inline void adam_roots(float *x, int64_t n) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i < n; i += 16) _mm512_storeu_ps(x + i, _mm512_sqrt_ps(_mm512_loadu_ps(x + i)));
#elif defined(__AVX__)
    for (; i < n; i += 8) _mm256_storeu_ps(x + i, _mm256_sqrt_ps(_mm256_loadu_ps(x + i)));
#elif defined(__SSE2__)
    for (; i < n; i += 4) _mm_storeu_ps(x + i, _mm_sqrt_ps(_mm_loadu_ps(x + i)));
#endif
    for (; i < n; i++) x[i] = sqrtf(x[i]);
}

/* One pass over memory: each block of parameters, gradients and moments is still in the first-level cache when its last loop runs. */
static inline void adam_update(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, float l2) {
    const float rate = (float)derived[ADAM_RATE], correction = (float)derived[ADAM_CORRECTION], eps = (float)hyper[ADAM_EPS];
    const float fresh1 = (float)derived[ADAM_ONE_MINUS_BETA1], fresh2 = (float)derived[ADAM_ONE_MINUS_BETA2];
    const float beta2 = (float)hyper[ADAM_BETA2], keep = (float)derived[ADAM_KEEP];
    const float sign = hyper[ADAM_MAXIMIZE] != 0 ? -1 : 1;
    const bool amsgrad = hyper[ADAM_AMSGRAD] != 0;
    float root[ADAM_BLOCK];

    for (int64_t begin = 0; begin < n; begin += ADAM_BLOCK) {
        const int64_t count = n - begin < ADAM_BLOCK ? n - begin : ADAM_BLOCK, whole = (count + 15) / 16 * 16;
        float *restrict p = param + begin, *restrict first = slot[0] + begin, *restrict second = slot[1] + begin;
        const float *restrict g = grad + begin;
        for (int64_t i = count; i < whole; i++) root[i] = 0;
        for (int64_t i = 0; i < count; i++) {
            float d = fma_r(l2, p[i], sign * g[i]);
            first[i] = fma_r(fresh1, d - first[i], first[i]);
            second[i] = root[i] = fma_r(fresh2 * d, d, beta2 * second[i]);
        }
        if (amsgrad) {
            float *restrict largest = slot[2] + begin;
            for (int64_t i = 0; i < count; i++) largest[i] = root[i] = max_r(root[i], largest[i]);
        }
        adam_roots(root, whole);
        for (int64_t i = 0; i < count; i++) p[i] = fma_r(-rate, first[i] / fma_r(root[i], correction, eps), keep * p[i]);
    }
}

#endif
