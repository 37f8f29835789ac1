/* The program of a step: instructions in order, the buffers they use with their lifetimes, statistics that join lanes, and gradient slots.
 *
 * Pure: it depends on the graph and on options, allocates its own description only, and touches no data. train/session binds it to memory.
 *
 * A segment ends where a statistic over the whole batch must be complete before work can go on (batch norm). Sweeps run one segment for all their lanes before the next segment begins;
 * without statistics there is one segment, and a sweep runs forward and backward in one go.
 */
#ifndef SS_PLAN_PROGRAM_H
#define SS_PLAN_PROGRAM_H
#include "plan/lower.h"
#include "plan/schedule.h"

typedef enum ss_ref_kind {
    SS_REF_NONE,
    SS_REF_BUFFER,    /* index of ss_buffer */
    SS_REF_INPUT,     /* index among the graph's inputs */
    SS_REF_PARAMETER, /* index among the graph's parameters */
    SS_REF_STATE,     /* index among the graph's buffers (running statistics) */
    SS_REF_ROUNDED,   /* a parameter in its bfloat16 copy, by the same index */
    SS_REF_GRADIENT   /* index of ss_slot */
} ss_ref_kind;

typedef struct ss_ref {
    ss_ref_kind kind;
    int index;
} ss_ref;

typedef struct ss_buffer {
    int64_t sample_bytes;
    int first, last; /* instructions that write it first and read it last */
    bool full;       /* holds all of the rank's rows; otherwise one sweep's */
    int64_t offset, bytes;
    const char *what;
} ss_buffer;

/* One use of a parameter: its gradient is summed on its own, and the uses of a shared parameter are added in graph order after the lane tree. */
typedef struct ss_slot {
    int parameter; /* among the graph's parameters */
    int use;       /* 0: first use in graph order */
    int instruction;
} ss_slot;

typedef struct ss_stat {
    int node, instruction;
    bool backward, result; /* result: a loss or metric, joined at the end of the step */
    int64_t length;
    int group_lanes;
} ss_stat;

typedef enum ss_stage { SS_STAGE_STAT, SS_STAGE_RUN } ss_stage;

typedef struct ss_instruction {
    const ss_op *op;
    int node; /* lowered node */
    bool backward, sum; /* sum: adds two contributions to one gradient (by the operator add) */
    ss_stage stage;
    bool solo; /* too small to be shared by threads */
    int phases, segment;
    int stat; /* index of the statistic it makes or reads; -1: none */
    ss_ref in[SS_MAX_IN], out[SS_MAX_OUT], grad_out[SS_MAX_OUT], grad_in[SS_MAX_IN], saved;
    int64_t scratch_bytes;
    ss_call call; /* shapes, attributes, roles; pointers are filled when it runs */
    const char *layer;
} ss_instruction;

typedef struct ss_program {
    ss_lowered *lowered;
    ss_instruction *instruction;
    ss_buffer *buffer;
    ss_slot *slot;
    ss_stat *stat;
    int *prepare; /* instruction (forward) of each node with `prepare` */
    ss_ref *output;
    int *result_stat; /* statistic of each result */
    int *result_prepare; /* index in prepare[] of each result */
    int instructions, buffers, slots, stats, prepares, outputs, results, segments;
    int64_t scratch_bytes, activation_bytes;
    double seconds; /* rough estimate of a sweep on one thread */
    bool training;
    bool rounded;   /* some instruction reads parameters rounded to bfloat16 */
    bool hosted;    /* some operator calls functions of the host (ss.Function) */
} ss_program;

typedef struct ss_program_options {
    bool training;
    bool with_results; /* losses and metrics too (evaluation); otherwise the outputs alone */
    ss_isa isa;
    ss_backend backend;
    int threads;
    bool bf16;
} ss_program_options;

ss_status ss_program_build(const ss_graph *g, const ss_program_options *o, const ss_schedule *s, ss_program **out, ss_error *err);
void ss_program_free(ss_program *p);
/* Operations and bytes of an instruction for one sample; 0 for sums and statistics. A backward instruction counts the gradients that it computes. */
ss_cost ss_instruction_cost(const ss_instruction *i);

/* plan/memory.c: gives every buffer its offset; buffers with disjoint lifetimes share space. */
ss_status ss_memory_plan(ss_program *p, const ss_schedule *s, ss_error *err);

#endif
