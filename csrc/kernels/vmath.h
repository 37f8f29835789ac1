/* exp, log, expm1, log1p, sin, cos, tanh, erf and the logistic function, made from the same elementary operations in every variant, so scalar, AVX2 and AVX-512 code give the same bits.
 *
 * Branch-free inline functions for plain loops: at -O3 GCC turns `for (i) y[i] = exp_r(x[i])` into vector code (tests/test_kernels_vmath.c proves bits and bounds). In the f64
 * variant they are libm's. Polynomials are minimax fits (Lawson iteration) of this project; the argument reductions are those of Cody and Waite, "Software Manual for the Elementary
 * Functions" (1980). Division is real division: reciprocal estimates differ between CPUs.
 *
 * Common to all: NaN gives NaN; results smaller than FLT_MIN are 0 (with their sign) and arguments smaller than FLT_MIN count as 0, whatever the flush-to-zero mode.
 * The errors stated are the largest over all floats with 2^-30 <= |x| < 2^8 and every 997th of the others, measured against double libm (test_kernels_vmath --core).
 */
#ifndef SS_KERNELS_VMATH_H
#define SS_KERNELS_VMATH_H
#include <float.h>
#include <stdint.h>
#include <string.h>
#include "kernels/variant.h"

#ifdef SS_F64

static inline real if_r(int condition, real yes, real no) { return condition ? yes : no; }
static inline real exp_r(real x) { return exp(x); }
static inline real log_r(real x) { return log(x); }
static inline real tanh_r(real x) { return tanh(x); }
static inline real erf_r(real x) { return erf(x); }
static inline real sigmoid_r(real x) { return 1 / (1 + exp(-x)); }
static inline real expm1_r(real x) { return expm1(x); }
static inline real log1p_r(real x) { return log1p(x); }
static inline real fabs_r(real x) { return fabs(x); }
static inline real sin_r(real x) { return sin(x); }
static inline real cos_r(real x) { return cos(x); }

#else

static inline uint32_t vm_bits(float x) {
    uint32_t w;
    memcpy(&w, &x, sizeof w);
    return w;
}
static inline float vm_float(uint32_t w) {
    float x;
    memcpy(&x, &w, sizeof x);
    return x;
}

/* condition ? yes : no, on bits. Written as ?: GCC makes branches of it where only AVX2 is at hand, and does not vectorise the loop. */
static inline float if_r(int condition, float yes, float no) {
    uint32_t mask = -(uint32_t)condition;
    return vm_float((vm_bits(yes) & mask) | (vm_bits(no) & ~mask));
}

/* 2^n * (1 + r + r^2 q(r)) with n = the whole number next to x / log 2, for -87.4 <= x <= 88.8; other x give something. */
static inline float vm_exp_core(float x) {
    const float round = 0x1.8p23f; /* adding it puts the nearest whole number into the low bits */
    float t = fma_r(x, 0x1.715476p0f, round), n = t - round;
    float r = fma_r(n, -0x1.62e4p-1f, x); /* log 2 = the two constants; n times the first is exact */
    r = fma_r(n, -0x1.7f7d1cp-20f, r);
    float q = fma_r(0x1.9f0816p-13f, r, 0x1.6d8db2p-10f);
    q = fma_r(q, r, 0x1.111272p-7f);
    q = fma_r(q, r, 0x1.55548ep-5f);
    q = fma_r(q, r, 0x1.555554p-3f);
    q = fma_r(q, r, 0.5f);
    float p = fma_r(r * r, q, r) + 1.0f;
    /* 2^128 does not exist in float: two halves. */
    int32_t whole = (int32_t)(vm_bits(t) - 0x4b400000u), half = whole >> 1;
    return p * vm_float((uint32_t)(half + 127) << 23) * vm_float((uint32_t)(whole - half + 127) << 23);
}

/* e^x. Error at most 0.988 ulp. Infinite above 88.7228, 0 below -87.3365. */
static inline float exp_r(float x) {
    float y = vm_exp_core(x);
    y = if_r(x > 0x1.62e42ep6f, INFINITY, y);
    return if_r(x < -0x1.5d589ep6f, 0.0f, y);
}

