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
#include "train/compression.h"

typedef struct ss_parameter {
    char name[SS_NAME];
    ss_shape shape;
    int64_t offset, count; /* elements, in values (parameters) or states (buffers) */
    bool trainable;
    int group;                           /* of hyper-parameters */
    int64_t extra_offset, extra_count;   /* in the optimizer's further state */
    int64_t square_offset;               /* of its blocks' sums of squares */
} ss_parameter;

/* Elements [begin, end) of the values, whose parameters are of one group. */
typedef struct ss_group_run {
    int64_t begin, end;
    int group;
} ss_group_run;

typedef enum ss_average { SS_AVERAGE_NONE, SS_AVERAGE_EMA, SS_AVERAGE_SWA } ss_average;

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
    float *slot[SS_MAX_SLOTS + 2]; /* [trainable] each: the optimizer's, then those of lookahead and averaging */
    float *extra;                  /* [extra_elements] the optimizer's further state, parameter by parameter */
    int64_t extra_elements;
    float *scratch; /* of optimizers that see parameters whole */
    int64_t scratch_elements;
    bool bf16;
    float *rounded;            /* [elements] with bf16: the values rounded to bfloat16, made anew at the start of every step; else NULL */

    const ss_optim *optim; /* NULL: inference only */
    double *hyper;         /* [groups][SS_MAX_HYPER] */
    double *derived;       /* [groups][SS_MAX_DERIVED] */
    int groups;            /* of parameters; at least 1 */
    ss_group_run *run;     /* [runs] the trainable part, cut where the group changes */
    int runs;
    int slots, optim_slots; /* all; the optimizer's */

    /* Whether every rank updates all parameters itself, from the complete gradient, instead of its own pieces: for optimizers that see parameters whole, for the norm, and after
     * compression. */
    bool complete;
    double clip_norm, clip_value; /* 0: off */
    double gradient_norm;         /* before clipping, of the last update with clip_norm */
    double *square;               /* [squares] sums of squares of the blocks of all gradients, then one a parameter */
    int64_t squares;

    int owners;                  /* of pieces of the parameters in the exchange: so many of the last ranks; 0: all */
    ss_compression *compression; /* of the exchange of gradients; NULL: none, or a single rank */

    int slow, mean; /* slots of lookahead and of the average, or -1 */
    int64_t lookahead;
    double lookahead_alpha;
    ss_average average;
    double decay;      /* EMA */
    bool warmup;       /* EMA */
    int64_t start, every; /* SWA */
    bool swapped;      /* the averages stand in the place of the parameters */

    int64_t step; /* updates made */
    uint64_t seed;

    atomic_flag busy;       /* set while a thread works on the model */
    bool broken;            /* a step failed half way */
} ss_model;

/* Parameters with hyper-parameters of their own; those not given are those of the optimizer. */
typedef struct ss_group_options {
    const char *const *parameter; /* names */
    int parameters;
    const ss_attr *hyper;
    int hypers;
} ss_group_options;

typedef struct ss_model_options {
    const char *optimizer; /* NULL: none */
    const ss_attr *hyper;
    int hypers;
    const ss_group_options *group; /* groups 1, 2, ...; the other parameters are group 0 */
    int groups;
    double clip_norm, clip_value; /* greatest norm of all gradients together, greatest size of an element; 0: off, infinity: only measured */
    int64_t lookahead;            /* steps between two meetings of the fast and the slow weights; 0: off */
    double lookahead_alpha;
    ss_average average;
    double decay;         /* EMA: average = decay * average + (1 - decay) * parameters; with warmup min(decay, (1 + t) / (10 + t)) */
    bool warmup;
    int64_t start, every; /* SWA: the mean of the parameters after steps start, start + every, ... */
    ss_compression_options compression;
    int owners; /* of pieces of the parameters: so many of the last ranks; 0: all */
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
ss_status ss_model_set_hyper(ss_model *m, int group, const char *name, double value, ss_error *err);
/* 0: off. A norm needs a model that was made with one. */
ss_status ss_model_set_clip(ss_model *m, double norm, double value, ss_error *err);
/* Names of slots in checkpoints. */
const char *ss_model_slot_name(const ss_model *m, int slot);
/* Exchanges the trainable parameters and their averages, which must be complete on this rank (ss_session_gather_slots); a second call exchanges them back. Between the two the model does not
 * train. SS_ERR_STATE when there is no average (yet). */
ss_status ss_model_swap_average(ss_model *m, ss_error *err);
/* The work of averages on elements [begin, end), before and after the optimizer's update of them. */
void ss_model_before_update(ss_model *m, int64_t begin, int64_t end);
void ss_model_after_update(ss_model *m, int64_t begin, int64_t end);

/* The optimizer's update of elements [begin, end), multiples of 16, from gradient[begin..end), with what belongs to it: clipping of elements, averages. Elementwise optimizers alone. */
void ss_model_update(ss_model *m, float *gradient, int64_t begin, int64_t end);

/* Enters and leaves the model; a second thread that enters gets SS_ERR_STATE. */
ss_status ss_model_enter(ss_model *m, ss_error *err);
void ss_model_leave(ss_model *m);

/* Rank 0's values, statistics, optimizer state, step and seed reach every rank. Collective. */
ss_status ss_model_broadcast(ss_model *m, ss_error *err);

#endif
