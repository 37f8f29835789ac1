/* What the pooling operators share: windows, and loops over them. Activations are channels last: (rows, D, H, W, C).
 *
 * The axes of a sample are (channels, [[depth,] height,] width); missing ones have extent 1 and windows of 1, and their attributes are not read.
 * A window is a set of planes times a set of rows times a set of columns of the image; its taps are counted in row-major order, padding left out. The functions named *_one
 * work on one channel after another (references and float64), those without on runs of channels at once; both add and compare in the same order.
 */
#ifndef SS_OPS_POOL2D_H
#define SS_OPS_POOL2D_H
#include <string.h>
#include "kernels/variant.h"
#include "ops/op.h"

/* Attributes of max_pool2d and avg_pool2d begin alike. A stride of 0 stands for the kernel's extent. */
enum { POOL_KERNEL_H, POOL_KERNEL_W, POOL_STRIDE_H, POOL_STRIDE_W, POOL_PAD_H, POOL_PAD_W, POOL_CEIL_MODE, POOL_KERNEL_D, POOL_STRIDE_D, POOL_PAD_D, POOL_NEXT };
#define POOL_ATTRS                                                                                                \
    {"kernel_h", SS_ATTR_INT, 2, 1, 65536, "height of the window"},                                                                                       \
    {"kernel_w", SS_ATTR_INT, 2, 1, 65536, "width of the window; the width is the only axis of 1-d samples"},                                             \
    {"stride_h", SS_ATTR_INT, 0, 0, 65536, "step between windows along the height; 0: the window's height"},                                              \
    {"stride_w", SS_ATTR_INT, 0, 0, 65536, "step between windows along the width; 0: the window's width"},                                                \
    {"pad_h", SS_ATTR_INT, 0, 0, 65536, "padding above and below, at most half the window"},                                                              \
    {"pad_w", SS_ATTR_INT, 0, 0, 65536, "padding left and right, at most half the window"},                                                               \
    {"ceil_mode", SS_ATTR_BOOL, 0, 0, 1, "round the output's extent up; the last window must begin inside the image or its left padding"},                \
    {"kernel_d", SS_ATTR_INT, 2, 1, 65536, "depth of the window, of 3-d samples"},                                                                        \
    {"stride_d", SS_ATTR_INT, 0, 0, 65536, "step between windows along the depth; 0: the window's depth"},                                                \
    {"pad_d", SS_ATTR_INT, 0, 0, 65536, "padding in front and behind, at most half the window"}

/* One axis of a pooling. adaptive: window o is [floor(o*size/out), ceil((o+1)*size/out)). */
typedef struct pool_axis {
    int64_t size, out, kernel, stride, pad, dilation;
    bool adaptive;
} pool_axis;

typedef struct pool_geometry {
    pool_axis d, h, w;
    int64_t channels;
} pool_geometry;

/* The axis that a sample lacks. */
static const pool_axis POOL_MISSING = {.size = 1, .out = 1, .kernel = 1, .stride = 1, .dilation = 1};

/* Positions begin, begin + step, ... below end, inside the image. */
typedef struct pool_range {
    int64_t begin, end, step, count;
} pool_range;

static inline pool_range pool_window(const pool_axis *a, int64_t o) {
    pool_range r = {.step = 1};
    if (a->adaptive) {
        r.begin = o * a->size / a->out;
        r.end = ((o + 1) * a->size + a->out - 1) / a->out;
    } else {
        r.step = a->dilation;
        r.begin = o * a->stride - a->pad;
        r.end = ss_min(r.begin + (a->kernel - 1) * a->dilation + 1, a->size);
        if (r.begin < 0) r.begin += (-r.begin + a->dilation - 1) / a->dilation * a->dilation;
    }
    r.count = r.end > r.begin ? (r.end - r.begin + r.step - 1) / r.step : 0;
    return r;
}

/* The most taps a window has. */
static inline int64_t pool_most(const pool_axis *a) { return a->adaptive ? ss_min(a->size / a->out + 2, a->size) : ss_min(a->kernel, a->size); }

/* PyTorch's rule; 0 when the window does not fit. */
static inline int64_t pool_extent(const pool_axis *a, bool ceil_mode) {
    int64_t reach = a->size + 2 * a->pad - a->dilation * (a->kernel - 1) - 1;
    if (reach < 0) return 0;
    int64_t out = (reach + (ceil_mode ? a->stride - 1 : 0)) / a->stride + 1;
    if (ceil_mode && (out - 1) * a->stride >= a->size + a->pad) out--;
    return out;
}

