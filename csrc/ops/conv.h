/* What conv2d and conv_transpose share: geometry over one to three axes. Activations are channels last.
 *
 * The axes of a sample are (channels, [[depth,] height,] width); missing ones have extent 1, and their attributes are not read.
 */
#ifndef SS_OPS_CONV_H
#define SS_OPS_CONV_H
#include <assert.h>
#include "kernels/conv2d_naive.h"
#include "kernels/variant.h"
#include "ops/op.h"

enum { CONV_X, CONV_WEIGHT, CONV_BIAS };
enum { CONV_D, CONV_H, CONV_W, CONV_AXES };

/* Extents along the three axes; 1 where an axis is missing. */
typedef struct conv_extents {
    int64_t at[CONV_AXES];
} conv_extents;

/* Of a sample (first = 1) or a weight (first = 2): what follows the first axes. */
static inline conv_extents conv_extents_of(const ss_shape *s, int first) {
    conv_extents e = {{1, 1, 1}};
    int axes = s->rank - first;
    for (int i = 0; i < axes; i++) e.at[CONV_AXES - axes + i] = s->dim[first + i];
    return e;
}

static inline ss_shape conv_shape(int axes, int64_t channels, const conv_extents *e) {
    ss_shape s = ss_shape_of(1 + axes, channels, 0, 0, 0);
    for (int i = 0; i < axes; i++) s.dim[1 + i] = e->at[CONV_AXES - axes + i];
    return s;
}

/* attr[first], attr[first + 1] belong to height and width, attr[depth] to the depth. */
static inline conv_extents conv_attr(const double *attr, int first, int depth, int axes, int64_t missing) {
    conv_extents e = {{missing, missing, missing}};
    e.at[CONV_W] = ss_attr_i(attr, first + 1);
    if (axes > 1) e.at[CONV_H] = ss_attr_i(attr, first);
    if (axes > 2) e.at[CONV_D] = ss_attr_i(attr, depth);
    return e;
}

