/* The lane schedule against the definition of the tree: however lanes are dealt to ranks and sweeps, each runs once on its own rows and the joined sum has the bits of the
 * recursion T(l,h) = T(l,m) + T(m,h). */
#include "plan/schedule.h"
#include "base/alloc.h"
#include "base/shape.h"
#include "tests/test.h"

enum { MAX_V = 64, MAX_RANKS = 64 };

/* A partial: a float whose bits depend on the order of additions, and a hash that stands for the expression itself. */
typedef struct partial {
    float value;
    uint64_t expression;
} partial;

static uint64_t scramble(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static partial leaf_of(int lane) {
    uint64_t bits = scramble((uint64_t)lane + 77);
    return (partial){ldexpf((float)(int32_t)bits * 0x1p-31f, (int)(bits >> 40 & 15) - 8), bits | 1};
}

static partial join(partial a, partial b) { return (partial){a.value + b.value, scramble(a.expression * 3 + scramble(b.expression))}; }

static bool same(partial a, partial b) { return memcmp(&a.value, &b.value, sizeof a.value) == 0 && a.expression == b.expression; }

static bool holds_samples(int lane, int lanes, int64_t batch) { return (int64_t)lane * batch / lanes < ((int64_t)lane + 1) * batch / lanes; }

/* The definition, without the code under test. */
static bool direct(int l, int h, int lanes, int64_t batch, partial *out) {
    if (h - l == 1) {
        *out = leaf_of(l);
        return holds_samples(l, lanes, batch);
    }
    int half = 1;
    while (half * 2 < h - l) half *= 2;
    partial left, right;
    bool has_left = direct(l, l + half, lanes, batch, &left), has_right = direct(l + half, h, lanes, batch, &right);
    if (has_left && has_right) *out = join(left, right);
    else if (has_left) *out = left;
    else if (has_right) *out = right;
    return has_left || has_right;
}

/* Runs one rank's program; its blocks are appended to `blocks`. */
static int run_rank(const ss_schedule *s, int64_t batch, int *seen, partial *blocks) {
    partial rank_stack[2 * MAX_V];
    int rank_top = 0, lanes_before = 0, leaves_before = 0;
    int64_t rows_before = 0;
    for (int i = 0; i < s->sweeps; i++) {
        const ss_sweep *w = &s->sweep[i];
        const ss_fold *f = &w->fold;
        partial stack[MAX_V];
        int top = 0, highest = 0;
        CHECK(w->row0 == rows_before && w->rows == f->row[f->lanes] && w->first_lane == lanes_before && w->first_leaf == leaves_before);
        CHECK(w->rows <= s->most_sweep_rows);
        for (int k = 0; k < f->lanes; k++) {
            int lane = f->lane[k];
            if (!CHECK(lane >= s->run.lo && lane < s->run.hi && holds_samples(lane, s->lanes, batch))) return 0;
            seen[lane]++;
            CHECK(s->first_row + w->row0 + f->row[k] == (int64_t)lane * batch / s->lanes);
            CHECK(s->first_row + w->row0 + f->row[k + 1] == ((int64_t)lane + 1) * batch / s->lanes);
            stack[top++] = leaf_of(lane);
            if (top > highest) highest = top;
            for (int n = f->adds[k]; n > 0; n--, top--) {
                if (!CHECK(top >= 2)) return 0;
                stack[top - 2] = join(stack[top - 2], stack[top - 1]);
            }
        }
        CHECK(top == f->blocks && highest == f->depth && f->depth <= s->most_depth);
        CHECK(w->top == rank_top && w->top + f->blocks <= s->most_blocks);
        for (int k = 0; k < top; k++) {
            rank_stack[rank_top++] = stack[k];
            for (int n = s->rank_adds[w->first_leaf + k]; n > 0; n--, rank_top--) {
                if (!CHECK(rank_top >= 2)) return 0;
                rank_stack[rank_top - 2] = join(rank_stack[rank_top - 2], rank_stack[rank_top - 1]);
            }
        }
        rows_before += w->rows;
        lanes_before += f->lanes;
        leaves_before += f->blocks;
    }
    CHECK(rows_before == s->rows && s->rows <= s->most_rows && s->leaves == leaves_before && s->lanes_used == lanes_before);
    CHECK(s->rows == ss_lane_begin(s->run.hi, s->lanes, batch) - s->first_row && s->first_row == ss_lane_begin(s->run.lo, s->lanes, batch));
    CHECK(rank_top == s->blocks);
    memcpy(blocks, rank_stack, (size_t)rank_top * sizeof *blocks);
    return rank_top;
}

static void check_whole(const ss_schedule *s, int64_t batch) {
    const ss_fold *f = &s->whole;
    int k = 0;
    for (int v = s->run.lo; v < s->run.hi; v++) {
        if (!holds_samples(v, s->lanes, batch)) continue;
        if (!CHECK(k < f->lanes)) return;
        CHECK(f->lane[k] == v && f->adds[k] == 0 && s->first_row + f->row[k] == (int64_t)v * batch / s->lanes);
        k++;
    }
    CHECK(k == f->lanes && k == s->lanes_used && f->row[k] == s->rows);
}

/* The join over all ranks' blocks, as the exchange makes it: every rank derives all ranks' blocks from the batch. */
static void check_global(ss_schedule *const *s, int ranks, int lanes, int64_t batch, const partial *blocks, int total) {
    ss_span leaf[MAX_V], span[MAX_V], one[2];
    int32_t adds[MAX_V];
    int found = 0, top = 0;
    for (int r = 0; r < ranks; r++) {
        int count = 0;
        for (int v = s[r]->run.lo; v < s[r]->run.hi; v++)
            if (holds_samples(v, lanes, batch)) leaf[count++] = (ss_span){v, v + 1};
        int mine = count ? ss_fold_plan(lanes, s[r]->run, leaf, count, NULL, span + found, NULL) : 0;
        CHECK(mine == s[r]->blocks);
        found += mine;
    }
    if (!CHECK(found == total && ss_fold_plan(lanes, (ss_span){0, lanes}, span, found, adds, one, NULL) == 1)) return;
    partial stack[MAX_V], expected;
    for (int k = 0; k < total; k++) {
        stack[top++] = blocks[k];
        for (int n = adds[k]; n > 0; n--, top--) stack[top - 2] = join(stack[top - 2], stack[top - 1]);
    }
    CHECK(top == 1 && direct(0, lanes, lanes, batch, &expected) && same(stack[0], expected));
}

/* Statistics inside groups of lanes: local folds, then the fold over all ranks' blocks. */
static void check_groups(ss_schedule *const *s, int ranks, int lanes, int64_t batch, int group_lanes, ss_group_join *const *j) {
    partial all[MAX_V], stack[MAX_V], expected;
    int total = 0, size = group_lanes ? group_lanes : lanes, top = 0, groups_met = 0;
    for (int r = 0; r < ranks; r++) {
        CHECK(j[r]->groups == lanes / size);
        int before = total;
        top = 0;
        for (int k = 0; k < s[r]->lanes_used; k++) {
            int lane = s[r]->whole.lane[k];
            CHECK(j[r]->local_group[k] == lane / size);
            stack[top++] = leaf_of(lane);
            for (int n = j[r]->local_adds[k]; n > 0; n--, top--) {
                if (!CHECK(top >= 2)) return;
                stack[top - 2] = join(stack[top - 2], stack[top - 1]);
            }
        }
        memcpy(all + total, stack, (size_t)top * sizeof *all);
        total += top;
        for (int q = 0; q < ranks; q++) CHECK(j[q]->blocks[r] == total - before); /* every rank knows */
    }
    CHECK(total <= lanes);
    for (int r = 0; r < ranks; r++) {
        CHECK(j[r]->total == total && !memcmp(j[r]->block_group, j[0]->block_group, (size_t)total * sizeof *j[r]->block_group));
        CHECK(!memcmp(j[r]->global_adds, j[0]->global_adds, (size_t)total * sizeof *j[r]->global_adds));
    }
    top = 0;
    for (int k = 0; k < total; k++) {
        stack[top++] = all[k];
        for (int n = j[0]->global_adds[k]; n > 0; n--, top--) {
            if (!CHECK(top >= 2)) return;
            stack[top - 2] = join(stack[top - 2], stack[top - 1]);
        }
        int group = j[0]->block_group[k];
        if (k + 1 < total && j[0]->block_group[k + 1] == group) continue;
        CHECK(top == 1 && direct(group * size, (group + 1) * size, lanes, batch, &expected) && same(stack[0], expected));
        groups_met++;
        top = 0;
    }
    int groups_wanted = 0;
    for (int g = 0; g < lanes / size; g++) groups_wanted += direct(g * size, (g + 1) * size, lanes, batch, &expected);
    CHECK(groups_met == groups_wanted);
}

static void check_batch(ss_schedule **s, int ranks, int lanes, int64_t batch) {
    int seen[MAX_V] = {0}, total = 0;
    partial blocks[2 * MAX_V];
    uint64_t allocations = ss_alloc_count();
    for (int r = 0; r < ranks; r++) {
        ss_schedule_set(s[r], batch);
        total += run_rank(s[r], batch, seen, blocks + total);
        check_whole(s[r], batch);
    }
    CHECK(ss_alloc_count() == allocations);
    for (int v = 0; v < lanes; v++) CHECK(seen[v] == holds_samples(v, lanes, batch));
    check_global(s, ranks, lanes, batch, blocks, total);
}

static void check_case(int lanes, int ranks, int at_once, int64_t most) {
    ss_schedule *s[MAX_RANKS] = {NULL};
    ss_group_join *j[MAX_RANKS] = {NULL};
    ss_error err;
    uint64_t held = ss_alloc_bytes();
    for (int r = 0; r < ranks; r++)
        if (!CHECK(ss_schedule_create(r, ranks, lanes, at_once, most, &s[r], &err) == SS_OK)) goto done;
    /* Down and up again: nothing of one batch may be left in the next. */
    int64_t batches[] = {most, 1, ss_max(most / 2, 1), ss_min(lanes + 1, most), 2, ss_max(lanes - 1, 1), ss_max(most - 1, 1), lanes};
    for (size_t k = 0; k < sizeof batches / sizeof *batches; k++)
        if (batches[k] <= most) check_batch(s, ranks, lanes, batches[k]);
    for (int group = 0; group <= lanes; group = group ? 2 * group : 1) {
        if (group && lanes % group) break;
        for (int r = 0; r < ranks; r++)
            if (!CHECK(ss_group_join_create(s[r], group, &j[r], &err) == SS_OK)) goto done;
        for (size_t k = 0; k < sizeof batches / sizeof *batches; k += 2) {
            if (batches[k] > most) continue;
            for (int r = 0; r < ranks; r++) {
                ss_schedule_set(s[r], batches[k]);
                ss_group_join_set(j[r], s[r], group);
            }
            check_groups(s, ranks, lanes, batches[k], group, j);
        }
        for (int r = 0; r < ranks; r++) {
            ss_group_join_free(j[r]);
            j[r] = NULL;
        }
    }
done:
    for (int r = 0; r < ranks; r++) {
        ss_group_join_free(j[r]);
        ss_schedule_free(s[r]);
    }
    CHECK(ss_alloc_bytes() == held);
}

/* The bounds hold for every batch up to the largest. */
static void check_bounds(int lanes, int ranks, int at_once, int64_t most) {
    ss_error err;
    for (int r = 0; r < ranks; r++) {
        ss_schedule *s = NULL;
        if (!CHECK(ss_schedule_create(r, ranks, lanes, at_once, most, &s, &err) == SS_OK)) return;
        for (int64_t batch = 1; batch <= most; batch++) {
            ss_schedule_set(s, batch);
            bool fits = s->rows <= s->most_rows && s->blocks <= s->most_blocks;
            for (int i = 0; i < s->sweeps; i++) {
                const ss_sweep *w = &s->sweep[i];
                fits &= w->rows <= s->most_sweep_rows && w->fold.depth <= s->most_depth && w->top + w->fold.blocks <= s->most_blocks;
            }
            if (!CHECK(fits)) break;
        }
        CHECK(s->most_rows <= most && s->most_depth <= 12 && s->most_blocks <= lanes);
        ss_schedule_free(s);
    }
}

static void check_refusals(void) {
    ss_error err;
    ss_schedule *s = NULL;
    ss_group_join *j = NULL;
    CHECK(ss_schedule_create(0, 1, 8, 0, 0, &s, &err) == SS_ERR_VALUE);
    CHECK(ss_schedule_create(0, 1, 8, 0, -4, &s, &err) == SS_ERR_VALUE);
    CHECK(ss_schedule_create(0, 1, 8, 0, 1LL << 31, &s, &err) == SS_ERR_VALUE);
    CHECK(ss_schedule_create(0, 1, 0, 0, 8, &s, &err) == SS_ERR_VALUE);
    CHECK(ss_schedule_create(0, 1, SS_MAX_LANES + 1, 0, 8, &s, &err) == SS_ERR_VALUE);
    CHECK(ss_schedule_create(0, 9, 8, 0, 8, &s, &err) == SS_ERR_VALUE && strstr(err.message, "lanes=9"));
    CHECK(ss_schedule_create(0, 1, 8, 3, 8, &s, &err) == SS_ERR_VALUE && strstr(err.message, "lanes_at_once=3"));
    CHECK(ss_schedule_create(0, 1, 8, -2, 8, &s, &err) == SS_ERR_VALUE);
    CHECK(s == NULL);
    if (!CHECK(ss_schedule_create(0, 1, 12, 0, INT32_MAX, &s, &err) == SS_OK)) return;
    CHECK(s->most_rows == INT32_MAX && s->sweep[0].rows == INT32_MAX);
    CHECK(ss_group_join_create(s, 3, &j, &err) == SS_ERR_VALUE); /* no power of two */
    CHECK(ss_group_join_create(s, 8, &j, &err) == SS_ERR_VALUE); /* does not divide 12 */
    CHECK(ss_group_join_create(s, -4, &j, &err) == SS_ERR_VALUE && j == NULL);
    ss_schedule_free(s);
    ss_schedule_free(NULL);
    ss_group_join_free(NULL);
}

int main(void) {
    static const int large[] = {28, 31, 32, 33, 48, 63, 64};
    for (int lanes = 1; lanes <= 24 + (int)(sizeof large / sizeof *large); lanes++) {
        int v = lanes <= 24 ? lanes : large[lanes - 25];
        for (int ranks = 1; ranks <= v; ranks = ranks < 9 ? ranks + 1 : ranks < v ? v : v + 1)
            for (int at_once = 0; at_once < 2 * v; at_once = at_once ? 2 * at_once : 1) {
                check_case(v, ranks, at_once, 3 * v + 2);
                check_case(v, ranks, at_once, ss_max(v - 2, 1)); /* some lanes are always empty */
            }
        for (int at_once = 0; at_once < 2 * v; at_once = at_once ? 2 * at_once : 1) {
            check_bounds(v, 1, at_once, 3 * v);
            check_bounds(v, (v + 2) / 3, at_once, 2 * v + 1);
        }
    }
    check_refusals();
    return TEST_DONE();
}
