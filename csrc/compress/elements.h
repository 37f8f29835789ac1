/* What compressors of single elements or blocks of them share: a file defines unpack, and merging and subtracting follow. Included by comp_*.c alone. */
#ifndef SS_COMPRESS_ELEMENTS_H
#define SS_COMPRESS_ELEMENTS_H
#include "compress/compress.h"

/* out[i] = what the payload says (sign 0), or out[i] + sign * that (1 or -1). */
static void unpack(const ss_compress_call *c, const void *payload, float *out, float sign);

static void merge_elements(const ss_compress_call *c, int round, const void *const *payload, float *out) {
    (void)round;
    for (int r = 0; r < c->ranks; r++) unpack(c, payload[r], out, r > 0 ? 1 : 0);
}

static void subtract_elements(const ss_compress_call *c, const void *payload, const float *sum, float *x) {
    (void)sum;
    unpack(c, payload, x, -1);
}

#endif
