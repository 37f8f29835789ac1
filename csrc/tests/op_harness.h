/* Runs one operator outside a graph, the way the executor does, for tests: sweeps, threads, phases, joined statistics, guard zones.
 *
 * Values live here as doubles in PyTorch's logical order; a run converts them to float (or double in the f64 variant) and to the memory layout asked for, and back.
 * Threads are emulated one after another, phase by phase. Everything is deterministic.
 *
 * A header with static functions, because a test is one C file.
 */
#ifndef SS_TESTS_OP_HARNESS_H
#define SS_TESTS_OP_HARNESS_H
#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xmmintrin.h>
#include "base/alloc.h"
#include "ops/op.h"

/* Counts a check; prints file:line and the text of the first failures. Returns `good`. */
#define OH_CHECK(good, ...) oh_check((good), __FILE__, __LINE__, __VA_ARGS__)
static bool oh_check(bool good, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));
static int64_t oh_checks, oh_failures;

enum { OH_MAX_SPANS = 64 };

/* What an input word of a case says. */
typedef enum oh_kind { OH_ABSENT, OH_FLOAT, OH_POSITIVE, OH_INT, OH_WEIGHT, OH_PARAMETER, OH_BUFFER } oh_kind;

typedef struct oh_case {
    int index; /* in the operator table */
    const ss_op *op; /* of the scalar variant: attributes, infer, cases */
    const ss_op_case *tc;
    double attr[SS_MAX_ATTR];
    oh_kind kind[SS_MAX_IN];
    int64_t bound[SS_MAX_IN]; /* OH_INT: values in [0, bound) */
    double fill[SS_MAX_IN];   /* OH_BUFFER */
    ss_infer q;
    char name[256]; /* for messages */
} oh_case;

/* Inputs and output gradients of a whole batch: batched [batch][count], parameters and buffers [count]. */
typedef struct oh_data {
    int64_t batch;
    double *in[SS_MAX_IN];
    double *grad_out[SS_MAX_OUT];
} oh_data;

/* How to run it. */
typedef struct oh_run {
    ss_isa isa;
    bool f64;      /* the double variant (naive) */
    bool naive;    /* forward_ref / backward_ref where the operator has them, c->kernels = NULL, one thread */
    bool training, backward;
    bool bf16;     /* precision bf16 */
    bool reverse;  /* threads of a phase run last to first */
    int threads;
    ss_layout layout;
    ss_backend backend;
    int32_t lanes; /* V */
    int n_spans;   /* sweeps; 0: one sweep over all lanes */
    ss_span span[OH_MAX_SPANS];
    unsigned unwanted; /* bit i: the gradient of input i is not wanted */
    int over;          /* i + 1: output 0 lies over input i, and nothing goes backward */
    int grad_over;     /* i + 1: the gradient of input i lies over that of output 0 */
    unsigned unused;   /* bit o: nobody asks for the gradient of output o, grad_out[o] is NULL */
} oh_run;

typedef struct oh_result {
    int64_t batch;
    double *out[SS_MAX_OUT];   /* [batch][count] */
    double *grad[SS_MAX_IN];   /* batched [batch][count]; parameter [count], lanes and sweeps joined by the tree; NULL where there is none */
    double *buffer[SS_MAX_IN]; /* as the operator left them */
    unsigned char *saved;      /* [batch][saved_bytes] */
    int64_t saved_bytes;
    double loss, denominator;  /* losses and metrics: joined statistic / denominator */
} oh_result;

enum { GUARD = 64, MOST_PRINTED = 60, MAX_BUFFERS = 4096 };
static const uint32_t POISON32 = 0x7fe5a5a5u;
static const uint64_t POISON64 = 0x7ffa5a5a7fe5a5a5u;

static bool oh_check(bool good, const char *file, int line, const char *format, ...) {
    oh_checks++;
    if (good) return true;
    oh_failures++;
    if (oh_failures <= MOST_PRINTED) {
        va_list arguments;
        va_start(arguments, format);
        printf("FAIL %s:%d: ", file, line);
        vprintf(format, arguments);
        printf("\n");
        va_end(arguments);
    }
    return false;
}

/* Flush-to-zero and denormals-are-zero, as the thread pool sets them. */
static void oh_flush_denormals(void) { _mm_setcsr(_mm_getcsr() | 0x8040u); }

/* ---- the mini-language of cases ---- */

static ss_status parse_attrs(const ss_op *op, const char *text, double *attr, ss_error *err) {
    int count = 0;
    for (; op->attrs && op->attrs[count].name; count++) attr[count] = op->attrs[count].initial;
    while (text && *text) {
        while (*text == ' ') text++;
        if (!*text) break;
        const char *equals = strchr(text, '=');
        if (!equals) return SS_FAIL(err, SS_ERR_VALUE, "no '=' in \"%s\"", text);
        int found = -1;
        for (int i = 0; i < count; i++)
            if (strlen(op->attrs[i].name) == (size_t)(equals - text) && !strncmp(op->attrs[i].name, text, (size_t)(equals - text))) found = i;
        if (found < 0) return SS_FAIL(err, SS_ERR_VALUE, "%s has no attribute \"%.*s\"", op->name, (int)(equals - text), text);
        char *end;
        double value = strtod(equals + 1, &end);
        if (end == equals + 1 || (*end && *end != ' ')) return SS_FAIL(err, SS_ERR_VALUE, "no number in \"%s\"", text);
        const ss_attr_spec *spec = &op->attrs[found];
        if (!(value >= spec->least && value <= spec->most)) return SS_FAIL(err, SS_ERR_VALUE, "%s=%g lies outside [%g, %g]", spec->name, value, spec->least, spec->most);
        if (spec->kind != SS_ATTR_FLOAT && value != floor(value)) return SS_FAIL(err, SS_ERR_VALUE, "%s=%g is not whole", spec->name, value);
        attr[found] = value;
        text = end;
    }
    return SS_OK;
}

