/* Linear: y = x W^T + b along the last axis, as torch.nn.Linear. */
#include <assert.h>
#include "kernels/variant.h"
#include "ops/op.h"

enum { X, WEIGHT, BIAS };

/* Sizes of one call: rows of the matrix product are samples times positions. */
typedef struct linear_size {
    int64_t in, out, positions, rows;
    bool bias;
} linear_size;

static linear_size size_of(const ss_call *c) {
    linear_size s = {.in = c->in_shape[WEIGHT].dim[1], .out = c->in_shape[WEIGHT].dim[0]};
    s.positions = ss_shape_count(&c->in_shape[X]) / s.in;
    s.rows = c->rows * s.positions;
    s.bias = c->n_in > BIAS && c->in_shape[BIAS].rank == 1;
    return s;
}

static ss_status infer(ss_infer *q, ss_error *err) {
    char a[96], b[96];
    const ss_shape *x = &q->in[X], *w = &q->in[WEIGHT], *bias = &q->in[BIAS];
    if (q->n_in < 2 || q->n_in > 3) return SS_FAIL(err, SS_ERR_SHAPE, "linear takes x, weight and an optional bias, not %d inputs", q->n_in);
    if (x->rank < 1 || q->role[X] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "linear needs a batched input with at least one axis besides the batch, got %s", x->rank < 0 ? "none" : ss_shape_text(x, q->role[X] == SS_ROLE_BATCHED, a, sizeof a));
    if (q->dtype[X] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "linear needs a float input, got integers");
    if ((w->rank >= 0 && q->dtype[WEIGHT] != SS_F32) || (q->n_in > BIAS && bias->rank >= 0 && q->dtype[BIAS] != SS_F32))
        return SS_FAIL(err, SS_ERR_DTYPE, "linear needs a float weight and bias, got integers");
    if (w->rank != 2 || q->role[WEIGHT] == SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "linear needs a weight of shape (out, in), got %s", w->rank < 0 ? "none" : ss_shape_text(w, q->role[WEIGHT] == SS_ROLE_BATCHED, a, sizeof a));
    if (w->dim[1] != x->dim[x->rank - 1])
        return SS_FAIL(err, SS_ERR_SHAPE, "linear with weight %s takes inputs whose last axis has %lld elements, got %s", ss_shape_text(w, false, a, sizeof a),
                       (long long)w->dim[1], ss_shape_text(x, true, b, sizeof b));
    if (q->n_in > BIAS && bias->rank >= 0 && (bias->rank != 1 || bias->dim[0] != w->dim[0] || q->role[BIAS] == SS_ROLE_BATCHED))
        return SS_FAIL(err, SS_ERR_SHAPE, "linear with weight %s needs a bias of shape (%lld), got %s", ss_shape_text(w, false, a, sizeof a), (long long)w->dim[0],
                       ss_shape_text(bias, q->role[BIAS] == SS_ROLE_BATCHED, b, sizeof b));
    q->n_out = 1;
    q->out[0] = *x;
    q->out[0].dim[x->rank - 1] = w->dim[0];
    return SS_OK;
}

#ifndef SS_F64

/* Offsets in floats from c->scratch, multiples of a cache line. */
typedef struct linear_scratch {
    int64_t packed, stack, fold, total;
} linear_scratch;

static ss_matmul_fold weight_gradient(const ss_call *c, const linear_size *s) {
    return (ss_matmul_fold){
        .backend = c->backend, .m = s->out, .n = s->in, .positions = s->positions, .a = c->grad_out[0], .a_row = s->out, .b = c->in[X], .b_row = s->in, .most_rows = c->rows * s->positions,
        .c = c->grad_in[WEIGHT], .c_row = s->in, .block_stride = c->block_stride[WEIGHT], .bf16 = c->bf16, .fold = c->fold,
    };
}

/* The one place that lays out the scratch, for its size and for its users. */
static linear_scratch scratch_of(const ss_call *c, const linear_size *s, bool backward) {
    linear_scratch at = {0};
    at.total = ss_round_up(c->kernels->matmul_packed(c->backend, backward ? s->in : s->out, backward ? s->out : s->in), 16);
    if (!backward) return at;
    at.stack = at.total;
    at.total += ss_round_up(s->bias ? s->out * c->fold->depth : 0, 16);
    at.fold = at.total;
    ss_matmul_fold p = weight_gradient(c, s);
    at.total += ss_round_up(c->kernels->matmul_fold_scratch(&p, c->fold->depth, c->threads), 16);
    return at;
}

