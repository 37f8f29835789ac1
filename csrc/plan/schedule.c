#include "plan/schedule.h"
#include <string.h>
#include "base/alloc.h"
#include "base/shape.h"

static bool power_of_two(int n) { return n > 0 && (n & (n - 1)) == 0; }

/* Lanes of [begin, end) that hold samples of a batch, as leaves of the tree. */
static int lane_leaves(int lanes, int begin, int end, int64_t batch, ss_span *leaf) {
    int count = 0;
    for (int v = begin; v < end; v++)
        if (ss_lane_begin(v, lanes, batch) < ss_lane_begin(v + 1, lanes, batch)) leaf[count++] = (ss_span){v, v + 1};
    return count;
}

static ss_span sweep_run(const ss_schedule *s, int index) {
    /* Sweeps are cut at multiples of lanes_at_once, so each is a union of whole subtrees. */
    int first = s->run.lo / s->lanes_at_once;
    int lo = (first + index) * s->lanes_at_once, hi = lo + s->lanes_at_once;
    return (ss_span){(int32_t)ss_max(lo, s->run.lo), (int32_t)ss_min(hi, s->run.hi)};
}

ss_status ss_schedule_create(int rank, int ranks, int lanes, int lanes_at_once, int64_t batch, ss_schedule **out, ss_error *err) {
    ss_status status = SS_OK;
    ss_schedule *s = NULL;
    if (batch < 1 || batch > INT32_MAX) return SS_FAIL(err, SS_ERR_VALUE, "batch_size=%lld must be between 1 and 2^31 - 1", (long long)batch);
    if (lanes < 1 || lanes > SS_MAX_LANES) return SS_FAIL(err, SS_ERR_VALUE, "lanes=%d must be between 1 and %d", lanes, SS_MAX_LANES);
    if (ranks > lanes)
        return SS_FAIL(err, SS_ERR_VALUE,
                       "%d ranks cannot share %d lanes: set lanes=%d or more (it belongs to the training run: the same value on any number of ranks), "
                       "a larger batch_size, or start at most %d ranks", ranks, lanes, ranks, lanes);
    if (lanes_at_once == 0)
        for (lanes_at_once = 1; lanes_at_once < lanes;) lanes_at_once *= 2;
    if (!power_of_two(lanes_at_once)) return SS_FAIL(err, SS_ERR_VALUE, "lanes_at_once=%d must be a power of two", lanes_at_once);

    s = ss_calloc(1, sizeof *s);
    if (!s) goto no_memory;
    s->rank = rank;
    s->ranks = ranks;
    s->lanes = lanes;
    s->lanes_at_once = lanes_at_once;
    s->run = ss_rank_lanes(rank, ranks, lanes);
    s->most_batch = batch;
    int local = s->run.hi - s->run.lo;
    s->sweeps = (s->run.hi - 1) / lanes_at_once - s->run.lo / lanes_at_once + 1;
    s->sweep = ss_calloc((size_t)s->sweeps, sizeof *s->sweep);
    /* rows: local + 1 for `whole`, local + sweeps for the sweeps; ints: adds and lanes of both, then rank_adds */
    s->row_store = ss_calloc((size_t)(2 * local + s->sweeps + 1), sizeof *s->row_store);
    s->int_store = ss_calloc((size_t)(5 * local), sizeof *s->int_store);
    s->span_store = ss_calloc((size_t)(4 * lanes), sizeof *s->span_store);
    if (!s->sweep || !s->row_store || !s->int_store || !s->span_store) goto no_memory;

    /* Lanes [a, b) of a smaller batch never hold more rows than ceil((b - a) * batch / lanes). */
    s->most_rows = (local * batch + lanes - 1) / lanes;
    for (int i = 0; i < s->sweeps; i++) {
        ss_span run = sweep_run(s, i);
        s->most_sweep_rows = ss_max(s->most_sweep_rows, ((run.hi - run.lo) * batch + lanes - 1) / lanes);
    }
    s->most_rows = ss_min(s->most_rows, batch);
    s->most_sweep_rows = ss_min(s->most_sweep_rows, batch);
    /* Depth and stack height are greatest when no lane is empty. */
    ss_schedule_set(s, ss_max(batch, lanes));
    for (int i = 0; i < s->sweeps; i++) {
        s->most_depth = (int)ss_max(s->most_depth, s->sweep[i].fold.depth);
        s->most_blocks = (int)ss_max(s->most_blocks, s->sweep[i].top + s->sweep[i].fold.blocks);
    }
    ss_schedule_set(s, batch);
    *out = s;
    return SS_OK;
no_memory:
    status = SS_FAIL(err, SS_ERR_MEMORY, "no memory for the schedule of %d lanes", lanes);
    ss_schedule_free(s);
    return status;
}

void ss_schedule_free(ss_schedule *s) {
    if (!s) return;
    ss_free(s->span_store);
    ss_free(s->int_store);
    ss_free(s->row_store);
    ss_free(s->sweep);
    ss_free(s);
}