/* One word of `inputs`; returns the rest, or NULL when malformed. */
static const char *parse_input(const char *text, oh_case *oc, int i) {
    ss_infer *q = &oc->q;
    q->dtype[i] = SS_F32;
    q->role[i] = SS_ROLE_BATCHED;
    q->in[i] = (ss_shape){.rank = 0};
    oc->fill[i] = 0;
    char letter = *text++;
    if (letter == '-') {
        oc->kind[i] = OH_ABSENT;
        q->in[i].rank = -1;
        q->role[i] = SS_ROLE_PARAMETER;
        return *text && *text != ' ' ? NULL : text;
    }
    char *end;
    switch (letter) {
    case 'B': oc->kind[i] = OH_FLOAT; break;
    case 'W': oc->kind[i] = OH_WEIGHT; break;
    case 'P': oc->kind[i] = OH_PARAMETER; q->role[i] = SS_ROLE_PARAMETER; break;
    case 'S': oc->kind[i] = OH_BUFFER; q->role[i] = SS_ROLE_BUFFER; break;
    case 'I':
        oc->kind[i] = OH_INT;
        q->dtype[i] = SS_I32;
        oc->bound[i] = strtoll(text, &end, 10);
        if (end == text || oc->bound[i] < 1) return NULL;
        text = end;
        break;
    default: return NULL;
    }
    if (*text == '+' && (letter == 'B' || letter == 'P')) {
        oc->fill[i] = 1; /* marks positive values */
        if (letter == 'B') oc->kind[i] = OH_POSITIVE;
        text++;
    }
    if (*text == '1' && letter == 'S') {
        oc->fill[i] = 1;
        text++;
    }
    if (*text++ != ':') return NULL;
    while (*text && *text != ' ') {
        if (q->in[i].rank == SS_MAX_RANK) return NULL;
        q->in[i].dim[q->in[i].rank++] = strtoll(text, &end, 10);
        if (end == text) return NULL;
        text = *end == ',' ? end + 1 : end;
    }
    return text;
}

/* Fills the case from its texts. SS_ERR_VALUE: an attribute the operator lacks or a value out of its range (a case may expect that). A malformed input word fails a check. */
static ss_status oh_case_parse(int index, const ss_op_case *tc, oh_case *out, ss_error *err) {
    memset(out, 0, sizeof *out);
    out->index = index;
    out->op = ss_op_at(SS_ISA_SCALAR, index);
    out->tc = tc;
    snprintf(out->name, sizeof out->name, "%s{%s}[%s]", out->op->name, tc->attrs ? tc->attrs : "", tc->inputs);
    ss_infer *q = &out->q;
    q->attr = out->attr;
    const char *text = tc->inputs;
    while (*text) {
        while (*text == ' ') text++;
        if (!*text) break;
        if (q->n_in == SS_MAX_IN || !(text = parse_input(text, out, q->n_in))) {
            OH_CHECK(false, "%s: malformed inputs", out->name);
            return SS_FAIL(err, SS_ERR_STATE, "malformed inputs \"%s\"", tc->inputs);
        }
        q->n_in++;
    }
    return parse_attrs(out->op, tc->attrs, out->attr, err);
}

/* Runs infer with its presets. */
static ss_status oh_case_infer(oh_case *oc, ss_error *err) {
    ss_infer *q = &oc->q;
    q->attr = oc->attr;
    q->n_out = 0;
    q->any_layout = false;
    q->layout = SS_PLAIN;
    for (int i = 0; i < SS_MAX_OUT; i++) {
        q->out[i] = (ss_shape){.rank = 0};
        q->out_dtype[i] = SS_F32;
    }
    return oc->op->infer(q, err);
}

/* ---- data ---- */

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
/* (-1, 1), exact in float, never 0 */
static double uniform(uint64_t *state) { return ((double)(next_random(state) >> 41) + 0.5) * 0x1p-22 - 1.0; }

static int64_t value_count(const oh_case *oc, int i, int64_t batch) {
    if (oc->kind[i] == OH_ABSENT) return 0;
    return ss_shape_count(&oc->q.in[i]) * (oc->q.role[i] == SS_ROLE_BATCHED ? batch : 1);
}

static double *doubles(int64_t n) {
    double *p = ss_calloc((size_t)(n > 0 ? n : 1), sizeof(double));
    if (!p) abort();
    return p;
}

/* special: strews NaN, infinities and signed zeros over the float inputs. */
static void oh_data_make(const oh_case *oc, int64_t batch, uint64_t seed, bool special, oh_data *out) {
    static const double odd[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 1e30, -1e30, 1e-30};
    memset(out, 0, sizeof *out);
    out->batch = batch;
    uint64_t state = seed;
    for (int i = 0; i < oc->q.n_in; i++) {
        if (oc->kind[i] == OH_ABSENT) continue;
        int64_t n = value_count(oc, i, batch);
        double *v = out->in[i] = doubles(n);
        for (int64_t j = 0; j < n; j++) {
            double u = uniform(&state);
            switch (oc->kind[i]) {
            case OH_FLOAT: v[j] = (double)(float)(u * 2.0); break;
            case OH_PARAMETER: v[j] = oc->fill[i] ? (double)(float)(0.25 + fabs(u)) : u; break;
            case OH_POSITIVE:
            case OH_WEIGHT: v[j] = (double)(float)(0.25 + fabs(u)); break;
            case OH_INT: v[j] = (double)(next_random(&state) % (uint64_t)oc->bound[i]); break;
            default: v[j] = oc->fill[i]; break;
            }
            if (special && (oc->kind[i] == OH_FLOAT || oc->kind[i] == OH_PARAMETER) && next_random(&state) % 4 == 0)
                v[j] = odd[next_random(&state) % (sizeof odd / sizeof odd[0])];
        }
    }
    for (int o = 0; o < oc->q.n_out; o++) {
        int64_t n = ss_shape_count(&oc->q.out[o]) * batch;
        out->grad_out[o] = doubles(n);
        for (int64_t j = 0; j < n; j++) out->grad_out[o][j] = uniform(&state);
    }
}

