#include "train/model.h"
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "comm/collective.h"
#include "comm/signature.h"
#include "kernels/blocks.h"

enum { UNIT = SS_ALIGN / 4 }; /* elements a parameter is aligned to */

/* Order in memory: parameters by the reverse order of their first use, so the last of a backward pass come last. */
static void lay_out(ss_model *m, const ss_graph *g, bool *placed) {
    int64_t at = 0;
    bool frozen = false;
    do {
        for (int n = g->nodes - 1; n >= -1; n--) {
            for (int k = 0; n >= 0 ? k < g->node[n].n_in : k < g->values; k++) {
                int value = n >= 0 ? g->node[n].in[k] : k; /* n = -1: those that no node uses */
                if (value < 0 || g->value[value].kind != SS_VALUE_PARAMETER) continue;
                ss_parameter *p = &m->parameter[g->value[value].index];
                bool first = true;
                for (int e = 0; e < n && first; e++)
                    for (int j = 0; j < g->node[e].n_in; j++) first &= g->node[e].in[j] != value;
                if (!first || placed[g->value[value].index] || p->trainable == frozen) continue;
                placed[g->value[value].index] = true;
                p->offset = at;
                at += ss_round_up(p->count, UNIT);
            }
        }
        if (!frozen) m->trainable = at;
        frozen = !frozen;
    } while (frozen);
    m->elements = at;
}

static ss_status choose_optimizer(ss_model *m, const ss_model_options *o, ss_error *err) {
    if (!o->optimizer) return SS_OK;
    int index = ss_optim_find(o->optimizer);
    if (index < 0) return SS_FAIL(err, SS_ERR_VALUE, "there is no optimizer '%s'", o->optimizer);
    m->optim = ss_optim_at(o->isa, index);
    for (int k = 0; m->optim->hypers[k].name; k++) m->hyper[k] = m->optim->hypers[k].initial;
    for (int g = 0; g <= o->groups; g++) {
        const ss_attr *hyper = g ? o->group[g - 1].hyper : o->hyper;
        int count = g ? o->group[g - 1].hypers : o->hypers;
        if (g) memcpy(m->hyper + g * SS_MAX_HYPER, m->hyper, SS_MAX_HYPER * sizeof *m->hyper);
        for (int k = 0; k < count; k++) {
            ss_status status = ss_model_set_hyper(m, g, hyper[k].name, hyper[k].value, err);
            if (status != SS_OK) return status;
        }
        for (int k = 0; g && k < o->group[g - 1].parameters; k++) {
            int at = ss_model_find(m, o->group[g - 1].parameter[k]);
            if (at < 0) return SS_FAIL(err, SS_ERR_VALUE, "group %d: the model has no parameter '%s'", g, o->group[g - 1].parameter[k]);
            m->parameter[at].group = g;
        }
        m->optim_slots = (int)ss_max(m->optim_slots, m->optim->slots(m->hyper + g * SS_MAX_HYPER));
    }
    m->slots = m->optim_slots;
    if (o->lookahead) m->slow = m->slots++;
    if (o->average) m->mean = m->slots++;
    if (o->lookahead < 0 || !(o->lookahead_alpha >= 0 && o->lookahead_alpha <= 1))
        return SS_FAIL(err, SS_ERR_VALUE, "lookahead: k=%lld must be positive, alpha=%g in [0, 1]", (long long)o->lookahead, o->lookahead_alpha);
    if (o->average == SS_AVERAGE_EMA && !(o->decay >= 0 && o->decay <= 1)) return SS_FAIL(err, SS_ERR_VALUE, "average: decay=%g must be in [0, 1]", o->decay);
    if (o->average == SS_AVERAGE_SWA && (o->start < 1 || o->every < 1))
        return SS_FAIL(err, SS_ERR_VALUE, "average: start=%lld and every=%lld must be at least 1", (long long)o->start, (long long)o->every);
    m->lookahead = o->lookahead;
    m->lookahead_alpha = o->lookahead_alpha;
    m->average = o->average;
    m->decay = o->decay;
    m->warmup = o->warmup;
    m->start = o->start;
    m->every = o->every;
    m->complete = m->optim->whole || o->clip_norm != 0 || (o->compression.name && m->transport->size > 1);
    return ss_model_set_clip(m, o->clip_norm, o->clip_value, err);
}

