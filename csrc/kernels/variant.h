/* Kernels, operators and optimizers are compiled once for each variant: scalar, avx2, avx512, and operators also as f64.
 *
 * The build passes -DSS_VARIANT=avx512 and the like with the matching -m flags. `real` is float, or double in the f64 variant, which holds the naive references alone
 * for finite differences. Names that leave a file carry the variant: SS_FN(matmul_run) is matmul_run_avx512.
 * All variants give the same bits: no contraction (-ffp-contract=off), explicit fused multiply-adds, the same order of sums.
 */
#ifndef SS_KERNELS_VARIANT_H
#define SS_KERNELS_VARIANT_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SS_PASTE2(name, variant) name##_##variant
#define SS_PASTE(name, variant) SS_PASTE2(name, variant)
#define SS_FN(name) SS_PASTE(name, SS_VARIANT)

#ifdef SS_F64
typedef double real;
static inline real fma_r(real a, real b, real c) { return fma(a, b, c); }
#else
typedef float real;
static inline real fma_r(real a, real b, real c) { return __builtin_fmaf(a, b, c); }
#endif

/* The nearest bfloat16 (ties to even), as a float; NaN stays NaN. */
static inline float bf16_round(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    bits = (bits & 0x7fffffffu) > 0x7f800000u ? (bits & 0xffff0000u) | 0x00400000u : rounded;
    memcpy(&x, &bits, sizeof x);
    return x;
}
/* What an operator with ss_call.bf16 does to operands of its own; the f64 variant rounds nothing (finite differences). */
#ifdef SS_F64
static inline real bf16_r(real x) { return x; }
#else
static inline real bf16_r(real x) { return bf16_round(x); }
#endif

/* Correctly rounded by IEEE 754 everywhere. */
#ifdef SS_F64
static inline real sqrt_r(real x) { return __builtin_sqrt(x); }
static inline real floor_r(real x) { return __builtin_floor(x); }
static inline real ceil_r(real x) { return __builtin_ceil(x); }
static inline real rint_r(real x) { return __builtin_rint(x); }
#else
static inline real sqrt_r(real x) { return __builtin_sqrtf(x); }
static inline real floor_r(real x) { return __builtin_floorf(x); }
static inline real ceil_r(real x) { return __builtin_ceilf(x); }
static inline real rint_r(real x) { return __builtin_rintf(x); }
#endif

/* NaN propagates: relu(NaN) is NaN, max(1, NaN) is NaN in either order. */
static inline real max_r(real a, real b) { return a > b || a != a ? a : b; }
static inline real min_r(real a, real b) { return a < b || a != a ? a : b; }

#endif