/* Natural logarithm: -inf at +-0, NaN below. Error at most 0.876 ulp. */
static inline float log_r(float x) {
    /* x = 2^e (1 + f) with f in [sqrt(1/2) - 1, sqrt(2) - 1) */
    uint32_t w = vm_bits(x);
    int32_t e = (int32_t)(w - 0x3f3504f3u) >> 23;
    float f = vm_float(w - ((uint32_t)e << 23)) - 1.0f, n = (float)e;
    float q = fma_r(-0x1.383d96p-4f, f, 0x1.084ep-3f);
    q = fma_r(q, f, -0x1.0f375cp-3f);
    q = fma_r(q, f, 0x1.22709cp-3f);
    q = fma_r(q, f, -0x1.54274ap-3f);
    q = fma_r(q, f, 0x1.99a402p-3f);
    q = fma_r(q, f, -0x1.000428p-2f);
    q = fma_r(q, f, 0x1.55555p-2f);
    q = fma_r(q, f, -0x1.fffff8p-2f);
    /* e log 2 + f as an exact sum of two floats: where they cancel the rounding would show */
    float large = n * 0x1.62e4p-1f, sum = large + f, rest = f - (sum - large);
    rest = fma_r(n, 0x1.7f7d1cp-20f, rest);
    float y = fma_r(f * f, q, rest) + sum;
    y = if_r(w == 0x7f800000u, INFINITY, y);
    y = if_r(w > 0x7f800000u, NAN, y); /* NaN, and everything negative */
    return if_r((w & 0x7fffffffu) < 0x00800000u, -INFINITY, y);
}

/* Hyperbolic tangent. Error at most 1.449 ulp. */
static inline float tanh_r(float x) {
    float a = fabsf(x), z = a * a;
    float q = fma_r(-0x1.959406p-8f, z, 0x1.584c4p-6f);
    q = fma_r(q, z, -0x1.b90d14p-5f);
    q = fma_r(q, z, 0x1.110c8cp-3f);
    q = fma_r(q, z, -0x1.555548p-2f);
    float small = fma_r(a * z, q, a);
    float b = if_r(a > 10.0f, 10.0f, a); /* 1 from 9.02 on */
    float large = 1.0f - 2.0f / (vm_exp_core(b + b) + 1.0f);
    float y = if_r(a < 0.5625f, small, large);
    y = if_r(a < FLT_MIN, 0.0f, y);
    return vm_float(vm_bits(y) | (vm_bits(x) & 0x80000000u));
}

/* The error function. Error at most 1.167 ulp. */
static inline float erf_r(float x) {
    float a = fabsf(x), z = a * a;
    float q = fma_r(0x1.5bfc2cp-14f, z, -0x1.aa06bap-11f);
    q = fma_r(q, z, 0x1.54c2dp-8f);
    q = fma_r(q, z, -0x1.b80e3p-6f);
    q = fma_r(q, z, 0x1.ce2e06p-4f);
    q = fma_r(q, z, -0x1.812742p-2f);
    q = fma_r(q, z, 0x1.06eba8p-3f);
    float small = fma_r(a, q, a);
    /* 1 - exp(log erfc(a)); erfc below 2^-25 no longer counts */
    float b = if_r(a > 3.95f, 3.95f, a);
    float p = fma_r(0x1.94a5cap-13f, b, -0x1.8b0b72p-9f);
    p = fma_r(p, b, 0x1.6a41bp-6f);
    p = fma_r(p, b, -0x1.a8b6fep-4f);
    p = fma_r(p, b, -0x1.4660c4p-1f);
    p = fma_r(p, b, -0x1.20a4acp0f);
    p = fma_r(p, b, -0x1.ecf8fep-13f);
    float large = 1.0f - vm_exp_core(p);
    float y = if_r(a < 0.9375f, small, large);
    y = if_r(a < FLT_MIN, 0.0f, y);
    return vm_float(vm_bits(y) | (vm_bits(x) & 0x80000000u));
}