void ss_schedule_set(ss_schedule *s, int64_t batch) {
    if (s->batch == batch) return;
    s->batch = batch;
    int local = s->run.hi - s->run.lo;
    int64_t *rows = s->row_store;
    int32_t *adds = s->int_store, *lane = adds + local, *whole_adds = lane + local, *whole_lane = whole_adds + local;
    ss_span *leaf = s->span_store, *block = leaf + s->lanes, *sweep_block = block + s->lanes;
    s->rank_adds = whole_lane + local;
    s->first_row = ss_lane_begin(s->run.lo, s->lanes, batch);
    s->rows = ss_lane_begin(s->run.hi, s->lanes, batch) - s->first_row;

    int leaves = 0, lanes_before = 0;
    for (int i = 0; i < s->sweeps; i++) {
        ss_sweep *w = &s->sweep[i];
        ss_span run = sweep_run(s, i);
        int count = lane_leaves(s->lanes, run.lo, run.hi, batch, leaf), depth = 0;
        int64_t row0 = ss_lane_begin(run.lo, s->lanes, batch);
        int blocks = count ? ss_fold_plan(s->lanes, run, leaf, count, adds, sweep_block + leaves, &depth) : 0;
        for (int k = 0; k < count; k++) {
            lane[k] = leaf[k].lo;
            rows[k] = ss_lane_begin(leaf[k].lo, s->lanes, batch) - row0;
        }
        rows[count] = ss_lane_begin(run.hi, s->lanes, batch) - row0;
        w->fold = (ss_fold){.lanes = count, .blocks = blocks, .depth = depth, .row = rows, .adds = adds, .lane = lane};
        w->row0 = row0 - s->first_row;
        w->rows = rows[count];
        w->first_lane = lanes_before;
        w->first_leaf = leaves;
        lanes_before += count;
        leaves += blocks;
        rows += count + 1;
        adds += count;
        lane += count;
    }
    s->leaves = leaves;
    s->blocks = leaves ? ss_fold_plan(s->lanes, s->run, sweep_block, leaves, s->rank_adds, block, NULL) : 0;
    int top = 0;
    for (int i = 0; i < s->sweeps; i++) {
        s->sweep[i].top = top;
        for (int k = 0; k < s->sweep[i].fold.blocks; k++) top += 1 - s->rank_adds[s->sweep[i].first_leaf + k];
    }

    int64_t *whole_row = s->row_store + 2 * local + s->sweeps + 1 - (local + 1);
    s->lanes_used = lane_leaves(s->lanes, s->run.lo, s->run.hi, batch, leaf);
    for (int k = 0; k < s->lanes_used; k++) {
        whole_adds[k] = 0;
        whole_lane[k] = leaf[k].lo;
        whole_row[k] = ss_lane_begin(leaf[k].lo, s->lanes, batch) - s->first_row;
    }
    whole_row[s->lanes_used] = s->rows;
    s->whole = (ss_fold){.lanes = s->lanes_used, .blocks = s->lanes_used, .depth = s->lanes_used, .row = whole_row, .adds = whole_adds, .lane = whole_lane};
}

ss_status ss_group_join_create(const ss_schedule *s, int group_lanes, ss_group_join **out, ss_error *err) {
    if (group_lanes < 0 || (group_lanes && (!power_of_two(group_lanes) || s->lanes % group_lanes)))
        return SS_FAIL(err, SS_ERR_VALUE, "stats_lanes=%d must be a power of two that divides lanes=%d", group_lanes, s->lanes);
    ss_group_join *j = ss_calloc(1, sizeof *j);
    size_t lanes = (size_t)s->lanes;
    if (!j) goto no_memory;
    j->groups = group_lanes ? s->lanes / group_lanes : 1;
    j->local_adds = ss_calloc(lanes, sizeof *j->local_adds);
    j->local_group = ss_calloc(lanes, sizeof *j->local_group);
    j->blocks = ss_calloc((size_t)s->ranks, sizeof *j->blocks);
    j->block_group = ss_calloc(lanes, sizeof *j->block_group);
    j->global_adds = ss_calloc(lanes, sizeof *j->global_adds);
    if (!j->local_adds || !j->local_group || !j->blocks || !j->block_group || !j->global_adds) goto no_memory;
    *out = j;
    return SS_OK;
no_memory:
    ss_group_join_free(j);
    return SS_FAIL(err, SS_ERR_MEMORY, "no memory to join %d lanes", s->lanes);
}

void ss_group_join_free(ss_group_join *j) {
    if (!j) return;
    ss_free(j->global_adds);
    ss_free(j->block_group);
    ss_free(j->blocks);
    ss_free(j->local_group);
    ss_free(j->local_adds);
    ss_free(j);
}

void ss_group_join_set(ss_group_join *j, const ss_schedule *s, int group_lanes) {
    ss_span *leaf = s->span_store, *block = leaf + s->lanes; /* scratch of the schedule */
    int size = group_lanes ? group_lanes : s->lanes, total = 0, used = 0;
    for (int rank = 0; rank < s->ranks; rank++) {
        ss_span run = ss_rank_lanes(rank, s->ranks, s->lanes);
        int before = total;
        for (int group = 0; group < j->groups; group++) {
            ss_span range = {(int32_t)ss_max(run.lo, group * size), (int32_t)ss_min(run.hi, (group + 1) * size)};
            if (range.lo >= range.hi) continue;
            int count = lane_leaves(s->lanes, range.lo, range.hi, s->batch, leaf);
            if (!count) continue;
            int32_t *adds = rank == s->rank ? j->local_adds + used : NULL;
            int blocks = ss_fold_plan(s->lanes, range, leaf, count, adds, block + total, NULL);
            for (int k = 0; k < blocks; k++) j->block_group[total + k] = group;
            if (rank == s->rank)
                for (int k = 0; k < count; k++) j->local_group[used++] = group;
            total += blocks;
        }
        j->blocks[rank] = total - before;
    }
    j->total = total;
    /* Blocks stand in lane order, so those of one group are neighbours. */
    for (int first = 0; first < total;) {
        int group = j->block_group[first], last = first;
        while (last < total && j->block_group[last] == group) last++;
        ss_span range = {group * size, (int32_t)ss_min((group + 1) * size, s->lanes)};
        ss_fold_plan(s->lanes, range, block + first, last - first, j->global_adds + first, leaf, NULL);
        first = last;
    }
}
