/* Lanes: how a global batch is cut, and the tree that joins sums over lanes.
 *
 * Lane v of V holds the samples [v*B/V, (v+1)*B/V) of a batch of B. Sums over samples are one fused-multiply-add chain inside a
 * lane and, across lanes, the tree T(l,h) = T(l,m) + T(m,h) with m = l + the largest power of two below h-l. Empty lanes are
 * skipped. Ranks hold contiguous runs of lanes; a rank runs its lanes in sweeps of `lanes_at_once`.
 *
 * One program serves every level of that tree. Leaves arrive in order; after leaf i the two topmost partials of a stack are
 * joined adds[i] times. What is left at the end are the blocks: the maximal nodes of the tree that lie inside the range.
 *   lanes of a sweep   -> blocks of the sweep      (inside an operator's kernel)
 *   blocks of sweeps   -> blocks of the rank       (rank's gradient buffers)
 *   blocks of all ranks-> the total                (exchange)
 */
#ifndef SS_BASE_LANES_H
#define SS_BASE_LANES_H
#include <stdint.h>
#include "base/status.h"

/* The version of the order of sums; stored in checkpoints and fingerprints. Raise it when any order changes. */
enum { SS_ORDER_VERSION = 4 };

enum { SS_MAX_LANES = 1024 };

/* Lanes [lo, hi): a node of the tree, or a run. */
typedef struct ss_span {
    int32_t lo, hi;
} ss_span;

static inline int64_t ss_lane_begin(int64_t lane, int64_t lanes, int64_t batch) { return lane * batch / lanes; }

/* The default V for a batch: the largest power of two at most B/8, but at least min(B, 8) and at most 64. */
int32_t ss_default_lanes(int64_t batch);

/* The lanes of one rank of `ranks` (contiguous, balanced within one). */
static inline ss_span ss_rank_lanes(int rank, int ranks, int lanes) {
    return (ss_span){(int32_t)((int64_t)rank * lanes / ranks), (int32_t)((int64_t)(rank + 1) * lanes / ranks)};
}

/* Where the tree cuts the node [l, h): l + the largest power of two below h - l. Needs h - l >= 2. */
static inline int32_t ss_lane_cut(int32_t l, int32_t h) {
    int32_t half = 1;
    while (half * 2 < h - l) half *= 2;
    return l + half;
}

/* Computes the program that joins `count` leaves (nodes of the tree over `lanes`, in order, disjoint, inside range; absent lanes
 * have no leaf) into the blocks inside range. adds and blocks hold `count` entries each; either may be NULL.
 * Returns the number of blocks; *depth (may be NULL) receives the greatest height of the stack. */
int ss_fold_plan(int32_t lanes, ss_span range, const ss_span *leaf, int count, int32_t *adds, ss_span *blocks, int *depth);

/* The lanes of one sweep, as operators see them. Arrays belong to the caller. */
typedef struct ss_fold {
    int lanes;            /* lanes that hold samples */
    int blocks;           /* partials left after folding: what a parameter's gradient buffer receives */
    int depth;            /* greatest height of the stack while folding */
    const int64_t *row;   /* [lanes + 1] lane i holds the sweep's samples [row[i], row[i+1]) */
    const int32_t *adds;  /* [lanes] joins after lane i */
    const int32_t *lane;  /* [lanes] number of the lane in the global batch */
} ss_fold;

#endif