static int64_t scratch_bytes(const ss_call *c, bool backward) {
    if (!c->kernels) return 0; /* the naive functions need none */
    linear_size s = size_of(c);
    return scratch_of(c, &s, backward).total * (int64_t)sizeof(float);
}

static void forward(const ss_call *c) {
    linear_size s = size_of(c);
    linear_scratch at = scratch_of(c, &s, false);
    ss_matmul p = {
        .backend = c->backend, .m = s.rows, .n = s.out, .k = s.in, .a = c->in[X], .a_row = s.in, .a_col = 1, .b = c->in[WEIGHT], .b_row = 1, .b_col = s.in,
        .c = c->out[0], .c_row = s.out, .bias = s.bias ? c->in[BIAS] : NULL, .packed = (float *)c->scratch + at.packed, .bf16 = c->bf16, .fold = c->fold, .positions = s.positions,
    };
    if (c->phase == 0) c->kernels->matmul_pack(&p, c->thread, c->threads);
    else c->kernels->matmul_run(&p, c->thread, c->threads);
}

static void backward(const ss_call *c) {
    linear_size s = size_of(c);
    linear_scratch at = scratch_of(c, &s, true);
    ss_matmul p = {
        .backend = c->backend, .m = s.rows, .n = s.in, .k = s.out, .a = c->grad_out[0], .a_row = s.out, .a_col = 1, .b = c->in[WEIGHT], .b_row = s.in, .b_col = 1,
        .c = c->grad_in[X], .c_row = s.in, .packed = (float *)c->scratch + at.packed, .bf16 = c->bf16, .fold = c->fold, .positions = s.positions,
    };
    if (c->phase == 0) {
        if (c->grad_in[X]) c->kernels->matmul_pack(&p, c->thread, c->threads);
        return;
    }
    if (c->grad_in[X]) c->kernels->matmul_run(&p, c->thread, c->threads);
    if (c->grad_in[WEIGHT]) {
        ss_matmul_fold f = weight_gradient(c, &s);
        f.scratch = (float *)c->scratch + at.fold;
        c->kernels->matmul_fold(&f, c->thread, c->threads);
    }
    if (s.bias && c->grad_in[BIAS]) {
        int64_t begin, end;
        ss_my_elements(c, s.out, &begin, &end);
        if (begin < end)
            c->kernels->column_sum(c->fold, s.positions, c->grad_out[0], s.out, begin, end, c->grad_in[BIAS], c->block_stride[BIAS],
                                   (float *)c->scratch + at.stack + begin * c->fold->depth);
    }
}

#endif

/* Naive: one element after another, the same chains. With precision bf16 operands are rounded and come in pairs along the chain, the odd one first. */
static real chain_of(const ss_call *c, int64_t n, const real *a, int64_t a_step, const real *b, int64_t b_step) {
    real sum = 0;
    for (int64_t i = 0; i < n && !c->bf16; i++) sum = fma_r(a[i * a_step], b[i * b_step], sum);
    for (int64_t i = 0; i < n && c->bf16; i += 2) {
        const bool odd = i + 1 < n;
        sum = fma_r(odd ? bf16_r(a[(i + 1) * a_step]) : 0, odd ? bf16_r(b[(i + 1) * b_step]) : 0, sum);
        sum = fma_r(bf16_r(a[i * a_step]), bf16_r(b[i * b_step]), sum);
    }
    return sum;
}

static void forward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    linear_size s = size_of(c);
    const real *x = c->in[X], *w = c->in[WEIGHT], *bias = s.bias ? c->in[BIAS] : NULL;
    real *y = c->out[0];
    for (int64_t r = 0; r < s.rows; r++)
        for (int64_t o = 0; o < s.out; o++) {
            const real sum = chain_of(c, s.in, x + r * s.in, 1, w + o * s.in, 1);
            y[r * s.out + o] = bias ? sum + bias[o] : sum;
        }
}

/* grad (block j at j * stride) = sum over rows of a[row * a_row] * b[row * b_row], lanes folded; b NULL: of a alone. */
static void fold_element(const ss_call *c, int64_t positions, const real *a, int64_t a_row, const real *b, int64_t b_row, real *grad, int64_t stride) {
    const ss_fold *fold = c->fold;
    real stack[32];
    int top = 0;
    assert(fold->depth <= 32);
    for (int l = 0; l < fold->lanes; l++) {
        const int64_t begin = fold->row[l] * positions, end = fold->row[l + 1] * positions;
        real sum = 0;
        if (b) sum = chain_of(c, end - begin, a + begin * a_row, a_row, b + begin * b_row, b_row);
        for (int64_t r = begin; r < end && !b; r++) sum += a[r * a_row];
        *ss_fold_slot(stack, 1, top) = sum;
        top = ss_fold_push(stack, 1, top, fold->adds[l]);
    }
    for (int j = 0; j < fold->blocks; j++) grad[j * stride] = stack[j];
}

