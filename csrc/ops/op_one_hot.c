/* one_hot: whole numbers as unit vectors. */
#include "ops/axis.h"

static const ss_attr_spec attrs[] = {
    {"classes", SS_ATTR_INT, 1, 1, 1099511627776.0, "length of the new last axis"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "one_hot takes 1 input, not %d", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "one_hot: the input must be batched, one row a sample");
    if (q->dtype[0] != SS_I32) return SS_FAIL(err, SS_ERR_DTYPE, "one_hot: the input must hold whole numbers");
    if (q->in[0].rank == SS_MAX_RANK) return SS_FAIL(err, SS_ERR_SHAPE, "one_hot: %s has no room for another axis", ss_shape_text(&q->in[0], true, text, sizeof text));
    q->n_out = 1;
    q->out[0] = q->in[0];
    q->out[0].dim[q->out[0].rank++] = ss_attr_i(q->attr, 0);
    return SS_OK;
}

static void forward(const ss_call *c) {
    const int64_t classes = ss_attr_i(c->attr, 0);
    int64_t begin, end;
    ss_split(c->rows * ss_shape_count(&c->in_shape[0]), 1, c->thread, c->threads, &begin, &end);
    const int32_t *index = c->in[0];
    real *y = c->out[0];
    for (int64_t i = begin; i < end; i++) {
        const bool inside = index[i] >= 0 && index[i] < classes;
        if (inside) axis_zero(y + i * classes, classes);
        else
            for (int64_t k = 0; k < classes; k++) y[i * classes + k] = (real)NAN;
        if (inside) y[i * classes + index[i]] = 1;
    }
}

/* Whole numbers have no gradient. */
static void backward(const ss_call *c) { (void)c; }

static ss_status prepare(const ss_call *c, ss_error *err) { return axis_check_indices(c, "one_hot", 0, ss_attr_i(c->attr, 0), "the classes are", err); }

static const ss_op_case cases[] = {
    {.attrs = "classes=5", .inputs = "I5:"},
    {.attrs = "classes=7", .inputs = "I6:3,4"},
    {.inputs = "I1:3"},
    {.attrs = "classes=4", .inputs = "I400:3", .expect = SS_ERR_VALUE},
    {.attrs = "classes=0", .inputs = "I4:3", .expect = SS_ERR_VALUE},
    {.attrs = "classes=4", .inputs = "I4:1,1,1,1,1,2", .expect = SS_ERR_SHAPE},
    {.attrs = "classes=4", .inputs = "B:3", .expect = SS_ERR_DTYPE},
    {.attrs = "classes=4", .inputs = "S:3", .expect = SS_ERR_VALUE},
    {.attrs = "classes=4", .inputs = "I4:3 I4:3", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_one_hot) = {
    .name = "one_hot",
    .doc = "Whole numbers in [0, classes) as vectors along a new last axis: 1 at the number, 0 elsewhere. Numbers from the data are checked before the step; a computed number outside gives NaN. "
           "No gradient.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .prepare = prepare,
    .cost = axis_cost,
    .cases = cases,
};