static void oh_data_free(oh_data *data) {
    for (int i = 0; i < SS_MAX_IN; i++) ss_free(data->in[i]);
    for (int i = 0; i < SS_MAX_OUT; i++) ss_free(data->grad_out[i]);
    memset(data, 0, sizeof *data);
}

/* ---- guarded memory of one run ---- */

typedef struct buffer {
    unsigned char *base, *copy; /* copy: what must still be there at the end (inputs) */
    int64_t bytes;
    const char *what;
} buffer;

typedef struct bag {
    int n;
    buffer b[MAX_BUFFERS];
} bag;

/* Memory between guard zones, filled with the poison NaN. */
static void *guarded(bag *g, int64_t bytes, bool f64, const char *what) {
    assert(g->n < MAX_BUFFERS && bytes >= 0);
    buffer *b = &g->b[g->n++];
    *b = (buffer){.base = ss_calloc((size_t)(bytes + 2 * GUARD + 8), 1), .bytes = bytes, .what = what};
    if (!b->base) abort();
    memset(b->base, 0xA5, (size_t)(bytes + 2 * GUARD));
    unsigned char *p = b->base + GUARD;
    for (int64_t i = 0; i < bytes; i++) p[i] = f64 ? ((const unsigned char *)&POISON64)[i % 8] : ((const unsigned char *)&POISON32)[i % 4];
    return p;
}

static void freeze(bag *g, const void *p) {
    for (int i = 0; i < g->n; i++) {
        buffer *b = &g->b[i];
        if (b->base + GUARD != p) continue;
        b->copy = ss_calloc((size_t)(b->bytes + 1), 1);
        if (!b->copy) abort();
        memcpy(b->copy, p, (size_t)b->bytes);
    }
}

static bool bag_close(bag *g, const char *name, const char *run) {
    bool good = true;
    for (int i = 0; i < g->n; i++) {
        buffer *b = &g->b[i];
        for (int k = 0; k < GUARD; k++) {
            bool low = b->base[k] == 0xA5, high = b->base[GUARD + b->bytes + k] == 0xA5;
            if (low && high) continue;
            good = OH_CHECK(false, "%s, %s: wrote %s %s (%d bytes off)", name, run, low ? "after the end of" : "before", b->what, low ? k : GUARD - k);
            break;
        }
        if (b->copy && memcmp(b->copy, b->base + GUARD, (size_t)b->bytes)) good = OH_CHECK(false, "%s, %s: changed %s, which is an input", name, run, b->what);
        oh_checks++;
        ss_free(b->copy);
        ss_free(b->base);
    }
    g->n = 0;
    return good;
}

/* ---- conversion between logical doubles and memory ---- */

/* Where logical element e of a sample lies. */
static int64_t place(const ss_shape *s, ss_layout layout, int64_t e) {
    if (layout == SS_PLAIN || s->rank < 2) return e;
    int64_t channels = s->dim[0], inner = ss_shape_count(s) / channels;
    return e % inner * channels + e / inner;
}

static void store(void *p, bool f64, int64_t at, double value) {
    if (f64) ((double *)p)[at] = value;
    else ((float *)p)[at] = (float)value;
}
static double load(const void *p, bool f64, int64_t at) { return f64 ? ((const double *)p)[at] : (double)((const float *)p)[at]; }
static bool poisoned(const void *p, bool f64, int64_t at) {
    uint32_t w;
    uint64_t d;
    memcpy(&w, (const char *)p + 4 * at, f64 ? 0 : 4);
    if (!f64) return w == POISON32;
    memcpy(&d, (const char *)p + 8 * at, 8);
    return d == POISON64;
}

static void store_rows(void *p, bool f64, ss_dtype dtype, const ss_shape *s, ss_layout layout, int64_t rows, const double *from) {
    int64_t n = ss_shape_count(s);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t e = 0; e < n; e++) {
            int64_t at = r * n + place(s, layout, e);
            if (dtype == SS_I32) ((int32_t *)p)[at] = (int32_t)from[r * n + e];
            else store(p, f64, at, from[r * n + e]);
        }
}

/* False at the first element that was never written. */
static bool load_rows(const void *p, bool f64, ss_dtype dtype, const ss_shape *s, ss_layout layout, int64_t rows, double *to) {
    int64_t n = ss_shape_count(s);
    bool written = true;
    f64 = f64 && dtype == SS_F32;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t e = 0; e < n; e++) {
            int64_t at = r * n + place(s, layout, e);
            to[r * n + e] = dtype == SS_I32 ? ((const int32_t *)p)[at] : load(p, f64, at);
            written = written && !poisoned(p, f64, at);
        }
    return written;
}

/* ---- the lane tree, written out by its definition: the check of base/lanes ---- */

