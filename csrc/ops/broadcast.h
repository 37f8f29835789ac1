/* What add and mul share: two batched inputs of equal shape, or a parameter as second input that broadcasts against the sample (NumPy's rule, from the trailing axes).
 *
 * With a parameter the sample is cut into lines: the longest run of trailing axes along which the parameter either always varies or never does. Values are in plain layout then.
 */
#ifndef SS_OPS_BROADCAST_H
#define SS_OPS_BROADCAST_H
#include "ops/op.h"

typedef struct broadcast {
    int64_t n, param;      /* elements of a sample, of the parameter */
    int64_t line, lines;   /* elements of a line, lines of a sample */
    bool varies;           /* the parameter varies along a line */
    bool suffix;           /* and every line meets the whole parameter */
    int head;              /* axes that count lines, outermost first; axes of extent 1 are left out everywhere */
    int64_t dim[SS_MAX_RANK], step[SS_MAX_RANK], stride[SS_MAX_RANK]; /* extent; stride in the parameter (0: does not vary); stride in the sample */
} broadcast;

static inline broadcast broadcast_of(const ss_shape *x, const ss_shape *w) {
    broadcast g = {.n = ss_shape_count(x), .param = ss_shape_count(w), .line = 1, .lines = 1};
    int64_t step = g.param, stride = g.n;
    int axes = 0;
    for (int i = 0; i < x->rank; i++) {
        int k = i - (x->rank - w->rank);
        int64_t extent = k >= 0 ? w->dim[k] : 1;
        step /= extent;
        stride /= x->dim[i];
        if (x->dim[i] == 1) continue;
        g.dim[axes] = x->dim[i];
        g.step[axes] = extent == 1 ? 0 : step;
        g.stride[axes++] = stride;
    }
    g.varies = axes && g.step[axes - 1] != 0;
    g.head = axes;
    while (g.head && (g.step[g.head - 1] != 0) == g.varies) g.line *= g.dim[--g.head];
    g.lines = g.n / g.line;
    g.suffix = g.varies && g.line == g.param;
    return g;
}

/* Offset in the parameter of the first element of line l. */
static inline int64_t broadcast_line(const broadcast *g, int64_t l) {
    int64_t at = 0;
    for (int i = g->head - 1; i >= 0; i--) {
        at += l % g->dim[i] * g->step[i];
        l /= g->dim[i];
    }
    return at;
}

static inline ss_status broadcast_infer(ss_infer *q, const char *name, ss_error *err) {
    char a[96], b[96];
    if (q->n_in != 2 || q->in[0].rank < 0 || q->in[1].rank < 0) return SS_FAIL(err, SS_ERR_SHAPE, "%s takes 2 inputs", name);
    if (q->role[0] != SS_ROLE_BATCHED || q->role[1] == SS_ROLE_BUFFER) return SS_FAIL(err, SS_ERR_VALUE, "%s: the first input must be an activation, the second an activation or a parameter", name);
    if (q->dtype[0] != SS_F32 || q->dtype[1] != SS_F32) return SS_FAIL(err, SS_ERR_DTYPE, "%s: both inputs must be float", name);
    const ss_shape *x = &q->in[0], *w = &q->in[1];
    bool batched = q->role[1] == SS_ROLE_BATCHED, fits = batched ? ss_shape_equal(x, w) : w->rank <= x->rank;
    for (int i = 0; fits && !batched && i < w->rank; i++) fits = w->dim[i] == 1 || w->dim[i] == x->dim[x->rank - w->rank + i];
    if (!fits)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s: %s and %s %s", name, ss_shape_text(x, true, a, sizeof a), ss_shape_text(w, batched, b, sizeof b),
                       batched ? "differ" : "do not go together: a parameter broadcasts to the shape of a sample");
    q->n_out = 1;
    q->out[0] = *x;
    q->any_layout = batched;
    return SS_OK;
}

static inline void broadcast_cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[0]);
    out->flops = n * (both ? 4 : 1);
    out->bytes = n * 4 * (both ? 7 : 3);
}

/* Stacks for the parameter's gradient, one after another by threads. */
static inline int64_t broadcast_scratch(const ss_call *c, bool backward) {
    if (!backward || c->role[1] == SS_ROLE_BATCHED) return 0;
    return c->fold->depth * ss_round_up(ss_shape_count(&c->in_shape[1]), 16) * (int64_t)sizeof(real);
}

/* acc = acc + g * x, or acc + g without x. */
static inline __attribute__((always_inline)) real broadcast_join(real acc, const real *x, const real *g, int64_t at) { return x ? fma_r(g[at], x[at], acc) : acc + g[at]; }

/* One sample into the sums of parameter elements [begin, end): positions in row-major order. */
static inline __attribute__((always_inline)) void broadcast_add_sample(const broadcast *b, const real *restrict x, const real *restrict g, int64_t begin, int64_t end, real *restrict sum) {
    if (b->suffix) {
        for (int64_t l = 0; l < b->lines; l++)
            for (int64_t p = begin; p < end; p++) sum[p - begin] = broadcast_join(sum[p - begin], x, g, l * b->line + p);
        return;
    }
    for (int64_t p = begin; p < end; p++) {
        /* Where the parameter's element p first stands in the sample, and how often the head repeats it. */
        int64_t base = b->varies ? p % b->line : 0, rest = b->varies ? p / b->line : p, repeats = 1;
        for (int i = b->head - 1; i >= 0; i--) {
            if (!b->step[i]) {
                repeats *= b->dim[i];
                continue;
            }
            base += rest % b->dim[i] * b->stride[i];
            rest /= b->dim[i];
        }
        real acc = sum[p - begin];
        for (int64_t r = 0; r < repeats; r++) {
            int64_t at = base, left = r;
            for (int i = b->head - 1; i >= 0; i--) {
                if (b->step[i]) continue;
                at += left % b->dim[i] * b->stride[i];
                left /= b->dim[i];
            }
            if (b->varies) acc = broadcast_join(acc, x, g, at);
            else
                for (int64_t k = 0; k < b->line; k++) acc = broadcast_join(acc, x, g, at + k);
        }
        sum[p - begin] = acc;
    }
}

/* The parameter's gradient: sums over samples of g (times x, unless x is NULL), lanes folded. */
static inline __attribute__((always_inline)) void broadcast_gradient(const ss_call *c, const real *x) {
    broadcast b = broadcast_of(&c->in_shape[0], &c->in_shape[1]);
    const real *g = c->grad_out[0];
    int64_t begin, end;
    ss_my_elements(c, b.param, &begin, &end);
    int64_t width = end - begin;
    real *stack = (real *)c->scratch + c->fold->depth * begin, *out = c->grad_in[1];
    if (!width) return;
    int top = 0;
    for (int i = 0; i < c->fold->lanes; i++) {
        real *sum = ss_fold_slot(stack, width, top);
        for (int64_t j = 0; j < width; j++) sum[j] = 0;
        for (int64_t r = c->fold->row[i]; r < c->fold->row[i + 1]; r++) broadcast_add_sample(&b, x ? x + r * b.n : NULL, g + r * b.n, begin, end, sum);
        top = ss_fold_push(stack, width, top, c->fold->adds[i]);
    }
    for (int block = 0; block < top; block++)
        for (int64_t j = 0; j < width; j++) out[block * c->block_stride[1] + begin + j] = ss_fold_slot(stack, width, block)[j];
}

#endif
