/* Creation of a session: joins, buckets and one arena. The step itself is in step.c. */
#include "train/session.h"
#include <assert.h>
#include <string.h>
#include "base/alloc.h"

enum { BUCKET_ELEMENTS = 1 << 18 }; /* 1 MiB */
#define SINGLE_SECONDS 60e-6         /* estimated work of a step below which one thread does it alone */
#define UPDATE_BYTES_PER_SECOND 20e9 /* of one thread, for that estimate */

void ss_session_free(ss_session *s) {
    if (!s) return;
    ss_trace_close(s->trace);
    ss_exchange_free(s->exchange);
    ss_free(s->rank_seconds);
    ss_arena_free(s->gradient_arena);
    ss_arena_free(s->arena);
    for (int k = 0; k < s->joins; k++) ss_group_join_free(s->join[k]);
    ss_free(s->unread);
    ss_free(s->calls);
    ss_free(s->seconds);
    ss_free(s->denominator);
    ss_free(s->input_channels);
    ss_free(s->input_bytes);
    ss_free(s->lent);
    ss_free(s->input[1]);
    ss_free(s->input[0]);
    ss_free(s->extra);
    ss_free(s->bucket);
    ss_free(s->slot_offset);
    ss_free(s->state);
    ss_free(s->parameter);
    ss_free(s->stat);
    ss_free(s->join_lanes);
    ss_free(s->join);
    ss_schedule_free(s->schedule);
    ss_program_free(s->program);
    ss_free(s);
}

/* The graph's parameters and buffers, found in the model by name. */
static ss_status match_model(ss_session *s, const ss_graph *g, ss_error *err) {
    for (int v = 0; v < g->values; v++) {
        const ss_value *value = &g->value[v];
        bool parameter = value->kind == SS_VALUE_PARAMETER;
        if (!parameter && value->kind != SS_VALUE_BUFFER) continue;
        int at = parameter ? ss_model_find(s->model, value->name) : ss_model_find_state(s->model, value->name);
        if (at < 0) return SS_FAIL(err, SS_ERR_VALUE, "the model has no %s '%s'", parameter ? "parameter" : "buffer", value->name);
        const ss_parameter *p = parameter ? &s->model->parameter[at] : &s->model->state[at];
        if (!ss_shape_equal(&p->shape, &value->shape)) return SS_FAIL(err, SS_ERR_SHAPE, "'%s' has another shape in the model", value->name);
        if (parameter) {
            s->parameter[value->index] = at;
            if (s->training && p->trainable != value->trainable)
                return SS_FAIL(err, SS_ERR_VALUE, "'%s' is trainable in one of model and graph only", value->name);
        } else {
            s->state[value->index] = at;
        }
    }
    return SS_OK;
}

static ss_status make_joins(ss_session *s, ss_error *err) {
    const ss_program *p = s->program;
    ss_status status = ss_group_join_create(s->schedule, 0, &s->join[0], err);
    if (status != SS_OK) return status;
    s->joins = 1;
    s->longest = 1;
    for (int k = 0; k < p->stats; k++) {
        const ss_stat *stat = &p->stat[k];
        int at = 0;
        while (at < s->joins && s->join_lanes[at] != stat->group_lanes) at++;
        if (at == s->joins) {
            status = ss_group_join_create(s->schedule, stat->group_lanes, &s->join[at], err);
            if (status != SS_OK) {
                ss_error_prefix(err, "layer '%s': ", p->lowered->node[stat->node].layer);
                return status;
            }
            s->join_lanes[at] = stat->group_lanes;
            s->joins++;
        }
        s->stat[k].join = at;
        s->longest = ss_max(s->longest, stat->length);
    }
    return SS_OK;
}

