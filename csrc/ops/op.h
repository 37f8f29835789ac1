/* What an operator is: one file op_NAME.c that holds its doc, attributes, shape inference, forward, backward, naive reference, cost, workspace and test cases,
 * and ends with `const ss_op SS_FN(ss_op_NAME) = {...};`. The build finds op_*.c and makes the table.
 *
 * The file is compiled for each instruction set and once more with SS_F64 for finite differences. Everything runs SPMD: each thread of a rank calls the same function
 * with its c->thread and takes its share; the executor puts barriers between phases.
 */
#ifndef SS_OPS_OP_H
#define SS_OPS_OP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/lanes.h"
#include "base/philox.h"
#include "base/shape.h"
#include "kernels/kernels.h"

enum { SS_MAX_IN = 8, SS_MAX_OUT = 4, SS_MAX_ATTR = 16 };

typedef enum ss_attr_kind { SS_ATTR_INT, SS_ATTR_FLOAT, SS_ATTR_BOOL } ss_attr_kind;

/* An attribute with its default and its range (both ends allowed). Integers are exact up to 2^53. */
typedef struct ss_attr_spec {
    const char *name;
    ss_attr_kind kind;
    double initial, least, most;
    const char *doc;
} ss_attr_spec;

/* What an input of a node is. */
typedef enum ss_role {
    SS_ROLE_BATCHED,   /* activations or data: one row per sample */
    SS_ROLE_PARAMETER, /* gradients are sums over samples */
    SS_ROLE_BUFFER     /* state the operator itself updates (running statistics) */
} ss_role;

/* Question and answer of shape inference. Shapes of batched values leave the batch axis out. */
typedef struct ss_infer {
    const double *attr;
    int n_in;
    ss_shape in[SS_MAX_IN]; /* an absent optional input has rank -1 (in ss_call its in[] is NULL); absent inputs at the end may also be left out of n_in */
    ss_role role[SS_MAX_IN];
    ss_dtype dtype[SS_MAX_IN];
    /* answers */
    int n_out;
    ss_shape out[SS_MAX_OUT];
    ss_dtype out_dtype[SS_MAX_OUT]; /* preset to SS_F32 */
    bool any_layout;  /* preset to false. True: works on plain and on channels-last values alike; all batched inputs and outputs then share one layout (c->layout) */
    ss_layout layout; /* preset to SS_PLAIN: the layout of batched inputs and outputs with at least 2 axes, unless any_layout */
} ss_infer;

/* Everything one call of an operator sees. Pointers are float (or int32_t for SS_I32), double in the f64 variant. */
typedef struct ss_call {
    const double *attr;
    int n_in, n_out;
    ss_shape in_shape[SS_MAX_IN], out_shape[SS_MAX_OUT]; /* of one sample */
    ss_role role[SS_MAX_IN];
    ss_layout layout;
    void *in[SS_MAX_IN];              /* batched: [rows][sample]; parameter, buffer: whole. NULL where an optional input is absent. Buffers may be written when training. */
    void *out[SS_MAX_OUT];            /* [rows][sample] */
    const void *grad_out[SS_MAX_OUT]; /* backward only; NULL for an output whose gradient nobody asks for (never for all of them) */
    void *grad_in[SS_MAX_IN];         /* backward only; NULL when not wanted. Batched: [rows][sample], to be overwritten. Parameter: fold->blocks blocks, block_stride apart, to be overwritten */
    int64_t block_stride[SS_MAX_IN];

    int64_t rows;        /* samples of this sweep on this rank */
    int64_t sample0;     /* position of the first of them in the global batch */
    int64_t batch;       /* size of the global batch */
    const ss_fold *fold; /* the sweep's lanes */

    void *saved;   /* saved_bytes per sample, kept from forward to backward: [rows][saved_bytes] */
    void *scratch; /* scratch_bytes, shared by the threads and by the phases of one call; contents undefined on entry */

    void *lane_stat;             /* `stat` and `prepare` write: [fold->lanes][stat_len] (prepare: [fold->lanes][1]) */
    void *stat;                  /* forward/backward read: [groups][stat_len], the joined statistic.
                                  * While stat(c, true) runs it still holds the forward statistic; backward() sees the joined backward one. Groups without samples have no entry */
    const int32_t *stat_group;   /* [fold->lanes] which group lane i belongs to */
    int stat_groups;
    double denominator;          /* losses: the joined result of `prepare`. In float it was summed in float. */
    double loss_weight;          /* losses: factor of this loss in the sum that is differentiated; 0 stands for 1 (ss_loss_weight) */

    int thread, threads, phase;
    bool training;
    bool bf16;                   /* precision bf16: operands of products are rounded to bfloat16. Inputs and grad_out of SS_OP_PRODUCT operators arrive rounded;
                                  * operands that the operator makes itself (hidden states, attention weights) it rounds itself (bf16_r of kernels/variant.h) */
    uint64_t seed;
    uint32_t step, op_number; /* second half of the counter of random numbers: (element/4, sample0 + row, step, op_number) */
    ss_backend backend;
    struct ss_host *host;        /* NULL without functions of the host language */
    const ss_kernels *kernels; /* NULL in the f64 variant and in naive references */
} ss_call;

