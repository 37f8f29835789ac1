/* Shapes and overflow-checked size arithmetic. */
#ifndef SS_BASE_SHAPE_H
#define SS_BASE_SHAPE_H
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

enum { SS_MAX_RANK = 6 };

/* Extents, outermost first. For a batched value the shape is that of one sample: the batch axis is left out. */
typedef struct ss_shape {
    int rank;
    int64_t dim[SS_MAX_RANK];
} ss_shape;

typedef enum ss_dtype { SS_F32, SS_I32 } ss_dtype;

/* In memory a channels-last value (C, H, W) or (C, L) lies as (H, W, C) or (L, C); a plain one in row-major order. */
typedef enum ss_layout { SS_PLAIN, SS_CHANNELS_LAST } ss_layout;

static inline ss_shape ss_shape_of(int rank, int64_t a, int64_t b, int64_t c, int64_t d) {
    return (ss_shape){.rank = rank, .dim = {a, b, c, d}};
}
bool ss_shape_equal(const ss_shape *a, const ss_shape *b);
/* Product of the extents (1 for rank 0). Shapes in a graph were checked by ss_shape_check, so this cannot overflow. */
int64_t ss_shape_count(const ss_shape *shape);
/* Every extent at least 1, rank within bounds, product at most 2^40; `what` names the value in the message. */
ss_status ss_shape_check(const ss_shape *shape, const char *what, ss_error *err);
/* Writes "(3, 32, 32)" ; returns text. With batched true, "(B, 3, 32, 32)". */
const char *ss_shape_text(const ss_shape *shape, bool batched, char *text, int size);

/* *result = a * b or a + b, false on overflow or on a negative operand. */
bool ss_mul(int64_t a, int64_t b, int64_t *result);
bool ss_add(int64_t a, int64_t b, int64_t *result);

static inline int64_t ss_round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
static inline int64_t ss_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ss_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* Part `index` of `parts` of [0, count), cut at multiples of `grain`: contiguous, in order, balanced within one grain. */
static inline void ss_split(int64_t count, int64_t grain, int index, int parts, int64_t *begin, int64_t *end) {
    int64_t units = (count + grain - 1) / grain;
    *begin = ss_min(units * index / parts * grain, count);
    *end = ss_min(units * (index + 1) / parts * grain, count);
}

#endif