typedef struct leaf {
    ss_span span;
    void *data;
} leaf;
typedef void (*join_function)(void *context, void *a, const void *b);

/* T(l, h) over the leaves [first, end) that lie inside; NULL when there are none. Joins in place, into the left one. */
static void *tree(const leaf *leaves, int n, int32_t l, int32_t h, join_function join, void *context) {
    int first = 0, end;
    while (first < n && leaves[first].span.lo < l) first++;
    for (end = first; end < n && leaves[end].span.hi <= h; end++) continue;
    if (first == end) return NULL;
    if (end - first == 1) return leaves[first].data;
    int32_t m = ss_lane_cut(l, h);
    void *a = tree(leaves, n, l, m, join, context), *b = tree(leaves, n, m, h, join, context);
    if (a && b) join(context, a, b);
    return a ? a : b;
}

/* ---- one run ---- */

typedef struct sweep {
    ss_call c;
    ss_fold fold;
    int64_t begin; /* first sample */
    int64_t scratch_bytes;
    int64_t row[SS_MAX_LANES + 1];
    int32_t adds[SS_MAX_LANES], lane[SS_MAX_LANES], group[SS_MAX_LANES];
    ss_span leaf[SS_MAX_LANES], block[SS_MAX_LANES];
    void *in[SS_MAX_IN], *grad_in[SS_MAX_IN], *out[SS_MAX_OUT];
    void *grad_out[SS_MAX_OUT];
} sweep;

typedef struct session {
    const oh_case *oc;
    const oh_data *data;
    const oh_run *run;
    const ss_op *op;
    ss_layout layout_in, layout_out;
    char what[160];
    bag bag;
    int n_sweeps;
    sweep *sweeps;
    int64_t saved_bytes;
    int32_t group_of[SS_MAX_LANES]; /* of the whole batch; -1 for lanes without samples */
    int groups;
    void *stat;
    /* for joins */
    int64_t width;
    bool join_backward;
    bool good;
} session;

static int64_t real_size(const session *s) { return s->run->f64 ? 8 : 4; }

static void join_sums(void *context, void *a, const void *b) {
    const session *s = context;
    for (int64_t i = 0; i < s->width; i++) {
        if (s->run->f64) ((double *)a)[i] += ((const double *)b)[i];
        else ((float *)a)[i] += ((const float *)b)[i];
    }
}

static void join_stats(void *context, void *a, const void *b) {
    const session *s = context;
    if (s->op->stat_join) s->op->stat_join(&s->sweeps[0].c, s->join_backward, a, b);
    else join_sums(context, a, b);
}

static void make_sweeps(session *s) {
    const oh_run *run = s->run;
    int64_t batch = s->data->batch;
    ss_span whole = {0, run->lanes};
    int n = run->n_spans ? run->n_spans : 1;
    s->sweeps = ss_calloc((size_t)n, sizeof *s->sweeps);
    if (!s->sweeps) abort();
    int64_t per_group = s->op->stat_lanes ? s->op->stat_lanes(s->oc->attr) : 0;
    int64_t last = -1;
    for (int32_t v = 0; v < run->lanes; v++) {
        s->group_of[v] = -1;
        if (ss_lane_begin(v, run->lanes, batch) == ss_lane_begin(v + 1, run->lanes, batch)) continue;
        int64_t group = per_group > 0 ? v / per_group : 0;
        if (group != last) s->groups++;
        last = group;
        s->group_of[v] = s->groups - 1;
    }
    for (int k = 0; k < n; k++) {
        ss_span span = run->n_spans ? run->span[k] : whole;
        sweep *w = &s->sweeps[s->n_sweeps];
        w->begin = ss_lane_begin(span.lo, run->lanes, batch);
        int leaves = 0;
        for (int32_t v = span.lo; v < span.hi; v++) {
            int64_t begin = ss_lane_begin(v, run->lanes, batch), end = ss_lane_begin(v + 1, run->lanes, batch);
            if (begin == end) continue;
            w->row[leaves] = begin - w->begin;
            w->row[leaves + 1] = end - w->begin;
            w->lane[leaves] = v;
            w->group[leaves] = s->group_of[v];
            w->leaf[leaves++] = (ss_span){v, v + 1};
        }
        if (!leaves) continue;
        w->fold = (ss_fold){.lanes = leaves, .row = w->row, .adds = w->adds, .lane = w->lane};
        w->fold.blocks = ss_fold_plan(run->lanes, span, w->leaf, leaves, w->adds, w->block, &w->fold.depth);
        ss_call *c = &w->c;
        c->attr = s->oc->attr;
        c->n_in = s->oc->q.n_in;
        c->n_out = s->oc->q.n_out;
        c->layout = s->layout_in;
        c->rows = w->row[leaves];
        c->sample0 = w->begin;
        c->batch = batch;
        c->fold = &w->fold;
        c->stat_group = w->group;
        c->stat_groups = s->groups;
        c->threads = run->naive || run->f64 ? 1 : run->threads;
        c->training = run->training;
        c->bf16 = run->bf16;
        c->seed = 0x123456789abcdefu;
        c->step = 7;
        c->op_number = 3;
        c->backend = run->backend;
        c->kernels = run->naive || run->f64 ? NULL : ss_kernels_for(run->isa);
        for (int i = 0; i < c->n_in; i++) {
            c->in_shape[i] = s->oc->q.in[i];
            c->role[i] = s->oc->q.role[i];
        }
        for (int o = 0; o < c->n_out; o++) c->out_shape[o] = s->oc->q.out[o];
        s->n_sweeps++;
    }
}

