/* The elements of largest magnitude, with their places. */
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "compress/sparse.h"

/* Places (32 bits), then values. */
static int64_t bytes(const ss_compress_call *c, int round) {
    (void)round;
    return kept(c) * 8;
}

static inline uint32_t magnitude(float x) { return vm_bits(x) & 0x7fffffffu; } /* ordered as the magnitudes are, NaN above all */

/* The magnitude that is number k from above, and how many elements are above it: by digits of 11, 10 and 10 bits. */
static uint32_t threshold(int64_t n, const float *x, int64_t k, int64_t *above) {
    static const int width[] = {11, 10, 10};
    uint32_t prefix = 0;
    int low = 31;
    *above = 0;
    for (int digit = 0; digit < 3; digit++) {
        int64_t count[1 << 11] = {0};
        const int high = low;
        low -= width[digit];
        for (int64_t i = 0; i < n; i++) {
            const uint32_t m = magnitude(x[i]);
            if (m >> high == prefix) count[m >> low & ((1u << width[digit]) - 1)]++;
        }
        int at = (1 << width[digit]) - 1;
        while (*above + count[at] < k) *above += count[at--];
        prefix = prefix << width[digit] | (uint32_t)at;
    }
    return prefix;
}

static void pack(const ss_compress_call *c, int round, const float *x, void *payload) {
    (void)round;
    const int64_t k = kept(c);
    uint32_t *place = payload;
    float *value = (float *)payload + k;
    int64_t above, at = 0;
    const uint32_t limit = threshold(c->n, x, k, &above);
    int64_t equal = k - above; /* of those at the limit the first ones go */
    for (int64_t i = 0; i < c->n && at < k; i++) {
        const uint32_t m = magnitude(x[i]);
        if (m < limit || (m == limit && equal-- <= 0)) continue;
        place[at] = (uint32_t)i;
        value[at++] = x[i];
    }
}

static void unpack(const ss_compress_call *c, const void *payload, float *out, float sign) {
    const int64_t k = kept(c);
    const uint32_t *place = payload;
    const float *value = (const float *)payload + k;
    for (int64_t i = 0; i < k; i++)
        if (place[i] < c->n) out[place[i]] += sign * value[i]; /* a place outside can only come from a damaged message */
}

const ss_compressor SS_FN(ss_compressor_topk) = {
    .name = "topk",
    .doc = "The `ratio` of elements with the largest magnitude, with their places; of equal ones the first (Aji, Heafield: \"Sparse communication for distributed gradient descent\", 2017). "
           "8 bytes an element that is sent. Needs error feedback to converge.",
    .hypers = hypers, .rounds = 1, .bytes = bytes, .pack = pack, .merge = merge, .subtract = subtract,
};
