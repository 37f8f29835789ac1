/* PixelShuffle and PixelUnshuffle, as torch.nn.PixelShuffle: channels become pixels and back. Channels last in memory. */
#include "kernels/variant.h"
#include "ops/op.h"

enum { FACTOR, INVERSE };

static const ss_attr_spec attrs[] = {
    {"factor", SS_ATTR_INT, 2, 1, 1024, "pixels along each axis that the channels of one pixel become"},
    {"inverse", SS_ATTR_BOOL, 0, 0, 1, "pixels become channels"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    const ss_shape *x = &q->in[0];
    int64_t r = ss_attr_i(q->attr, FACTOR);
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "pixel_shuffle takes one input, not %d", q->n_in);
    if (x->rank != 3 || q->role[0] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "pixel_shuffle needs an input of shape (B, channels, height, width), got %s",
                       x->rank < 0 ? "none" : ss_shape_text(x, q->role[0] == SS_ROLE_BATCHED, text, sizeof text));
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "pixel_shuffle needs a float input, got integers");
    q->n_out = 1;
    q->layout = SS_CHANNELS_LAST;
    if (q->attr[INVERSE] != 0) {
        if (x->dim[1] % r || x->dim[2] % r)
            return SS_FAIL(err, SS_ERR_SHAPE, "pixel_unshuffle: height and width of %s must be multiples of the factor %lld", ss_shape_text(x, true, text, sizeof text), (long long)r);
        q->out[0] = ss_shape_of(3, x->dim[0] * r * r, x->dim[1] / r, x->dim[2] / r, 0);
        return SS_OK;
    }
    if (x->dim[0] % (r * r))
        return SS_FAIL(err, SS_ERR_SHAPE, "pixel_shuffle: the channels of %s must be a multiple of the factor's square, %lld", ss_shape_text(x, true, text, sizeof text), (long long)(r * r));
    q->out[0] = ss_shape_of(3, x->dim[0] / (r * r), x->dim[1] * r, x->dim[2] * r, 0);
    return SS_OK;
}

/* Between the coarse image (h, w, channels*r*r) and the fine one (h*r, w*r, channels). Threads share the coarse lines. */
static void move(const ss_call *c, const ss_shape *coarse, bool refine, const real *from, real *to) {
    int64_t r = ss_attr_i(c->attr, FACTOR), height = coarse->dim[1], width = coarse->dim[2], channels = coarse->dim[0] / (r * r), begin, end;
    ss_split(c->rows * height, 1, c->thread, c->threads, &begin, &end);
    for (int64_t line = begin; line < end; line++)
        for (int64_t w = 0; w < width; w++)
            for (int64_t i = 0; i < r; i++)
                for (int64_t j = 0; j < r; j++) {
                    int64_t thick = (line * width + w) * channels * r * r + i * r + j, thin = ((line * r + i) * width * r + w * r + j) * channels;
                    if (refine)
                        for (int64_t k = 0; k < channels; k++) to[thin + k] = from[thick + k * r * r];
                    else
                        for (int64_t k = 0; k < channels; k++) to[thick + k * r * r] = from[thin + k];
                }
}

static void forward(const ss_call *c) {
    bool inverse = c->attr[INVERSE] != 0;
    move(c, inverse ? &c->out_shape[0] : &c->in_shape[0], !inverse, c->in[0], c->out[0]);
}

static void backward(const ss_call *c) {
    bool inverse = c->attr[INVERSE] != 0;
    if (c->grad_in[0]) move(c, inverse ? &c->out_shape[0] : &c->in_shape[0], inverse, c->grad_out[0], c->grad_in[0]);
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    out->flops = 0;
    out->bytes = (double)ss_shape_count(&c->out_shape[0]) * 8 * (both ? 2 : 1);
}

static const ss_op_case cases[] = {
    {.attrs = "", .inputs = "B:12,3,4"},
    {.attrs = "factor=3", .inputs = "B:9,2,5"},
    {.attrs = "factor=1", .inputs = "B:5,2,5"},
    {.attrs = "factor=2 inverse=1", .inputs = "B:5,4,6"},
    {.attrs = "factor=3 inverse=1", .inputs = "B:17,3,6"},
    {.attrs = "", .inputs = "B:6,3,4", .expect = SS_ERR_SHAPE},
    {.attrs = "inverse=1", .inputs = "B:6,3,4", .expect = SS_ERR_SHAPE},
    {.attrs = "", .inputs = "B:4,3", .expect = SS_ERR_SHAPE},
    {.attrs = "factor=0", .inputs = "B:4,3,3", .expect = SS_ERR_VALUE},
    {.attrs = "", .inputs = "I4:4,3,3", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_pixel_shuffle) = {
    .name = "pixel_shuffle",
    .doc = "With the factor r: x `(B, C r r, H, W)` becomes y `(B, C, H r, W r)`, `y[c, h r + i, w r + j] = x[c r r + i r + j, h, w]`; with inverse the other way round. Nothing is computed. Channels "
           "last in memory.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = cost,
    .cases = cases,
};
