/* One bit an element: its sign. Each block says what its positive and its negative elements are on average. */
#include <string.h>
#include "kernels/rowreduce.h"
#include "kernels/variant.h"

#include "compress/elements.h"

static const ss_compress_spec hypers[] = {{0}};

enum { BLOCK = 128 };

/* A block: two means, then its bits. */
static int64_t bytes(const ss_compress_call *c, int round) {
    (void)round;
    return c->n / BLOCK * (8 + BLOCK / 8) + (c->n % BLOCK ? 8 + (c->n % BLOCK + 7) / 8 : 0);
}

static void pack(const ss_compress_call *c, int round, const float *x, void *payload) {
    (void)round;
    unsigned char *to = payload;
    for (int64_t begin = 0; begin < c->n; begin += BLOCK) {
        const int64_t count = ss_min(BLOCK, c->n - begin), room = (count + 7) / 8;
        float above[BLOCK], below[BLOCK], mean[2];
        unsigned char bits[BLOCK / 8] = {0};
        int32_t positive = 0;
        for (int64_t i = 0; i < count; i++) {
            const int up = x[begin + i] >= 0;
            above[i] = up ? x[begin + i] : 0;
            below[i] = up ? 0 : x[begin + i]; /* NaN goes here */
            positive += up;
        }
        for (int64_t i = 0; i < count; i++) bits[i / 8] |= (unsigned char)((x[begin + i] >= 0) << i % 8);
        mean[0] = positive == count ? 0 : row_sum(count, below) / (float)(count - positive);
        mean[1] = positive ? row_sum(count, above) / (float)positive : 0;
        memcpy(to, mean, sizeof mean);
        memcpy(to + sizeof mean, bits, (size_t)room);
        to += sizeof mean + (size_t)room;
    }
}

static void unpack(const ss_compress_call *c, const void *payload, float *out, float sign) {
    const unsigned char *from = payload;
    for (int64_t begin = 0; begin < c->n; begin += BLOCK) {
        const int64_t count = ss_min(BLOCK, c->n - begin);
        const unsigned char *bits = from + 8;
        float mean[2], *restrict to = out + begin;
        memcpy(mean, from, sizeof mean);
        for (int64_t i = 0; i < count; i++) {
            const float x = bits[i / 8] >> i % 8 & 1 ? mean[1] : mean[0];
            to[i] = sign != 0 ? fma_r(sign, x, to[i]) : x;
        }
        from += 8 + (count + 7) / 8;
    }
}

const ss_compressor SS_FN(ss_compressor_onebit) = {
    .name = "onebit",
    .doc = "Blocks of 128 elements: the mean of those that are not negative, the mean of the others, and a bit an element (Seide, Fu, Droppo, Li, Yu: \"1-bit stochastic gradient descent\", 2014). "
           "A bit and a half an element. Needs error feedback to converge.",
    .hypers = hypers, .pieces = true, .rounds = 1, .bytes = bytes, .pack = pack, .merge = merge_elements, .subtract = subtract_elements,
};
