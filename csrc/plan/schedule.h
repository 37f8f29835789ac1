/* The lane schedule: for one size of the global batch, which rows each sweep of a rank runs, the fold programs at every level, and which partials every rank holds.
 * Everything is allocated for the largest case; ss_schedule_set fills it without allocating. */
#ifndef SS_PLAN_SCHEDULE_H
#define SS_PLAN_SCHEDULE_H
#include <stdbool.h>
#include "base/lanes.h"

typedef struct ss_sweep {
    ss_fold fold;        /* lanes of the sweep; rows count from the sweep's first */
    int64_t row0, rows;  /* among the rank's rows */
    int first_lane;      /* among the rank's lanes that hold samples */
    int first_leaf;      /* of this sweep's blocks in rank_adds */
    int top;             /* height of the rank's stack of partials before this sweep */
} ss_sweep;

/* Lane sums inside groups of lanes (batch statistics, results): who holds which partials, and how they join. */
typedef struct ss_group_join {
    int groups;
    int32_t *local_adds;  /* [local lanes with samples] */
    int32_t *local_group; /* [lanes of the rank] group of lane i of the rank's non-empty lanes */
    int *blocks;          /* [ranks] partials each rank holds */
    int *block_group;     /* [all blocks, in rank order] */
    int32_t *global_adds; /* [all blocks] */
    int total;
} ss_group_join;

typedef struct ss_schedule {
    int rank, ranks, lanes, lanes_at_once, sweeps; /* sweeps: most sweeps of this rank */
    ss_span run;                                   /* this rank's lanes */
    int64_t most_batch, batch;
    int64_t most_rows, most_sweep_rows;            /* of this rank, over all batches up to most_batch */
    int most_depth;                                /* of a fold inside a sweep */
    int most_blocks;                               /* of gradient partials alive at once (with the coming sweep's) */
    int64_t first_row, rows;                       /* this rank's part of the global batch */
    int lanes_used;                                /* lanes of this rank that hold samples */
    ss_sweep *sweep;
    int32_t *rank_adds;                            /* one per block of a sweep, in order */
    int leaves, blocks;                            /* leaves of rank_adds; partials left at the end of the step */
    ss_fold whole;                                 /* all the rank's lanes, rows from first_row on, no joins: what `prepare` sees */
    /* storage behind the arrays */
    int64_t *row_store;
    int32_t *int_store;
    ss_span *span_store;
} ss_schedule;

/* Refuses more ranks than lanes and lanes_at_once that are no power of two. lanes_at_once 0: all. */
ss_status ss_schedule_create(int rank, int ranks, int lanes, int lanes_at_once, int64_t batch, ss_schedule **out, ss_error *err);
void ss_schedule_free(ss_schedule *s);
void ss_schedule_set(ss_schedule *s, int64_t batch);

/* group_lanes 0: one group, the whole batch. Otherwise a power of two that divides the lanes. */
ss_status ss_group_join_create(const ss_schedule *s, int group_lanes, ss_group_join **out, ss_error *err);
void ss_group_join_free(ss_group_join *j);
void ss_group_join_set(ss_group_join *j, const ss_schedule *s, int group_lanes);

#endif
