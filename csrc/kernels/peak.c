/* Loops that do nothing but what bounds every kernel: multiply-adds in registers, and reading memory. kernels/measure.c takes their time. */
#include "kernels/internal.h"
#include "kernels/vec.h"

enum { CHAINS = 12 }; /* two pipes with a latency of four or five need ten chains; 16 registers hold twelve */

/* x = x * a + b settles at 1: no overflow, no denormal number. The empty asm keeps the compiler from folding chains into one; the loops over chains are unrolled, or the
 * chains would live in memory and the stores set the pace (a test looks at the assembly). */
double SS_FN(peak_burst)(int64_t rounds) {
    vec a = vec_set(0.5f), b = vec_set(0.5f), x[CHAINS];
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++) x[k] = vec_set((float)k);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++) {
#if defined(__FMA__)
            x[k] = vec_fma(x[k], a, b);
            __asm__ volatile("" : "+v"(x[k]));
#else
            x[k] = x[k] * a + b;
            __asm__ volatile("" : "+x"(x[k]));
#endif
        }
    }
    return 2.0 * VEC_WIDTH * CHAINS * (double)rounds;
}

float SS_FN(read_burst)(int64_t n, const float *x) {
    vec sum[8];
    float out[VEC_WIDTH];
    for (int k = 0; k < 8; k++) sum[k] = vec_zero();
    for (int64_t i = 0; i + 8 * VEC_WIDTH <= n; i += 8 * VEC_WIDTH)
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) sum[k] = vec_add(sum[k], vec_load(x + i + k * VEC_WIDTH));
    for (int k = 1; k < 8; k++) sum[0] = vec_add(sum[0], sum[k]);
    vec_store(out, sum[0]);
    return out[0];
}
