/* bfloat16: the upper half of a float, rounded to nearest. */
#include <string.h>
#include "kernels/variant.h"

#include "compress/elements.h"

static const ss_compress_spec hypers[] = {{0}};

static int64_t bytes(const ss_compress_call *c, int round) {
    (void)round;
    return c->n * 2;
}

static void pack(const ss_compress_call *c, int round, const float *x, void *payload) {
    (void)round;
    uint16_t *restrict to = payload;
    for (int64_t i = 0; i < c->n; i++) {
        const float rounded = bf16_round(x[i]);
        uint32_t bits;
        memcpy(&bits, &rounded, sizeof bits);
        to[i] = (uint16_t)(bits >> 16);
    }
}

static void unpack(const ss_compress_call *c, const void *payload, float *out, float sign) {
    const uint16_t *restrict from = payload;
    float *restrict to = out;
    for (int64_t i = 0; i < c->n; i++) {
        const uint32_t bits = (uint32_t)from[i] << 16;
        float x;
        memcpy(&x, &bits, sizeof x);
        to[i] = sign != 0 ? fma_r(sign, x, to[i]) : x;
    }
}

const ss_compressor SS_FN(ss_compressor_bf16) = {
    .name = "bf16",
    .doc = "Gradients as bfloat16, rounded to nearest (ties to even): half the bytes, the range of float32, a relative error of at most 2^-8.",
    .hypers = hypers, .pieces = true, .rounds = 1, .bytes = bytes, .pack = pack, .merge = merge_elements, .subtract = subtract_elements,
};
