/* Upsample: nearest and linear interpolation over one to three axes, as torch.nn.functional.interpolate, channels last in memory. */
#include "kernels/variant.h"
#include "ops/op.h"

enum { OUT_H, OUT_W, OUT_D, STEP_H, STEP_W, STEP_D, LINEAR, ALIGN_CORNERS };
enum { D, H, W, AXES };

static const ss_attr_spec attrs[] = {
    {"out_h", SS_ATTR_INT, 1, 1, 1 << 20, "height of the output"},
    {"out_w", SS_ATTR_INT, 1, 1, 1 << 20, "width of the output, the only extent of 1-d samples"},
    {"out_d", SS_ATTR_INT, 1, 1, 1 << 20, "depth of the output of 3-d samples"},
    {"step_h", SS_ATTR_FLOAT, 0, 0, 1e9, "rows of the input for each row of the output; 0: the ratio of the extents"},
    {"step_w", SS_ATTR_FLOAT, 0, 0, 1e9, "columns of the input for each column of the output; 0: the ratio of the extents"},
    {"step_d", SS_ATTR_FLOAT, 0, 0, 1e9, "planes of the input for each plane of the output; 0: the ratio of the extents"},
    {"linear", SS_ATTR_BOOL, 0, 0, 1, "interpolate between the neighbours; 0: take the nearest"},
    {"align_corners", SS_ATTR_BOOL, 0, 0, 1, "linear: the corners of input and output lie on each other"},
    {0},
};

/* One axis: extents of the input and the output, and how far the input moves with each output. */
typedef struct axis {
    int64_t size, out;
    double step;
    bool linear, align;
} axis;

typedef struct geometry {
    axis axis[AXES];
    int64_t channels, in, out; /* positions of a sample */
} geometry;

/* The elements of the input that an output reads, with their weights. */
typedef struct taps {
    int64_t at[2];
    real weight[2];
    int count;
} taps;

static geometry geometry_of(const double *attr, const ss_shape *x) {
    static const int OUT[AXES] = {OUT_D, OUT_H, OUT_W}, STEP[AXES] = {STEP_D, STEP_H, STEP_W};
    geometry g = {.channels = x->dim[0], .in = 1, .out = 1};
    for (int i = 0; i < AXES; i++) {
        int from = i - AXES + x->rank; /* which axis of the sample; 0 or less: missing */
        bool there = from >= 1;
        axis *a = &g.axis[i];
        *a = (axis){.size = there ? x->dim[from] : 1, .out = there ? ss_attr_i(attr, OUT[i]) : 1, .linear = attr[LINEAR] != 0, .align = attr[ALIGN_CORNERS] != 0};
        a->step = there && attr[STEP[i]] > 0 ? attr[STEP[i]] : (double)a->size / (double)a->out;
        if (a->linear && a->align) a->step = a->out > 1 ? (double)(a->size - 1) / (double)(a->out - 1) : 0;
        g.in *= a->size;
        g.out *= a->out;
    }
    return g;
}

static taps taps_of(const axis *a, int64_t o) {
    if (!a->linear) { /* in float, as PyTorch does: the rounding decides which neighbour is taken */
        float place = (float)o * (float)a->step;
        return (taps){.count = 1, .at = {ss_min((int64_t)place, a->size - 1)}, .weight = {1}};
    }
    double place = a->align ? (double)o * a->step : ((double)o + 0.5) * a->step - 0.5;
    if (place < 0) place = 0;
    int64_t first = ss_min((int64_t)place, a->size - 1);
    double share = place - (double)first;
    if (first == a->size - 1) return (taps){.count = 1, .at = {first}, .weight = {1}};
    return (taps){.count = 2, .at = {first, first + 1}, .weight = {(real)(1 - share), (real)share}};
}

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "upsample takes one input, not %d", q->n_in);
    if (q->in[0].rank < 2 || q->in[0].rank > 4 || q->role[0] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "upsample needs an input of shape (B, channels, one to three extents), got %s",
                       q->in[0].rank < 0 ? "none" : ss_shape_text(&q->in[0], q->role[0] == SS_ROLE_BATCHED, text, sizeof text));
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "upsample needs a float input, got integers");
    if (q->attr[ALIGN_CORNERS] != 0 && q->attr[LINEAR] == 0) return SS_FAIL(err, SS_ERR_VALUE, "upsample: align_corners needs linear interpolation");
    geometry g = geometry_of(q->attr, &q->in[0]);
    q->n_out = 1;
    q->out[0] = q->in[0];
    for (int i = 1; i < q->in[0].rank; i++) q->out[0].dim[i] = g.axis[AXES - q->in[0].rank + i].out;
    q->layout = SS_CHANNELS_LAST;
    return SS_OK;
}

enum { CORNERS = 8 };

/* Offsets and weights of up to 8 neighbours of output position (d, h, w), in row-major order. */
static int corners_of(const geometry *g, const taps *d, const taps *h, const taps *w, int64_t *at, real *weight) {
    int count = 0;
    for (int i = 0; i < d->count; i++)
        for (int j = 0; j < h->count; j++)
            for (int k = 0; k < w->count; k++, count++) {
                at[count] = ((d->at[i] * g->axis[H].size + h->at[j]) * g->axis[W].size + w->at[k]) * g->channels;
                weight[count] = d->weight[i] * h->weight[j] * w->weight[k];
            }
    return count;
}