/* Offsets of slots in the gradient vector, and the buckets. The first use of a parameter has the parameter's own place; further uses come behind all of them. */
static void make_buckets(ss_session *s) {
    const ss_program *p = s->program;
    const ss_model *m = s->model;
    int64_t at = m->trainable;
    for (int k = 0; k < p->slots; k++) {
        const ss_parameter *q = &m->parameter[s->parameter[p->slot[k].parameter]];
        s->slot_offset[k] = p->slot[k].use ? at : q->offset;
        if (p->slot[k].use) at += ss_round_up(q->count, SS_ALIGN / 4);
    }
    s->gradient_elements = at;

    /* Parameters in the order of memory; a shared one is cut off as a bucket of its own. */
    for (int64_t offset = 0; offset < m->trainable;) {
        int owner = 0;
        while (m->parameter[owner].offset != offset || !m->parameter[owner].trainable) owner++;
        int64_t end = offset + ss_round_up(m->parameter[owner].count, SS_ALIGN / 4);
        bool shared = false;
        for (int k = 0; k < p->slots; k++) shared |= p->slot[k].use && s->parameter[p->slot[k].parameter] == owner;
        ss_bucket *last = s->buckets ? &s->bucket[s->buckets - 1] : NULL;
        bool closed = !last || last->extra || last->end - last->begin >= BUCKET_ELEMENTS;
        if (shared || closed) s->bucket[s->buckets++] = (ss_bucket){.begin = offset, .end = end, .extra = shared};
        else last->end = end;
        offset = end;
    }
    int homes = s->buckets;
    for (int b = 0; b < homes; b++) s->bucket[b].extra = false;
    for (int use = 1, found = 1; found; use++) {
        found = 0;
        for (int k = 0; k < p->slots; k++) {
            if (p->slot[k].use != use) continue;
            found = 1;
            const ss_parameter *q = &m->parameter[s->parameter[p->slot[k].parameter]];
            int home = 0;
            while (s->bucket[home].begin != q->offset) home++;
            int64_t begin = s->slot_offset[k];
            s->extra[s->extras++] = (ss_extra){.bucket = s->buckets, .home = home, .offset = begin - q->offset};
            s->bucket[s->buckets++] = (ss_bucket){.begin = begin, .end = begin + ss_round_up(q->count, SS_ALIGN / 4), .extra = true};
        }
    }
    for (int b = 0; b < s->buckets; b++)
        for (int k = 0; k < p->slots; k++)
            if (s->slot_offset[k] >= s->bucket[b].begin && s->slot_offset[k] < s->bucket[b].end)
                s->bucket[b].ready = (int)ss_max(s->bucket[b].ready, p->slot[k].instruction);
    /* Extra slots were numbered in backward order, so their buckets may not ascend: the exchange wants ascending cuts. */
    for (int b = homes + 1; b < s->buckets; b++)
        for (int a = b; a > homes && s->bucket[a].begin < s->bucket[a - 1].begin; a--) {
            ss_bucket swap = s->bucket[a];
            s->bucket[a] = s->bucket[a - 1];
            s->bucket[a - 1] = swap;
            for (int e = 0; e < s->extras; e++)
                if (s->extra[e].bucket == a || s->extra[e].bucket == a - 1) s->extra[e].bucket = s->extra[e].bucket == a ? a - 1 : a;
        }
}

static ss_status make_exchange(ss_session *s, ss_error *err) {
    if (!s->training || s->model->transport->size == 1 || s->model->compression) return SS_OK;
    int64_t *cuts = ss_calloc((size_t)s->buckets + 1, sizeof *cuts);
    if (!cuts) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for %d buckets", s->buckets);
    for (int b = 0; b < s->buckets; b++) {
        assert(b == 0 || s->bucket[b].begin == s->bucket[b - 1].end);
        cuts[b] = s->bucket[b].begin;
        cuts[b + 1] = s->bucket[b].end;
    }
    ss_status status = ss_exchange_create_on(s->model->transport, s->gradient_elements, cuts, s->buckets, s->schedule->lanes, s->model->owners, &s->exchange, err);
    ss_free(cuts);
    if (status != SS_OK) return status;
    ss_arena *const shared[] = {s->gradient_arena, s->model->arena};
    for (int k = 0; k < 2; k++) ss_exchange_share(s->exchange, ss_arena_at(shared[k], 0), (size_t)ss_arena_bytes(shared[k]), ss_arena_file(shared[k]));
    return SS_OK;
}

typedef struct regions {
    int64_t activations, scratch, gradient, lane_value, gathered;
} regions;

