/* The definition of the lane tree, element by element, without the code under test: lanes are numbers drawn from (lane, element). */
#ifndef SS_TESTS_COMM_LANES_H
#define SS_TESTS_COMM_LANES_H
#include <math.h>
#include <stdbool.h>
#include "base/lanes.h"
#include "tests/comm_test.h"

/* Many magnitudes: another order of sums gives other bits. */
static inline float lane_value(uint64_t seed, int lane, int64_t element) {
    uint32_t bits = mix(seed * 1000003u + (uint64_t)lane * 8000009u + (uint64_t)element * 17u);
    return ldexpf((float)(int32_t)bits * 0x1p-31f, (int)(bits % 13) - 6);
}

static inline bool lane_is_empty(int v, int lanes, int64_t batch) { return (int64_t)v * batch / lanes == ((int64_t)v + 1) * batch / lanes; }

/* T(l, h) = T(l, m) + T(m, h), lanes without samples skipped. False when all of them are. */
static inline bool tree_sum(uint64_t seed, int l, int h, int lanes, int64_t batch, int64_t element, float *sum) {
    if (h - l == 1) {
        *sum = lane_value(seed, l, element);
        return !lane_is_empty(l, lanes, batch);
    }
    int half = 1;
    while (2 * half < h - l) half *= 2;
    float left, right;
    bool has_left = tree_sum(seed, l, l + half, lanes, batch, element, &left), has_right = tree_sum(seed, l + half, h, lanes, batch, element, &right);
    *sum = has_left && has_right ? left + right : has_left ? left : right;
    return has_left || has_right;
}

static inline bool span_is_empty(int l, int h, int lanes, int64_t batch) {
    while (l < h && lane_is_empty(l, lanes, batch)) l++;
    return l == h;
}

/* The maximal nodes of the tree [l, h) that lie inside run and have samples, in order. Returns how many. */
static inline int tree_blocks(int l, int h, ss_span run, int lanes, int64_t batch, ss_span *blocks) {
    if (h <= run.lo || l >= run.hi || span_is_empty(l, h, lanes, batch)) return 0;
    if (l >= run.lo && h <= run.hi) {
        *blocks = (ss_span){l, h};
        return 1;
    }
    int half = 1;
    while (2 * half < h - l) half *= 2;
    int n = tree_blocks(l, l + half, run, lanes, batch, blocks);
    return n + tree_blocks(l + half, h, run, lanes, batch, blocks + n);
}

#endif
