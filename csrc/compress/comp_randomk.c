/* Elements chosen at random, the same ones on all ranks, so that no places travel. */
#include "base/philox.h"
#include "kernels/variant.h"
#include "compress/sparse.h"

static int64_t bytes(const ss_compress_call *c, int round) {
    (void)round;
    return kept(c) * 4;
}

/* The tensor is cut into k parts; of part j one element is drawn. */
static int64_t chosen(const ss_compress_call *c, int64_t k, int64_t j, int64_t *width) {
    const int64_t begin = j * c->n / k, end = (j + 1) * c->n / k;
    const uint32_t word = ss_philox(c->seed, (uint32_t)j, c->tensor, c->step, 0x80000010u).word[0];
    *width = end - begin;
    return begin + (int64_t)(((uint64_t)word * (uint64_t)(end - begin)) >> 32);
}

static void pack(const ss_compress_call *c, int round, const float *x, void *payload) {
    (void)round;
    const int64_t k = kept(c);
    float *to = payload;
    for (int64_t j = 0; j < k; j++) {
        int64_t width;
        const float value = x[chosen(c, k, j, &width)];
        to[j] = c->feedback ? value : value * (float)width; /* the mean is right either way */
    }
}

static void unpack(const ss_compress_call *c, const void *payload, float *out, float sign) {
    const int64_t k = kept(c);
    const float *from = payload;
    int64_t width;
    for (int64_t j = 0; j < k; j++) out[chosen(c, k, j, &width)] += sign * from[j];
}

const ss_compressor SS_FN(ss_compressor_randomk) = {
    .name = "randomk",
    .doc = "A `ratio` of the elements, one drawn from each of equal parts of the tensor, anew each step and alike on all ranks, so that only values travel (Stich, Cordonnier, Jaggi: \"Sparsified SGD with "
           "memory\", 2018). Without error feedback each is multiplied by the length of its part, so that the mean is the gradient.",
    .hypers = hypers, .rounds = 1, .bytes = bytes, .pack = pack, .merge = merge, .subtract = subtract,
};
