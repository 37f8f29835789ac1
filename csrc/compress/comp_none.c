/* No compression: tensors that a policy leaves alone travel beside the others as they are. */
#include <string.h>
#include "kernels/variant.h"

#include "compress/elements.h"

static const ss_compress_spec hypers[] = {{0}};

static int64_t bytes(const ss_compress_call *c, int round) {
    (void)round;
    return c->n * 4;
}

static void pack(const ss_compress_call *c, int round, const float *x, void *payload) {
    (void)round;
    memcpy(payload, x, (size_t)c->n * 4);
}

static void unpack(const ss_compress_call *c, const void *payload, float *out, float sign) {
    const float *restrict from = payload;
    float *restrict to = out;
    if (sign == 0) memcpy(out, payload, (size_t)c->n * 4);
    else
        for (int64_t i = 0; i < c->n; i++) to[i] = fma_r(sign, from[i], to[i]);
}

static bool exact(const ss_compress_call *c) {
    (void)c;
    return true;
}

const ss_compressor SS_FN(ss_compressor_none) = {
    .name = "none", .doc = "Gradients as they are.", .hypers = hypers, .pieces = true, .rounds = 1, .bytes = bytes, .pack = pack, .merge = merge_elements, .subtract = subtract_elements, .exact = exact,
};
