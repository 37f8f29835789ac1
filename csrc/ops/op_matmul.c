/* matmul: y = a b, matrices along the last two axes of a sample. */
#include <string.h>
#include "kernels/variant.h"
#include "ops/op.h"

enum { A, B };
enum { TRANSPOSE_A, TRANSPOSE_B };

static const ss_attr_spec attrs[] = {
    {"transpose_a", SS_ATTR_BOOL, 0, 0, 1, "1: a is given with its last two axes exchanged"},
    {"transpose_b", SS_ATTR_BOOL, 0, 0, 1, "1: b is given with its last two axes exchanged"},
    {0},
};

/* Each matrix as (rows, columns) of strides, whatever way it lies. */
typedef struct matmul_size {
    int64_t m, n, k, matrices; /* matrices of one sample */
    int64_t a_row, a_col, b_row, b_col;
    bool shared;               /* b is one parameter for all samples: a's leading axes count as rows */
} matmul_size;

static matmul_size size_of(const ss_call *c) {
    const ss_shape *a = &c->in_shape[A], *b = &c->in_shape[B];
    const bool ta = c->attr[TRANSPOSE_A] != 0, tb = c->attr[TRANSPOSE_B] != 0;
    int64_t a0 = a->dim[a->rank - 2], a1 = a->dim[a->rank - 1], b0 = b->dim[b->rank - 2], b1 = b->dim[b->rank - 1];
    matmul_size s = {.m = ta ? a1 : a0, .k = ta ? a0 : a1, .n = tb ? b0 : b1, .matrices = 1, .shared = c->role[B] != SS_ROLE_BATCHED};
    for (int i = 0; i < a->rank - 2; i++) s.matrices *= a->dim[i];
    s.a_row = ta ? 1 : s.k;
    s.a_col = ta ? s.m : 1;
    s.b_row = tb ? 1 : s.n;
    s.b_col = tb ? s.k : 1;
    return s;
}

static ss_status infer(ss_infer *q, ss_error *err) {
    char x[96], y[96];
    if (q->n_in != 2 || q->in[A].rank < 0 || q->in[B].rank < 0) return SS_FAIL(err, SS_ERR_SHAPE, "matmul takes 2 inputs");
    if (q->role[A] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "matmul: the first input must be an activation, one row a sample");
    if (q->dtype[A] != SS_F32 || q->dtype[B] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "matmul: both inputs must be float");
    const ss_shape *a = &q->in[A], *b = &q->in[B];
    const bool ta = q->attr[TRANSPOSE_A] != 0, tb = q->attr[TRANSPOSE_B] != 0, shared = q->role[B] != SS_ROLE_BATCHED;
    bool fits = a->rank >= 2 && b->rank >= 2 && (shared ? b->rank == 2 : b->rank == a->rank);
    for (int i = 0; fits && !shared && i < a->rank - 2; i++) fits = a->dim[i] == b->dim[i];
    if (fits) fits = a->dim[a->rank - (ta ? 2 : 1)] == b->dim[b->rank - (tb ? 1 : 2)];
    if (!fits)
        return SS_FAIL(err, SS_ERR_SHAPE, "matmul: %s%s and %s%s do not go together", ss_shape_text(a, true, x, sizeof x), ta ? " transposed" : "",
                       ss_shape_text(b, !shared, y, sizeof y), tb ? " transposed" : "");
    if (shared && ta) return SS_FAIL(err, SS_ERR_VALUE, "matmul: transpose_a is not possible where b is a parameter");
    q->n_out = 1;
    q->out[0] = *a;
    q->out[0].dim[a->rank - 2] = a->dim[a->rank - (ta ? 1 : 2)];
    q->out[0].dim[a->rank - 1] = b->dim[b->rank - (tb ? 2 : 1)];
    return SS_OK;
}

#ifndef SS_F64

/* The three products of the operator: each C (m x n) = A (m x k) B (k x n), C dense. */
typedef enum product { FORWARD, GRAD_A, GRAD_B } product;

