/* Operators that work element by element on two batched inputs of one shape. A file defines `value(a, b)` and includes this; the Python functions bring operands to one shape
 * (broadcast_to, expand). */
#ifndef SS_OPS_BINARY_H
#define SS_OPS_BINARY_H
#include "ops/op.h"

/* whole: both inputs may also be int32. */
static inline ss_status binary_infer(ss_infer *q, const char *name, bool whole, ss_error *err) {
    char a[96], b[96];
    if (q->n_in != 2 || q->in[0].rank < 0 || q->in[1].rank < 0) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes 2 inputs", name);
    if (q->role[0] != SS_ROLE_BATCHED || q->role[1] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "%s: both inputs must be activations, one row a sample", name);
    if (q->dtype[0] != q->dtype[1] || (!whole && q->dtype[0] != SS_F32))
        return SS_FAIL(err, SS_ERR_DTYPE, whole ? "%s: both inputs must be float, or both whole numbers" : "%s: both inputs must be float", name);
    if (!ss_shape_equal(&q->in[0], &q->in[1]))
        return SS_FAIL(err, SS_ERR_SHAPE, "%s: %s and %s differ", name, ss_shape_text(&q->in[0], true, a, sizeof a), ss_shape_text(&q->in[1], true, b, sizeof b));
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->any_layout = true;
    return SS_OK;
}

static inline void binary_range(const ss_call *c, int64_t *begin, int64_t *end) { ss_my_elements(c, c->rows * ss_shape_count(&c->out_shape[0]), begin, end); }

static inline void binary_cost(const ss_call *c, bool both, double forward, double backward, ss_cost *out) {
    double n = (double)ss_shape_count(&c->out_shape[0]);
    out->flops = n * (forward + (both ? backward : 0));
    out->bytes = n * 4 * (3 + (both ? 5 : 0));
}

/* forward and backward of an operator with the expressions VALUE, GA, GB in a, b, y (when it NEEDS_OUT) and g. */
#define BINARY_FORWARD(VALUE)                                                  \
    static void forward(const ss_call *c) {                                    \
        const real *restrict x0 = c->in[0], *restrict x1 = c->in[1];           \
        real *restrict out = c->out[0];                                        \
        int64_t begin, end;                                                    \
        binary_range(c, &begin, &end);                                         \
        for (int64_t i = begin; i < end; i++) {                                \
            const real a = x0[i], b = x1[i];                                   \
            out[i] = VALUE;                                                    \
        }                                                                      \
    }
#define BINARY_BACKWARD(GA, GB)                                                                      \
    static void backward(const ss_call *c) {                                                         \
        const real *restrict x0 = c->in[0], *restrict x1 = c->in[1], *restrict y0 = c->out[0];       \
        const real *restrict g0 = c->grad_out[0];                                                    \
        real *restrict to0 = c->grad_in[0], *restrict to1 = c->grad_in[1];                           \
        int64_t begin, end;                                                                          \
        binary_range(c, &begin, &end);                                                               \
        (void)x0, (void)x1, (void)y0;                                                                \
        if (to0)                                                                                     \
            for (int64_t i = begin; i < end; i++) to0[i] = GA;                                       \
        if (to1)                                                                                     \
            for (int64_t i = begin; i < end; i++) to1[i] = GB;                                       \
    }

/* Bad questions that every operator of this kind refuses. */
#define BINARY_BAD_CASES                                     \
    {.inputs = "B:4,3 B:3", .expect = SS_ERR_SHAPE},         \
    {.inputs = "B:4", .expect = SS_ERR_SHAPE},               \
    {.inputs = "B:4 -", .expect = SS_ERR_SHAPE},             \
    {.inputs = "B:4 B:4 B:4", .expect = SS_ERR_SHAPE},       \
    {.inputs = "P:4 B:4", .expect = SS_ERR_VALUE},           \
    {.inputs = "B:4 P:4", .expect = SS_ERR_VALUE},           \
    {.inputs = "B:4 I3:4", .expect = SS_ERR_DTYPE}

#endif