/* The runs of equal groups in the order of memory. */
static ss_status make_runs(ss_model *m, ss_error *err) {
    m->run = ss_calloc((size_t)m->parameters + 1, sizeof *m->run);
    int *order = ss_calloc((size_t)m->parameters + 1, sizeof *order);
    if (!m->run || !order) {
        ss_free(order);
        return SS_FAIL(err, SS_ERR_MEMORY, "no memory for the groups of %d parameters", m->parameters);
    }
    int count = 0;
    for (int k = 0; k < m->parameters; k++) { /* parameters mostly come in reverse order, so an insertion from the front is short */
        if (!m->parameter[k].trainable || !m->parameter[k].count) continue;
        int at = 0;
        while (at < count && m->parameter[order[at]].offset < m->parameter[k].offset) at++;
        memmove(order + at + 1, order + at, (size_t)(count - at) * sizeof *order);
        order[at] = k;
        count++;
    }
    for (int k = 0; k < count; k++) {
        const ss_parameter *p = &m->parameter[order[k]];
        int64_t end = p->offset + ss_round_up(p->count, UNIT);
        if (m->runs && m->run[m->runs - 1].group == p->group) m->run[m->runs - 1].end = end;
        else m->run[m->runs++] = (ss_group_run){.begin = p->offset, .end = end, .group = p->group};
    }
    ss_free(order);
    return SS_OK;
}

/* What an optimizer that sees parameters whole needs for one of them. */
static int64_t scratch_of(const ss_model *m, const ss_parameter *p) {
    return m->optim->scratch ? m->optim->scratch(m->hyper + p->group * SS_MAX_HYPER, &p->shape, m->kernels, m->backend, m->threads) : 0;
}
static int64_t extra_of(const ss_model *m, const ss_parameter *p) {
    return m->optim->extra ? m->optim->extra(m->hyper + p->group * SS_MAX_HYPER, &p->shape) : 0;
}

/* Places of further state, scratch and sums of squares. */
static ss_status lay_out_state(ss_model *m, ss_error *err) {
    int trainable = 0;
    for (int k = 0; m->optim && k < m->parameters; k++) {
        ss_parameter *p = &m->parameter[k];
        if (!p->trainable) continue;
        trainable++;
        p->square_offset = m->squares;
        m->squares += ss_blocks(p->count);
        p->extra_offset = m->extra_elements;
        p->extra_count = extra_of(m, p);
        m->scratch_elements = ss_max(m->scratch_elements, scratch_of(m, p));
        if (!ss_add(m->extra_elements, ss_round_up(p->extra_count, UNIT), &m->extra_elements) || m->extra_elements > INT64_MAX / 16 ||
            m->scratch_elements > INT64_MAX / 16)
            return SS_FAIL(err, SS_ERR_MEMORY, "the optimizer's state of '%s' overflows the address space", p->name);
    }
    if (!m->complete) return SS_OK;
    m->square = ss_calloc((size_t)(m->squares + trainable) + 1, sizeof *m->square);
    return m->square ? SS_OK : SS_FAIL(err, SS_ERR_MEMORY, "no memory for %lld sums of squares", (long long)m->squares);
}

static ss_status make_compression(ss_model *m, const ss_compression_options *o, ss_error *err) {
    if (!o->name || !m->optim) return SS_OK;
    ss_compression_parameter *p = ss_calloc((size_t)m->parameters + 1, sizeof *p);
    if (!p) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for the compression of %d gradients", m->parameters);
    int count = 0;
    for (int k = 0; k < m->parameters; k++)
        if (m->parameter[k].trainable) p[count++] = (ss_compression_parameter){.name = m->parameter[k].name, .shape = m->parameter[k].shape, .offset = m->parameter[k].offset};
    for (int k = 0; k < o->tensors; k++) {
        int at = ss_model_find(m, o->tensor[k]);
        if (at >= 0 && m->parameter[at].trainable) continue;
        ss_free(p);
        return SS_FAIL(err, SS_ERR_VALUE, "compression: the model has no trainable parameter '%s'", o->tensor[k]);
    }
    ss_status status = ss_compression_create(o, p, count, m->trainable, m->kernels, m->transport, &m->compression, err);
    ss_free(p);
    return status;
}