static ss_matmul product_of(const matmul_size *s, product which, bool ta, bool tb) {
    ss_matmul p = {.backend = SS_BACKEND_NATIVE};
    if (which == FORWARD) {
        p.m = s->m, p.n = s->n, p.k = s->k;
        p.a_row = s->a_row, p.a_col = s->a_col, p.b_row = s->b_row, p.b_col = s->b_col;
    } else if (which == GRAD_A && !ta) { /* (m x k) = G (m x n) B^T (n x k) */
        p.m = s->m, p.n = s->k, p.k = s->n;
        p.a_row = s->n, p.a_col = 1, p.b_row = s->b_col, p.b_col = s->b_row;
    } else if (which == GRAD_A) { /* (k x m) = B (k x n) G^T (n x m) */
        p.m = s->k, p.n = s->m, p.k = s->n;
        p.a_row = s->b_row, p.a_col = s->b_col, p.b_row = 1, p.b_col = s->n;
    } else if (!tb) { /* (k x n) = A^T (k x m) G (m x n) */
        p.m = s->k, p.n = s->n, p.k = s->m;
        p.a_row = s->a_col, p.a_col = s->a_row, p.b_row = s->n, p.b_col = 1;
    } else { /* (n x k) = G^T (n x m) A (m x k) */
        p.m = s->n, p.n = s->k, p.k = s->m;
        p.a_row = 1, p.a_col = s->n, p.b_row = s->a_row, p.b_col = s->a_col;
    }
    p.c_row = p.n;
    return p;
}

/* ---- both operands batched: each thread multiplies matrices of its own ---- */

static void multiply(const ss_call *c, const matmul_size *s, product which, const float *a, int64_t a_size, const float *b, int64_t b_size, float *y) {
    ss_matmul p = product_of(s, which, c->attr[TRANSPOSE_A] != 0, c->attr[TRANSPOSE_B] != 0);
    const int64_t packed = ss_round_up(c->kernels->matmul_packed(p.backend, p.n, p.k), 16);
    int64_t begin, end;
    ss_split(c->rows * s->matrices, 1, c->thread, c->threads, &begin, &end);
    p.packed = (float *)c->scratch + c->thread * packed;
    p.fold = c->fold;
    p.positions = 1;
    for (int64_t u = begin; u < end; u++) {
        p.a = a + u * a_size;
        p.b = b + u * b_size;
        p.c = y + u * p.m * p.n;
        c->kernels->matmul_pack(&p, 0, 1);
        c->kernels->matmul_run(&p, 0, 1);
    }
}

/* ---- b is a parameter: one product for all samples ---- */

static ss_matmul shared_product(const ss_call *c, const matmul_size *s, bool backward) {
    ss_matmul p = product_of(s, backward ? GRAD_A : FORWARD, false, c->attr[TRANSPOSE_B] != 0);
    p.backend = c->backend;
    p.positions = s->matrices * s->m;
    p.m = c->rows * p.positions;
    p.fold = c->fold;
    p.a = backward ? c->grad_out[0] : c->in[A];
    p.b = c->in[B];
    p.c = backward ? c->grad_in[A] : c->out[0];
    p.packed = c->scratch;
    return p;
}

static ss_matmul_fold shared_gradient(const ss_call *c, const matmul_size *s) {
    const bool tb = c->attr[TRANSPOSE_B] != 0;
    const float *x = c->in[A], *g = c->grad_out[0];
    return (ss_matmul_fold){
        .backend = c->backend, .m = tb ? s->n : s->k, .n = tb ? s->k : s->n, .positions = s->matrices * s->m, .a = tb ? g : x, .a_row = tb ? s->n : s->k, .b = tb ? x : g,
        .b_row = tb ? s->k : s->n, .c = c->grad_in[B], .c_row = tb ? s->k : s->n, .block_stride = c->block_stride[B], .most_rows = c->rows * s->matrices * s->m, .fold = c->fold,
    };
}

static int64_t packed_floats(const ss_call *c, const matmul_size *s, product which) {
    ss_matmul p = product_of(s, which, c->attr[TRANSPOSE_A] != 0, c->attr[TRANSPOSE_B] != 0);
    return ss_round_up(c->kernels->matmul_packed(s->shared ? c->backend : p.backend, p.n, p.k), 16);
}

