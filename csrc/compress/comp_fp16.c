/* IEEE half precision. */
#include <string.h>
#include "kernels/variant.h"
#include "kernels/vmath.h"

#include "compress/elements.h"

static const ss_compress_spec hypers[] = {{0}};

static int64_t bytes(const ss_compress_call *c, int round) {
    (void)round;
    return c->n * 2;
}

static inline uint32_t choose(int condition, uint32_t yes, uint32_t no) {
    const uint32_t mask = -(uint32_t)condition;
    return (yes & mask) | (no & ~mask);
}

/* Rounded to nearest, ties to even. Finite numbers beyond the range become the largest, +-65504: an infinity would spoil the sum. Infinities and NaN stay. */
static inline uint32_t half_of(float x) {
    const uint32_t w = vm_bits(x), a = w & 0x7fffffffu;
    uint32_t normal = (a + 0xfffu + (a >> 13 & 1u) - 0x38000000u) >> 13; /* exponents 127 and 15 */
    normal = choose(normal > 0x7bffu || a >= 0x47800000u, 0x7bffu, normal);
    const uint32_t small = vm_bits(vm_float(a) + 0.5f) - 0x3f000000u; /* multiples of 2^-24: the last place of 0.5 */
    uint32_t h = choose(a < 0x38800000u, small, normal);
    h = choose(a >= 0x7f800000u, choose(a > 0x7f800000u, 0x7e00u, 0x7c00u), h);
    return h | (w >> 16 & 0x8000u);
}

static inline float float_of(uint32_t h) {
    const uint32_t a = h & 0x7fffu;
    uint32_t bits = (a << 13) + 0x38000000u;
    bits = choose(a >= 0x7c00u, bits + 0x38000000u, bits);
    bits = choose(a < 0x400u, vm_bits((float)(int32_t)a * 0x1p-24f), bits);
    return vm_float(bits | (h & 0x8000u) << 16);
}

static void pack(const ss_compress_call *c, int round, const float *x, void *payload) {
    (void)round;
    uint16_t *restrict to = payload;
    for (int64_t i = 0; i < c->n; i++) to[i] = (uint16_t)half_of(x[i]);
}

static void unpack(const ss_compress_call *c, const void *payload, float *out, float sign) {
    const uint16_t *restrict from = payload;
    float *restrict to = out;
    for (int64_t i = 0; i < c->n; i++) {
        const float x = float_of(from[i]);
        to[i] = sign != 0 ? fma_r(sign, x, to[i]) : x;
    }
}

const ss_compressor SS_FN(ss_compressor_fp16) = {
    .name = "fp16",
    .doc = "Gradients as IEEE half precision, rounded to nearest (ties to even): half the bytes, a relative error of at most 2^-11 between 6.1e-5 and 65504; smaller ones are multiples of 6e-8, "
           "larger ones become +-65504.",
    .hypers = hypers, .pieces = true, .rounds = 1, .bytes = bytes, .pack = pack, .merge = merge_elements, .subtract = subtract_elements,
};