ss_status ss_model_create(const ss_graph *g, ss_transport *t, const ss_model_options *o, ss_model **out, ss_error *err) {
    ss_status status = SS_OK;
    bool *placed = NULL;
    int64_t all = 0;
    ss_model *m = ss_calloc(1, sizeof *m);
    if (!m) goto no_memory;
    *m = (ss_model){.transport = t, .isa = o->isa, .backend = o->backend, .threads = o->threads, .bf16 = o->bf16, .seed = o->seed, .kernels = ss_kernels_for(o->isa), .slow = -1, .mean = -1,
                    .groups = o->groups + 1, .owners = o->owners};
    atomic_flag_clear(&m->busy);
    if (!m->kernels) {
        status = SS_FAIL(err, SS_ERR_VALUE, "this processor does not run the instruction set '%s'", ss_isa_name(o->isa));
        goto done;
    }
    m->parameter = ss_calloc((size_t)g->parameters + 1, sizeof *m->parameter);
    m->state = ss_calloc((size_t)g->buffers + 1, sizeof *m->state);
    m->hyper = ss_calloc((size_t)m->groups, SS_MAX_HYPER * sizeof *m->hyper);
    m->derived = ss_calloc((size_t)m->groups, SS_MAX_DERIVED * sizeof *m->derived);
    placed = ss_calloc((size_t)g->parameters + 1, sizeof *placed);
    if (!m->parameter || !m->state || !placed || !m->hyper || !m->derived) goto no_memory;
    m->parameters = g->parameters;
    m->states = g->buffers;
    for (int v = 0; v < g->values; v++) {
        const ss_value *value = &g->value[v];
        if (value->kind != SS_VALUE_PARAMETER && value->kind != SS_VALUE_BUFFER) continue;
        ss_parameter *p = value->kind == SS_VALUE_PARAMETER ? &m->parameter[value->index] : &m->state[value->index];
        memcpy(p->name, value->name, sizeof p->name);
        p->shape = value->shape;
        p->count = ss_shape_count(&value->shape);
        if (!ss_add(all, ss_round_up(p->count, UNIT), &all) || all > INT64_MAX / 16) { /* so that no sum of sizes below can overflow */
            status = SS_FAIL(err, SS_ERR_MEMORY, "the parameters and buffers up to '%s' overflow the address space", p->name);
            goto done;
        }
        p->trainable = value->kind == SS_VALUE_PARAMETER && value->trainable;
        if (value->kind == SS_VALUE_BUFFER) {
            p->offset = m->state_elements;
            m->state_elements += ss_round_up(p->count, UNIT);
        }
    }
    lay_out(m, g, placed);
    SS_TRY(choose_optimizer(m, o, err));
    SS_TRY(make_runs(m, err));
    SS_TRY(lay_out_state(m, err));
    SS_TRY(make_compression(m, &o->compression, err));

    ss_arena_plan plan = {0};
    int64_t values, states, slot[SS_MAX_SLOTS + 2], extra = 0, scratch = 0, rounded = 0;
    SS_TRY(ss_region_add(&plan, 4 * ss_max(m->elements, UNIT), &values, err));
    SS_TRY(ss_region_add(&plan, 4 * ss_max(m->state_elements, UNIT), &states, err));
    for (int k = 0; k < m->slots; k++) SS_TRY(ss_region_add(&plan, 4 * ss_max(m->trainable, UNIT), &slot[k], err));
    if (m->extra_elements) SS_TRY(ss_region_add(&plan, 4 * m->extra_elements, &extra, err));
    if (m->scratch_elements) SS_TRY(ss_region_add(&plan, 4 * m->scratch_elements, &scratch, err));
    if (m->bf16) SS_TRY(ss_region_add(&plan, 4 * ss_max(m->elements, UNIT), &rounded, err));
    if (t->shares && t->size > 1) SS_TRY(ss_arena_create_shared(&plan, &m->arena, err)); /* the other ranks of the host read the parameters there */
    else SS_TRY(ss_arena_create(&plan, &m->arena, err));
    if (m->bf16) m->rounded = ss_arena_at(m->arena, rounded);
    if (m->extra_elements) m->extra = ss_arena_at(m->arena, extra);
    if (m->scratch_elements) m->scratch = ss_arena_at(m->arena, scratch);
    m->values = ss_arena_at(m->arena, values);
    m->states_at = ss_arena_at(m->arena, states);
    for (int k = 0; k < m->slots; k++) m->slot[k] = ss_arena_at(m->arena, slot[k]);
    SS_TRY(ss_pool_create(o->threads, o->pin, &m->pool, err));
    SS_TRY(ss_pool_create(1, false, &m->single, err));
    *out = m;
    m = NULL;
    goto done;
no_memory:
    status = SS_FAIL(err, SS_ERR_MEMORY, "no memory for a model of %d parameters", g->parameters);
done:
    ss_free(placed);
    ss_model_free(m);
    return status;
}

