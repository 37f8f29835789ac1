/* What operators that work element by element on one input have in common. */
#ifndef SS_OPS_ELEMENTWISE_H
#define SS_OPS_ELEMENTWISE_H
#include "ops/op.h"

/* One batched float input; the output has its shape; any layout. */
static inline ss_status ew_infer(ss_infer *q, const char *name, ss_error *err) {
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes 1 input, not %d", name, q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "%s: the input must be an activation, one row a sample", name);
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s: the input must be float", name);
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->any_layout = true;
    return SS_OK;
}

/* flops an element forward and backward; forward reads and writes one element, backward reads two and writes one. */
static inline void ew_cost(const ss_call *c, bool both, double forward, double backward, ss_cost *out) {
    double n = (double)ss_shape_count(&c->out_shape[0]);
    out->flops = n * (forward + (both ? backward : 0));
    out->bytes = n * 4 * (2 + (both ? 3 : 0));
}

/* The part of the elements of all rows that belongs to this thread. */
static inline void ew_range(const ss_call *c, int64_t *begin, int64_t *end) { ss_my_elements(c, c->rows * ss_shape_count(&c->out_shape[0]), begin, end); }

#endif
