/* permute: the axes of a sample in another order. */
#include "ops/axis.h"

enum { RANK, P0 };
#define PLACE_DOC "which axis of the input becomes this one"
static const ss_attr_spec attrs[] = {
    {"rank", SS_ATTR_INT, 1, 0, SS_MAX_RANK, "number of axes after the batch axis"},
    {"p0", SS_ATTR_INT, 0, 0, SS_MAX_RANK - 1, PLACE_DOC},
    {"p1", SS_ATTR_INT, 1, 0, SS_MAX_RANK - 1, PLACE_DOC},
    {"p2", SS_ATTR_INT, 2, 0, SS_MAX_RANK - 1, PLACE_DOC},
    {"p3", SS_ATTR_INT, 3, 0, SS_MAX_RANK - 1, PLACE_DOC},
    {"p4", SS_ATTR_INT, 4, 0, SS_MAX_RANK - 1, PLACE_DOC},
    {"p5", SS_ATTR_INT, 5, 0, SS_MAX_RANK - 1, PLACE_DOC},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "permute takes 1 input, not %d", q->n_in);
    if (q->in[0].rank < 0 || q->role[0] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "permute: the input must be an activation, one row a sample");
    const int rank = (int)q->attr[RANK];
    if (rank != q->in[0].rank)
        return SS_FAIL(err, SS_ERR_SHAPE, "permute: %d axes are ordered, but the input has the shape %s", rank, ss_shape_text(&q->in[0], true, text, sizeof text));
    unsigned seen = 0;
    q->out[0].rank = rank;
    for (int i = 0; i < rank; i++) {
        const int from = (int)q->attr[P0 + i];
        if (from >= rank || seen >> from & 1) return SS_FAIL(err, SS_ERR_VALUE, "permute: p0 to p%d must name each of the %d axes once", rank - 1, rank);
        seen |= 1u << from;
        q->out[0].dim[i] = q->in[0].dim[from];
    }
    q->n_out = 1;
    q->out_dtype[0] = q->dtype[0];
    return SS_OK;
}

/* Axes of the target, outermost first; axes of extent 1 are left out and neighbours that stay neighbours are one. */
typedef struct permutation {
    int axes;
    int64_t n, extent[SS_MAX_RANK], stride[SS_MAX_RANK]; /* stride in the source */
} permutation;

/* The move from the input to the output, or back. */
static permutation permutation_of(const ss_call *c, bool back) {
    const ss_shape *from = back ? &c->out_shape[0] : &c->in_shape[0];
    int order[SS_MAX_RANK];
    for (int i = 0; i < from->rank; i++) {
        const int place = (int)c->attr[P0 + i];
        if (back) order[place] = i;
        else order[i] = place;
    }
    int64_t stride[SS_MAX_RANK];
    permutation p = {.n = 1};
    for (int i = from->rank - 1; i >= 0; i--) {
        stride[i] = p.n;
        p.n *= from->dim[i];
    }
    for (int i = 0; i < from->rank; i++) {
        const int64_t extent = from->dim[order[i]], step = stride[order[i]];
        if (extent == 1) continue;
        if (p.axes && p.stride[p.axes - 1] == extent * step) {
            p.extent[p.axes - 1] *= extent;
            p.stride[p.axes - 1] = step;
            continue;
        }
        p.extent[p.axes] = extent;
        p.stride[p.axes++] = step;
    }
    return p;
}

/* Offset in the source of place `at` counted over the axes [0, axes), without the axis `skip`; *target: the offset in the target. */
static inline int64_t offset_of(const permutation *p, const int64_t *place, int axes, int skip, int64_t at, int64_t *target) {
    int64_t from = 0;
    *target = 0;
    for (int i = axes - 1; i >= 0; i--) {
        if (i == skip) continue;
        const int64_t k = at % p->extent[i];
        at /= p->extent[i];
        from += k * p->stride[i];
        *target += k * place[i];
    }
    return from;
}

enum { BLOCK = 16 };

static void move(const ss_call *c, bool back, const real *from, real *to) {
    const permutation p = permutation_of(c, back);
    int64_t begin, end, target;
    if (p.axes <= 1) {
        ss_my_elements(c, c->rows * p.n, &begin, &end);
        memcpy(to + begin, from + begin, (size_t)(end - begin) * sizeof(real));
        return;
    }
    int64_t place[SS_MAX_RANK], size = 1;
    for (int i = p.axes - 1; i >= 0; i--) {
        place[i] = size;
        size *= p.extent[i];
    }
    const int last = p.axes - 1;
    const int64_t line = p.extent[last], lines = p.n / line;
    if (p.stride[last] == 1) { /* the last axis stays: whole lines */
        ss_split(c->rows * lines, 1, c->thread, c->threads, &begin, &end);
        for (int64_t u = begin; u < end; u++)
            axis_copy(to + u * line, from + u / lines * p.n + offset_of(&p, place, last, -1, u % lines, &target), line);
        return;
    }
    /* Otherwise transpositions between the target's last axis and the source's: to[j * pitch + i] = from[i * stride + j], in blocks. */
    int other = 0;
    while (p.stride[other] != 1) other++;
    const int64_t wide = p.extent[other], strips = (wide + BLOCK - 1) / BLOCK, matrices = p.n / line / wide, stride = p.stride[last], pitch = place[other];
    ss_split(c->rows * matrices * strips, 1, c->thread, c->threads, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const int64_t row = u / (matrices * strips), first = u % strips * BLOCK, stop = ss_min(first + BLOCK, wide);
        const int64_t at = offset_of(&p, place, last, other, u / strips % matrices, &target);
        const real *restrict x = from + row * p.n + at;
        real *restrict y = to + row * p.n + target;
        for (int64_t block = 0; block < line; block += BLOCK) {
            const int64_t high = ss_min(block + BLOCK, line);
            for (int64_t j = first; j < stop; j++)
                for (int64_t i = block; i < high; i++) y[j * pitch + i] = x[i * stride + j];
        }
    }
}