/* Functions of the host language inside a plan: `run` calls function number `id` forward or backward for the rows [begin, end) of the call, one lane at a time and on thread 0 alone.
 * grad: in backward, where the lane's gradient of input k goes when it is a parameter. A failure is remembered by the host (the step ends with it on every rank); its outputs are then 0. */
typedef struct ss_host {
    void (*run)(struct ss_host *host, const ss_call *c, int id, int64_t begin, int64_t end, bool backward, float *const *grad);
} ss_host;

typedef struct ss_cost {
    double flops, bytes; /* of one sample: forward, or forward and backward together when backward is set (ss_wanted says which gradients) */
} ss_cost;

/* A case of the generic operator test. inputs: words "ROLE:shape" in order, for example "B:3,8,8 P:4,3,3,3 P:4":
 *   B batched float, B+ the same with positive values, I<n> batched int32 in [0, n), P parameter, P+ positive, S buffer set to 0, S1 buffer set to 1, W batched positive weights without gradient, - absent.
 * A scalar sample shape is written as nothing after the colon ("I10:"). */
typedef struct ss_op_case {
    const char *attrs; /* "stride_h=2 stride_w=2" */
    const char *inputs;
    double tolerance;  /* of fast against naive, relative to the largest element; 0: equal bits, which is the rule */
    ss_status expect;  /* SS_OK, or what infer must answer */
    bool no_gradient_check; /* not differentiable at random points (documented in the op) */
    bool inference;    /* run with training = false */
} ss_op_case;

typedef enum ss_op_flag {
    SS_OP_LOSS = 1,    /* `stat` (len 1) gives lane sums of the loss; its backward starts the gradient (no grad_out), times ss_loss_weight(c), divided by c->denominator */
    SS_OP_METRIC = 2,  /* like a loss, without gradient: value = joined stat / denominator. stat may have any length (counts of a confusion matrix): a vector of sums */
    SS_OP_ALIAS = 4,   /* output 0 is input 0's memory under another shape, gradients likewise; no functions needed */
    SS_OP_PASS = 8,    /* backward: the gradient of every batched input of the output's shape is grad_out[0] itself (add) */
    SS_OP_NEEDS_IN = 16,  /* backward reads in[] (batched inputs are kept for it) */
    SS_OP_NEEDS_OUT = 32, /* backward reads out[] */
    SS_OP_TRAINING_ONLY = 64, /* identity when not training: the plan leaves it out (dropout) */
    SS_OP_FREE_TARGET = 128,  /* a loss or metric whose `prepare` reads neither input 0 nor input 1: both may be computed by other layers */
    SS_OP_ANY_DTYPE = 1024,   /* moves elements: takes int32 as well as float and passes the dtype on */
    SS_OP_HOST = 512,         /* calls functions of the host language (c->host) */
    SS_OP_REMADE = 2048,      /* its output may be computed again for the backward pass of a user: cheap, from inputs that its own backward reads anyway, and without statistics or state */
    SS_OP_IN_PLACE = 4096,      /* out[0] may lie over any batched input of its shape: an element is read before the same element is written, and no other is needed (so loops may still declare their pointers restrict) */
    SS_OP_GRAD_IN_PLACE = 8192, /* in the same way the gradient of any batched input of output 0's shape may lie over grad_out[0] */
    SS_OP_ROUNDS = 16384,       /* a product that rounds its operands itself when bf16: nothing arrives rounded */
    SS_OP_PRODUCT = 256       /* multiplies matrices or convolves: with precision bf16 its float inputs (weights of at least 2 axes, activations) and its grad_out are rounded */
} ss_op_flag;