void ss_model_free(ss_model *m) {
    if (!m) return;
    ss_pool_free(m->single);
    ss_pool_free(m->pool);
    ss_arena_free(m->arena);
    ss_compression_free(m->compression);
    ss_free(m->square);
    ss_free(m->run);
    ss_free(m->derived);
    ss_free(m->hyper);
    ss_free(m->state);
    ss_free(m->parameter);
    ss_free(m);
}

static int find(const ss_parameter *p, int count, const char *name) {
    for (int k = 0; k < count; k++)
        if (!strcmp(p[k].name, name)) return k;
    return -1;
}

int ss_model_find(const ss_model *m, const char *name) { return find(m->parameter, m->parameters, name); }
int ss_model_find_state(const ss_model *m, const char *name) { return find(m->state, m->states, name); }

int ss_model_find_hyper(const ss_model *m, const char *name) {
    for (int k = 0; m->optim && m->optim->hypers[k].name; k++)
        if (!strcmp(m->optim->hypers[k].name, name)) return k;
    return -1;
}

/* Whether the state that was laid out is what these hyper-parameters need. */
static bool fits(const ss_model *m) {
    for (int g = 0; g < m->groups; g++)
        if (m->optim->slots(m->hyper + g * SS_MAX_HYPER) > m->optim_slots) return false;
    for (int k = 0; m->optim->whole && k < m->parameters; k++)
        if (m->parameter[k].trainable && (extra_of(m, &m->parameter[k]) != m->parameter[k].extra_count || scratch_of(m, &m->parameter[k]) > m->scratch_elements)) return false;
    return true;
}

ss_status ss_model_set_hyper(ss_model *m, int group, const char *name, double value, ss_error *err) {
    int at = ss_model_find_hyper(m, name);
    if (group < 0 || group >= m->groups) return SS_FAIL(err, SS_ERR_VALUE, "there is no group %d of parameters: there are %d", group, m->groups);
    if (at < 0) return SS_FAIL(err, SS_ERR_VALUE, "optimizer %s has no argument '%s'", m->optim ? m->optim->name : "(none)", name);
    const ss_hyper_spec *spec = &m->optim->hypers[at];
    if (!(value >= spec->least && value <= spec->most))
        return SS_FAIL(err, SS_ERR_VALUE, "%s=%g is outside [%g, %g]", name, value, spec->least, spec->most);
    double *place = &m->hyper[group * SS_MAX_HYPER + at], before = *place;
    *place = value;
    if (m->arena && !fits(m)) {
        *place = before;
        return SS_FAIL(err, SS_ERR_VALUE, "%s=%g needs optimizer state that this model was made without: compile again", name, value);
    }
    return SS_OK;
}

ss_status ss_model_set_clip(ss_model *m, double norm, double value, ss_error *err) {
    if (!(norm >= 0)) return SS_FAIL(err, SS_ERR_VALUE, "clip_norm=%g must be positive", norm);
    if (!(value >= 0)) return SS_FAIL(err, SS_ERR_VALUE, "clip_value=%g must be positive", value);
    if (norm > 0 && !m->complete) return SS_FAIL(err, SS_ERR_VALUE, "clip_norm=%g needs a model that was made with clip_norm: compile again", norm);
    m->clip_norm = norm;
    m->clip_value = value;
    return SS_OK;
}

const char *ss_model_slot_name(const ss_model *m, int slot) {
    if (slot == m->slow) return "slow";
    if (slot == m->mean) return m->average == SS_AVERAGE_EMA ? "ema" : "swa_mean";
    return m->optim->slot_names[slot];
}

/* ---- averages ---- */

void ss_model_before_update(ss_model *m, int64_t begin, int64_t end) {
    if (m->slow >= 0 && m->step == 0) memcpy(m->slot[m->slow] + begin, m->values + begin, (size_t)(end - begin) * 4);
}

void ss_model_after_update(ss_model *m, int64_t begin, int64_t end) {
    int64_t step = m->step + 1, n = end - begin;
    float *p = m->values + begin;
    if (m->slow >= 0 && step % m->lookahead == 0) {
        float *slow = m->slot[m->slow] + begin;
        m->kernels->blend(n, slow, p, (float)m->lookahead_alpha);
        memcpy(p, slow, (size_t)n * 4);
    }
    if (m->mean < 0) return;
    double weight = 1;
    if (m->average == SS_AVERAGE_EMA) {
        double ramp = (double)(1 + step) / (double)(10 + step), decay = m->warmup && ramp < m->decay ? ramp : m->decay;
        if (step > 1) weight = 1 - decay;
    } else {
        if (step < m->start || (step - m->start) % m->every) return;
        weight = 1 / (double)((step - m->start) / m->every + 1);
    }
    float *mean = m->slot[m->mean] + begin;
    if (weight == 1) memcpy(mean, p, (size_t)n * 4); /* the first one */
    else m->kernels->blend(n, mean, p, (float)weight);
}