static ss_status make_arena(ss_session *s, const ss_graph *g, ss_error *err) {
    ss_status status = SS_OK;
    const ss_program *p = s->program;
    const ss_schedule *w = s->schedule;
    ss_arena_plan plan = {0}, gradient_plan = {0};
    regions at = {0};
    int local = w->run.hi - w->run.lo, wide = (int)ss_max(ss_max(p->prepares, p->results), 1);
    int64_t *offset = ss_calloc((size_t)(2 * p->stats + 2 * g->inputs + 1), sizeof *offset), bytes;
    if (!offset) return SS_FAIL(err, SS_ERR_MEMORY, "no memory to lay out a plan");
    SS_TRY(ss_region_add(&plan, ss_max(p->activation_bytes, 1), &at.activations, err));
    SS_TRY(ss_region_add(&plan, ss_max(p->scratch_bytes, 1), &at.scratch, err));
    SS_TRY(ss_region_add(&plan, 4LL * wide * ss_max(w->lanes, 1), &at.lane_value, err));
    SS_TRY(ss_region_add(&plan, 4LL * w->lanes * ss_max(s->longest, wide), &at.gathered, err));
    if (s->training) {
        if (!ss_mul(4 * s->gradient_elements, w->most_blocks, &bytes)) {
            status = SS_FAIL(err, SS_ERR_MEMORY, "gradients overflow the address space");
            goto done;
        }
        SS_TRY(ss_region_add(&gradient_plan, bytes, &at.gradient, err));
    }
    for (int k = 0; k < p->stats; k++) {
        SS_TRY(ss_region_add(&plan, 4 * p->stat[k].length * local, &offset[2 * k], err));
        SS_TRY(ss_region_add(&plan, 4 * p->stat[k].length * s->join[s->stat[k].join]->groups, &offset[2 * k + 1], err));
    }
    int64_t *input = offset + 2 * p->stats;
    for (int v = 0; v < g->values; v++) {
        if (g->value[v].kind != SS_VALUE_INPUT) continue;
        int index = g->value[v].index;
        s->input_bytes[index] = 4 * ss_shape_count(&g->value[v].shape);
        for (int set = 0; set < 2; set++) {
            if (!ss_mul(s->input_bytes[index], w->most_rows, &bytes)) {
                status = SS_FAIL(err, SS_ERR_MEMORY, "input '%s' overflows the address space", g->value[v].name);
                goto done;
            }
            SS_TRY(ss_region_add(&plan, ss_max(bytes, 1), &input[2 * index + set], err));
        }
    }
    SS_TRY(ss_arena_create(&plan, &s->arena, err));
    s->activations = ss_arena_at(s->arena, at.activations);
    s->scratch = ss_arena_at(s->arena, at.scratch);
    s->lane_value = ss_arena_at(s->arena, at.lane_value);
    s->gathered = ss_arena_at(s->arena, at.gathered);
    if (s->training) { /* in memory of its own: the other ranks of the host read it there */
        if (s->model->transport->shares) SS_TRY(ss_arena_create_shared(&gradient_plan, &s->gradient_arena, err));
        else SS_TRY(ss_arena_create(&gradient_plan, &s->gradient_arena, err));
        s->gradient = ss_arena_at(s->gradient_arena, at.gradient);
    }
    for (int k = 0; k < p->stats; k++) {
        s->stat[k].lanes = ss_arena_at(s->arena, offset[2 * k]);
        s->stat[k].groups = ss_arena_at(s->arena, offset[2 * k + 1]);
    }
    for (int k = 0; k < g->inputs; k++)
        for (int set = 0; set < 2; set++) s->input[set][k] = ss_arena_at(s->arena, input[2 * k + set]);
    /* Debug builds: a red zone before every region, and nothing in memory that looks like a value. */
    ss_arena_poison(s->activations, p->activation_bytes);
    ss_arena_poison(s->scratch, p->scratch_bytes);
    ss_arena_mark(s->arena, at.activations);
    ss_arena_mark(s->arena, at.scratch);
    ss_arena_mark(s->arena, at.lane_value);
    ss_arena_mark(s->arena, at.gathered);
    if (s->training) ss_arena_mark(s->gradient_arena, at.gradient);
    for (int k = 0; k < 2 * (p->stats + g->inputs); k++) ss_arena_mark(s->arena, offset[k]);
done:
    ss_free(offset);
    return status;
}

