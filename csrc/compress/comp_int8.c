/* Eight bits an element with a scale for each block, rounded at random so that the mean is right. */
#include <math.h>
#include <string.h>
#include "base/philox.h"
#include "kernels/variant.h"
#include "kernels/vmath.h"

#include "compress/elements.h"

static const ss_compress_spec hypers[] = {{0}};

enum { BLOCK = 256 };

/* A block: its scale, then a byte an element. */
static int64_t bytes(const ss_compress_call *c, int round) {
    (void)round;
    return (c->n + BLOCK - 1) / BLOCK * 4 + c->n;
}

/* One uniform number an element of a block. */
static void draw(const ss_compress_call *c, uint32_t counter, float *restrict u) {
    for (int half = 0; half < BLOCK; half += 4 * SS_RANDOM_BLOCK) {
        uint32_t word[4][SS_RANDOM_BLOCK];
        ss_philox_block(c->seed, counter + (uint32_t)half / 4, c->tensor, c->step, c->stream, word);
        for (int j = 0; j < SS_RANDOM_BLOCK; j++)
            for (int k = 0; k < 4; k++) u[half + 4 * j + k] = ss_uniform(word[k][j]);
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
