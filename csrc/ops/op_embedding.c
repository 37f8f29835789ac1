/* embedding: rows of a table by number. */
#include "ops/axis.h"

enum { INDEX, WEIGHT };
static const ss_attr_spec attrs[] = {
    {"padding_idx", SS_ATTR_INT, -1, -1, 1099511627776.0, "row that gets no gradient; -1: none"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    char text[96];
    if (q->n_in != 2) return SS_FAIL(err, SS_ERR_SHAPE, "embedding takes indices and a weight, not %d inputs", q->n_in);
    if (q->in[INDEX].rank < 0 || q->role[INDEX] != SS_ROLE_BATCHED) return SS_FAIL(err, SS_ERR_VALUE, "embedding: the indices must be batched, one row a sample");
    if (q->dtype[INDEX] != SS_I32) return SS_FAIL(err, SS_ERR_DTYPE, "embedding: the indices must be whole numbers");
    const ss_shape *w = &q->in[WEIGHT];
    if (w->rank != 2 || q->role[WEIGHT] == SS_ROLE_BATCHED)
        return SS_FAIL(err, SS_ERR_SHAPE, "embedding needs a weight of shape (rows, features), got %s", w->rank < 0 ? "none" : ss_shape_text(w, q->role[WEIGHT] == SS_ROLE_BATCHED, text, sizeof text));
    if (q->dtype[WEIGHT] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "embedding needs a float weight, got integers");
    if (ss_attr_i(q->attr, 0) >= w->dim[0])
        return SS_FAIL(err, SS_ERR_VALUE, "embedding: padding_idx=%lld is no row of a weight of shape %s", (long long)ss_attr_i(q->attr, 0), ss_shape_text(w, false, text, sizeof text));
    if (q->in[INDEX].rank == SS_MAX_RANK) return SS_FAIL(err, SS_ERR_SHAPE, "embedding: %s has no room for another axis", ss_shape_text(&q->in[INDEX], true, text, sizeof text));
    q->n_out = 1;
    q->out[0] = q->in[INDEX];
    q->out[0].dim[q->out[0].rank++] = w->dim[1];
    return SS_OK;
}

static ss_status prepare(const ss_call *c, ss_error *err) { return axis_check_indices(c, "embedding", INDEX, c->in_shape[WEIGHT].dim[0], "the table has the rows", err); }

static void forward(const ss_call *c) {
    const int64_t rows = c->in_shape[WEIGHT].dim[0], width = c->in_shape[WEIGHT].dim[1];
    int64_t begin, end;
    ss_split(c->rows * ss_shape_count(&c->in_shape[INDEX]), 1, c->thread, c->threads, &begin, &end);
    const int32_t *index = c->in[INDEX];
    const real *w = c->in[WEIGHT];
    real *y = c->out[0];
    for (int64_t i = begin; i < end; i++) {
        if (index[i] >= 0 && index[i] < rows) axis_copy(y + i * width, w + index[i] * width, width);
        else
            for (int64_t k = 0; k < width; k++) y[i * width + k] = (real)NAN;
    }
}

/* ---- gradient ---- */

/* Tokens (sample * positions + position) sorted by the row they name; those of row v are token[start[v]] to token[start[v + 1] - 1], in order. `met`: the rows that occur. */
typedef struct sorted {
    int64_t *start, *token, *met; /* start[-1] counts the met rows */
    real *stacks;
} sorted;

static int64_t stack_width(const ss_call *c) { return ss_round_up(c->in_shape[WEIGHT].dim[1], 16); }

static sorted sorted_of(const ss_call *c, int64_t *bytes) {
    const int64_t rows = c->in_shape[WEIGHT].dim[0], tokens = c->rows * ss_shape_count(&c->in_shape[INDEX]);
    sorted s = {.start = (int64_t *)c->scratch + 8};
    const int64_t stacks = ss_round_up(8 + rows + 2 + tokens + ss_min(rows, tokens), 8);
    if (bytes) {
        *bytes = stacks * 8 + c->threads * c->fold->depth * stack_width(c) * (int64_t)sizeof(real);
        return (sorted){0};
    }
    s.token = s.start + rows + 2;
    s.met = s.token + tokens;
    s.stacks = (real *)((int64_t *)c->scratch + stacks);
    return s;
}

static int64_t scratch_bytes(const ss_call *c, bool backward) {
    int64_t bytes = 0;
    if (backward) sorted_of(c, &bytes);
    return bytes;
}

/* Which row a token names; -1: none that gets a gradient. */
static inline int64_t row_of(const ss_call *c, int64_t token) {
    const int64_t v = ((const int32_t *)c->in[INDEX])[token];
    return v >= 0 && v < c->in_shape[WEIGHT].dim[0] && v != ss_attr_i(c->attr, 0) ? v : -1;
}

static void sort_tokens(const ss_call *c) {
    const sorted s = sorted_of(c, NULL);
    const int64_t rows = c->in_shape[WEIGHT].dim[0], tokens = c->rows * ss_shape_count(&c->in_shape[INDEX]);
    int64_t met = 0, at = 0;
    memset(s.start, 0, (size_t)(rows + 2) * sizeof *s.start);
    for (int64_t t = 0; t < tokens; t++) {
        const int64_t v = row_of(c, t);
        if (v >= 0) s.start[v + 2]++;
    }
    for (int64_t v = 0; v < rows; v++) {
        const int64_t count = s.start[v + 2];
        if (count) s.met[met++] = v;
        at += count;
        s.start[v + 2] = at;
    }
    /* start[v + 1] is where row v begins; placing its tokens moves it to where row v ends. */
    for (int64_t t = 0; t < tokens; t++) {
        const int64_t v = row_of(c, t);
        if (v >= 0) s.token[s.start[v + 1]++] = t;
    }
    s.start[-1] = met;
}

/* Columns [begin, end) of row v in all blocks. A lane without the row counts as zero, and so does its sum: nothing is added up for it. */
static void fold_row(const ss_call *c, const sorted *s, int64_t v, int64_t begin, int64_t end, real *stack) {
    const int64_t width = c->in_shape[WEIGHT].dim[1], positions = ss_shape_count(&c->in_shape[INDEX]), pitch = stack_width(c), n = end - begin;
    const real *g = (const real *)c->grad_out[0] + begin;
    bool full[64];
    int top = 0;
    int64_t at = s->start[v], last = s->start[v + 1];
    for (int l = 0; l < c->fold->lanes; l++) {
        const int64_t stop = c->fold->row[l + 1] * positions;
        real *restrict sum = stack + top * pitch;
        full[top] = at < last && s->token[at] < stop;
        if (full[top])
            for (int64_t j = 0; j < n; j++) sum[j] = 0;
        for (; at < last && s->token[at] < stop; at++) {
            const real *restrict from = g + s->token[at] * width;
            for (int64_t j = 0; j < n; j++) sum[j] += from[j];
        }
        top++;
        for (int adds = c->fold->adds[l]; adds > 0; adds--, top--) {
            real *restrict a = stack + (top - 2) * pitch;
            const real *restrict b = a + pitch;
            if (full[top - 2] && full[top - 1])
                for (int64_t j = 0; j < n; j++) a[j] += b[j];
            else if (full[top - 2])
                for (int64_t j = 0; j < n; j++) a[j] += 0; /* -0 becomes 0, as it does where zeros of another sweep are added */
            else if (full[top - 1])
                for (int64_t j = 0; j < n; j++) a[j] = 0 + b[j];
            full[top - 2] |= full[top - 1];
        }
    }
    for (int block = 0; block < top; block++) {
        real *to = (real *)c->grad_in[WEIGHT] + block * c->block_stride[WEIGHT] + v * width + begin;
        if (full[block]) memcpy(to, stack + block * pitch, (size_t)n * sizeof(real));
    }
}

/* Phase 0 fills the blocks with zeros and sorts; phase 1 folds the rows that occur. */
static void backward(const ss_call *c) {
    if (!c->grad_in[WEIGHT]) return;
    const int64_t rows = c->in_shape[WEIGHT].dim[0], width = c->in_shape[WEIGHT].dim[1];
    int64_t begin, end;
    if (c->phase == 0) {
        ss_my_elements(c, rows * width, &begin, &end);
        for (int block = 0; block < c->fold->blocks; block++) axis_zero((real *)c->grad_in[WEIGHT] + block * c->block_stride[WEIGHT] + begin, end - begin);
        if (c->thread == c->threads - 1) sort_tokens(c);
        return;
    }
    const sorted s = sorted_of(c, NULL);
    real *stack = s.stacks + c->thread * c->fold->depth * stack_width(c);
    const int64_t met = s.start[-1];
    if (width >= 32 * c->threads) { /* columns: a frequent row keeps no thread waiting */
        ss_split(width, 16, c->thread, c->threads, &begin, &end);
        for (int64_t k = 0; k < met; k++) fold_row(c, &s, s.met[k], begin, end, stack);
    } else {
        ss_split(met, 1, c->thread, c->threads, &begin, &end);
        for (int64_t k = begin; k < end; k++) fold_row(c, &s, s.met[k], 0, width, stack);
    }
}

/* The definition: for each element of the table all tokens, lane by lane. */
static void backward_ref(const ss_call *c) {
    if (!c->grad_in[WEIGHT] || c->phase) return;
    const int64_t rows = c->in_shape[WEIGHT].dim[0], width = c->in_shape[WEIGHT].dim[1], positions = ss_shape_count(&c->in_shape[INDEX]);
    const real *g = c->grad_out[0];
    for (int64_t e = 0; e < rows * width; e++) {
        real stack[64];
        int top = 0;
        for (int l = 0; l < c->fold->lanes; l++) {
            real sum = 0;
            for (int64_t t = c->fold->row[l] * positions; t < c->fold->row[l + 1] * positions; t++)
                if (row_of(c, t) == e / width) sum += g[t * width + e % width];
            *ss_fold_slot(stack, 1, top) = sum;
            top = ss_fold_push(stack, 1, top, c->fold->adds[l]);
        }
        for (int block = 0; block < top; block++) ((real *)c->grad_in[WEIGHT])[block * c->block_stride[WEIGHT] + e] = stack[block];
    }
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    const double n = (double)ss_shape_count(&c->out_shape[0]);
    out->flops = both ? n : 0;
    out->bytes = n * 4 * (both ? 4 : 2);
}

static const ss_op_case cases[] = {
    {.inputs = "I10: P:10,5"},
    {.inputs = "I7:6 P:7,33"},
    {.inputs = "I3:40 P:3,100"},
    {.inputs = "I50:2,3 P:60,4"},
    {.inputs = "I1:4 P:1,1"},
    {.attrs = "padding_idx=2", .inputs = "I5:7 P:5,8", .no_gradient_check = true /* its row has a gradient that is withheld */},
    {.attrs = "padding_idx=0", .inputs = "I1:7 P:1,8", .no_gradient_check = true},
    {.inputs = "I4:3 S1:4,6"},
    {.inputs = "I900:3 P:10,4", .expect = SS_ERR_VALUE},
    {.inputs = "I900: P:10,4", .expect = SS_ERR_VALUE},
    {.attrs = "padding_idx=5", .inputs = "I5:7 P:5,8", .expect = SS_ERR_VALUE},
    {.attrs = "padding_idx=-2", .inputs = "I5:7 P:5,8", .expect = SS_ERR_VALUE},
    {.inputs = "B:3 P:10,4", .expect = SS_ERR_DTYPE},
    {.inputs = "I5:3 B:10,4", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:3 P:10", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:3 -", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:1,1,1,1,1,3 P:10,4", .expect = SS_ERR_SHAPE},
    {.inputs = "S:3 P:10,4", .expect = SS_ERR_VALUE},
    {.inputs = "I5:3", .expect = SS_ERR_SHAPE},
    {0},
};

const ss_op SS_FN(ss_op_embedding) = {
    .name = "embedding",
    .doc = "`y = weight[index]`: int32 indices of any sample shape, weight (rows, features), one more axis at the end. Indices from the data are checked before the step, with sample and position in the "
           "message; a computed index outside of the table gives NaN, and no gradient. Row `padding_idx` gets no gradient.\n\n"
           "Gradient: tokens are sorted by row (a counting sort over the rows). For each row that occurs one chain of sums over its tokens inside a lane, in order of sample and position; lanes without the "
           "row are skipped; lanes are joined by the tree. The rows that do not occur are zero.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward_phases = 2,
    .backward = backward,
    .backward_ref = backward_ref,
    .prepare = prepare,
    .scratch_bytes = scratch_bytes,
    .cost = cost,
    .cases = cases,
};
