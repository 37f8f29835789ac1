#include "base/lanes.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

int32_t ss_default_lanes(int64_t batch) {
    if (batch < 8) return batch < 1 ? 1 : (int32_t)batch;
    int32_t lanes = 8;
    while (lanes < 64 && lanes * 2 <= batch / 8) lanes *= 2;
    return lanes;
}

/* The state of one walk through the tree: leaves are taken in order. */
typedef struct walk {
    const ss_span *leaf;
    int count, next; /* leaves, and the first one not yet taken */
    int height, depth;
    int32_t *adds;
} walk;

/* Takes the leaves below node [l, h) and joins them into one partial; false when there are none. */
static bool fold_node(walk *w, int32_t l, int32_t h) {
    if (w->next == w->count || w->leaf[w->next].lo >= h) return false;
    if (w->leaf[w->next].lo == l && w->leaf[w->next].hi == h) {
        if (w->adds) w->adds[w->next] = 0;
        w->next++;
        if (++w->height > w->depth) w->depth = w->height;
        return true;
    }
    assert(h - l >= 2 && "a leaf is not a node of the tree");
    int32_t cut = ss_lane_cut(l, h);
    bool left = fold_node(w, l, cut), right = fold_node(w, cut, h);
    if (left && right) {
        if (w->adds) w->adds[w->next - 1]++;
        w->height--;
    }
    return left || right;
}

/* Finds the maximal nodes inside range, from left to right, and folds each. Returns the number of blocks found so far. */
static int fold_range(walk *w, int32_t l, int32_t h, ss_span range, ss_span *blocks, int found) {
    if (h <= range.lo || l >= range.hi || w->next == w->count) return found;
    if (range.lo <= l && h <= range.hi) {
        if (!fold_node(w, l, h)) return found;
        if (blocks) blocks[found] = (ss_span){l, h};
        return found + 1;
    }
    int32_t cut = ss_lane_cut(l, h);
    found = fold_range(w, l, cut, range, blocks, found);
    return fold_range(w, cut, h, range, blocks, found);
}

int ss_fold_plan(int32_t lanes, ss_span range, const ss_span *leaf, int count, int32_t *adds, ss_span *blocks, int *depth) {
    assert(0 <= range.lo && range.lo <= range.hi && range.hi <= lanes);
    walk w = {.leaf = leaf, .count = count, .adds = adds};
    int found = lanes > 0 ? fold_range(&w, 0, lanes, range, blocks, 0) : 0;
    assert(w.next == count && "leaves are out of order or outside the range");
    assert(w.height == found);
    if (depth) *depth = w.depth;
    return found;
}