static int64_t scratch_bytes(const ss_call *c, bool backward) {
    if (!c->kernels) return 0; /* the naive functions need none */
    matmul_size s = size_of(c);
    int64_t floats;
    if (s.shared) {
        floats = packed_floats(c, &s, backward ? GRAD_A : FORWARD);
        if (backward) {
            ss_matmul_fold f = shared_gradient(c, &s);
            floats += c->kernels->matmul_fold_scratch(&f, c->fold->depth, c->threads);
        }
    } else {
        floats = backward ? ss_max(packed_floats(c, &s, GRAD_A), packed_floats(c, &s, GRAD_B)) : packed_floats(c, &s, FORWARD);
        floats *= c->threads;
    }
    return floats * (int64_t)sizeof(float);
}

static void forward(const ss_call *c) {
    matmul_size s = size_of(c);
    if (s.shared) {
        ss_matmul p = shared_product(c, &s, false);
        if (c->phase == 0) c->kernels->matmul_pack(&p, c->thread, c->threads);
        else c->kernels->matmul_run(&p, c->thread, c->threads);
    } else if (c->phase == 1) {
        multiply(c, &s, FORWARD, c->in[A], s.m * s.k, c->in[B], s.k * s.n, c->out[0]);
    }
}

static void backward(const ss_call *c) {
    matmul_size s = size_of(c);
    if (s.shared) {
        ss_matmul p = shared_product(c, &s, true);
        if (c->phase == 0) {
            if (c->grad_in[A]) c->kernels->matmul_pack(&p, c->thread, c->threads);
            return;
        }
        if (c->grad_in[A]) c->kernels->matmul_run(&p, c->thread, c->threads);
        if (c->grad_in[B]) {
            ss_matmul_fold f = shared_gradient(c, &s);
            f.scratch = (float *)c->scratch + packed_floats(c, &s, GRAD_A);
            c->kernels->matmul_fold(&f, c->thread, c->threads);
        }
        return;
    }
    if (c->phase == 0) return;
    const bool ta = c->attr[TRANSPOSE_A] != 0, tb = c->attr[TRANSPOSE_B] != 0;
    const float *a = c->in[A], *b = c->in[B], *g = c->grad_out[0];
    const int64_t a_size = s.m * s.k, b_size = s.k * s.n, g_size = s.m * s.n;
    if (c->grad_in[A]) {
        if (ta) multiply(c, &s, GRAD_A, b, b_size, g, g_size, c->grad_in[A]);
        else multiply(c, &s, GRAD_A, g, g_size, b, b_size, c->grad_in[A]);
    }
    if (c->grad_in[B]) {
        if (tb) multiply(c, &s, GRAD_B, g, g_size, a, a_size, c->grad_in[B]);
        else multiply(c, &s, GRAD_B, a, a_size, g, g_size, c->grad_in[B]);
    }
}

#endif

/* ---- naive ---- */

static void forward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    matmul_size s = size_of(c);
    const real *a = c->in[A], *b = c->in[B];
    real *y = c->out[0];
    for (int64_t u = 0; u < c->rows * s.matrices; u++)
        for (int64_t i = 0; i < s.m; i++)
            for (int64_t j = 0; j < s.n; j++) {
                real sum = 0;
                for (int64_t l = 0; l < s.k; l++) sum = fma_r(a[u * s.m * s.k + i * s.a_row + l * s.a_col], b[(s.shared ? 0 : u * s.k * s.n) + l * s.b_row + j * s.b_col], sum);
                y[(u * s.m + i) * s.n + j] = sum;
            }
}