static void forward(const ss_call *c) {
    geometry g = geometry_of(c->attr, &c->in_shape[0]);
    int64_t begin, end, width = g.axis[W].out, lines = g.axis[D].out * g.axis[H].out;
    ss_split(c->rows * lines, 1, c->thread, c->threads, &begin, &end); /* lines of the output */
    for (int64_t line = begin; line < end; line++) {
        const real *x = (const real *)c->in[0] + line / lines * g.in * g.channels;
        real *restrict y = (real *)c->out[0] + line * width * g.channels;
        taps d = taps_of(&g.axis[D], line % lines / g.axis[H].out), h = taps_of(&g.axis[H], line % lines % g.axis[H].out);
        for (int64_t ow = 0; ow < width; ow++, y += g.channels) {
            taps w = taps_of(&g.axis[W], ow);
            int64_t at[CORNERS] = {0};
            real weight[CORNERS];
            int count = corners_of(&g, &d, &h, &w, at, weight);
            if (!g.axis[W].linear) {
                memcpy(y, x + at[0], (size_t)g.channels * sizeof(real));
                continue;
            }
            const real *restrict from = x + at[0];
            for (int64_t i = 0; i < g.channels; i++) y[i] = weight[0] * from[i];
            for (int k = 1; k < count; k++) {
                const real *restrict next = x + at[k];
                for (int64_t i = 0; i < g.channels; i++) y[i] = fma_r(weight[k], next[i], y[i]);
            }
        }
    }
}

static void backward(const ss_call *c) {
    geometry g = geometry_of(c->attr, &c->in_shape[0]);
    int64_t begin, end;
    if (!c->grad_in[0]) return;
    ss_my_rows(c, &begin, &end);
    for (int64_t n = begin; n < end; n++) {
        real *gx = (real *)c->grad_in[0] + n * g.in * g.channels;
        const real *gy = (const real *)c->grad_out[0] + n * g.out * g.channels;
        memset(gx, 0, (size_t)(g.in * g.channels) * sizeof(real));
        for (int64_t od = 0; od < g.axis[D].out; od++)
            for (int64_t oh = 0; oh < g.axis[H].out; oh++) {
                taps d = taps_of(&g.axis[D], od), h = taps_of(&g.axis[H], oh);
                for (int64_t ow = 0; ow < g.axis[W].out; ow++, gy += g.channels) {
                    taps w = taps_of(&g.axis[W], ow);
                    int64_t at[CORNERS] = {0};
                    real weight[CORNERS];
                    int count = corners_of(&g, &d, &h, &w, at, weight);
                    for (int k = 0; k < count; k++) {
                        real *restrict to = gx + at[k];
                        const real *restrict from = gy;
                        for (int64_t i = 0; i < g.channels; i++) to[i] = fma_r(weight[k], from[i], to[i]);
                    }
                }
            }
    }
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double y = (double)ss_shape_count(&c->out_shape[0]), x = (double)ss_shape_count(&c->in_shape[0]);
    out->flops = (c->attr[LINEAR] != 0 ? y * (double)(2 << (c->in_shape[0].rank - 1)) : 0) * (both ? 2 : 1) + (both ? y : 0);
    out->bytes = (x + y) * sizeof(float) * (both ? 2 : 1);
}

static const ss_op_case cases[] = {
    {.attrs = "out_h=6 out_w=8", .inputs = "B:3,3,4"},
    {.attrs = "out_h=5 out_w=3", .inputs = "B:17,3,7"},
    {.attrs = "out_h=6 out_w=8 linear=1", .inputs = "B:3,3,4"},
    {.attrs = "out_h=6 out_w=8 linear=1 align_corners=1", .inputs = "B:19,3,4"},
    {.attrs = "out_h=3 out_w=1 linear=1 align_corners=1", .inputs = "B:2,5,4"},
    {.attrs = "out_h=2 out_w=3 linear=1", .inputs = "B:5,5,7"},
    {.attrs = "out_h=7 out_w=9 step_h=0.4 step_w=0.43 linear=1", .inputs = "B:3,3,4"},
    {.attrs = "out_h=7 out_w=9 step_h=0.4 step_w=0.43", .inputs = "B:3,3,4"},
    {.attrs = "out_h=4 out_w=4 linear=1", .inputs = "B:3,1,1"},
    {.attrs = "out_w=11", .inputs = "B:3,4"},
    {.attrs = "out_w=11 linear=1", .inputs = "B:33,4"},
    {.attrs = "out_d=4 out_h=3 out_w=5", .inputs = "B:3,2,3,2"},
    {.attrs = "out_d=4 out_h=3 out_w=5 linear=1", .inputs = "B:3,2,2,3"},
    {.attrs = "out_d=3 out_h=5 out_w=2 linear=1 align_corners=1", .inputs = "B:3,2,3,2"},
    {.attrs = "align_corners=1", .inputs = "B:3,3,4", .expect = SS_ERR_VALUE},
    {.attrs = "out_h=0", .inputs = "B:3,3,4", .expect = SS_ERR_VALUE},
    {.attrs = "", .inputs = "B:3", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:3,4 B:3,4", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "I4:3,4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_upsample) = {
    .name = "upsample",
    .doc = "Other extents by taking the nearest element or by linear (bilinear, trilinear) interpolation. x `(B, C, [[D,] H,] W)`; y `(B, C, [[out_d,] out_h,] out_w)`. Channels last in memory.\n\n"
           "Nearest: output i takes input `min(floor(i * step), size - 1)`, the product rounded to float as in PyTorch; step is `size / out` or given. Linear: the place of output i is "
           "`(i + 0.5) step - 0.5`, at least 0, or with align_corners `i (size - 1) / (out - 1)`; it lies between two inputs, whose weights are the distances (computed in double, then rounded). Over "
           "several axes weights are multiplied in the order depth, height, width.\n\n"
           "Order of sums: the neighbours in row-major order, one fused-multiply-add chain that begins with the first product. The gradient of x adds `weight * grad_y` in row-major order of the outputs "
           "and their neighbours, fused.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
