/* The promise in small: cutting a batch into lanes, ranks and sweeps never changes the sum. */
#include "base/lanes.h"

#include <math.h>

#include "tests/test.h"

enum { MAX_V = 40 };

static uint64_t state = 88172645463325252u;
static uint32_t next_random(void) { /* xorshift64 (Marsaglia, 2003) */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32);
}

/* A partial: a float whose bits depend on the order of additions, and a hash that stands for the expression itself. */
typedef struct partial {
    float value;
    uint64_t expression;
} partial;

static partial lane_value[SS_MAX_LANES];
static bool lane_present[SS_MAX_LANES];

static partial join(partial a, partial b) {
    uint64_t h = a.expression * 0x9E3779B97F4A7C15u ^ (b.expression + 0x7F4A7C159E3779B9u) * 0xC2B2AE3D27D4EB4Fu;
    return (partial){a.value + b.value, (h ^ h >> 29) * 0xBF58476D1CE4E5B9u};
}

static bool same(partial a, partial b) { return memcmp(&a.value, &b.value, sizeof a.value) == 0 && a.expression == b.expression; }

/* The definition: T(l,h) = T(l,m) + T(m,h), empty lanes skipped. */
static bool direct(int l, int h, partial *out) {
    if (h - l == 1) {
        *out = lane_value[l];
        return lane_present[l];
    }
    if (h <= l) return false;
    int half = 1;
    while (half * 2 < h - l) half *= 2;
    partial left, right;
    bool has_left = direct(l, l + half, &left), has_right = direct(l + half, h, &right);
    if (has_left && has_right) *out = join(left, right);
    else if (has_left) *out = left;
    else if (has_right) *out = right;
    return has_left || has_right;
}

/* Runs one program: leaves in, blocks out, in place of a stack. Returns the number of blocks. */
static int evaluate(int lanes, ss_span range, const ss_span *leaf, const partial *in, int count, ss_span *blocks, partial *out) {
    int32_t adds[MAX_V];
    int depth = -1, top = 0, highest = 0;
    int found = ss_fold_plan(lanes, range, leaf, count, adds, blocks, &depth);
    partial stack[MAX_V + 1];
    for (int i = 0; i < count; i++) {
        stack[top++] = in[i];
        if (top > highest) highest = top;
        for (int j = 0; j < adds[i]; j++) {
            if (!CHECK(top >= 2)) return found;
            top--;
            stack[top - 1] = join(stack[top - 1], stack[top]);
        }
    }
    CHECK(top == found && highest == depth);
    CHECK(ss_fold_plan(lanes, range, leaf, count, NULL, NULL, NULL) == found);
    memcpy(out, stack, (size_t)found * sizeof *out);
    return found;
}

/* Is [lo, hi) a node of the tree over [l, h)? */
static bool is_node(int l, int h, ss_span span) {
    if (span.lo == l && span.hi == h) return true;
    if (h - l < 2) return false;
    int cut = ss_lane_cut(l, h);
    return span.hi <= cut ? is_node(l, cut, span) : span.lo >= cut && is_node(cut, h, span);
}

/* sweep -> rank -> all, for one deal. */
static void check_deal(int lanes, int ranks, int at_once, partial expected, int samples) {
    ss_span rank_leaf[MAX_V], all_blocks[MAX_V];
    partial rank_in[MAX_V], total[MAX_V];
    int rank_leaves = 0;
    for (int rank = 0; rank < ranks; rank++) {
        ss_span mine = ss_rank_lanes(rank, ranks, lanes), sweep_leaf[MAX_V], blocks[MAX_V];
        partial sweep_in[MAX_V], out[MAX_V];
        int sweep_leaves = 0;
        for (int lo = mine.lo; lo < mine.hi;) {
            /* Sweeps end at multiples of at_once, as the lane schedule has them. */
            int hi = (lo / at_once + 1) * at_once;
            if (hi > mine.hi) hi = mine.hi;
            ss_span leaf[MAX_V];
            partial in[MAX_V];
            int count = 0;
            for (int lane = lo; lane < hi; lane++)
                if (lane_present[lane]) leaf[count] = (ss_span){lane, lane + 1}, in[count++] = lane_value[lane];
            sweep_leaves += evaluate(lanes, (ss_span){lo, hi}, leaf, in, count, sweep_leaf + sweep_leaves, sweep_in + sweep_leaves);
            lo = hi;
        }
        int found = evaluate(lanes, mine, sweep_leaf, sweep_in, sweep_leaves, blocks, out);
        for (int i = 0; i < found; i++) {
            CHECK(blocks[i].lo >= mine.lo && blocks[i].hi <= mine.hi && is_node(0, lanes, blocks[i]));
            CHECK(i == 0 || blocks[i].lo >= blocks[i - 1].hi);
        }
        memcpy(rank_leaf + rank_leaves, blocks, (size_t)found * sizeof *blocks);
        memcpy(rank_in + rank_leaves, out, (size_t)found * sizeof *out);
        rank_leaves += found;
    }
    int found = evaluate(lanes, (ss_span){0, lanes}, rank_leaf, rank_in, rank_leaves, all_blocks, total);
    if (samples == 0) {
        CHECK(found == 0);
        return;
    }
    CHECK(found == 1);
    CHECK(same(total[0], expected));
}

static void check_batch(int lanes, int batch) {
    partial expected = {0};
    for (int lane = 0; lane < lanes; lane++) {
        lane_present[lane] = ss_lane_begin(lane + 1, lanes, batch) > ss_lane_begin(lane, lanes, batch);
        float value = ldexpf((float)(int32_t)next_random(), (int)(next_random() % 12) - 40);
        lane_value[lane] = (partial){value, (uint64_t)lane + 1};
    }
    CHECK(direct(0, lanes, &expected) == (batch > 0));
    for (int ranks = 1; ranks <= lanes; ranks++)
        for (int at_once = 1; at_once < 2 * lanes; at_once *= 2) check_deal(lanes, ranks, at_once, expected, batch);
}