static void backward_ref(const ss_call *c) {
    if (c->phase == 0) return;
    matmul_size s = size_of(c);
    const real *a = c->in[A], *b = c->in[B], *g = c->grad_out[0];
    real *ga = c->grad_in[A], *gb = c->grad_in[B];
    for (int64_t u = 0; ga && u < c->rows * s.matrices; u++)
        for (int64_t i = 0; i < s.m; i++)
            for (int64_t l = 0; l < s.k; l++) {
                real sum = 0;
                for (int64_t j = 0; j < s.n; j++) sum = fma_r(g[(u * s.m + i) * s.n + j], b[(s.shared ? 0 : u * s.k * s.n) + l * s.b_row + j * s.b_col], sum);
                ga[u * s.m * s.k + i * s.a_row + l * s.a_col] = sum;
            }
    if (!gb) return;
    for (int64_t l = 0; l < s.k; l++)
        for (int64_t j = 0; j < s.n; j++) {
            const int64_t at = l * s.b_row + j * s.b_col;
            if (!s.shared) {
                for (int64_t u = 0; u < c->rows * s.matrices; u++) {
                    real sum = 0;
                    for (int64_t i = 0; i < s.m; i++) sum = fma_r(a[u * s.m * s.k + i * s.a_row + l * s.a_col], g[(u * s.m + i) * s.n + j], sum);
                    gb[u * s.k * s.n + at] = sum;
                }
                continue;
            }
            real stack[32];
            int top = 0;
            for (int lane = 0; lane < c->fold->lanes; lane++) {
                real sum = 0;
                for (int64_t r = c->fold->row[lane] * s.matrices * s.m; r < c->fold->row[lane + 1] * s.matrices * s.m; r++) sum = fma_r(a[r * s.k + l], g[r * s.n + j], sum);
                *ss_fold_slot(stack, 1, top) = sum;
                top = ss_fold_push(stack, 1, top, c->fold->adds[lane]);
            }
            for (int block = 0; block < c->fold->blocks; block++) gb[block * c->block_stride[B] + at] = stack[block];
        }
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    matmul_size s = size_of(c);
    double products = (double)s.matrices * (double)s.m * (double)s.n * (double)s.k;
    out->flops = products * 2 * (both ? 1 + ss_wanted(c, 0) + ss_wanted(c, 1) : 1);
    out->bytes = (double)s.matrices * (double)(s.m * s.k + s.m * s.n + (s.shared ? 0 : s.k * s.n)) * 4 * (both ? 3 : 1);
}

static const ss_op_case cases[] = {
    {.inputs = "B:5,7 B:7,3"},
    {.inputs = "B:2,3,5,7 B:2,3,7,4"},
    {.attrs = "transpose_a=1", .inputs = "B:2,7,5 B:2,7,4"},
    {.attrs = "transpose_b=1", .inputs = "B:2,5,7 B:2,4,7"},
    {.attrs = "transpose_a=1 transpose_b=1", .inputs = "B:7,5 B:4,7"},
    {.inputs = "B:33,20 B:20,40"},
    {.inputs = "B:1,1 B:1,1"},
    {.inputs = "B:5,7 P:7,3"},
    {.inputs = "B:2,5,20 P:20,33"},
    {.attrs = "transpose_b=1", .inputs = "B:2,5,7 P:4,7"},
    {.inputs = "B:5,7 S1:7,3"},
    {.inputs = "B:5,7 B:6,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:7 B:7,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:2,5,7 B:3,7,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:2,5,7 B:7,3", .expect = SS_ERR_SHAPE},
    {.inputs = "B:2,5,7 P:2,7,3", .expect = SS_ERR_SHAPE},
    {.attrs = "transpose_a=1", .inputs = "B:7,5 P:7,3", .expect = SS_ERR_VALUE},
    {.inputs = "P:5,7 B:7,3", .expect = SS_ERR_VALUE},
    {.inputs = "I4:5,7 B:7,3", .expect = SS_ERR_DTYPE},
    {.inputs = "B:5,7", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_matmul) = {
    .name = "matmul",
    .doc = "`y = a b`: matrices along the last two axes.\n\n"
           "a `(B, ..., m, k)`, b `(B, ..., k, n)` with the same leading axes, or a parameter `(k, n)`; y `(B, ..., m, n)`. transpose_a and transpose_b take an operand with its last two axes "
           "exchanged.\n\n"
           "Order of sums: one fused-multiply-add chain along the summed axis from zero. The gradient of a parameter is one chain over the samples of a lane (rows of a sample in order), lanes "
           "joined by the tree. Products of two activations always run on the native kernels.",
    .flags = SS_OP_NEEDS_IN | SS_OP_PRODUCT,
    .attrs = attrs,
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
