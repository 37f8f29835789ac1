/* What rnn, gru and lstm share: shapes, the walk through time and back, the sums over samples. A file op_NAME.c adds the arithmetic of one unit (rec_cell). Included by op_*.c alone.
 *
 * The steps of time depend on each other, so threads share the samples of the recurrent part: each takes its own samples through all steps, and no barrier is needed inside a phase.
 * What does not depend on time (the input projection, the gradients of x, weights and biases) lies in phases of its own and is shared by all threads.
 *
 *   forward   0 pack weights   1 input projection of all steps   2 walk through time
 *   backward  0 pack weights   1 walk back                       2 gradients of x, weights and biases
 *
 * The naive references are the same walks with c->kernels == NULL: every product is then a plain loop.
 */
#ifndef SS_OPS_RECURRENT_H
#define SS_OPS_RECURRENT_H
#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"

enum { REC_X, REC_W_IH, REC_W_HH, REC_B_IH, REC_B_HH, REC_H0, REC_C0 };
enum { REC_OUTPUT, REC_H_N, REC_C_N };

/* One kind of network. H units; vectors of several values a unit hold H times the first, H times the second, and so on. */
typedef struct rec_cell {
    const char *name;
    int gates;   /* G: rows of the weights are G*H */
    int kept;    /* values a unit and step that forward keeps for backward, the G gates first; 0: only the output is needed, and G is 1 */
    int errors;  /* gradients a unit and step: first those of the G sums of the input projection */
    int hidden;  /* where among them those of the G sums of the recurrent product begin */
    bool memory; /* has a cell state c besides h */
    /* One step of one sample. gate: comes with the input projection, leaves with what is kept. recurrent: the recurrent sums (G*H). h, memory: the state, before and after. */
    void (*forward)(const ss_call *c, int64_t units, real *gate, const real *recurrent, real *h, real *memory);
    /* And back. y: the step's output; before: h of the step before. grad_h, grad_memory: in, gradients of the state after the step; out, the parts that reach the state before the step
     * other than through the recurrent product. errors: to be written. */
    void (*backward)(const ss_call *c, int64_t units, const real *gate, const real *y, const real *before, real *grad_h, real *grad_memory, real *errors);
} rec_cell;

static inline int rec_lengths(const rec_cell *cell) { return cell->memory ? REC_C0 + 1 : REC_C0; }
static inline bool rec_has(const ss_call *c, int input) { return c->n_in > input && c->in_shape[input].rank >= 0; }

/* ---- shapes ---- */