ss_status ss_session_create(ss_model *m, const ss_graph *g, const ss_options *o, ss_session **out, ss_error *err) {
    ss_status status = SS_OK;
    ss_session *s = ss_calloc(1, sizeof *s);
    if (!s) goto no_memory;
    *s = (ss_session){.model = m, .training = o->training, .inputs = g->inputs,
                      .gradients = o->gradients || m->transport->size == 1};
    if (o->training && !m->optim) {
        status = SS_FAIL(err, SS_ERR_VALUE, "this model was made without an optimizer and cannot train");
        goto done;
    }
    if (g->results > SS_MAX_RESULTS) {
        status = SS_FAIL(err, SS_ERR_VALUE, "a graph has at most %d losses and metrics", SS_MAX_RESULTS);
        goto done;
    }
    int lanes = o->lanes ? o->lanes : ss_default_lanes(ss_max(o->batch, 1));
    SS_TRY(ss_schedule_create(m->transport->rank, m->transport->size, lanes, o->lanes_at_once, o->batch, &s->schedule, err));
    ss_program_options options = {.training = o->training, .with_results = o->with_results, .isa = m->isa, .backend = m->backend, .threads = m->threads, .bf16 = m->bf16};
    SS_TRY(ss_program_build(g, &options, s->schedule, &s->program, err));
    const ss_program *p = s->program;
    s->results = p->results;
    for (int k = 0; k < p->results; k++) s->result_elements += (int)p->stat[p->result_stat[k]].length;
    s->unread = ss_calloc((size_t)(2 * s->result_elements) + 1, sizeof *s->unread);
    s->join = ss_calloc((size_t)p->stats + 1, sizeof *s->join);
    s->join_lanes = ss_calloc((size_t)p->stats + 1, sizeof *s->join_lanes);
    s->stat = ss_calloc((size_t)p->stats + 1, sizeof *s->stat);
    s->parameter = ss_calloc((size_t)g->parameters + 1, sizeof *s->parameter);
    s->state = ss_calloc((size_t)g->buffers + 1, sizeof *s->state);
    s->slot_offset = ss_calloc((size_t)p->slots + 1, sizeof *s->slot_offset);
    s->bucket = ss_calloc((size_t)(m->parameters + p->slots) + 1, sizeof *s->bucket);
    s->extra = ss_calloc((size_t)p->slots + 1, sizeof *s->extra);
    s->input[0] = ss_calloc((size_t)g->inputs + 1, sizeof *s->input[0]);
    s->input[1] = ss_calloc((size_t)g->inputs + 1, sizeof *s->input[1]);
    s->lent = ss_calloc((size_t)g->inputs + 1, sizeof *s->lent);
    s->input_bytes = ss_calloc((size_t)g->inputs + 1, sizeof *s->input_bytes);
    s->input_channels = ss_calloc((size_t)g->inputs + 1, sizeof *s->input_channels);
    s->denominator = ss_calloc((size_t)p->prepares + 1, sizeof *s->denominator);
    s->seconds = ss_calloc((size_t)p->instructions + 1, sizeof *s->seconds);
    s->calls = ss_calloc((size_t)p->instructions + 1, sizeof *s->calls);
    if (!s->join || !s->join_lanes || !s->stat || !s->parameter || !s->state || !s->slot_offset || !s->bucket || !s->extra || !s->input[0] ||
        !s->input[1] || !s->lent || !s->input_bytes || !s->input_channels || !s->denominator || !s->seconds || !s->calls || !s->unread)
        goto no_memory;
    for (int v = 0; v < p->lowered->values; v++) {
        const ss_lvalue *value = &p->lowered->value[v];
        if (value->kind != SS_VALUE_INPUT) continue;
        bool last = !value->neutral && value->layout == SS_CHANNELS_LAST;
        s->input_channels[g->value[value->source].index] = last ? value->shape.dim[0] : 1;
    }
    SS_TRY(match_model(s, g, err));
    SS_TRY(make_joins(s, err));
    if (s->training) make_buckets(s);
    double update = s->training ? 4.0 * (double)m->trainable * (3 + 2 * m->slots) / UPDATE_BYTES_PER_SECOND : 0;
    if (s->training && m->optim->whole) update *= 50; /* products of matrices and the like */
    s->single = p->seconds * s->schedule->sweeps + update < SINGLE_SECONDS;
    SS_TRY(make_arena(s, g, err));
    SS_TRY(make_exchange(s, err));
    if (s->training && m->transport->size > 1) {
        s->rank_seconds = ss_calloc((size_t)m->transport->size, sizeof *s->rank_seconds);
        if (!s->rank_seconds) goto no_memory;
    }
    SS_TRY(ss_trace_open(m->transport->rank, &s->trace, err));
    for (int k = 0; k < s->joins; k++) ss_group_join_set(s->join[k], s->schedule, s->join_lanes[k]);
    *out = s;
    s = NULL;
    goto done;
no_memory:
    status = SS_FAIL(err, SS_ERR_MEMORY, "no memory for a plan");
done:
    ss_session_free(s);
    return status;
}

void ss_session_rows(const ss_session *s, int64_t batch, int64_t *begin, int64_t *end) {
    *begin = ss_lane_begin(s->schedule->run.lo, s->schedule->lanes, batch);
    *end = ss_lane_begin(s->schedule->run.hi, s->schedule->lanes, batch);
}

void *ss_session_input(const ss_session *s, int set, int index) {
    return (set == 0 || set == 1) && index >= 0 && index < s->inputs ? s->input[set][index] : NULL;
}

void ss_session_lend(ss_session *s, int index, const void *rows) {
    if (index >= 0 && index < s->inputs) s->lent[index] = rows;
}

const float *ss_session_gradient(const ss_session *s, int parameter) {
    if (parameter < 0 || parameter >= s->model->parameters || !s->model->parameter[parameter].trainable) return NULL;
    return s->gradient && s->gradients ? s->gradient + s->model->parameter[parameter].offset : NULL;
}
