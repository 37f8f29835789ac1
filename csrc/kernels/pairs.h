/* Products of bfloat16 numbers, two at a time: acc = fma(even, even, fma(odd, odd, acc)), which is what the instruction vdpbf16ps computes in a mode that flushes denormals to
 * zero, as every thread of the pool does. Without the instruction the same is written out, with the same bits.
 *
 * Operands lie in pairs: 32 bits, the even element in the lower half. They are kept in arrays of floats; a missing last element is zero.
 */
#ifndef SS_KERNELS_PAIRS_H
#define SS_KERNELS_PAIRS_H
#include <string.h>
#include "base/cpu.h"
#include "kernels/variant.h"
#include "kernels/vec.h"

/* How a kernel multiplies: constants at the calls. */
enum { PRODUCT_FLOAT, PRODUCT_PAIRS, PRODUCT_PAIRS_EMULATED, PRODUCT_KINDS };

#if defined(__AVX512F__)
static inline int pairs_kind(void) { return ss_cpu_features()->avx512_bf16 ? PRODUCT_PAIRS : PRODUCT_PAIRS_EMULATED; }
SS_INLINE vec pairs_even(vec x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 16)); }
SS_INLINE vec pairs_odd(vec x) { return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xffff0000u))); }
/* In assembler, because the rest of the file must not be compiled for processors that have the instruction. */
SS_INLINE vec pairs_fma(vec a, vec b, vec acc) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(b), "v"(a));
    return acc;
}
#elif defined(__AVX2__) && defined(__FMA__)
static inline int pairs_kind(void) { return PRODUCT_PAIRS_EMULATED; }
SS_INLINE vec pairs_even(vec x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 16)); }
SS_INLINE vec pairs_odd(vec x) { return _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32((int)0xffff0000u))); }
SS_INLINE vec pairs_fma(vec a, vec b, vec acc) {
    (void)a, (void)b;
    return acc;
}
#else
static inline int pairs_kind(void) { return PRODUCT_PAIRS_EMULATED; }
SS_INLINE vec pairs_bits(vec x, int shift, uint32_t mask) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits << shift) & mask;
    memcpy(&x, &bits, sizeof x);
    return x;
}
SS_INLINE vec pairs_even(vec x) { return pairs_bits(x, 16, 0xffff0000u); }
SS_INLINE vec pairs_odd(vec x) { return pairs_bits(x, 0, 0xffff0000u); }
SS_INLINE vec pairs_fma(vec a, vec b, vec acc) {
    (void)a, (void)b;
    return acc;
}
#endif

/* acc + a * b of a kind. */
SS_INLINE vec product(const int kind, vec a, vec b, vec acc) {
    if (kind == PRODUCT_PAIRS) return pairs_fma(a, b, acc);
    if (kind == PRODUCT_FLOAT) return vec_fma(a, b, acc);
    acc = vec_fma(pairs_odd(a), pairs_odd(b), acc);
    return vec_fma(pairs_even(a), pairs_even(b), acc);
}

static inline float pair_of(float even, float odd) {
    float a = bf16_round(even), b = bf16_round(odd);
    uint32_t low, high;
    memcpy(&low, &a, sizeof low);
    memcpy(&high, &b, sizeof high);
    high |= low >> 16;
    memcpy(&a, &high, sizeof a);
    return a;
}

#if defined(__AVX512F__)
/* The rounded number in the upper half; the lower half is unspecified. */
SS_INLINE __m512i pairs_round(vec x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i half = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1)));
    return _mm512_mask_or_epi32(_mm512_add_epi32(bits, half), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x00400000));
}
SS_INLINE vec pairs_join(__m512i even, __m512i odd) {
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(even, 16), _mm512_and_si512(odd, _mm512_set1_epi32((int)0xffff0000u))));
}
#endif

/* Pairs of rows: to[q * to_row + j] = (from[2q * step + j], from[(2q + 1) * step + j]), 2q < k, j < n. */
static __attribute__((unused)) void pairs_of_rows(int64_t k, int64_t n, const float *from, int64_t step, float *to, int64_t to_row) {
    for (int64_t q = 0; 2 * q < k; q++, from += 2 * step, to += to_row) {
        const bool whole = 2 * q + 1 < k;
#if defined(__AVX512F__)
        for (int64_t j = 0; j < n; j += VEC_WIDTH) {
            const vec_mask mask = vec_first(n - j);
            __m512i even = pairs_round(vec_load_mask(from + j, mask)), odd = whole ? pairs_round(vec_load_mask(from + step + j, mask)) : _mm512_setzero_si512();
            vec_store_mask(to + j, pairs_join(even, odd), mask);
        }
#else
        for (int64_t j = 0; j < n; j++) to[j] = pair_of(from[j], whole ? from[step + j] : 0);
#endif
    }
}

/* Pairs along rows: to[i * to_row + q] = (from[i * row + 2q], from[i * row + 2q + 1]), 2q < k. */
static __attribute__((unused)) void pairs_along_rows(int64_t rows, int64_t k, const float *from, int64_t row, float *to, int64_t to_row) {
    for (int64_t i = 0; i < rows; i++, from += row, to += to_row) {
        int64_t p = 0;
#if defined(__AVX512F__)
        const __m512i even_places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odd_places = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        for (; p + 2 * VEC_WIDTH <= k; p += 2 * VEC_WIDTH) {
            __m512i a = pairs_round(vec_load(from + p)), b = pairs_round(vec_load(from + p + VEC_WIDTH));
            vec_store(to + p / 2, pairs_join(_mm512_permutex2var_epi32(a, even_places, b), _mm512_permutex2var_epi32(a, odd_places, b)));
        }
#endif
        for (; p < k; p += 2) to[p / 2] = pair_of(from[p], p + 1 < k ? from[p + 1] : 0);
    }
}

#endif