static inline pool_axis pool_axis_of(const double *attr, int64_t size, int kernel, int stride, int pad, int64_t dilation) {
    pool_axis a = {.size = size, .kernel = ss_attr_i(attr, kernel), .stride = ss_attr_i(attr, stride), .pad = ss_attr_i(attr, pad), .dilation = dilation};
    if (!a.stride) a.stride = a.kernel;
    a.out = pool_extent(&a, attr[POOL_CEIL_MODE] != 0);
    return a;
}

static inline pool_geometry pool_of(const double *attr, const ss_shape *x, int64_t dilation_d, int64_t dilation_h, int64_t dilation_w) {
    pool_geometry g = {.channels = x->dim[0], .d = POOL_MISSING, .h = POOL_MISSING};
    g.w = pool_axis_of(attr, x->dim[x->rank - 1], POOL_KERNEL_W, POOL_STRIDE_W, POOL_PAD_W, dilation_w);
    if (x->rank > 2) g.h = pool_axis_of(attr, x->dim[x->rank - 2], POOL_KERNEL_H, POOL_STRIDE_H, POOL_PAD_H, dilation_h);
    if (x->rank > 3) g.d = pool_axis_of(attr, x->dim[x->rank - 3], POOL_KERNEL_D, POOL_STRIDE_D, POOL_PAD_D, dilation_d);
    return g;
}

static inline pool_geometry pool_adaptive_of(const ss_shape *x, int64_t out_d, int64_t out_h, int64_t out_w) {
    pool_geometry g = {.channels = x->dim[0], .w = {.size = x->dim[x->rank - 1], .out = out_w, .adaptive = true}};
    g.h = (pool_axis){.size = x->rank > 2 ? x->dim[x->rank - 2] : 1, .out = x->rank > 2 ? out_h : 1, .adaptive = true};
    g.d = (pool_axis){.size = x->rank > 3 ? x->dim[x->rank - 3] : 1, .out = x->rank > 3 ? out_d : 1, .adaptive = true};
    return g;
}