/* 1 / (1 + e^-x). Error at most 2.481 ulp. */
static inline float sigmoid_r(float x) {
    float y = 1.0f / (1.0f + exp_r(-x));
    return if_r(y < FLT_MIN, 0.0f, y);
}

static inline float fabs_r(float x) { return fabsf(x); }

/* e^x - 1. Taylor's series up to x^10 near 0, elsewhere e^x less 1. */
static inline float expm1_r(float x) {
    float q = fma_r(0x1.27e4fcp-22f, x, 0x1.71de3ap-19f);
    q = fma_r(q, x, 0x1.a01a02p-16f);
    q = fma_r(q, x, 0x1.a01a02p-13f);
    q = fma_r(q, x, 0x1.6c16c2p-10f);
    q = fma_r(q, x, 0x1.111112p-7f);
    q = fma_r(q, x, 0x1.555556p-5f);
    q = fma_r(q, x, 0x1.555556p-3f);
    q = fma_r(q, x, 0.5f);
    float a = fabsf(x), y = if_r(a < 0.6875f, fma_r(x * x, q, x), exp_r(x) - 1.0f);
    return if_r(a < 0x1p-30f, vm_float(vm_bits(if_r(a < FLT_MIN, 0.0f, a)) | (vm_bits(x) & 0x80000000u)), y);
}

/* log(1 + x): -inf at -1, NaN below. What rounding 1 + x loses is added as its share of the slope. */
static inline float log1p_r(float x) {
    float s = 1.0f + x, lost = if_r(x > 1.0f, 1.0f - (s - x), x - (s - 1.0f));
    float y = log_r(s) + lost / s;
    y = if_r(s < INFINITY, y, s);
    y = if_r(x > -1.0f, y, log_r(s));
    float a = fabsf(x);
    return if_r(a < 0x1p-30f, vm_float(vm_bits(if_r(a < FLT_MIN, 0.0f, a)) | (vm_bits(x) & 0x80000000u)), y);
}

/* sin (turn 0) and cos (turn 1): the argument is reduced and the series summed in double, so the rounding to float is nearly all of the error. Beyond |x| = 2^30 accuracy fades. */
static inline float vm_wave(float x, double turn) {
    double t = (double)x, k = __builtin_rint(t * 0x1.45f306dc9c883p-1);
    double r = __builtin_fma(-k, 0x1.921fb54442d18p0, t);
    r = __builtin_fma(-k, 0x1.1a62633145c07p-54, r);
    double z = r * r, quarter = k + turn;
    quarter -= 4 * __builtin_floor(quarter * 0.25);
    double s = __builtin_fma(0x1.6124613a86d09p-33, z, -0x1.ae64567f544e4p-26);
    s = __builtin_fma(s, z, 0x1.71de3a556c734p-19);
    s = __builtin_fma(s, z, -0x1.a01a01a01a01ap-13);
    s = __builtin_fma(s, z, 0x1.1111111111111p-7);
    s = __builtin_fma(s, z, -0x1.5555555555555p-3);
    s = __builtin_fma(r * z, s, r);
    double c = __builtin_fma(0x1.1eed8eff8d898p-29, z, -0x1.27e4fb7789f5cp-22);
    c = __builtin_fma(c, z, 0x1.a01a01a01a01ap-16);
    c = __builtin_fma(c, z, -0x1.6c16c16c16c17p-10);
    c = __builtin_fma(c, z, 0x1.5555555555555p-5);
    c = __builtin_fma(c, z, -0.5);
    c = __builtin_fma(c, z, 1.0);
    int odd = (quarter == 1) | (quarter == 3), minus = quarter >= 2;
    float y = if_r(odd, (float)c, (float)s);
    y = if_r(minus, -y, y);
    y = if_r(fabsf(x) < FLT_MIN, turn == 0 ? vm_float(vm_bits(x) & 0x80000000u) : 1.0f, y);
    return y;
}
/* Errors at most 0.51 ulp for |x| up to 2^20. */
static inline float sin_r(float x) { return vm_wave(x, 0); }
static inline float cos_r(float x) { return vm_wave(x, 1); }

#endif
#endif
