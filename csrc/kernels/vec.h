/* Vectors of floats, one spelling for each variant: 16 lanes with AVX-512, 8 with AVX2, 1 otherwise.
 *
 * Only operations whose every lane equals the scalar operation stand here, so code written with them gives the same bits in each
 * variant as long as an output element stays in one lane. vec_fma is a fused multiply-add on every path: without the instruction it
 * calls fmaf, which is exact and slow.
 */
#ifndef SS_KERNELS_VEC_H
#define SS_KERNELS_VEC_H
#include <stdint.h>

#define SS_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include <immintrin.h>
enum { VEC_WIDTH = 16 };
typedef __m512 vec;
typedef __mmask16 vec_mask;

SS_INLINE vec vec_zero(void) { return _mm512_setzero_ps(); }
SS_INLINE vec vec_set(float x) { return _mm512_set1_ps(x); }
SS_INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
SS_INLINE void vec_store(float *p, vec x) { _mm512_storeu_ps(p, x); }
/* The first n lanes; all of them when n is larger, none when it is not positive. */
SS_INLINE vec_mask vec_first(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (vec_mask)((1u << n) - 1); }
/* Lanes outside the mask read as zero, and are neither read from nor written to memory. */
SS_INLINE vec vec_load_mask(const float *p, vec_mask m) { return _mm512_maskz_loadu_ps(m, p); }
SS_INLINE void vec_store_mask(float *p, vec x, vec_mask m) { _mm512_mask_storeu_ps(p, m, x); }
SS_INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
SS_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
/* x where s is above zero or NaN, else 0: the gradient of relu. */
SS_INLINE vec vec_where_positive(vec s, vec x) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(s, _mm512_setzero_ps(), _CMP_NLE_UQ), x); }

/* to[j * to_row + i] = from[i * from_row + j] for a block of VEC_WIDTH x VEC_WIDTH, of which only the first `rows` rows (at least 1) are there: the
 * rest of `to` is unspecified. */
SS_INLINE void vec_transpose(const float *from, int64_t from_row, int rows, float *to, int64_t to_row) {
    __m512 r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(from + (i < rows ? i : 0) * from_row);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* 4x4 blocks inside each 128-bit part */
        __m512 a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        __m512 c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) { /* then the 128-bit parts among themselves */
        __m512 a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88), b = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88);
        __m512 c = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xdd), d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xdd);
        _mm512_storeu_ps(to + j * to_row, _mm512_shuffle_f32x4(a, b, 0x88));
        _mm512_storeu_ps(to + (4 + j) * to_row, _mm512_shuffle_f32x4(c, d, 0x88));
        _mm512_storeu_ps(to + (8 + j) * to_row, _mm512_shuffle_f32x4(a, b, 0xdd));
        _mm512_storeu_ps(to + (12 + j) * to_row, _mm512_shuffle_f32x4(c, d, 0xdd));
    }
}

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
enum { VEC_WIDTH = 8 };
typedef __m256 vec;
typedef __m256i vec_mask;

SS_INLINE vec vec_zero(void) { return _mm256_setzero_ps(); }
SS_INLINE vec vec_set(float x) { return _mm256_set1_ps(x); }
SS_INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
SS_INLINE void vec_store(float *p, vec x) { _mm256_storeu_ps(p, x); }
SS_INLINE vec_mask vec_first(int64_t n) {
    int count = n >= 8 ? 8 : n <= 0 ? 0 : (int)n;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SS_INLINE vec vec_load_mask(const float *p, vec_mask m) { return _mm256_maskload_ps(p, m); }
SS_INLINE void vec_store_mask(float *p, vec x, vec_mask m) { _mm256_maskstore_ps(p, m, x); }
SS_INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
SS_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
SS_INLINE vec vec_where_positive(vec s, vec x) { return _mm256_and_ps(_mm256_cmp_ps(s, _mm256_setzero_ps(), _CMP_NLE_UQ), x); }

SS_INLINE void vec_transpose(const float *from, int64_t from_row, int rows, float *to, int64_t to_row) {
    __m256 r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + (i < rows ? i : 0) * from_row);
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        __m256 a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        __m256 c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        _mm256_storeu_ps(to + j * to_row, _mm256_permute2f128_ps(t[j], t[4 + j], 0x20));
        _mm256_storeu_ps(to + (4 + j) * to_row, _mm256_permute2f128_ps(t[j], t[4 + j], 0x31));
    }
}

#else
enum { VEC_WIDTH = 1 };
typedef float vec;
typedef int vec_mask;

SS_INLINE vec vec_zero(void) { return 0.0f; }
SS_INLINE vec vec_set(float x) { return x; }
SS_INLINE vec vec_load(const float *p) { return *p; }
SS_INLINE void vec_store(float *p, vec x) { *p = x; }
SS_INLINE vec_mask vec_first(int64_t n) { return n > 0; }
SS_INLINE vec vec_load_mask(const float *p, vec_mask m) { return m ? *p : 0.0f; }
SS_INLINE void vec_store_mask(float *p, vec x, vec_mask m) {
    if (m) *p = x;
}
SS_INLINE vec vec_add(vec a, vec b) { return a + b; }
SS_INLINE vec vec_fma(vec a, vec b, vec c) { return __builtin_fmaf(a, b, c); }
SS_INLINE vec vec_where_positive(vec s, vec x) { return s <= 0 ? 0 : x; }
SS_INLINE void vec_transpose(const float *from, int64_t from_row, int rows, float *to, int64_t to_row) {
    (void)from_row, (void)rows, (void)to_row;
    *to = *from;
}
#endif

#endif