static void fill_inputs(session *s) {
    const oh_case *oc = s->oc;
    bool f64 = s->run->f64;
    void *shared[SS_MAX_IN] = {0};
    for (int k = 0; k < s->n_sweeps; k++) {
        sweep *w = &s->sweeps[k];
        int64_t rows = w->c.rows;
        for (int i = 0; i < oc->q.n_in; i++) {
            if (oc->kind[i] == OH_ABSENT) continue;
            const ss_shape *shape = &oc->q.in[i];
            int64_t n = ss_shape_count(shape), size = oc->q.dtype[i] == SS_I32 ? 4 : real_size(s);
            if (oc->q.role[i] == SS_ROLE_BATCHED) {
                w->in[i] = guarded(&s->bag, rows * n * size, f64, "a batched input");
                store_rows(w->in[i], f64, oc->q.dtype[i], shape, s->layout_in, rows, s->data->in[i] + w->begin * n);
                if (s->run->over != i + 1) freeze(&s->bag, w->in[i]);
            } else {
                if (!shared[i]) {
                    bool state = oc->q.role[i] == SS_ROLE_BUFFER;
                    shared[i] = guarded(&s->bag, n * size, f64, state ? "a buffer" : "a parameter");
                    store_rows(shared[i], f64, oc->q.dtype[i], shape, SS_PLAIN, 1, s->data->in[i]);
                    if (!state || !s->run->training) freeze(&s->bag, shared[i]);
                }
                w->in[i] = shared[i];
            }
            w->c.in[i] = w->in[i];
        }
        for (int o = 0; o < oc->q.n_out; o++) {
            int64_t n = ss_shape_count(&oc->q.out[o]);
            w->out[o] = o == 0 && s->run->over ? w->in[s->run->over - 1] : guarded(&s->bag, rows * n * real_size(s), f64, "an output");
            w->c.out[o] = w->out[o];
        }
        if (s->op->saved_bytes) s->saved_bytes = s->op->saved_bytes(&w->c);
        if (s->saved_bytes) w->c.saved = guarded(&s->bag, rows * s->saved_bytes, f64, "saved");
    }
}

/* Threads of one phase run one after another, so each gets the scratch as the phase found it and what it wrote is noted: a byte that two threads write, or a value one thread makes and another
 * reads, would be a race under real threads. The first shows as a failed check, the second as wrong results. */
typedef struct race_check {
    unsigned char *before, *merged, *owner;
    int64_t bytes;
} race_check;

static void race_begin(race_check *r, const ss_call *c, int64_t bytes) {
    *r = (race_check){.bytes = c->threads > 1 ? bytes : 0};
    if (!r->bytes) return;
    r->before = ss_calloc((size_t)bytes, 3);
    if (!r->before) abort();
    r->merged = r->before + bytes;
    r->owner = r->merged + bytes;
}

static void race_phase(race_check *r, const ss_call *c) {
    if (!r->bytes) return;
    memcpy(r->before, c->scratch, (size_t)r->bytes);
    memcpy(r->merged, c->scratch, (size_t)r->bytes);
    memset(r->owner, 0, (size_t)r->bytes);
}

/* After one thread. Notes its bytes and puts the scratch back. False at a byte another thread wrote too. */
static bool race_thread(race_check *r, const ss_call *c) {
    bool good = true;
    unsigned char *now = c->scratch;
    for (int64_t i = 0; i < r->bytes; i++) {
        if (now[i] == r->before[i]) continue;
        good = good && !r->owner[i];
        r->owner[i] = 1;
        r->merged[i] = now[i];
        now[i] = r->before[i];
    }
    return good;
}

static void race_end_phase(race_check *r, const ss_call *c) {
    if (r->bytes) memcpy(c->scratch, r->merged, (size_t)r->bytes);
}

static void call_threads(session *s, sweep *w, int phases, void (*function)(const ss_call *c)) {
    ss_call *c = &w->c;
    race_check race;
    race_begin(&race, c, w->scratch_bytes);
    uint64_t allocations = ss_alloc_count();
    for (int p = 0; p < (phases ? phases : 1); p++) {
        race_phase(&race, c);
        for (int t = 0; t < c->threads; t++) {
            c->phase = p;
            c->thread = s->run->reverse ? c->threads - 1 - t : t;
            function(c);
            if (!OH_CHECK(race_thread(&race, c), "%s, %s: two threads write the same scratch in phase %d", s->oc->name, s->what, p)) s->good = false;
        }
        race_end_phase(&race, c);
    }
    if (!OH_CHECK(ss_alloc_count() == allocations, "%s: forward or backward allocates", s->oc->name)) s->good = false;
    ss_free(race.before);
    c->phase = c->thread = 0;
}

static void give_scratch(session *s, sweep *w, bool backward) {
    int64_t bytes = w->scratch_bytes = s->op->scratch_bytes ? s->op->scratch_bytes(&w->c, backward) : 0;
    w->c.scratch = bytes ? guarded(&s->bag, bytes, s->run->f64, backward ? "backward scratch" : "forward scratch") : NULL;
}