/* Number, ranks and dtypes of the inputs. */
static inline ss_status conv_check(const ss_infer *q, const char *name, const char *weight_form, ss_error *err) {
    char a[96];
    const ss_shape *x = &q->in[CONV_X], *w = &q->in[CONV_WEIGHT];
    if (q->n_in < 2 || q->n_in > 3) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes x, weight and an optional bias, not %d inputs", name, q->n_in);
    if (x->rank < 2 || x->rank > 4 || q->role[CONV_X] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s needs an input of shape (B, channels, one to three extents), got %s", name,
                       x->rank < 0 ? "none" : ss_shape_text(x, q->role[CONV_X] == SS_ROLE_BATCHED, a, sizeof a));
    for (int i = 0; i < q->n_in; i++)
        if (q->in[i].rank >= 0 && q->dtype[i] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs float inputs, got integers", name);
    if (w->rank != x->rank + 1 || q->role[CONV_WEIGHT] == SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s needs a weight of shape (%s, %d kernel extents), got %s", name, weight_form, x->rank - 1,
                       w->rank < 0 ? "none" : ss_shape_text(w, q->role[CONV_WEIGHT] == SS_ROLE_BATCHED, a, sizeof a));
    return SS_OK;
}

static inline ss_status conv_check_bias(const ss_infer *q, const char *name, int64_t outputs, ss_error *err) {
    char a[96], b[96];
    const ss_shape *bias = &q->in[CONV_BIAS];
    if (q->n_in > CONV_BIAS && bias->rank >= 0 && (bias->rank != 1 || bias->dim[0] != outputs || q->role[CONV_BIAS] == SS_ROLE_BATCHED))
        return SS_FAIL(err, SS_ERR_SHAPE, "%s with weight %s needs a bias of shape (%lld), got %s", name, ss_shape_text(&q->in[CONV_WEIGHT], false, a, sizeof a), (long long)outputs,
                       ss_shape_text(bias, q->role[CONV_BIAS] == SS_ROLE_BATCHED, b, sizeof b));
    return SS_OK;
}

static inline bool conv_has_bias(const ss_call *c) { return c->n_in > CONV_BIAS && c->in_shape[CONV_BIAS].rank == 1; }

/* A convolution from `image` to `result`; of a transposed convolution the image is its output. */
static inline ss_conv2d conv_geometry(const ss_call *c, const ss_shape *image, const ss_shape *result, conv_extents stride, conv_extents pad, conv_extents dilation, int64_t groups) {
    conv_extents x = conv_extents_of(image, 1), y = conv_extents_of(result, 1), k = conv_extents_of(&c->in_shape[CONV_WEIGHT], 2);
    return (ss_conv2d){
        .backend = c->backend, .rows = c->rows, .depth = x.at[CONV_D], .height = x.at[CONV_H], .width = x.at[CONV_W], .channels = image->dim[0],
        .out_depth = y.at[CONV_D], .out_height = y.at[CONV_H], .out_width = y.at[CONV_W], .out_channels = result->dim[0],
        .kernel_d = k.at[CONV_D], .kernel_h = k.at[CONV_H], .kernel_w = k.at[CONV_W], .stride_d = stride.at[CONV_D], .stride_h = stride.at[CONV_H], .stride_w = stride.at[CONV_W],
        .pad_d = pad.at[CONV_D], .pad_h = pad.at[CONV_H], .pad_w = pad.at[CONV_W],
        .dilation_d = dilation.at[CONV_D], .dilation_h = dilation.at[CONV_H], .dilation_w = dilation.at[CONV_W], .groups = groups,
        .block_stride = c->block_stride[CONV_WEIGHT], .bf16 = c->bf16, .fold = c->fold,
    };
}

/* The bias's gradient: sums of the output's gradient over positions and samples. */
static inline void conv_naive_grad_bias(const ss_call *c) {
    const real *grad = c->grad_out[0];
    real *grad_bias = c->grad_in[CONV_BIAS], stack[32];
    int64_t channels = c->out_shape[0].dim[0], positions = ss_shape_count(&c->out_shape[0]) / channels;
    assert(c->fold->depth <= 32);
    for (int64_t o = 0; o < channels; o++) {
        int top = 0;
        for (int lane = 0; lane < c->fold->lanes; lane++) {
            real sum = 0;
            for (int64_t r = c->fold->row[lane] * positions; r < c->fold->row[lane + 1] * positions; r++) sum += grad[r * channels + o];
            *ss_fold_slot(stack, 1, top) = sum;
            top = ss_fold_push(stack, 1, top, c->fold->adds[lane]);
        }
        for (int j = 0; j < top; j++) grad_bias[j * c->block_stride[CONV_BIAS] + o] = stack[j];
    }
}

#ifndef SS_F64
/* The same with the kernels; `stack`: conv_bias_stack() floats. */
static inline int64_t conv_bias_stack(const ss_call *c) { return conv_has_bias(c) ? ss_round_up(c->out_shape[0].dim[0] * c->fold->depth, 16) : 0; }
static inline void conv_grad_bias(const ss_call *c, float *stack) {
    int64_t begin, end, channels = c->out_shape[0].dim[0];
    if (!conv_has_bias(c) || !c->grad_in[CONV_BIAS]) return;
    ss_my_elements(c, channels, &begin, &end);
    if (begin < end)
        c->kernels->column_sum(c->fold, ss_shape_count(&c->out_shape[0]) / channels, c->grad_out[0], channels, begin, end, c->grad_in[CONV_BIAS], c->block_stride[CONV_BIAS],
                               stack + begin * c->fold->depth);
}
static inline int64_t conv_floats(const ss_call *c, const ss_conv2d *p, ss_conv2d_pass pass) { return ss_round_up(c->kernels->conv2d_scratch(p, pass, c->fold->depth, c->threads), 16); }
#endif

static inline void conv_cost(const ss_call *c, const ss_conv2d *p, bool backward, ss_cost *cost) {
    double y = (double)(p->out_depth * p->out_height * p->out_width * p->out_channels), products = y * (double)(p->kernel_d * p->kernel_h * p->kernel_w * (p->channels / p->groups));
    cost->flops = products * 2 * (backward ? 1 + ss_wanted(c, CONV_X) + ss_wanted(c, CONV_WEIGHT) : 1);
    cost->bytes = ((double)ss_shape_count(&c->out_shape[0]) + (double)ss_shape_count(&c->in_shape[CONV_X])) * sizeof(float) * (backward ? 3 : 1);
}

#endif
