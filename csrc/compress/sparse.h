/* What compressors that send some of the elements share: a file defines bytes and unpack, and how many are sent, merging and subtracting follow. Included by comp_*.c alone. */
#ifndef SS_COMPRESS_SPARSE_H
#define SS_COMPRESS_SPARSE_H
#include <math.h>
#include <string.h>
#include "compress/compress.h"

enum { RATIO };

static const ss_compress_spec hypers[] = {
    {"ratio", 0.01, 1e-9, 1, "the part of the elements that is sent"},
    {0},
};

/* out += sign * what the payload says. */
static void unpack(const ss_compress_call *c, const void *payload, float *out, float sign);

static int64_t kept(const ss_compress_call *c) {
    const int64_t k = (int64_t)ceil(c->hyper[RATIO] * (double)c->n);
    return k < 1 ? 1 : k > c->n ? c->n : k;
}

static void merge(const ss_compress_call *c, int round, const void *const *payload, float *out) {
    (void)round;
    memset(out, 0, (size_t)c->n * sizeof *out);
    for (int r = 0; r < c->ranks; r++) unpack(c, payload[r], out, 1);
}

static void subtract(const ss_compress_call *c, const void *payload, const float *sum, float *x) {
    (void)sum;
    unpack(c, payload, x, -1);
}

#endif
