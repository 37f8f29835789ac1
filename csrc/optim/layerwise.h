/* What LARS and LAMB share: norms of a parameter and of its step, from blocks (kernels/blocks.h) that the threads share. Scratch: two doubles a block, then the step. */
#ifndef SS_OPTIM_LAYERWISE_H
#define SS_OPTIM_LAYERWISE_H
#include <math.h>
#include "base/shape.h"
#include "kernels/blocks.h"
#include "kernels/rowreduce.h"
#include "optim/optim.h"

typedef struct layerwise {
    double *param, *other; /* sums of squares, block by block */
    float *step;           /* count floats */
} layerwise;

static inline layerwise layerwise_of(const ss_whole *w) {
    double *sums = (double *)(void *)w->scratch;
    int64_t blocks = ss_blocks(w->count);
    return (layerwise){.param = sums, .other = sums + blocks, .step = w->scratch + ss_round_up(4 * blocks, 16)};
}

static inline int64_t layerwise_scratch(const ss_shape *shape, bool step) {
    int64_t count = ss_shape_count(shape);
    return ss_round_up(4 * ss_blocks(count), 16) + (step ? count : 0);
}

static inline double layerwise_norm(const double *sums, int64_t count) { return sqrt(ss_tree_sum(sums, ss_blocks(count))); }

static inline int layerwise_phases(const double *hyper, const ss_shape *shape) {
    (void)hyper, (void)shape;
    return 2;
}

#endif
