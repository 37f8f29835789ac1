/* The model: one arena with the parameters, the running statistics and the optimizer's state, and the means to work on them: pool, transport, kernels.
 *
 * Trainable parameters lie in the order in which their gradients are completed (reverse order of first use), each at a multiple of 16 elements, so an exchange bucket is a plain range,
 * and the optimizer is one pass. Frozen parameters follow.
 */
#ifndef SS_TRAIN_MODEL_H
#define SS_TRAIN_MODEL_H
#include <stdatomic.h>
#include "base/arena.h"
#include "base/pool.h"
#include "comm/transport.h"
#include "graph/graph.h"
#include "optim/optim.h"

typedef struct ss_parameter {
    char name[SS_NAME];
    ss_shape shape;
    int64_t offset, count; /* elements, in values (parameters) or states (buffers) */
    bool trainable;
} ss_parameter;

enum { SS_MAX_DERIVED = 8 };

typedef struct ss_model {
    ss_transport *transport; /* borrowed */
    ss_pool *pool;
    ss_pool *single; /* the calling thread alone */
    ss_isa isa;
    ss_backend backend;
    int threads;
    const ss_kernels *kernels;

    ss_parameter *parameter; /* [parameters], in the graph's order */
    ss_parameter *state;     /* [states] */
    int parameters, states;
    int64_t trainable; /* elements of the trainable part, padding included: [0, trainable) of values */
    int64_t elements, state_elements;
    ss_arena *arena;
    float *values, *states_at;
    float *slot[SS_MAX_SLOTS]; /* [trainable] each */
    bool bf16;
    float *rounded;            /* [elements] with bf16: the values rounded to bfloat16, made anew at the start of every step; else NULL */

    const ss_optim *optim; /* NULL: inference only */
    double hyper[SS_MAX_HYPER], derived[SS_MAX_DERIVED];
    int slots;
    int64_t step; /* updates made */
    uint64_t seed;

    atomic_flag busy;       /* set while a thread works on the model */
    bool broken;            /* a step failed half way */
} ss_model;

typedef struct ss_model_options {
    const char *optimizer; /* NULL: none */
    const ss_attr *hyper;
    int hypers;
    int threads;
    bool pin;
    ss_backend backend;
    ss_isa isa;
    bool bf16; /* operands of products are rounded to bfloat16; parameters, gradients and optimizer state stay float32 */
    uint64_t seed;
} ss_model_options;

ss_status ss_model_create(const ss_graph *g, ss_transport *t, const ss_model_options *o, ss_model **out, ss_error *err);
void ss_model_free(ss_model *m);

/* Index among parameters, or -1. */
int ss_model_find(const ss_model *m, const char *name);
int ss_model_find_state(const ss_model *m, const char *name);
int ss_model_find_hyper(const ss_model *m, const char *name);
ss_status ss_model_set_hyper(ss_model *m, const char *name, double value, ss_error *err);

/* Enters and leaves the model; a second thread that enters gets SS_ERR_STATE. */
ss_status ss_model_enter(ss_model *m, ss_error *err);
void ss_model_leave(ss_model *m);

/* Rank 0's values, statistics, optimizer state, step and seed reach every rank. Collective. */
ss_status ss_model_broadcast(ss_model *m, ss_error *err);

#endif