static void backward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    linear_size s = size_of(c);
    const real *x = c->in[X], *w = c->in[WEIGHT], *grad = c->grad_out[0];
    real *grad_x = c->grad_in[X], *grad_w = c->grad_in[WEIGHT], *grad_b = s.bias ? c->grad_in[BIAS] : NULL;
    for (int64_t r = 0; grad_x && r < s.rows; r++)
        for (int64_t i = 0; i < s.in; i++) {
            grad_x[r * s.in + i] = chain_of(c, s.out, grad + r * s.out, 1, w + i, s.in);
        }
    for (int64_t o = 0; o < s.out; o++) {
        for (int64_t i = 0; grad_w && i < s.in; i++)
            fold_element(c, s.positions, grad + o, s.out, x + i, s.in, grad_w + o * s.in + i, c->block_stride[WEIGHT]);
        if (grad_b) fold_element(c, s.positions, grad + o, s.out, NULL, 0, grad_b + o, c->block_stride[BIAS]);
    }
}

static void cost(const ss_call *c, bool backward, ss_cost *cost) {
    linear_size s = size_of(c);
    double products = (double)s.positions * (double)s.in * (double)s.out, moved = (double)s.positions * (double)(s.in + s.out);
    cost->flops = products * 2 * (backward ? 1 + ss_wanted(c, X) + ss_wanted(c, WEIGHT) : 1);
    cost->bytes = moved * sizeof(float) * (backward ? 3 : 1);
}

static const ss_op_case cases[] = {
    {.inputs = "B:7 P:5,7 P:5"},
    {.inputs = "B:7 P:5,7 -"},
    {.inputs = "B:7 P:5,7"},
    {.inputs = "B:1 P:1,1 P:1"},
    {.inputs = "B:33 P:40,33 P:40"},
    {.inputs = "B:65 P:17,65 P:17"},
    {.inputs = "B:6,20 P:19,20 P:19"},   /* a sequence of 6 */
    {.inputs = "B:2,3,5 P:34,5 P:34"},
    {.inputs = "B:3,4,1 P:9,1"},
    {.inputs = "B:7 P:5,6 P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:7,5 P:5,7 P:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:7 P:5,7 P:7", .expect = SS_ERR_SHAPE},
    {.inputs = "B:7 P:5,7 P:5,1", .expect = SS_ERR_SHAPE},
    {.inputs = "B:7 P:5,7 B:5", .expect = SS_ERR_SHAPE},
    {.inputs = "B:7 P:7", .expect = SS_ERR_SHAPE},
    {.inputs = "B:7 B:5,7", .expect = SS_ERR_SHAPE},
    {.inputs = "B: P:5,1", .expect = SS_ERR_SHAPE},
    {.inputs = "P:7 P:5,7", .expect = SS_ERR_SHAPE},
    {.inputs = "B:7", .expect = SS_ERR_SHAPE},
    {.inputs = "I4:7 P:5,7", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_linear) = {
    .name = "linear",
    .doc = "`y = x weight^T + bias` along the last axis.\n\n"
           "x `(B, ..., in)`, weight `(out, in)`, bias `(out)` or absent; y `(B, ..., out)`. Plain layout.\n\n"
           "Order of sums: y and the gradient of x are one fused-multiply-add chain along the summed axis from zero, then the bias is added. The gradients of weight and bias "
           "are one chain over the samples of a lane (positions of a sample in row-major order), lanes joined by the tree. With precision bf16 "
           "operands of products are rounded to bfloat16 and each chain takes them in pairs, the odd one of a pair first, as the instruction vdpbf16ps does.",
    .flags = SS_OP_NEEDS_IN | SS_OP_PRODUCT | SS_OP_ROUNDS,
    .infer = infer,
    .forward_phases = 2,
    .backward_phases = 2,
#ifndef SS_F64
    .forward = forward,
    .backward = backward,
    .scratch_bytes = scratch_bytes,
#else
    .forward = forward_ref,
    .backward = backward_ref,
#endif
    .forward_ref = forward_ref,
    .backward_ref = backward_ref,
    .cost = cost,
    .cases = cases,
};