static void check_default(void) {
    static const int known[][2] = {{1, 1}, {2, 2}, {7, 7}, {8, 8}, {9, 8}, {64, 8}, {100, 8}, {127, 8}, {128, 16}, {255, 16},
                                   {256, 32}, {511, 32}, {512, 64}, {4096, 64}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) CHECK(ss_default_lanes(known[i][0]) == known[i][1]);
    CHECK(ss_default_lanes(INT64_MAX) == 64);
}

static void check_shapes(void) {
    for (int lanes = 1; lanes <= 100; lanes++)
        for (int64_t batch = 0; batch < 130; batch++) { /* lanes cover the batch, balanced within one sample */
            CHECK(ss_lane_begin(0, lanes, batch) == 0 && ss_lane_begin(lanes, lanes, batch) == batch);
            for (int lane = 0; lane < lanes; lane++) {
                int64_t size = ss_lane_begin(lane + 1, lanes, batch) - ss_lane_begin(lane, lanes, batch);
                CHECK(size == batch / lanes || size == batch / lanes + 1);
            }
        }
    for (int lanes = 1; lanes <= 64; lanes++)
        for (int ranks = 1; ranks <= lanes; ranks++) {
            int at = 0;
            for (int rank = 0; rank < ranks; rank++) {
                ss_span mine = ss_rank_lanes(rank, ranks, lanes);
                CHECK(mine.lo == at && mine.hi > mine.lo && mine.hi - mine.lo <= (lanes + ranks - 1) / ranks);
                at = mine.hi;
            }
            CHECK(at == lanes);
        }
    CHECK(ss_lane_cut(0, 2) == 1 && ss_lane_cut(0, 3) == 2 && ss_lane_cut(0, 8) == 4 && ss_lane_cut(8, 13) == 12 && ss_lane_cut(3, 12) == 11);
}

/* Programs written out by hand. */
static void check_known(void) {
    ss_span leaf[8], blocks[8];
    int32_t adds[8];
    int depth;
    for (int i = 0; i < 8; i++) leaf[i] = (ss_span){i, i + 1};
    static const int32_t eight[8] = {0, 1, 0, 2, 0, 1, 0, 3}, five[5] = {0, 1, 0, 2, 1};
    CHECK(ss_fold_plan(8, (ss_span){0, 8}, leaf, 8, adds, blocks, &depth) == 1);
    CHECK(memcmp(adds, eight, sizeof eight) == 0 && depth == 4 && blocks[0].lo == 0 && blocks[0].hi == 8);
    CHECK(ss_fold_plan(5, (ss_span){0, 5}, leaf, 5, adds, blocks, &depth) == 1 && memcmp(adds, five, sizeof five) == 0 && depth == 3);
    /* Lanes 1 to 6 of 8: the nodes 1, 2-4, 4-6, 6. */
    static const int32_t middle[6] = {0, 0, 1, 0, 1, 0};
    CHECK(ss_fold_plan(8, (ss_span){1, 7}, leaf + 1, 6, adds, blocks, &depth) == 4 && memcmp(adds, middle, sizeof middle) == 0);
    CHECK(blocks[0].lo == 1 && blocks[1].lo == 2 && blocks[1].hi == 4 && blocks[2].lo == 4 && blocks[2].hi == 6 && blocks[3].lo == 6);
    /* Lanes 0, 2 and 3 are absent: 1 passes through, the block is still the whole node. */
    ss_span some[] = {{1, 2}, {4, 6}, {7, 8}};
    static const int32_t sparse[3] = {0, 0, 2};
    CHECK(ss_fold_plan(8, (ss_span){0, 8}, some, 3, adds, blocks, &depth) == 1 && memcmp(adds, sparse, sizeof sparse) == 0);
    CHECK(blocks[0].lo == 0 && blocks[0].hi == 8 && depth == 3);
    depth = 9;
    CHECK(ss_fold_plan(8, (ss_span){3, 3}, NULL, 0, NULL, NULL, &depth) == 0 && depth == 0);
    CHECK(ss_fold_plan(8, (ss_span){0, 8}, NULL, 0, NULL, NULL, &depth) == 0 && depth == 0);
    CHECK(ss_fold_plan(0, (ss_span){0, 0}, NULL, 0, NULL, NULL, &depth) == 0);
    /* The largest: as many partials at once as log2 of the lanes, plus one. */
    static ss_span many[SS_MAX_LANES];
    for (int i = 0; i < SS_MAX_LANES; i++) many[i] = (ss_span){i, i + 1};
    CHECK(ss_fold_plan(SS_MAX_LANES, (ss_span){0, SS_MAX_LANES}, many, SS_MAX_LANES, NULL, NULL, &depth) == 1 && depth == 11);
}

int main(void) {
    check_default();
    check_shapes();
    check_known();
    for (int lanes = 1; lanes <= MAX_V; lanes++) {
        static const int batches[] = {0, 1, 2, 3, 5, 7, 8, 13, 16, 31, 32, 37};
        for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
            if (batches[i] < lanes) check_batch(lanes, batches[i]);
        check_batch(lanes, lanes - 1);
        check_batch(lanes, lanes);
        check_batch(lanes, 3 * lanes + 1);
    }
    /* The check above can fail: another order of the same values gives other bits somewhere. */
    partial a = {1e8f, 1}, b = {-1e8f, 2}, c = {1e-3f, 3};
    CHECK(!same(join(join(a, b), c), join(a, join(b, c))));
    return TEST_DONE();
}