/* The checks that all pooling operators make. */
static inline ss_status pool_check_input(const ss_infer *q, const char *name, ss_error *err) {
    char text[96];
    if (q->n_in != 1) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes one input, not %d", name, q->n_in);
    if (q->in[0].rank < 2 || q->in[0].rank > 4 || q->role[0] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s needs an input of shape (B, channels, one to three extents), got %s", name,
                       q->in[0].rank < 0 ? "none" : ss_shape_text(&q->in[0], q->role[0] == SS_ROLE_BATCHED, text, sizeof text));
    if (q->dtype[0] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs a float input, got integers", name);
    return SS_OK;
}

static inline ss_status pool_check_window(const pool_geometry *g, const ss_shape *x, const char *name, ss_error *err) {
    char text[96];
    const pool_axis *axes[3] = {&g->d, &g->h, &g->w};
    for (int i = 0; i < 3; i++)
        if (2 * axes[i]->pad > (axes[i]->kernel - 1) * axes[i]->dilation + 1)
            return SS_FAIL(err, SS_ERR_VALUE, "%s: the padding %lld is more than half the window %lld", name, (long long)axes[i]->pad, (long long)axes[i]->kernel);
    for (int i = 0; i < 3; i++)
        if (axes[i]->out < 1)
            return SS_FAIL(err, SS_ERR_SHAPE, "%s: a window of %lld, dilated and padded, does not fit the input %s", name, (long long)axes[i]->kernel, ss_shape_text(x, true, text, sizeof text));
    return SS_OK;
}

static inline void pool_answer(ss_infer *q, const pool_geometry *g) {
    int rank = q->in[0].rank;
    q->n_out = 1;
    q->out[0] = ss_shape_of(rank, g->channels, 0, 0, 0);
    q->out[0].dim[rank - 1] = g->w.out;
    if (rank > 2) q->out[0].dim[rank - 2] = g->h.out;
    if (rank > 3) q->out[0].dim[rank - 3] = g->d.out;
    q->layout = SS_CHANNELS_LAST;
}

static inline int64_t pool_most_taps(const pool_geometry *g) { return pool_most(&g->d) * pool_most(&g->h) * pool_most(&g->w); }

static inline int64_t pool_positions(const pool_geometry *g) { return g->d.size * g->h.size * g->w.size; }

/* The windows in row-major order: for (pool_place p = pool_first(g); p.window < p.windows; pool_next(g, &p)). */
typedef struct pool_place {
    int64_t window, windows, od, oh, ow;
    pool_range d, h, w;
} pool_place;
static inline pool_place pool_first(const pool_geometry *g) {
    return (pool_place){.windows = g->d.out * g->h.out * g->w.out, .d = pool_window(&g->d, 0), .h = pool_window(&g->h, 0), .w = pool_window(&g->w, 0)};
}
static inline void pool_next(const pool_geometry *g, pool_place *p) {
    p->window++;
    if (++p->ow == g->w.out) {
        p->ow = 0;
        if (++p->oh == g->h.out) {
            p->oh = 0;
            p->d = pool_window(&g->d, ++p->od);
        }
        p->h = pool_window(&g->h, p->oh);
    }
    p->w = pool_window(&g->w, p->ow);
}
/* Runs over the positions (k, i, j) of a window; POOL_AT is the position's number in the image. */
#define POOL_EACH(p)                                                          \
    for (int64_t k = (p).d.begin; k < (p).d.end; k += (p).d.step)             \
        for (int64_t i = (p).h.begin; i < (p).h.end; i += (p).h.step)         \
            for (int64_t j = (p).w.begin; j < (p).w.end; j += (p).w.step)
#define POOL_AT(g) ((k * (g)->h.size + i) * (g)->w.size + j)

static inline void pool_cost(const ss_call *c, const pool_geometry *g, bool backward, ss_cost *cost) {
    double x = (double)ss_shape_count(&c->in_shape[0]), y = (double)ss_shape_count(&c->out_shape[0]);
    cost->flops = y * (double)pool_most_taps(g) * (backward ? 2 : 1);
    cost->bytes = (x + y) * sizeof(float) * (backward ? 2 : 1);
}

/* ---- maximum ---- */

/* The number of the winning tap is kept for each output: in a byte where windows are small enough. */
static inline int64_t pool_index_bytes(const pool_geometry *g) { return pool_most_taps(g) <= 256 ? 1 : 4; }

static inline void pool_index_set(void *saved, int64_t bytes, int64_t at, int32_t index) {
    if (bytes == 1) ((uint8_t *)saved)[at] = (uint8_t)index;
    else ((int32_t *)saved)[at] = index;
}
static inline int32_t pool_index(const void *saved, int64_t bytes, int64_t at) { return bytes == 1 ? ((const uint8_t *)saved)[at] : ((const int32_t *)saved)[at]; }

/* Ties and several NaN: the first tap. A window of padding alone (dilation can make one) gives -infinity. saved may be NULL. */
static inline void pool_max_one(const pool_geometry *g, const real *x, real *y, void *saved, int64_t bytes) {
    for (pool_place p = pool_first(g); p.window < p.windows; pool_next(g, &p)) {
        for (int64_t c = 0; c < g->channels; c++) {
            real best = -INFINITY;
            int32_t tap = 0, index = 0;
            POOL_EACH(p) {
                real value = x[POOL_AT(g) * g->channels + c];
                if (best == best && !(value <= best)) {
                    best = value;
                    index = tap;
                }
                tap++;
            }
            int64_t at = p.window * g->channels + c;
            y[at] = best;
            if (saved) pool_index_set(saved, bytes, at, index);
        }
    }
}

/* Windows in row-major order, each adding its gradient at the winner and zero at its other taps. */
static inline void pool_max_back_one(const pool_geometry *g, const real *grad_y, const void *saved, int64_t bytes, real *grad_x) {
    for (int64_t i = 0; i < pool_positions(g) * g->channels; i++) grad_x[i] = 0;
    for (pool_place p = pool_first(g); p.window < p.windows; pool_next(g, &p)) {
        for (int64_t c = 0; c < g->channels; c++) {
            int64_t at = p.window * g->channels + c;
            int32_t tap = 0, index = pool_index(saved, bytes, at);
            POOL_EACH(p) grad_x[POOL_AT(g) * g->channels + c] += tap++ == index ? grad_y[at] : 0;
        }
    }
}

enum { POOL_RUN = 64 }; /* channels worked on together */

static inline void pool_max(const pool_geometry *g, const real *x, real *y, void *saved, int64_t bytes) {
    for (pool_place p = pool_first(g); p.window < p.windows; pool_next(g, &p)) {
        for (int64_t first = 0; first < g->channels; first += POOL_RUN) {
            int n = (int)ss_min(POOL_RUN, g->channels - first);
            real best[POOL_RUN];
            int32_t index[POOL_RUN], tap = 0;
            for (int c = 0; c < n; c++) {
                best[c] = -INFINITY;
                index[c] = 0;
            }
            POOL_EACH(p) {
                const real *restrict value = x + POOL_AT(g) * g->channels + first;
                for (int c = 0; c < n; c++) {
                    int take = (best[c] == best[c]) & !(value[c] <= best[c]);
                    best[c] = take ? value[c] : best[c];
                    index[c] = take ? tap : index[c];
                }
                tap++;
            }
            int64_t at = p.window * g->channels + first;
            memcpy(y + at, best, (size_t)n * sizeof(real));
            if (saved && bytes == 1)
                for (int c = 0; c < n; c++) ((uint8_t *)saved)[at + c] = (uint8_t)index[c];
            else if (saved)
                memcpy((int32_t *)saved + at, index, (size_t)n * sizeof(int32_t));
        }
    }
}

static inline void pool_max_back(const pool_geometry *g, const real *grad_y, const void *saved, int64_t bytes, real *grad_x) {
    memset(grad_x, 0, (size_t)(pool_positions(g) * g->channels) * sizeof(real));
    for (pool_place p = pool_first(g); p.window < p.windows; pool_next(g, &p)) {
        for (int64_t first = 0; first < g->channels; first += POOL_RUN) {
            int n = (int)ss_min(POOL_RUN, g->channels - first);
            int64_t at = p.window * g->channels + first;
            const real *restrict grad = grad_y + at;
            int32_t index[POOL_RUN], tap = 0;
            if (bytes == 1)
                for (int c = 0; c < n; c++) index[c] = ((const uint8_t *)saved)[at + c];
            else
                memcpy(index, (const int32_t *)saved + at, (size_t)n * sizeof(int32_t));
            POOL_EACH(p) {
                real *restrict to = grad_x + POOL_AT(g) * g->channels + first;
                for (int c = 0; c < n; c++) to[c] += index[c] == tap ? grad[c] : 0;
                tap++;
            }
        }
    }
}

/* Both operators of a maximum differ in their geometry alone. */
static inline void pool_max_forward(const ss_call *c, const pool_geometry *g, bool reference) {
    int64_t begin, end, bytes = pool_index_bytes(g), x = ss_shape_count(&c->in_shape[0]), y = ss_shape_count(&c->out_shape[0]);
    ss_my_rows(c, &begin, &end);
    for (int64_t n = begin; n < end; n++) {
        void *saved = c->saved ? (char *)c->saved + n * y * bytes : NULL;
        if (reference) pool_max_one(g, (const real *)c->in[0] + n * x, (real *)c->out[0] + n * y, saved, bytes);
        else pool_max(g, (const real *)c->in[0] + n * x, (real *)c->out[0] + n * y, saved, bytes);
    }
}

static inline void pool_max_backward(const ss_call *c, const pool_geometry *g, bool reference) {
    int64_t begin, end, bytes = pool_index_bytes(g), x = ss_shape_count(&c->in_shape[0]), y = ss_shape_count(&c->out_shape[0]);
    if (!c->grad_in[0]) return;
    ss_my_rows(c, &begin, &end);
    for (int64_t n = begin; n < end; n++) {
        const void *saved = (const char *)c->saved + n * y * bytes;
        if (reference) pool_max_back_one(g, (const real *)c->grad_out[0] + n * y, saved, bytes, (real *)c->grad_in[0] + n * x);
        else pool_max_back(g, (const real *)c->grad_out[0] + n * y, saved, bytes, (real *)c->grad_in[0] + n * x);
    }
}

static inline int64_t pool_max_saved(const ss_call *c, const pool_geometry *g) { return ss_shape_count(&c->out_shape[0]) * pool_index_bytes(g); }

/* ---- mean ---- */

/* How a mean divides. */
typedef struct pool_divisor {
    bool include_pad;
    int64_t override; /* 0: none */
} pool_divisor;

/* PyTorch counts padding on both sides but nothing that ceil_mode lets stick out further. */
static inline int64_t pool_padded(const pool_axis *a, int64_t o) {
    int64_t begin = o * a->stride - a->pad;
    return ss_min(begin + a->kernel, a->size + a->pad) - begin;
}
static inline real pool_divide_by(const pool_geometry *g, const pool_divisor *d, const pool_place *p) {
    if (d->override) return (real)d->override;
    if (!d->include_pad || g->w.adaptive) return (real)(p->d.count * p->h.count * p->w.count);
    return (real)(pool_padded(&g->d, p->od) * pool_padded(&g->h, p->oh) * pool_padded(&g->w, p->ow));
}

static inline void pool_mean_one(const pool_geometry *g, const pool_divisor *d, const real *x, real *y) {
    for (pool_place p = pool_first(g); p.window < p.windows; pool_next(g, &p)) {
        real divisor = pool_divide_by(g, d, &p);
        for (int64_t c = 0; c < g->channels; c++) {
            real sum = 0;
            POOL_EACH(p) sum += x[POOL_AT(g) * g->channels + c];
            y[p.window * g->channels + c] = sum / divisor;
        }
    }
}

static inline void pool_mean_back_one(const pool_geometry *g, const pool_divisor *d, const real *grad_y, real *grad_x) {
    for (int64_t i = 0; i < pool_positions(g) * g->channels; i++) grad_x[i] = 0;
    for (pool_place p = pool_first(g); p.window < p.windows; pool_next(g, &p)) {
        real divisor = pool_divide_by(g, d, &p);
        for (int64_t c = 0; c < g->channels; c++) {
            real share = grad_y[p.window * g->channels + c] / divisor;
            POOL_EACH(p) grad_x[POOL_AT(g) * g->channels + c] += share;
        }
    }
}

static inline void pool_mean(const pool_geometry *g, const pool_divisor *d, const real *x, real *y) {
    for (pool_place p = pool_first(g); p.window < p.windows; pool_next(g, &p)) {
        real divisor = pool_divide_by(g, d, &p);
        for (int64_t first = 0; first < g->channels; first += POOL_RUN) {
            int n = (int)ss_min(POOL_RUN, g->channels - first);
            real sum[POOL_RUN];
            for (int c = 0; c < n; c++) sum[c] = 0;
            POOL_EACH(p) {
                const real *restrict value = x + POOL_AT(g) * g->channels + first;
                for (int c = 0; c < n; c++) sum[c] += value[c];
            }
            real *restrict to = y + p.window * g->channels + first;
            for (int c = 0; c < n; c++) to[c] = sum[c] / divisor;
        }
    }
}

static inline void pool_mean_back(const pool_geometry *g, const pool_divisor *d, const real *grad_y, real *grad_x) {
    memset(grad_x, 0, (size_t)(pool_positions(g) * g->channels) * sizeof(real));
    for (pool_place p = pool_first(g); p.window < p.windows; pool_next(g, &p)) {
        real divisor = pool_divide_by(g, d, &p);
        for (int64_t first = 0; first < g->channels; first += POOL_RUN) {
            int n = (int)ss_min(POOL_RUN, g->channels - first);
            real share[POOL_RUN];
            const real *restrict grad = grad_y + p.window * g->channels + first;
            for (int c = 0; c < n; c++) share[c] = grad[c] / divisor;
            POOL_EACH(p) {
                real *restrict to = grad_x + POOL_AT(g) * g->channels + first;
                for (int c = 0; c < n; c++) to[c] += share[c];
            }
        }
    }
}

static inline void pool_mean_forward(const ss_call *c, const pool_geometry *g, pool_divisor d, bool reference) {
    int64_t begin, end, x = ss_shape_count(&c->in_shape[0]), y = ss_shape_count(&c->out_shape[0]);
    ss_my_rows(c, &begin, &end);
    for (int64_t n = begin; n < end; n++) {
        if (reference) pool_mean_one(g, &d, (const real *)c->in[0] + n * x, (real *)c->out[0] + n * y);
        else pool_mean(g, &d, (const real *)c->in[0] + n * x, (real *)c->out[0] + n * y);
    }
}

static inline void pool_mean_backward(const ss_call *c, const pool_geometry *g, pool_divisor d, bool reference) {
    int64_t begin, end, x = ss_shape_count(&c->in_shape[0]), y = ss_shape_count(&c->out_shape[0]);
    if (!c->grad_in[0]) return;
    ss_my_rows(c, &begin, &end);
    for (int64_t n = begin; n < end; n++) {
        if (reference) pool_mean_back_one(g, &d, (const real *)c->grad_out[0] + n * y, (real *)c->grad_in[0] + n * x);
        else pool_mean_back(g, &d, (const real *)c->grad_out[0] + n * y, (real *)c->grad_in[0] + n * x);
    }
}

#endif
