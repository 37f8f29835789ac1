/* A session: a program bound to memory, and the step that runs it. The Python Plan is this.
 *
 * Life of a step: the schedule is set for the batch; `prepare` checks labels and sums denominators, which all ranks exchange together with the status and rank 0's hyper-parameters (so a bad
 * label on one rank is an error on every rank before any work starts); then every thread walks the instructions, segment by segment, sweep by sweep; buckets of gradients leave as
 * they complete; each rank folds and updates its pieces and the parameters are gathered; at the end the sums of losses and metrics are joined.
 */
#ifndef SS_TRAIN_SESSION_H
#define SS_TRAIN_SESSION_H
#include "comm/exchange.h"
#include "plan/program.h"
#include "train/model.h"
#include "train/trace.h"

enum { SS_MAX_RESULTS = 64 };

/* A statistic at run time. */
typedef struct ss_stat_memory {
    float *lanes;  /* [most local lanes][length] */
    float *groups; /* [groups][length] */
    int join;      /* index in session.join */
} ss_stat_memory;

typedef struct ss_bucket {
    int64_t begin, end; /* elements of the gradient vector */
    int ready;          /* instruction after which it is complete */
    bool extra;         /* a further use of a shared parameter */
} ss_bucket;

/* What another use of a shared parameter adds to its gradient. */
typedef struct ss_extra {
    int bucket, home; /* buckets of the same length: their pieces have the same owners */
    int64_t offset;
} ss_extra;

typedef struct ss_options {
    int64_t batch;
    bool training, with_results, gradients;
    int lanes, lanes_at_once; /* 0: the defaults */
} ss_options;

typedef struct ss_session {
    ss_model *model;
    ss_program *program;
    ss_schedule *schedule;
    ss_group_join **join; /* [joins] one for each size of group; join[0] is the whole batch */
    int *join_lanes;
    int joins;
    ss_stat_memory *stat;
    bool introduced;       /* the ranks of a host have mapped each other's memory, or know that they cannot */
    ss_exchange *exchange; /* NULL on one rank, without training, or with compression */
    ss_trace *trace;

    int *parameter, *state;     /* the graph's index -> the model's */
    int64_t *slot_offset;       /* of each gradient slot in the gradient vector */
    int64_t gradient_elements;
    ss_bucket *bucket;
    ss_extra *extra;
    int buckets, extras;

    ss_arena *arena, *gradient_arena; /* the second only for training */
    char *activations;
    char *scratch;
    float *gradient; /* [most_blocks][gradient_elements] */
    char **input[2]; /* two sets: a loader fills one while the other trains */
    const char **lent; /* [inputs] rows of the caller's that steps read instead of set 0, or NULL */
    int64_t *input_bytes; /* a sample */
    int64_t *input_channels; /* 1: rows lie as the caller's do; C: rows of (C, ...) lie channels last */
    int inputs;
    float *lane_value;   /* [prepares or results][lanes of this rank] */
    float *gathered;     /* scratch of joins: [lanes][longest] */
    double *denominator; /* [prepares] */
    int64_t longest;     /* longest statistic, in floats */

    bool training, gradients;
    bool single; /* so little work that waking the pool would cost more than it saves: one thread does it */
    int results, result_elements; /* losses and metrics; the elements of all of them */
    double *unread;               /* [2 * result_elements] */
    struct ss_host *host;         /* functions of the host language, or NULL; set before a step */
    ss_status host_status;        /* what a function of the host met in this step, here or on another rank */
    ss_error host_error;
    /* of the step in progress */
    int set;            /* input set */
    int64_t batch;
    bool update;
    bool whole_gradient; /* block 0 already holds the complete gradient */
    double clip_scale;  /* what clip_norm makes of the gradient */
    float **destination; /* outputs are copied there, or NULL */
    ss_status status;
    ss_status lead[2]; /* what thread 0 announces, in turn */
    ss_error error;
    /* Who is slow: each rank tells the others with its next step for how long it has worked, and not waited for them, in the last one. */
    double waited, worked; /* seconds, of the step in progress; of the last one, 0 before the first */
    double *rank_seconds;  /* [ranks] sums over rank_steps steps; NULL on one rank */
    uint64_t rank_steps;
    /* measured time, when profiling */
    bool profiling;
    double *seconds;
    uint64_t *calls;
    double finish_seconds; /* waiting for gradients, folding them, the optimizer, gathering parameters */
    uint64_t finishes;
    double posted;          /* when the first bucket of the step left; 0: none has */
    double exchange_seconds, blocked_seconds; /* from there to the last message; of which thread 0 did nothing but wait */
    uint64_t exchanges;
} ss_session;

ss_status ss_session_create(ss_model *m, const ss_graph *g, const ss_options *o, ss_session **out, ss_error *err);
void ss_session_free(ss_session *s);

/* Where the caller writes this rank's rows of input `index` of the graph before a step: set 0 or 1, [most rows of the rank][elements], float or int32; channels first as in the
 * graph, or channels last where input_channels[index] is above 1 (ss_gather turns rows). NULL when there is no such set or input. */
void *ss_session_input(const ss_session *s, int set, int index);

/* Steps on set 0 read this rank's rows of input `index` where they lie, from now until NULL is lent: as ss_session_input describes, but for alignment, which is that of their type. */
void ss_session_lend(ss_session *s, int index, const void *rows);

/* Runs one batch whose rows of this rank lie in input set `set`. local: SS_OK, or why this rank cannot take part (its err is filled): then all ranks fail together.
 * results: [result_elements][2] sums and denominators (may be NULL); a result of length L has L such pairs. outputs: one array an output for this rank's rows, or NULL. */
ss_status ss_session_step(ss_session *s, int set, int64_t batch, bool update, ss_status local, double *results, float **outputs, ss_error *err);
/* The rows of a global batch that this rank holds. */
void ss_session_rows(const ss_session *s, int64_t batch, int64_t *begin, int64_t *end);

/* Every rank holds the optimizer state of its own pieces; this completes it everywhere. Collective. */
ss_status ss_session_gather_slots(ss_session *s, ss_error *err);

/* The gradient of the model's parameter number `parameter` after a step; NULL for a frozen one, without training, and on several ranks unless options.gradients was set. */
const float *ss_session_gradient(const ss_session *s, int parameter);

#endif
