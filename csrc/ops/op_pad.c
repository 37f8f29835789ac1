/* pad: more elements at both ends of one axis. */
#include "ops/axis.h"

enum { AXIS, BEFORE, AFTER, MODE, VALUE, INTEGER };
enum { PAD_CONSTANT, PAD_REFLECT, PAD_REPLICATE, PAD_CIRCULAR };
static const ss_attr_spec attrs[] = {
    AXIS_ATTR,
    {"before", SS_ATTR_INT, 0, 0, 1099511627776.0, "elements added in front"},
    {"after", SS_ATTR_INT, 0, 0, 1099511627776.0, "elements added behind"},
    {"mode", SS_ATTR_INT, 0, 0, 3, "0: constant; 1: reflect, without repeating the edge; 2: replicate the edge; 3: circular"},
    {"value", SS_ATTR_FLOAT, 0, -INFINITY, INFINITY, "the constant of mode 0"},
    {"integer", SS_ATTR_BOOL, 0, 0, 1, "1: the elements are int32"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    ss_status status = axis_infer(q, "pad", 1, err);
    if (status != SS_OK) return status;
    const int axis = axis_number(q->attr[AXIS], &q->in[0]), mode = (int)q->attr[MODE];
    const int64_t before = ss_attr_i(q->attr, BEFORE), after = ss_attr_i(q->attr, AFTER), extent = q->in[0].dim[axis], most = extent - (mode == PAD_REFLECT);
    if ((mode == PAD_REFLECT || mode == PAD_CIRCULAR) && (before > most || after > most))
        return SS_FAIL(err, SS_ERR_SHAPE, "pad: an axis of %lld elements can be padded by at most %lld at each end in mode '%s', not by %lld and %lld", (long long)extent, (long long)most,
                       mode == PAD_REFLECT ? "reflect" : "circular", (long long)before, (long long)after);
    if ((q->attr[INTEGER] != 0) != (q->dtype[0] == SS_I32)) return SS_FAIL(err, SS_ERR_DTYPE, "pad: attribute integer=%d does not fit the input's dtype", (int)q->attr[INTEGER]);
    const double value = q->attr[VALUE];
    if (q->attr[INTEGER] != 0 && !(value >= -2147483648.0 && value <= 2147483647.0 && value == (double)(int32_t)value))
        return SS_FAIL(err, SS_ERR_VALUE, "pad: value=%g is no whole number of 32 bits", value);
    q->out[0].dim[axis] += before + after;
    q->any_layout = true;
    return SS_OK;
}

typedef struct pad_size {
    axis_view view;
    int64_t before, after, out, begin, end;
    int mode;
} pad_size;

static pad_size size_of(const ss_call *c) {
    pad_size z = {.view = axis_view_of(&c->in_shape[0], axis_number(c->attr[AXIS], &c->in_shape[0]), c->layout),
                  .before = ss_attr_i(c->attr, BEFORE), .after = ss_attr_i(c->attr, AFTER), .mode = (int)c->attr[MODE]};
    z.out = z.view.extent + z.before + z.after;
    ss_split(c->rows * z.view.outer, 1, c->thread, c->threads, &z.begin, &z.end);
    return z;
}

/* Which element of the input stands at k of the output; -1: the constant. */
static inline int64_t source(const pad_size *z, int64_t k) {
    const int64_t n = z->view.extent, j = k - z->before;
    if (j >= 0 && j < n) return j;
    switch (z->mode) {
    case PAD_REFLECT: return j < 0 ? -j : 2 * (n - 1) - j;
    case PAD_REPLICATE: return j < 0 ? 0 : n - 1;
    case PAD_CIRCULAR: return j < 0 ? j + n : j - n;
    default: return -1;
    }
}

/* The constant in the memory of one element. */
static real constant(const ss_call *c) {
    real value = (real)c->attr[VALUE];
    if (c->attr[INTEGER] != 0) {
        const int32_t whole = (int32_t)c->attr[VALUE];
        memcpy(&value, &whole, sizeof whole);
    }
    return value;
}

static void edge(const pad_size *z, int64_t first, int64_t last, const real *restrict x, real *restrict y, real value) {
    const int64_t inner = z->view.inner;
    if (z->mode == PAD_CONSTANT) {
        for (int64_t i = first * inner; i < last * inner; i++) y[i] = value;
        return;
    }
    for (int64_t k = first; k < last; k++) axis_copy(y + k * inner, x + source(z, k) * inner, inner);
}

static void forward(const ss_call *c) {
    const pad_size z = size_of(c);
    const int64_t n = z.view.extent, inner = z.view.inner;
    const real value = constant(c);
    for (int64_t u = z.begin; u < z.end; u++) {
        const real *x = (const real *)c->in[0] + u * n * inner;
        real *y = (real *)c->out[0] + u * z.out * inner;
        edge(&z, 0, z.before, x, y, value);
        axis_copy(y + z.before * inner, x, n * inner);
        edge(&z, z.before + n, z.out, x, y, value);
    }
}

static void backward(const ss_call *c) {
    const pad_size z = size_of(c);
    const int64_t n = z.view.extent, inner = z.view.inner;
    for (int64_t u = z.begin; u < z.end; u++) {
        const real *g = (const real *)c->grad_out[0] + u * z.out * inner;
        real *gx = (real *)c->grad_in[0] + u * n * inner;
        if (z.mode == PAD_CONSTANT) {
            axis_copy(gx, g + z.before * inner, n * inner);
            continue;
        }
        axis_zero(gx, n * inner);
        for (int64_t k = 0; k < z.before; k++) axis_add(gx + source(&z, k) * inner, g + k * inner, inner);
        axis_add(gx, g + z.before * inner, n * inner);
        for (int64_t k = z.before + n; k < z.out; k++) axis_add(gx + source(&z, k) * inner, g + k * inner, inner);
    }
}

static const ss_op_case cases[] = {
    {.attrs = "before=2 after=3", .inputs = "B:5"},
    {.attrs = "axis=1 before=1 after=2 value=1.5", .inputs = "B:3,4,5"},
    {.attrs = "axis=-1 before=1 value=-inf", .inputs = "B:3,4,5", .no_gradient_check = true /* the loss is not finite */},
    {.attrs = "axis=2 before=3 after=2 mode=1", .inputs = "B:3,4,4"},
    {.attrs = "axis=1 before=1 after=3 mode=1", .inputs = "B:3,4,5"},
    {.attrs = "axis=1 before=7 after=9 mode=2", .inputs = "B:3,4,5"},
    {.attrs = "axis=2 before=2 mode=2", .inputs = "B:3,4,5"},
    {.attrs = "axis=1 before=4 after=3 mode=3", .inputs = "B:3,4,5"},
    {.attrs = "axis=-1 before=2 after=5 mode=3", .inputs = "B:2,5"},
    {.inputs = "B:3,4"},
    {.attrs = "before=1 after=1 value=7 integer=1", .inputs = "I9:4"},
    {.attrs = "axis=1 before=1 after=1 mode=1 integer=1", .inputs = "I9:2,4,3"},
    {.attrs = "before=5 mode=1", .inputs = "B:5", .expect = SS_ERR_SHAPE},
    {.attrs = "after=6 mode=3", .inputs = "B:5", .expect = SS_ERR_SHAPE},
    {.attrs = "axis=1 after=1", .inputs = "B:5", .expect = SS_ERR_SHAPE},
    {.attrs = "before=-1", .inputs = "B:5", .expect = SS_ERR_VALUE},
    {.attrs = "value=nan", .inputs = "B:5", .expect = SS_ERR_VALUE},
    {.attrs = "value=0.5 integer=1", .inputs = "I5:5", .expect = SS_ERR_VALUE},
    {.inputs = "I5:5", .expect = SS_ERR_DTYPE},
    {.attrs = "integer=1", .inputs = "B:5", .expect = SS_ERR_DTYPE},
    {.inputs = "P:5", .expect = SS_ERR_VALUE},
    {0},
};

const ss_op SS_FN(ss_op_pad) = {
    .name = "pad",
    .doc = "Adds `before` and `after` elements to the ends of `axis`: a constant `value` (mode 0), the mirrored neighbours of the edge (1; fewer than the axis has), copies of the edge (2), or "
           "the other end (3; at most as many as the axis has). Float or int32 (`integer=1`). The gradient of an element is the sum of those of its copies, in the order of the output.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = axis_cost,
    .cases = cases,
};