/* Lane statistics of all sweeps, joined in every group. */
static void run_stat(session *s, bool backward) {
    const ss_op *op = s->op;
    int64_t width = op->stat && op->stat_len && s->n_sweeps ? op->stat_len(&s->sweeps[0].c, backward) : 0;
    if (!width) {
        if (backward) s->stat = NULL;
        for (int k = 0; k < s->n_sweeps; k++) s->sweeps[k].c.stat = s->stat;
        return;
    }
    bool f64 = s->run->f64;
    int64_t size = real_size(s);
    leaf *leaves = ss_calloc((size_t)s->run->lanes, sizeof *leaves);
    if (!leaves) abort();
    int n = 0;
    for (int k = 0; k < s->n_sweeps; k++) {
        sweep *w = &s->sweeps[k];
        ss_call *c = &w->c;
        c->lane_stat = guarded(&s->bag, w->fold.lanes * width * size, f64, "lane_stat");
        for (int t = 0; t < c->threads; t++) {
            c->thread = s->run->reverse ? c->threads - 1 - t : t;
            op->stat(c, backward);
        }
        c->thread = 0;
        for (int i = 0; i < w->fold.lanes; i++) {
            char *vector = (char *)c->lane_stat + i * width * size;
            bool written = true;
            for (int64_t j = 0; j < width; j++) written = written && !poisoned(vector, f64, j);
            if (!OH_CHECK(written, "%s, %s: stat(backward=%d) left elements of lane_stat unwritten", s->oc->name, s->what, backward)) s->good = false;
            leaves[n++] = (leaf){w->leaf[i], vector};
        }
    }
    s->width = width;
    s->join_backward = backward;
    s->stat = guarded(&s->bag, s->groups * width * size, f64, "stat");
    int64_t per_group = op->stat_lanes ? op->stat_lanes(s->oc->attr) : 0;
    if (per_group <= 0) per_group = s->run->lanes;
    for (int32_t l = 0; l < s->run->lanes; l += (int32_t)per_group) {
        int32_t h = (int32_t)ss_min(l + per_group, s->run->lanes);
        void *total = tree(leaves, n, l, h, join_stats, s);
        if (!total) continue;
        int32_t v = l;
        while (s->group_of[v] < 0) v++;
        memcpy((char *)s->stat + s->group_of[v] * width * size, total, (size_t)(width * size));
    }
    for (int k = 0; k < s->n_sweeps; k++) s->sweeps[k].c.stat = s->stat;
    if (op->stat_done) op->stat_done(&s->sweeps[0].c, backward);
    ss_free(leaves);
}

static ss_status run_prepare(session *s, oh_result *out) {
    ss_status status = SS_OK;
    leaf leaves[SS_MAX_LANES];
    int n = 0;
    out->denominator = (double)s->data->batch;
    if (!s->op->prepare) return SS_OK;
    for (int k = 0; k < s->n_sweeps; k++) {
        sweep *w = &s->sweeps[k];
        ss_error err = {0};
        w->c.lane_stat = guarded(&s->bag, w->fold.lanes * real_size(s), s->run->f64, "lane_stat of prepare");
        int threads = w->c.threads;
        w->c.threads = 1;
        status = s->op->prepare(&w->c, &err);
        w->c.threads = threads;
        if (status != SS_OK) {
            OH_CHECK(err.code == status && err.message[0], "%s: prepare failed without a message", s->oc->name);
            return status;
        }
        for (int i = 0; i < w->fold.lanes; i++) {
            char *p = (char *)w->c.lane_stat + i * real_size(s);
            if (!OH_CHECK(!poisoned(p, s->run->f64, 0), "%s: prepare left a lane unwritten", s->oc->name)) s->good = false;
            leaves[n++] = (leaf){w->leaf[i], p};
        }
    }
    s->width = 1;
    void *total = tree(leaves, n, 0, s->run->lanes, join_sums, s);
    if (total) out->denominator = load(total, s->run->f64, 0);
    return SS_OK;
}

static bool wants_gradient(const oh_case *oc, const oh_run *run, int i) {
    return (oc->kind[i] == OH_FLOAT || oc->kind[i] == OH_POSITIVE || oc->kind[i] == OH_PARAMETER) && !(run->unwanted >> i & 1);
}

static void give_gradients(session *s, sweep *w) {
    const oh_case *oc = s->oc;
    bool f64 = s->run->f64, loss = s->op->flags & SS_OP_LOSS;
    int64_t rows = w->c.rows;
    for (int o = 0; o < oc->q.n_out && !loss; o++) {
        if (s->run->unused >> o & 1) continue;
        int64_t n = ss_shape_count(&oc->q.out[o]);
        w->grad_out[o] = guarded(&s->bag, rows * n * real_size(s), f64, "the gradient of an output");
        store_rows(w->grad_out[o], f64, SS_F32, &oc->q.out[o], s->layout_out, rows, s->data->grad_out[o] + w->begin * n);
        if (o > 0 || !s->run->grad_over) freeze(&s->bag, w->grad_out[o]);
        w->c.grad_out[o] = w->grad_out[o];
    }
    for (int i = 0; i < oc->q.n_in; i++) {
        /* What backward did not ask for is gone by then. */
        if (oc->q.role[i] == SS_ROLE_BATCHED && !(s->op->flags & SS_OP_NEEDS_IN)) w->c.in[i] = NULL;
        if (!wants_gradient(oc, s->run, i)) continue;
        int64_t n = ss_shape_count(&oc->q.in[i]);
        if (oc->q.role[i] == SS_ROLE_PARAMETER) {
            w->c.block_stride[i] = ss_round_up(n, 16) + 16;
            n = w->c.block_stride[i] * w->fold.blocks;
        } else n *= rows;
        w->grad_in[i] = w->c.grad_in[i] = s->run->grad_over == i + 1 ? w->grad_out[0] : guarded(&s->bag, n * real_size(s), f64, "the gradient of an input");
    }
    if (!(s->op->flags & SS_OP_NEEDS_OUT))
        for (int o = 0; o < oc->q.n_out; o++) w->c.out[o] = NULL;
    else
        for (int o = 0; o < oc->q.n_out; o++) freeze(&s->bag, w->out[o]);
}

