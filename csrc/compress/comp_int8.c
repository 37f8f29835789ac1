/* Eight bits an element with a scale for each block, rounded at random so that the mean is right. */
#include <math.h>
#include <string.h>
#include "base/philox.h"
#include "kernels/variant.h"
#include "kernels/vmath.h"

#include "compress/elements.h"

static const ss_compress_spec hypers[] = {{0}};

enum { BLOCK = 256, COUNTERS = BLOCK / 4 };

/* A block: its scale, then a byte an element. */
static int64_t bytes(const ss_compress_call *c, int round) {
    (void)round;
    return (c->n + BLOCK - 1) / BLOCK * 4 + c->n;
}

/* ss_philox(seed, counter + j, tensor, step, stream) for all j side by side, element 4 j + k from word k. */
static void draw(const ss_compress_call *c, uint32_t counter, float *restrict u) {
    uint32_t k0 = (uint32_t)c->seed, k1 = (uint32_t)(c->seed >> 32);
    uint32_t a[COUNTERS], b[COUNTERS], d[COUNTERS], e[COUNTERS];
    for (uint32_t j = 0; j < COUNTERS; j++) a[j] = counter + j, b[j] = c->tensor, d[j] = c->step, e[j] = c->stream;
    for (int round = 0; round < 10; round++) {
        for (int j = 0; j < COUNTERS; j++) {
            const uint64_t p = (uint64_t)0xD2511F53u * a[j], q = (uint64_t)0xCD9E8D57u * d[j];
            const uint32_t first = (uint32_t)(q >> 32) ^ b[j] ^ k0, third = (uint32_t)(p >> 32) ^ e[j] ^ k1;
            b[j] = (uint32_t)q;
            e[j] = (uint32_t)p;
            a[j] = first;
            d[j] = third;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int j = 0; j < COUNTERS; j++) {
        u[4 * j] = ss_uniform(a[j]);
        u[4 * j + 1] = ss_uniform(b[j]);
        u[4 * j + 2] = ss_uniform(d[j]);
        u[4 * j + 3] = ss_uniform(e[j]);
    }
}

static void pack(const ss_compress_call *c, int round, const float *x, void *payload) {
    (void)round;
    char *to = payload;
    for (int64_t begin = 0; begin < c->n; begin += BLOCK) {
        const int64_t count = ss_min(BLOCK, c->n - begin);
        float block[BLOCK] = {0}, u[BLOCK], most = 0;
        int8_t code[BLOCK];
        memcpy(block, x + begin, (size_t)count * sizeof *block);
        for (int i = 0; i < BLOCK; i++) most = max_r(most, fabsf(block[i])); /* NaN stays: the block becomes NaN, as it was */
        const float scale = most / 127, inverse = most > 0 && most <= 3.0e38f ? 127 / most : 0;
        draw(c, (uint32_t)((c->first + begin) / 4), u);
        for (int i = 0; i < BLOCK; i++) {
            float q = floor_r(fma_r(block[i], inverse, u[i]));
            q = q > 127 ? 127 : q;
            q = q < -127 ? -127 : q;
            code[i] = (int8_t)(q == q ? q : 0);
        }
        memcpy(to, &scale, sizeof scale);
        memcpy(to + sizeof scale, code, (size_t)count);
        to += sizeof scale + (size_t)count;
    }
}

static void unpack(const ss_compress_call *c, const void *payload, float *out, float sign) {
    const char *from = payload;
    for (int64_t begin = 0; begin < c->n; begin += BLOCK) {
        const int64_t count = ss_min(BLOCK, c->n - begin);
        int8_t code[BLOCK] = {0};
        float scale, *restrict to = out + begin;
        memcpy(&scale, from, sizeof scale);
        memcpy(code, from + sizeof scale, (size_t)count);
        for (int64_t i = 0; i < count; i++) {
            const float x = scale * (float)code[i];
            to[i] = sign != 0 ? fma_r(sign, x, to[i]) : x;
        }
        from += sizeof scale + (size_t)count;
    }
}

const ss_compressor SS_FN(ss_compressor_int8) = {
    .name = "int8",
    .doc = "Blocks of 256 elements: a scale, largest magnitude / 127, and a signed byte an element, rounded up or down at random so that the mean is the element (Alistarh, Grubic, Li, Tomioka, "
           "Vojnovic: \"QSGD\", 2017). A quarter of the bytes. Draws depend on the seed, step, parameter, element and rank.",
    .hypers = hypers, .pieces = true, .rounds = 1, .bytes = bytes, .pack = pack, .merge = merge_elements, .subtract = subtract_elements,
};