static void forward(const ss_call *c) { move(c, false, c->in[0], c->out[0]); }
static void backward(const ss_call *c) { move(c, true, c->grad_out[0], c->grad_in[0]); }

/* The definition, element by element. */
static void naive(const ss_call *c, bool back, const real *from, real *to) {
    const ss_shape *in = &c->in_shape[0], *out = &c->out_shape[0];
    const int64_t n = ss_shape_count(in);
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t e = 0; e < n; e++) {
            int64_t index[SS_MAX_RANK], rest = e, at = 0;
            for (int i = out->rank - 1; i >= 0; i--) {
                index[(int)c->attr[P0 + i]] = rest % out->dim[i];
                rest /= out->dim[i];
            }
            for (int i = 0; i < in->rank; i++) at = at * in->dim[i] + index[i];
            if (back) to[r * n + at] = from[r * n + e];
            else to[r * n + e] = from[r * n + at];
        }
}

static void forward_ref(const ss_call *c) { naive(c, false, c->in[0], c->out[0]); }
static void backward_ref(const ss_call *c) { naive(c, true, c->grad_out[0], c->grad_in[0]); }

static const ss_op_case cases[] = {
    {.attrs = "rank=2 p0=1 p1=0", .inputs = "B:17,35"},
    {.attrs = "rank=3 p0=1 p1=0 p2=2", .inputs = "B:5,4,7"},
    {.attrs = "rank=3 p0=1 p1=0 p2=2", .inputs = "B:5,4,32"},
    {.attrs = "rank=3 p0=0 p1=2 p2=1", .inputs = "B:3,18,5"},
    {.attrs = "rank=3 p0=2 p1=0 p2=1", .inputs = "B:3,6,5"},
    {.attrs = "rank=3 p0=1 p1=2 p2=0", .inputs = "B:3,6,5"},
    {.attrs = "rank=3 p0=2 p1=1 p2=0", .inputs = "B:3,6,5"},
    {.attrs = "rank=4 p0=2 p1=0 p2=3 p3=1", .inputs = "B:3,2,5,4"},
    {.attrs = "rank=4 p0=3 p1=1 p2=0 p3=2", .inputs = "B:3,1,5,4"},
    {.attrs = "rank=6 p0=5 p1=3 p2=1 p3=0 p4=4 p5=2", .inputs = "B:2,3,2,2,3,2"},
    {.attrs = "rank=6 p0=0 p1=3 p2=2 p3=1 p4=4 p5=5", .inputs = "B:2,3,2,2,3,2"},
    {.attrs = "rank=3 p0=0 p1=1 p2=2", .inputs = "B:3,6,5"},
    {.attrs = "rank=3 p0=1 p1=0 p2=2", .inputs = "B:1,6,1"},
    {.attrs = "rank=0", .inputs = "B:"},
    {.attrs = "rank=2 p0=1 p1=0", .inputs = "I9:3,5"},
    {.attrs = "rank=3 p0=1 p1=0 p2=2", .inputs = "I9:3,5,2"},
    {.attrs = "rank=2 p0=1 p1=1", .inputs = "B:3,5", .expect = SS_ERR_VALUE},
    {.attrs = "rank=2 p0=2 p1=0", .inputs = "B:3,5", .expect = SS_ERR_VALUE},
    {.attrs = "rank=3", .inputs = "B:3,5", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=2 p0=1 p1=0", .inputs = "B:3,5 B:3,5", .expect = SS_ERR_SHAPE},
    {.attrs = "rank=2 p0=1 p1=0", .inputs = "P:3,5", .expect = SS_ERR_VALUE},
    {0},
};

const ss_op SS_FN(ss_op_permute) = {
    .name = "permute",
    .doc = "The axes of each sample in the order p0, ..., p[rank-1] (numbers of the input's axes, counted after the batch axis): `y.shape[i] = x.shape[p_i]`. The batch axis stays. Float or int32. "
           "Where the last axis stays, whole lines are copied; otherwise blocks of 16 x 16 are transposed.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .forward_ref = forward_ref,
    .backward_ref = backward_ref,
    .cost = axis_cost,
    .cases = cases,
};