static inline ss_status rec_infer_weight(const ss_infer *q, const char *name, int input, const char *what, int64_t rows, int64_t columns, ss_error *err) {
    char text[96];
    if (q->n_in <= input || q->in[input].rank < 0) return SS_FAIL(err, SS_ERR_SHAPE, "%s needs %s", name, what);
    if (q->dtype[input] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs a float %s, got integers", name, what);
    const ss_shape *w = &q->in[input];
    const bool batched = q->role[input] == SS_ROLE_BATCHED;
    if (batched || w->rank != (columns ? 2 : 1) || w->dim[0] != rows || (columns && w->dim[1] != columns)) {
        if (columns)
            return SS_FAIL(err, SS_ERR_SHAPE, "%s needs %s of shape (%lld, %lld), got %s", name, what, (long long)rows, (long long)columns, ss_shape_text(w, batched, text, sizeof text));
        return SS_FAIL(err, SS_ERR_SHAPE, "%s needs %s of shape (%lld), got %s", name, what, (long long)rows, ss_shape_text(w, batched, text, sizeof text));
    }
    return SS_OK;
}

static inline ss_status rec_infer_state(const ss_infer *q, const char *name, int input, const char *what, int64_t units, ss_error *err) {
    char text[96];
    if (q->n_in <= input || q->in[input].rank < 0) return SS_OK;
    if (q->dtype[input] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs a float %s, got integers", name, what);
    if (q->role[input] != SS_ROLE_BATCHED || q->in[input].rank != 1 || q->in[input].dim[0] != units)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s needs %s of shape (B, %lld), got %s", name, what, (long long)units,
                       ss_shape_text(&q->in[input], q->role[input] == SS_ROLE_BATCHED, text, sizeof text));
    return SS_OK;
}

static inline ss_status rec_infer(ss_infer *q, const rec_cell *cell, ss_error *err) {
    char text[96];
    const char *name = cell->name;
    const int lengths = rec_lengths(cell);
    const ss_shape *x = &q->in[REC_X], *hh = &q->in[REC_W_HH];
    if (q->n_in < 3 || q->n_in > lengths + 1)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s takes x, two weights and up to %d further inputs, not %d inputs", name, lengths - REC_W_HH, q->n_in);
    if (x->rank != 2 || q->role[REC_X] != SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s needs sequences of shape (B, steps, features), got %s", name, x->rank < 0 ? "none" : ss_shape_text(x, q->role[REC_X] == SS_ROLE_BATCHED, text, sizeof text));
    if (q->dtype[REC_X] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs float sequences, got integers", name);
    if (hh->rank != 2) return SS_FAIL(err, SS_ERR_SHAPE, "%s needs weight_hh of shape (%d * units, units), got %s", name, cell->gates, hh->rank < 0 ? "none" : ss_shape_text(hh, false, text, sizeof text));
    const int64_t units = hh->dim[1];
    ss_status status = rec_infer_weight(q, name, REC_W_HH, "weight_hh", cell->gates * units, units, err);
    if (status == SS_OK) status = rec_infer_weight(q, name, REC_W_IH, "weight_ih", cell->gates * units, x->dim[1], err);
    for (int input = REC_B_IH; input <= REC_B_HH && status == SS_OK; input++)
        if (q->n_in > input && q->in[input].rank >= 0) status = rec_infer_weight(q, name, input, input == REC_B_IH ? "bias_ih" : "bias_hh", cell->gates * units, 0, err);
    if (status == SS_OK) status = rec_infer_state(q, name, REC_H0, "h0", units, err);
    if (status == SS_OK && cell->memory) status = rec_infer_state(q, name, REC_C0, "c0", units, err);
    if (status != SS_OK) return status;
    if (q->n_in > lengths && q->in[lengths].rank >= 0) {
        if (q->role[lengths] != SS_ROLE_BATCHED || q->in[lengths].rank != 0)
            return SS_FAIL(err, SS_ERR_SHAPE, "%s needs lengths of shape (B), got %s", name, ss_shape_text(&q->in[lengths], q->role[lengths] == SS_ROLE_BATCHED, text, sizeof text));
        if (q->dtype[lengths] != SS_I32) return SS_FAIL(err, SS_ERR_DTYPE, "%s needs whole numbers as lengths, got floats", name);
    }
    q->n_out = cell->memory ? 3 : 2;
    q->out[REC_OUTPUT] = (ss_shape){.rank = 2, .dim = {x->dim[0], units}};
    q->out[REC_H_N] = q->out[REC_C_N] = (ss_shape){.rank = 1, .dim = {units}};
    return SS_OK;
}

/* Sizes of one call. */
typedef struct rec_size {
    int64_t rows, steps, features, units;
    int64_t gates;      /* G*H */
    int64_t kept;       /* values a step: distance between steps in `saved` */
    int64_t errors;     /* values a step in the scratch of backward */
    int64_t hidden;     /* of them, where those of the recurrent product begin */
    bool reverse;
    const int32_t *length; /* or NULL: all steps */
} rec_size;

/* Attribute 0 is `reverse` for all of them. */
static inline rec_size rec_size_of(const ss_call *c, const rec_cell *cell) {
    rec_size s = {.rows = c->rows, .steps = c->in_shape[REC_X].dim[0], .features = c->in_shape[REC_X].dim[1], .units = c->in_shape[REC_W_HH].dim[1], .reverse = c->attr[0] != 0};
    s.gates = cell->gates * s.units;
    s.kept = cell->kept * s.units;
    s.errors = cell->errors * s.units;
    s.hidden = cell->hidden * s.units;
    s.length = rec_has(c, rec_lengths(cell)) ? c->in[rec_lengths(cell)] : NULL;
    return s;
}

static inline int64_t rec_length(const rec_size *s, int64_t row) { return s->length ? ss_max(0, ss_min(s->length[row], s->steps)) : s->steps; }

/* ---- products ---- */

/* C (m x n) = A B (+ bias), A with contiguous rows. */
typedef struct rec_product {
    ss_backend backend;
    int64_t m, n, k;
    const real *a;
    int64_t a_row;
    const real *b;
    int64_t b_row, b_col;
    real *to;
    int64_t to_row, positions;
    const real *bias;
    real *packed;
    bool kept; /* B is multiplied at every step */
} rec_product;

#ifndef SS_F64
static inline ss_matmul rec_matmul(const ss_call *c, const rec_product *p) {
    return (ss_matmul){.backend = p->backend, .m = p->m, .n = p->n, .k = p->k, .a = p->a, .a_row = p->a_row, .a_col = 1, .b = p->b, .b_row = p->b_row, .b_col = p->b_col, .c = p->to,
                       .c_row = p->to_row, .bias = p->bias, .packed = p->packed, .kept = p->kept, .fold = c->fold, .positions = p->positions};
}
#endif

static inline void rec_pack(const ss_call *c, const rec_product *p) {
#ifndef SS_F64
    if (c->kernels) {
        const ss_matmul door = rec_matmul(c, p);
        c->kernels->matmul_pack(&door, c->thread, c->threads);
    }
#else
    (void)c, (void)p;
#endif
}

static inline void rec_multiply(const ss_call *c, const rec_product *p, int thread, int threads) {
#ifndef SS_F64
    if (c->kernels) {
        const ss_matmul door = rec_matmul(c, p);
        c->kernels->matmul_run(&door, thread, threads);
        return;
    }
#endif
    (void)c, (void)thread, (void)threads;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            real sum = 0;
            for (int64_t q = 0; q < p->k; q++) sum = fma_r(p->a[i * p->a_row + q], p->b[q * p->b_row + j * p->b_col], sum);
            p->to[i * p->to_row + j] = p->bias ? sum + p->bias[j] : sum;
        }
}

/* ---- scratch ---- */

/* Offsets in reals from c->scratch. */
typedef struct rec_scratch {
    int64_t pack_ih, pack_hh;  /* packed weights */
    int64_t h, memory;         /* the state, or its gradient [rows][H] */
    int64_t rounded;           /* h as an operand of precision bf16 */
    int64_t recurrent;         /* the recurrent product [rows][G*H]; backward [rows][H] */
    int64_t errors, before;    /* backward: [rows][steps][errors], [rows][steps][H] */
    int64_t stack_ih, stack_hh, fold_ih, fold_hh;
    int64_t total;
} rec_scratch;

static inline int64_t rec_take(rec_scratch *at, int64_t count) {
    const int64_t begin = at->total;
    at->total += ss_round_up(count, 16);
    return begin;
}

#ifndef SS_F64
static inline ss_matmul_fold rec_fold(const ss_call *c, const rec_size *s, int input, const real *a, const real *b) {
    const int64_t n = input == REC_W_IH ? s->features : s->units;
    return (ss_matmul_fold){.backend = c->backend, .m = s->gates, .n = n, .positions = s->steps, .a = a, .a_row = s->errors, .b = b, .b_row = n, .c = c->grad_in[input], .c_row = n,
                            .block_stride = c->block_stride[input], .most_rows = s->rows * s->steps, .fold = c->fold};
}
#endif

static inline rec_scratch rec_scratch_of(const ss_call *c, const rec_cell *cell, const rec_size *s, bool backward) {
    rec_scratch at = {0};
#ifndef SS_F64
    if (c->kernels) {
        at.pack_ih = rec_take(&at, backward ? c->kernels->matmul_packed(c->backend, s->features, s->gates) : c->kernels->matmul_packed(c->backend, s->gates, s->features));
        at.pack_hh = rec_take(&at, backward ? ss_matmul_kept(s->units, s->gates) : ss_matmul_kept(s->gates, s->units));
    }
#endif
    at.h = rec_take(&at, s->rows * s->units);
    at.memory = rec_take(&at, cell->memory ? s->rows * s->units : 0);
    at.rounded = rec_take(&at, c->bf16 && !backward ? s->rows * s->units : 0);
    at.recurrent = rec_take(&at, s->rows * (backward ? s->units : s->gates));
    if (!backward) return at;
    at.errors = rec_take(&at, s->rows * s->steps * s->errors);
    at.before = rec_take(&at, s->rows * s->steps * s->units);
#ifndef SS_F64
    if (c->kernels) {
        at.stack_ih = rec_take(&at, s->gates * c->fold->depth);
        at.stack_hh = rec_take(&at, s->gates * c->fold->depth);
        ss_matmul_fold ih = rec_fold(c, s, REC_W_IH, NULL, NULL), hh = rec_fold(c, s, REC_W_HH, NULL, NULL);
        at.fold_ih = rec_take(&at, c->kernels->matmul_fold_scratch(&ih, c->fold->depth, c->threads));
        at.fold_hh = rec_take(&at, c->kernels->matmul_fold_scratch(&hh, c->fold->depth, c->threads));
    }
#endif
    return at;
}

static inline int64_t rec_scratch_bytes(const ss_call *c, const rec_cell *cell, bool backward) {
    const rec_size s = rec_size_of(c, cell);
    return rec_scratch_of(c, cell, &s, backward).total * (int64_t)sizeof(real);
}

static inline int64_t rec_saved_bytes(const ss_call *c, const rec_cell *cell) {
    const rec_size s = rec_size_of(c, cell);
    return s.steps * s.kept * (int64_t)sizeof(real);
}

/* ---- forward ---- */

/* The state of samples [begin, end) at the start: input `from`, or zeros. */
static inline void rec_first_state(const ss_call *c, int from, int64_t units, int64_t begin, int64_t end, real *state) {
    const size_t bytes = (size_t)((end - begin) * units) * sizeof(real);
    if (rec_has(c, from)) memcpy(state + begin * units, (const real *)c->in[from] + begin * units, bytes);
    else memset(state + begin * units, 0, bytes);
}

/* Some sample of [begin, end) is longer than t. */
static inline bool rec_any(const rec_size *s, int64_t begin, int64_t end, int64_t t) {
    for (int64_t r = begin; r < end; r++)
        if (t < rec_length(s, r)) return true;
    return false;
}

static inline void rec_round(real *to, const real *from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = bf16_r(from[i]);
}

static inline void rec_walk(const ss_call *c, const rec_cell *cell, const rec_size *s, const rec_scratch *at, rec_product p) {
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    if (begin == end) return;
    const int64_t units = s->units;
    real *scratch = c->scratch, *h = scratch + at->h, *memory = scratch + at->memory, *recurrent = scratch + at->recurrent, *output = c->out[REC_OUTPUT];
    real *rounded = scratch + at->rounded;
    rec_first_state(c, REC_H0, units, begin, end, h);
    if (cell->memory) rec_first_state(c, REC_C0, units, begin, end, memory);
    p.m = end - begin;
    p.a = (c->bf16 ? rounded : h) + begin * units;
    p.to = recurrent + begin * s->gates;
    for (int64_t step = 0; step < s->steps; step++) {
        const int64_t t = s->reverse ? s->steps - 1 - step : step;
        if (rec_any(s, begin, end, t)) {
            if (c->bf16) rec_round(rounded + begin * units, h + begin * units, (end - begin) * units);
            rec_multiply(c, &p, 0, 1);
        }
        for (int64_t r = begin; r < end; r++) {
            const int64_t place = r * s->steps + t;
            real *y = output + place * units, *gate = cell->kept ? (real *)c->saved + place * s->kept : y;
            if (t < rec_length(s, r)) {
                cell->forward(c, units, gate, recurrent + r * s->gates, h + r * units, cell->memory ? memory + r * units : NULL);
                memcpy(y, h + r * units, (size_t)units * sizeof(real));
            } else {
                memset(gate, 0, (size_t)s->kept * sizeof(real));
                memset(y, 0, (size_t)units * sizeof(real));
            }
        }
    }
    const size_t bytes = (size_t)((end - begin) * units) * sizeof(real);
    memcpy((real *)c->out[REC_H_N] + begin * units, h + begin * units, bytes);
    if (cell->memory) memcpy((real *)c->out[REC_C_N] + begin * units, memory + begin * units, bytes);
}

static inline void rec_forward(const ss_call *c, const rec_cell *cell) {
    const rec_size s = rec_size_of(c, cell);
    const rec_scratch at = rec_scratch_of(c, cell, &s, false);
    real *scratch = c->scratch;
    const rec_product ih = {
        .backend = c->backend, .m = s.rows * s.steps, .n = s.gates, .k = s.features, .a = c->in[REC_X], .a_row = s.features, .b = c->in[REC_W_IH], .b_row = 1, .b_col = s.features,
        .to = cell->kept ? c->saved : c->out[REC_OUTPUT], .to_row = cell->kept ? s.kept : s.units, .positions = s.steps, .bias = rec_has(c, REC_B_IH) ? c->in[REC_B_IH] : NULL,
        .packed = scratch + at.pack_ih,
    };
    const rec_product hh = {
        .backend = SS_BACKEND_NATIVE, .m = s.rows, .n = s.gates, .k = s.units, .a_row = s.units, .b = c->in[REC_W_HH], .b_row = 1, .b_col = s.units, .to_row = s.gates, .positions = 1,
        .bias = rec_has(c, REC_B_HH) ? c->in[REC_B_HH] : NULL, .packed = scratch + at.pack_hh, .kept = true,
    };
    switch (c->phase) {
    case 0:
        rec_pack(c, &ih);
        rec_pack(c, &hh);
        break;
    case 1: rec_multiply(c, &ih, c->thread, c->threads); break;
    default: rec_walk(c, cell, &s, &at, hh); break;
    }
}

/* ---- backward ---- */

static inline void rec_first_gradient(const void *from, int64_t units, int64_t begin, int64_t end, real *grad) {
    const size_t bytes = (size_t)((end - begin) * units) * sizeof(real);
    if (from) memcpy(grad + begin * units, (const real *)from + begin * units, bytes);
    else memset(grad + begin * units, 0, bytes);
}

/* One sample at one step on the way back; false past its length. */
static inline bool rec_back(const ss_call *c, const rec_cell *cell, const rec_size *s, const rec_scratch *at, int64_t row, int64_t t) {
    const int64_t units = s->units, length = rec_length(s, row), place = row * s->steps + t;
    real *scratch = c->scratch, *errors = scratch + at->errors + place * s->errors, *before = scratch + at->before + place * units;
    if (t >= length) {
        memset(errors, 0, (size_t)s->errors * sizeof(real));
        memset(before, 0, (size_t)units * sizeof(real));
        return false;
    }
    const real *y = (const real *)c->out[REC_OUTPUT] + place * units, *above = c->grad_out[REC_OUTPUT];
    const bool first = s->reverse ? t == length - 1 : t == 0;
    if (!first) memcpy(before, s->reverse ? y + units : y - units, (size_t)units * sizeof(real));
    else if (rec_has(c, REC_H0)) memcpy(before, (const real *)c->in[REC_H0] + row * units, (size_t)units * sizeof(real));
    else memset(before, 0, (size_t)units * sizeof(real));
    real *grad = scratch + at->h + row * units, *grad_memory = cell->memory ? scratch + at->memory + row * units : NULL;
    if (above)
        for (int64_t i = 0; i < units; i++) grad[i] += above[place * units + i];
    cell->backward(c, units, cell->kept ? (const real *)c->saved + place * s->kept : NULL, y, before, grad, grad_memory, errors);
    if (c->bf16) {
        rec_round(errors, errors, s->errors);
        rec_round(before, before, units);
    }
    return true;
}

static inline void rec_walk_back(const ss_call *c, const rec_cell *cell, const rec_size *s, const rec_scratch *at, rec_product p) {
    int64_t begin, end;
    ss_my_rows(c, &begin, &end);
    if (begin == end) return;
    const int64_t units = s->units;
    real *scratch = c->scratch, *grad = scratch + at->h, *memory = scratch + at->memory, *through = scratch + at->recurrent;
    rec_first_gradient(c->grad_out[REC_H_N], units, begin, end, grad);
    if (cell->memory) rec_first_gradient(c->grad_out[REC_C_N], units, begin, end, memory);
    p.m = end - begin;
    p.to = through + begin * units;
    for (int64_t step = s->steps - 1; step >= 0; step--) {
        const int64_t t = s->reverse ? s->steps - 1 - step : step;
        bool any = false;
        for (int64_t r = begin; r < end; r++) any |= rec_back(c, cell, s, at, r, t);
        if (!any || (step == 0 && !c->grad_in[REC_H0])) continue;
        p.a = scratch + at->errors + (begin * s->steps + t) * s->errors + s->hidden;
        rec_multiply(c, &p, 0, 1);
        for (int64_t r = begin; r < end; r++) {
            if (t >= rec_length(s, r)) continue;
            const real *restrict from = through + r * units;
            real *restrict to = grad + r * units;
            for (int64_t i = 0; i < units; i++) to[i] += from[i];
        }
    }
    const size_t bytes = (size_t)((end - begin) * units) * sizeof(real);
    if (c->grad_in[REC_H0]) memcpy((real *)c->grad_in[REC_H0] + begin * units, grad + begin * units, bytes);
    if (cell->memory && c->grad_in[REC_C0]) memcpy((real *)c->grad_in[REC_C0] + begin * units, memory + begin * units, bytes);
}

/* grad (block j at j * stride) = sum over rows of a[row * a_row] * b[row * b_row], lanes folded; b NULL: of a alone. */
static inline void rec_fold_element(const ss_fold *fold, int64_t positions, const real *a, int64_t a_row, const real *b, int64_t b_row, real *grad, int64_t stride) {
    real stack[32];
    int top = 0;
    assert(fold->depth <= 32);
    for (int l = 0; l < fold->lanes; l++) {
        real sum = 0;
        for (int64_t r = fold->row[l] * positions; r < fold->row[l + 1] * positions; r++) sum = fma_r(a[r * a_row], b ? b[r * b_row] : 1, sum);
        *ss_fold_slot(stack, 1, top) = sum;
        top = ss_fold_push(stack, 1, top, fold->adds[l]);
    }
    for (int j = 0; j < fold->blocks; j++) grad[j * stride] = stack[j];
}

/* The gradient of a weight from its errors and its operand, and of the bias beside it. */
static inline void rec_weight_gradients(const ss_call *c, const rec_size *s, int weight, int bias, const real *errors, const real *operand, int64_t fold_scratch, int64_t stack) {
    const bool with_bias = rec_has(c, bias) && c->grad_in[bias];
#ifndef SS_F64
    if (c->kernels) {
        if (c->grad_in[weight]) {
            ss_matmul_fold f = rec_fold(c, s, weight, errors, operand);
            f.scratch = (float *)c->scratch + fold_scratch;
            c->kernels->matmul_fold(&f, c->thread, c->threads);
        }
        if (with_bias) {
            int64_t begin, end;
            ss_my_elements(c, s->gates, &begin, &end);
            if (begin < end)
                c->kernels->column_sum(c->fold, s->steps, errors, s->errors, begin, end, c->grad_in[bias], c->block_stride[bias], (float *)c->scratch + stack + begin * c->fold->depth);
        }
        return;
    }
#endif
    (void)fold_scratch, (void)stack;
    const int64_t n = weight == REC_W_IH ? s->features : s->units;
    real *grad_w = c->grad_in[weight], *grad_b = with_bias ? c->grad_in[bias] : NULL;
    for (int64_t g = 0; g < s->gates; g++) {
        for (int64_t i = 0; grad_w && i < n; i++)
            rec_fold_element(c->fold, s->steps, errors + g, s->errors, operand + i, n, grad_w + g * n + i, c->block_stride[weight]);
        if (grad_b) rec_fold_element(c->fold, s->steps, errors + g, s->errors, NULL, 0, grad_b + g, c->block_stride[bias]);
    }
}

static inline void rec_backward(const ss_call *c, const rec_cell *cell) {
    const rec_size s = rec_size_of(c, cell);
    const rec_scratch at = rec_scratch_of(c, cell, &s, true);
    real *scratch = c->scratch, *errors = scratch + at.errors;
    const rec_product ih = {
        .backend = c->backend, .m = s.rows * s.steps, .n = s.features, .k = s.gates, .a = errors, .a_row = s.errors, .b = c->in[REC_W_IH], .b_row = s.features, .b_col = 1,
        .to = c->grad_in[REC_X], .to_row = s.features, .positions = s.steps, .packed = scratch + at.pack_ih,
    };
    const rec_product hh = {
        .backend = SS_BACKEND_NATIVE, .m = s.rows, .n = s.units, .k = s.gates, .a_row = s.steps * s.errors, .b = c->in[REC_W_HH], .b_row = s.units, .b_col = 1, .to_row = s.units,
        .positions = 1, .packed = scratch + at.pack_hh, .kept = true,
    };
    switch (c->phase) {
    case 0:
        if (c->grad_in[REC_X]) rec_pack(c, &ih);
        rec_pack(c, &hh);
        break;
    case 1: rec_walk_back(c, cell, &s, &at, hh); break;
    default:
        if (c->grad_in[REC_X]) rec_multiply(c, &ih, c->thread, c->threads);
        rec_weight_gradients(c, &s, REC_W_IH, REC_B_IH, errors, c->in[REC_X], at.fold_ih, at.stack_ih);
        rec_weight_gradients(c, &s, REC_W_HH, REC_B_HH, errors + s.hidden, scratch + at.before, at.fold_hh, at.stack_hh);
        break;
    }
}

static inline void rec_cost(const ss_call *c, const rec_cell *cell, bool backward, ss_cost *cost) {
    const rec_size s = rec_size_of(c, cell);
    const double gates = 2 * (double)s.steps * (double)s.gates, moved = (double)s.steps * (double)(s.features + 2 * s.units + s.kept);
    /* Backwards the state's gradient is needed in any case. */
    cost->flops = gates * (double)s.features * (backward ? 1 + ss_wanted(c, REC_X) + ss_wanted(c, REC_W_IH) : 1) +
                  gates * (double)s.units * (backward ? 2 + ss_wanted(c, REC_W_HH) : 1) + gates / 2 * (backward ? 40 : 25);
    cost->bytes = moved * sizeof(float) * (backward ? 3 : 1);
}

/* What the documentation of the three says alike. */
#define REC_DOC(G) \
    "x `(B, T, I)`, weight_ih `(" G "H, I)`, weight_hh `(" G "H, H)`, bias_ih and bias_hh `(" G "H)` or absent, h0 `(B, H)` or absent (zeros), lengths `(B)` whole numbers or absent."
#define REC_DOC_END \
    "\n\nlengths: sample b has lengths[b] steps (numbers outside 0..T count as the nearer end); past them the output is 0 and the state stays. With reverse 1 the steps run from the sample's last one to its " \
    "first. So lengths act as PyTorch's packed sequences. What x holds past the length must be finite: it is multiplied by zero errors in the gradient of weight_ih." \
    "\n\nOrder of sums: x weight_ih^T is one fused-multiply-add chain along I from zero, then bias_ih is added; h weight_hh^T one chain along H, then bias_hh; then the two sums are added. Backward, the gradient " \
    "of h and of x is one chain along the gates in the order of the weight's rows. Gradients of weights and biases are one chain over the samples of a lane, the steps of a sample in order t = 0..T-1 " \
    "in both directions of time, lanes joined by the tree. The recurrent product always runs on the native backend." \
    "\n\nPrecision bf16 rounds h before the recurrent product, and the errors of the sums before the products and bias sums of backward."
#define REC_ATTR_REVERSE {"reverse", SS_ATTR_BOOL, 0, 0, 1, "1: from the last step to the first"}

#endif