static bool collect_outputs(session *s, oh_result *out) {
    const oh_case *oc = s->oc;
    bool good = true;
    for (int o = 0; o < oc->q.n_out; o++) {
        int64_t n = ss_shape_count(&oc->q.out[o]);
        out->out[o] = doubles(n * s->data->batch);
        for (int k = 0; k < s->n_sweeps; k++) {
            sweep *w = &s->sweeps[k];
            bool written = load_rows(w->out[o], s->run->f64, oc->q.out_dtype[o], &oc->q.out[o], s->layout_out, w->c.rows, out->out[o] + w->begin * n);
            good &= OH_CHECK(written, "%s, %s: forward left elements of output %d unwritten, or read undefined memory", oc->name, s->what, o);
        }
    }
    if (s->saved_bytes) {
        out->saved_bytes = s->saved_bytes;
        out->saved = ss_calloc((size_t)(s->saved_bytes * s->data->batch), 1);
        if (!out->saved) abort();
        for (int k = 0; k < s->n_sweeps; k++) {
            sweep *w = &s->sweeps[k];
            memcpy(out->saved + w->begin * s->saved_bytes, w->c.saved, (size_t)(w->c.rows * s->saved_bytes));
        }
    }
    return good;
}

static bool collect_parameter(session *s, int i, oh_result *out) {
    int64_t n = ss_shape_count(&s->oc->q.in[i]), size = real_size(s);
    bool f64 = s->run->f64, good = true;
    leaf *leaves = ss_calloc((size_t)s->run->lanes, sizeof *leaves);
    if (!leaves) abort();
    int count = 0;
    for (int k = 0; k < s->n_sweeps; k++) {
        sweep *w = &s->sweeps[k];
        int64_t stride = w->c.block_stride[i];
        for (int b = 0; b < w->fold.blocks; b++) {
            char *p = (char *)w->grad_in[i] + b * stride * size;
            bool written = true, kept = true;
            for (int64_t j = 0; j < stride; j++) {
                if (j < n) written = written && !poisoned(p, f64, j);
                else kept = kept && poisoned(p, f64, j);
            }
            good &= OH_CHECK(written, "%s, %s: backward left elements of block %d of the gradient of input %d unwritten, or read undefined memory", s->oc->name, s->what, b, i);
            good &= OH_CHECK(kept, "%s, %s: backward wrote between blocks of the gradient of input %d", s->oc->name, s->what, i);
            leaves[count++] = (leaf){w->block[b], p};
        }
    }
    s->width = n;
    void *total = tree(leaves, count, 0, s->run->lanes, join_sums, s);
    for (int64_t j = 0; total && j < n; j++) out->grad[i][j] = load(total, f64, j);
    ss_free(leaves);
    return good;
}

static bool collect_gradients(session *s, oh_result *out) {
    const oh_case *oc = s->oc;
    bool good = true;
    for (int i = 0; i < oc->q.n_in; i++) {
        if (!wants_gradient(oc, s->run, i)) continue;
        int64_t n = ss_shape_count(&oc->q.in[i]);
        out->grad[i] = doubles(value_count(oc, i, s->data->batch));
        if (oc->q.role[i] == SS_ROLE_PARAMETER) {
            good &= collect_parameter(s, i, out);
            continue;
        }
        for (int k = 0; k < s->n_sweeps; k++) {
            sweep *w = &s->sweeps[k];
            bool written = load_rows(w->grad_in[i], s->run->f64, SS_F32, &oc->q.in[i], s->layout_in, w->c.rows, out->grad[i] + w->begin * n);
            good &= OH_CHECK(written, "%s, %s: backward left elements of the gradient of input %d unwritten, or read undefined memory", oc->name, s->what, i);
        }
    }
    return good;
}

static const char *describe(session *s) {
    const oh_run *run = s->run;
    snprintf(s->what, sizeof s->what, "%s%s, %d thread(s), %s, B=%lld V=%d sweeps=%d%s", run->f64 ? "f64" : ss_isa_name(run->isa), run->naive ? " naive" : "", run->threads,
             run->layout == SS_PLAIN ? "plain" : "channels last", (long long)s->data->batch, run->lanes, run->n_spans ? run->n_spans : 1, run->bf16 ? ", bf16" : run->training ? "" : ", inference");
    return s->what;
}

