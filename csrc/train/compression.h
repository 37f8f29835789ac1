/* The exchange of gradients with loss: every rank packs its own sum, payloads travel, all ranks unpack the same complete gradient. What a payload leaves out is kept and added to the next
 * gradient (error feedback: Seide and others 2014; Karimireddy, Rebjock, Stich, Jaggi: "Error feedback fixes SignSGD", 2019).
 *
 * The bits depend on the number of ranks, and on nothing else besides. Threads share tensors (or pieces of them): the functions marked SPMD are called by all threads with barriers between.
 */
#ifndef SS_TRAIN_COMPRESSION_H
#define SS_TRAIN_COMPRESSION_H
#include "compress/compress.h"
#include "comm/transport.h"
#include "graph/graph.h"

typedef struct ss_compression_options {
    const char *name; /* NULL: none */
    const ss_attr *hyper;
    int hypers;
    bool feedback;
    const char *const *tensor; /* parameters that are compressed; the others travel as they are */
    int tensors;
} ss_compression_options;

typedef struct ss_compression_tensor {
    const char *name;
    const ss_compressor *kind;
    int64_t offset, count, rows, columns; /* in the gradient vector; as a matrix */
    int64_t state_offset, state_count;
    bool exact; /* nothing is lost */
} ss_compression_tensor;

typedef struct ss_compression {
    const ss_compressor *compressor;
    double hyper[SS_COMPRESS_HYPER];
    bool feedback;
    const ss_kernels *kernels;
    ss_transport *transport;
    int rank, ranks, count;
    int64_t elements;               /* of the gradient vector */
    ss_compression_tensor *tensor;  /* [count] in the order of memory */
    float *residual;                /* [elements] what this rank's last payloads left out */
    float *owed;                    /* [elements] what the payloads of this rank's pieces of sums have left out; NULL where sums are not packed */
    float *state;                   /* [states] of compressors, tensor by tensor */
    int64_t states;
    /* Payloads. With pieces: place[tensor * ranks + r] of the piece of rank r inside region r; otherwise place[round * count + tensor] inside a rank's region. */
    int64_t *place;
    int64_t *region, *region_bytes; /* [max(ranks, rounds)] */
    int64_t most_bytes;             /* of one rank's region in any round */
    char *sent, *received, *shared;
    ss_request *request;            /* [2 * ranks] */
    int *peer;
    double *norm;                   /* [2 * units] of the last exchange: squares of what was left out, and of what was packed */
    int units;
    int64_t bytes, plain_bytes;     /* a rank sends in a step; what an exchange without loss sends */
    double error;                   /* of the last step: |left out| / |packed|, this rank */
} ss_compression;

/* The compressor that is named and its settings, those not given as they are by default. SS_ERR_VALUE names what is wrong. */
ss_status ss_compression_choose(const ss_compression_options *o, ss_isa isa, const ss_compressor **kind, double *hyper, ss_error *err);

typedef struct ss_compression_parameter {
    const char *name;
    ss_shape shape;
    int64_t offset;
} ss_compression_parameter;

/* p: the trainable parameters. NULL comes out on one rank: nothing travels there. The transport must outlive it. */
ss_status ss_compression_create(const ss_compression_options *o, const ss_compression_parameter *p, int count, int64_t elements, const ss_kernels *kernels, ss_transport *t, ss_compression **out,
                                ss_error *err);
void ss_compression_free(ss_compression *c);
int64_t ss_compression_memory(const ss_compression *c);

/* Stages: pack (SPMD), send (one thread), for every round of ss_compression_rounds; then join. gradient: [elements] this rank's sum; it is changed. */
int ss_compression_rounds(const ss_compression *c);
/* SPMD. keep: remember what is left out. */
void ss_compression_pack(ss_compression *c, int round, float *gradient, uint64_t seed, int64_t step, bool keep, int thread, int threads);
ss_status ss_compression_send(ss_compression *c, int round, ss_error *err);
/* SPMD. */
void ss_compression_merge(ss_compression *c, int round, float *gradient, uint64_t seed, int64_t step, bool keep, int thread, int threads);
/* Whether another exchange follows a round's merge: of the packed sums. One thread; then ss_compression_unpack, SPMD, completes the gradient. */
bool ss_compression_shares(const ss_compression *c);
ss_status ss_compression_share(ss_compression *c, ss_error *err);
void ss_compression_unpack(ss_compression *c, float *gradient, uint64_t seed, int64_t step, int thread, int threads);
/* Of what is owed to a parameter only this rank's piece remains. */
void ss_compression_keep_own(ss_compression *c, const char *name);
/* One thread, at the end of a step. */
void ss_compression_measure(ss_compression *c);

#endif