enum { UPDATE_BLOCK = 4096 }; /* clipping and averages take elements while they are in the cache */

void ss_model_update(ss_model *m, float *gradient, int64_t begin, int64_t end) {
    int low = 0, high = m->runs; /* the run that holds the first element */
    while (low + 1 < high) {
        int middle = (low + high) / 2;
        if (m->run[middle].begin <= begin) low = middle;
        else high = middle;
    }
    const bool clamp = m->clip_value > 0 && !m->complete, passes = m->mean >= 0 || m->slow >= 0 || clamp;
    for (int64_t at = begin; at < end;) {
        while (m->run[low].end <= at) low++;
        int64_t stop = ss_min(end, m->run[low].end);
        if (passes) stop = ss_min(stop, at + UPDATE_BLOCK);
        float *slot[SS_MAX_SLOTS];
        int group = m->run[low].group;
        for (int k = 0; k < m->optim_slots; k++) slot[k] = m->slot[k] + at;
        if (clamp) m->kernels->clamp(stop - at, gradient + at, (float)m->clip_value);
        ss_model_before_update(m, at, stop);
        m->optim->update(stop - at, m->values + at, gradient + at, slot, m->hyper + group * SS_MAX_HYPER, m->derived + group * SS_MAX_DERIVED, m->step + 1);
        ss_model_after_update(m, at, stop);
        at = stop;
    }
}

ss_status ss_model_swap_average(ss_model *m, ss_error *err) {
    if (m->mean < 0) return SS_FAIL(err, SS_ERR_STATE, "this model was made without an average");
    if (m->step < (m->average == SS_AVERAGE_SWA ? m->start : 1))
        return SS_FAIL(err, SS_ERR_STATE, "there is no average yet: it begins with step %lld", (long long)(m->average == SS_AVERAGE_SWA ? m->start : 1));
    float *p = m->values, *mean = m->slot[m->mean];
    for (int64_t i = 0; i < m->trainable; i++) {
        float swap = p[i];
        p[i] = mean[i];
        mean[i] = swap;
    }
    m->swapped = !m->swapped;
    return SS_OK;
}

ss_status ss_model_enter(ss_model *m, ss_error *err) {
    if (atomic_flag_test_and_set(&m->busy)) return SS_FAIL(err, SS_ERR_STATE, "another thread is using this model: one call at a time");
    if (m->broken) {
        atomic_flag_clear(&m->busy);
        return SS_FAIL(err, SS_ERR_STATE, "an earlier step failed half way and left this model incomplete: load a checkpoint into a new one");
    }
    return SS_OK;
}

void ss_model_leave(ss_model *m) { atomic_flag_clear(&m->busy); }

ss_status ss_model_broadcast(ss_model *m, ss_error *err) {
    struct {
        int64_t step;
        uint64_t seed;
        double clip_norm, clip_value;
    } head = {.step = m->step, .seed = m->seed, .clip_norm = m->clip_norm, .clip_value = m->clip_value};
    ss_status status = ss_signature_check(m->transport, "a broadcast of a model", m->elements, 0, err);
    if (status == SS_OK) status = ss_broadcast(m->transport, &head, sizeof head, 0, err);
    if (status == SS_OK) status = ss_broadcast(m->transport, m->values, (size_t)m->elements * 4, 0, err);
    if (status == SS_OK) status = ss_broadcast(m->transport, m->states_at, (size_t)m->state_elements * 4, 0, err);
    for (int k = 0; k < m->slots && status == SS_OK; k++) status = ss_broadcast(m->transport, m->slot[k], (size_t)m->trainable * 4, 0, err);
    if (status == SS_OK && m->extra_elements) status = ss_broadcast(m->transport, m->extra, (size_t)m->extra_elements * 4, 0, err);
    if (status == SS_OK) status = ss_broadcast(m->transport, m->hyper, (size_t)m->groups * SS_MAX_HYPER * sizeof *m->hyper, 0, err);
    if (status != SS_OK) return status;
    m->step = head.step;
    m->seed = head.seed;
    m->clip_norm = m->complete ? head.clip_norm : 0;
    m->clip_value = head.clip_value;
    if (m->optim && !fits(m))
        return SS_FAIL(err, SS_ERR_VALUE, "rank 0's arguments of the optimizer need state that rank %d was made without", m->transport->rank);
    return SS_OK;
}