typedef struct ss_op {
    const char *name;
    const char *doc; /* formula, shapes, order of sums, source; Markdown */
    unsigned flags;
    const ss_attr_spec *attrs; /* ends with a NULL name; NULL: none */
    ss_status (*infer)(ss_infer *q, ss_error *err);

    int forward_phases, backward_phases; /* 0 stands for 1 */
    void (*forward)(const ss_call *c);
    void (*backward)(const ss_call *c); /* NULL: no gradient flows (metrics) */
    /* Naive references: plain loops in the same order of sums, the oracle of the fast ones. NULL: forward/backward are themselves naive. One call with threads = 1 for each phase. */
    void (*forward_ref)(const ss_call *c);
    void (*backward_ref)(const ss_call *c);

    /* Before anything else in a step, on one thread, over all the samples of the rank: checks labels and writes lane denominators to c->lane_stat (float).
     * in[] is NULL for what other nodes compute; for losses and metrics only input 0 may be. */
    ss_status (*prepare)(const ss_call *c, ss_error *err);

    /* Statistics over samples. A node with statistics runs `stat` on its lanes, the lanes are joined by `stat_join` in the tree over all ranks (or inside groups of
     * stat_lanes lanes), `stat_done` may rework the joined vectors once (thread 0), and then forward (or backward) runs with c->stat. stat is SPMD with one phase. */
    int64_t (*stat_len)(const ss_call *c, bool backward); /* 0 in either direction: none there */
    void (*stat)(const ss_call *c, bool backward);
    void (*stat_join)(const ss_call *c, bool backward, void *a, const void *b); /* a := a joined with b; NULL: sums element by element */
    void (*stat_done)(const ss_call *c, bool backward);
    int64_t (*stat_lanes)(const double *attr); /* lanes a group; NULL or 0: the whole batch */

    int64_t (*saved_bytes)(const ss_call *c);                 /* per sample */
    int64_t (*scratch_bytes)(const ss_call *c, bool backward); /* for c->rows samples and c->threads threads; called with the largest rows, c->fold->depth the greatest depth */
    void (*cost)(const ss_call *c, bool backward, ss_cost *cost);
    const ss_op_case *cases; /* ends with NULL inputs */
} ss_op;

/* The table, in alphabetical order; the same index in every variant. */
extern const int ss_op_count;
const ss_op *ss_op_at(ss_isa isa, int index);
const ss_op *ss_op_f64(int index);
/* Index of a name, or -1. */
int ss_op_find(const char *name);

/* For `cost`: 1 where the gradient of input i is computed. A call without any grad_in means all of them. */
static inline int ss_wanted(const ss_call *c, int i) {
    for (int k = 0; k < c->n_in; k++)
        if (c->grad_in[k]) return c->grad_in[i] != NULL;
    return 1;
}

static inline double ss_loss_weight(const ss_call *c) { return c->loss_weight == 0 ? 1 : c->loss_weight; }
static inline int64_t ss_attr_i(const double *attr, int index) { return (int64_t)attr[index]; }

/* Samples [begin, end) of this thread. */
static inline void ss_my_rows(const ss_call *c, int64_t *begin, int64_t *end) { ss_split(c->rows, 1, c->thread, c->threads, begin, end); }
/* Elements [begin, end) of this thread out of count, cut at multiples of 16. */
static inline void ss_my_elements(const ss_call *c, int64_t count, int64_t *begin, int64_t *end) { ss_split(count, 16, c->thread, c->threads, begin, end); }

/* Sums over lanes into a parameter's gradient: the loop every small parameter uses. `stack` holds fold->depth vectors of `width`.
 * For each lane: write its partial to ss_fold_slot(...), then ss_fold_push(...). At the end partial j of the stack belongs to block j. */
#ifdef SS_KERNELS_VARIANT_H
static inline real *ss_fold_slot(real *stack, int64_t width, int top) { return stack + (int64_t)top * width; }
static inline int ss_fold_push(real *stack, int64_t width, int top, int adds) {
    for (top++; adds > 0; adds--, top--) {
        real *restrict a = stack + (int64_t)(top - 2) * width;
        const real *restrict b = a + width;
        for (int64_t i = 0; i < width; i++) a[i] += b[i];
    }
    return top;
}
#endif

#endif