/* False when a check failed or prepare refused (then *prepared, if given, holds its status). Free the result in any case. */
static bool oh_execute(const oh_case *oc, const oh_data *data, const oh_run *run, oh_result *out, ss_status *prepared) {
    memset(out, 0, sizeof *out);
    out->batch = data->batch;
    session *s = ss_calloc(1, sizeof *s);
    if (!s) abort();
    s->oc = oc;
    s->data = data;
    s->run = run;
    s->good = true;
    s->op = run->f64 ? ss_op_f64(oc->index) : ss_op_at(run->isa, oc->index);
    s->layout_in = s->layout_out = run->layout;
    if (!strcmp(oc->op->name, "relayout")) { /* the one operator whose output has another layout than its input */
        s->layout_out = oc->attr[0] != 0 ? SS_CHANNELS_LAST : SS_PLAIN;
        s->layout_in = oc->attr[0] != 0 ? SS_PLAIN : SS_CHANNELS_LAST;
    }
    describe(s);
    const ss_op *op = s->op;
    bool reference = run->naive || run->f64;
    make_sweeps(s);
    fill_inputs(s);
    ss_status status = run_prepare(s, out);
    if (prepared) *prepared = status;
    else OH_CHECK(status == SS_OK, "%s, %s: prepare answers %s", oc->name, s->what, ss_status_text(status));
    if (status != SS_OK) {
        s->good = false;
        goto done;
    }
    for (int k = 0; k < s->n_sweeps; k++) {
        s->sweeps[k].c.denominator = out->denominator;
        give_scratch(s, &s->sweeps[k], false);
    }
    run_stat(s, false);
    if (op->flags & (SS_OP_LOSS | SS_OP_METRIC)) {
        if (!OH_CHECK(s->stat != NULL, "%s: a loss or metric needs stat", oc->name)) s->good = false;
        else out->loss = load(s->stat, run->f64, 0) / out->denominator;
    }
    void (*forward)(const ss_call *) = reference && op->forward_ref ? op->forward_ref : op->forward;
    for (int k = 0; k < s->n_sweeps && forward; k++) call_threads(s, &s->sweeps[k], op->forward_phases, forward);
    s->good &= collect_outputs(s, out);

    void (*backward)(const ss_call *) = reference && op->backward_ref ? op->backward_ref : op->backward;
    if (run->backward && backward) {
        for (int k = 0; k < s->n_sweeps; k++) {
            give_gradients(s, &s->sweeps[k]);
            give_scratch(s, &s->sweeps[k], true);
        }
        run_stat(s, true);
            for (int k = 0; k < s->n_sweeps; k++) call_threads(s, &s->sweeps[k], op->backward_phases, backward);
        s->good &= collect_gradients(s, out);
    }
    for (int i = 0; i < oc->q.n_in && s->n_sweeps; i++) {
        if (oc->q.role[i] != SS_ROLE_BUFFER || oc->kind[i] == OH_ABSENT) continue;
        out->buffer[i] = doubles(value_count(oc, i, data->batch));
        load_rows(s->sweeps[0].in[i], run->f64, SS_F32, &oc->q.in[i], SS_PLAIN, 1, out->buffer[i]);
    }
done:
    s->good &= bag_close(&s->bag, oc->name, s->what);
    bool good = s->good;
    ss_free(s->sweeps);
    ss_free(s);
    return good;
}

static void oh_result_free(oh_result *r) {
    for (int i = 0; i < SS_MAX_OUT; i++) ss_free(r->out[i]);
    for (int i = 0; i < SS_MAX_IN; i++) {
        ss_free(r->grad[i]);
        ss_free(r->buffer[i]);
    }
    ss_free(r->saved);
    memset(r, 0, sizeof *r);
}

/* ---- comparison ---- */

static bool same(double a, double b) { return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b)); }

static bool compare_values(const oh_case *oc, const double *want, const double *have, int64_t n, double tolerance, const char *value, int number, const char *what) {
    if (!want && !have) return true;
    if (!want || !have) return OH_CHECK(false, "%s, %s: only one run has %s %d", oc->name, what, value, number);
    double largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fabs(want[i]) > largest ? fabs(want[i]) : largest;
    for (int64_t i = 0; i < n; i++) {
        bool good = tolerance > 0 ? fabs(want[i] - have[i]) <= tolerance * largest || same(want[i], have[i]) : same(want[i], have[i]);
        if (!good) return OH_CHECK(false, "%s, %s: %s %d element %lld of %lld: want %a, have %a", oc->name, what, value, number, (long long)i, (long long)n, want[i], have[i]);
    }
    return OH_CHECK(true, " ");
}

/* Equal bytes; words that are NaN as floats equal each other, since payloads and signs of NaN are not promised. */
static bool same_words(const unsigned char *a, const unsigned char *b, int64_t bytes) {
    int64_t whole = bytes / 4 * 4;
    for (int64_t i = 0; i < whole; i += 4) {
        uint32_t x, y;
        memcpy(&x, a + i, 4);
        memcpy(&y, b + i, 4);
        if (x != y && ((x & 0x7fffffffu) <= 0x7f800000u || (y & 0x7fffffffu) <= 0x7f800000u)) return false;
    }
    return !memcmp(a + whole, b + whole, (size_t)(bytes - whole));
}

/* Compares outputs, gradients, buffers, loss (and saved bytes when `saved`): equal bits (any NaN equals any NaN) at tolerance 0, otherwise |a-b| <= tolerance * largest element. */
static bool oh_compare(const oh_case *oc, const oh_result *want, const oh_result *have, double tolerance, bool saved, const char *what) {
    bool good = true;
    for (int o = 0; o < oc->q.n_out; o++)
        good &= compare_values(oc, want->out[o], have->out[o], ss_shape_count(&oc->q.out[o]) * want->batch, tolerance, "output", o, what);
    for (int i = 0; i < oc->q.n_in; i++) {
        int64_t n = value_count(oc, i, want->batch);
        good &= compare_values(oc, want->grad[i], have->grad[i], n, tolerance, "gradient of input", i, what);
        good &= compare_values(oc, want->buffer[i], have->buffer[i], n, tolerance, "buffer", i, what);
    }
    if (oc->op->flags & (SS_OP_LOSS | SS_OP_METRIC)) {
        good &= compare_values(oc, &want->denominator, &have->denominator, 1, tolerance, "denominator", 0, what);
        good &= compare_values(oc, &want->loss, &have->loss, 1, tolerance, "loss", 0, what);
    }
    if (saved && tolerance == 0 && want->saved) {
        bool equal = have->saved && want->saved_bytes == have->saved_bytes && same_words(want->saved, have->saved, want->saved_bytes * want->batch);
        good &= OH_CHECK(equal, "%s, %s: saved bytes differ", oc->name, what);
    }
    return good;
}

#endif
