/* What a compressor of gradients is: one file comp_NAME.c, compiled for each instruction set, ending with `const ss_compressor SS_FN(ss_compressor_NAME) = {...};`.
 *
 * Every rank packs its own gradient of a tensor into a payload whose size follows from the tensor and the settings alone; the payloads travel; `merge` makes of all ranks' payloads, in the
 * order of the ranks, the sum that they stand for. All functions give the same bits on every instruction set. A tensor (or piece of one) is the work of one thread.
 */
#ifndef SS_COMPRESS_COMPRESS_H
#define SS_COMPRESS_COMPRESS_H
#include <stdbool.h>
#include <stdint.h>
#include "base/shape.h"
#include "kernels/kernels.h"

enum { SS_COMPRESS_HYPER = 4 };

/* A tensor, or elements [first, first + n) of one. As a matrix it has `rows` (the first axis) times `columns` (the others together). */
typedef struct ss_compress_call {
    int64_t n, first, rows, columns;
    const double *hyper;
    const ss_kernels *kernels;
    bool feedback;       /* what is left out will be added to the next gradient: nothing need be scaled up */
    uint64_t seed;       /* with step, tensor and stream: the counter of random numbers */
    uint32_t step, tensor;
    uint32_t stream;     /* of the rank that packs; where all ranks draw alike it is not used */
    int ranks;
    float *state;        /* `state` floats of this tensor, equal on all ranks, 0 before the first step */
} ss_compress_call;

typedef struct ss_compress_spec {
    const char *name; /* "ratio", "rank", ... */
    double initial, least, most;
    const char *doc;
} ss_compress_spec;

typedef struct ss_compressor {
    const char *name, *doc;
    const ss_compress_spec *hypers; /* ends with a NULL name */
    /* Whether any range of elements can be packed by itself. Then the owner of a piece receives every rank's payload of it, merges them, packs the sum and sends that to all: 2 (R - 1) / R
     * payloads a rank. Otherwise every rank sends its payload to all: R - 1. */
    bool pieces;
    int rounds; /* of packing, exchange and merging; more than one needs `state` to carry what the first found */
    int64_t (*bytes)(const ss_compress_call *c, int round);
    /* x: the gradient, n elements. */
    void (*pack)(const ss_compress_call *c, int round, const float *x, void *payload);
    /* payload[k] is that of rank k, `ranks` of them. After the last round out holds the sum (n elements). */
    void (*merge)(const ss_compress_call *c, int round, const void *const *payload, float *out);
    /* x -= what this rank's payload stands for, or its share of the sum: what is left is the error. `sum` is what the last merge wrote; NULL with `pieces`, where this comes before it. */
    void (*subtract)(const ss_compress_call *c, const void *payload, const float *sum, float *x);
    bool (*exact)(const ss_compress_call *c); /* nothing of this tensor is lost; NULL: something may be */
    int64_t (*state)(const ss_compress_call *c);   /* NULL: none */
} ss_compressor;

extern const int ss_compressor_count;
const ss_compressor *ss_compressor_at(ss_isa isa, int index);
int ss_compressor_find(const char *name);

#endif
