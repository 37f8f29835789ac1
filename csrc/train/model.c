#include "train/model.h"
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "comm/collective.h"

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
    for (int k = 0; k < o->hypers; k++) {
        ss_status status = ss_model_set_hyper(m, o->hyper[k].name, o->hyper[k].value, err);
        if (status != SS_OK) return status;
    }
    m->slots = m->optim->slots(m->hyper);
    return SS_OK;
}

ss_status ss_model_create(const ss_graph *g, ss_transport *t, const ss_model_options *o, ss_model **out, ss_error *err) {
    ss_status status = SS_OK;
    bool *placed = NULL;
    int64_t all = 0;
    ss_model *m = ss_calloc(1, sizeof *m);
    if (!m) goto no_memory;
    *m = (ss_model){.transport = t, .isa = o->isa, .backend = o->backend, .threads = o->threads, .bf16 = o->bf16, .seed = o->seed, .kernels = ss_kernels_for(o->isa)};
    atomic_flag_clear(&m->busy);
    if (!m->kernels) {
        status = SS_FAIL(err, SS_ERR_VALUE, "this processor does not run the instruction set '%s'", ss_isa_name(o->isa));
        goto done;
    }
    m->parameter = ss_calloc((size_t)g->parameters + 1, sizeof *m->parameter);
    m->state = ss_calloc((size_t)g->buffers + 1, sizeof *m->state);
    placed = ss_calloc((size_t)g->parameters + 1, sizeof *placed);
    if (!m->parameter || !m->state || !placed) goto no_memory;
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

    ss_arena_plan plan = {0};
    int64_t values, states, slot[SS_MAX_SLOTS], rounded = 0;
    SS_TRY(ss_region_add(&plan, 4 * ss_max(m->elements, UNIT), &values, err));
    SS_TRY(ss_region_add(&plan, 4 * ss_max(m->state_elements, UNIT), &states, err));
    for (int k = 0; k < m->slots; k++) SS_TRY(ss_region_add(&plan, 4 * ss_max(m->trainable, UNIT), &slot[k], err));
    if (m->bf16) SS_TRY(ss_region_add(&plan, 4 * ss_max(m->elements, UNIT), &rounded, err));
    SS_TRY(ss_arena_create(&plan, &m->arena, err));
    if (m->bf16) m->rounded = ss_arena_at(m->arena, rounded);
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

ss_status ss_model_set_hyper(ss_model *m, const char *name, double value, ss_error *err) {
    int at = ss_model_find_hyper(m, name);
    if (at < 0) return SS_FAIL(err, SS_ERR_VALUE, "optimizer %s has no argument '%s'", m->optim ? m->optim->name : "(none)", name);
    const ss_hyper_spec *spec = &m->optim->hypers[at];
    if (!(value >= spec->least && value <= spec->most))
        return SS_FAIL(err, SS_ERR_VALUE, "%s=%g is outside [%g, %g]", name, value, spec->least, spec->most);
    double before = m->hyper[at];
    m->hyper[at] = value;
    if (m->arena && m->optim->slots(m->hyper) > m->slots) {
        m->hyper[at] = before;
        return SS_FAIL(err, SS_ERR_VALUE, "%s=%g needs optimizer state that this model was made without: compile again", name, value);
    }
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
        double hyper[SS_MAX_HYPER];
    } head = {.step = m->step, .seed = m->seed};
    memcpy(head.hyper, m->hyper, sizeof head.hyper);
    ss_status status = ss_broadcast(m->transport, &head, sizeof head, 0, err);
    if (status == SS_OK) status = ss_broadcast(m->transport, m->values, (size_t)m->elements * 4, 0, err);
    if (status == SS_OK) status = ss_broadcast(m->transport, m->states_at, (size_t)m->state_elements * 4, 0, err);
    for (int k = 0; k < m->slots && status == SS_OK; k++) status = ss_broadcast(m->transport, m->slot[k], (size_t)m->trainable * 4, 0, err);
    if (status != SS_OK) return status;
    m->step = head.step;
    m->seed = head.seed;
    if (m->optim && m->optim->slots(head.hyper) > m->slots)
        return SS_FAIL(err, SS_ERR_VALUE, "rank 0's arguments of the optimizer need state that rank %d was made without", m->transport->rank);
    memcpy(m->hyper, head.hyper, sizeof head.hyper);
    return SS_OK;
}
