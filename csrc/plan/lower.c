#include "plan/lower.h"
#include <assert.h>
#include <string.h>
#include "base/alloc.h"

void ss_lowered_free(ss_lowered *l) {
    if (!l) return;
    ss_free(l->result);
    ss_free(l->output);
    ss_free(l->node);
    ss_free(l->value);
    ss_free(l);
}

static bool is_neutral(const ss_lvalue *v) {
    if (!v->batched || v->dtype != SS_F32 || v->shape.rank < 2) return true;
    return v->shape.dim[0] == 1 || ss_shape_count(&v->shape) == v->shape.dim[0];
}

static int add_value(ss_lowered *l, ss_lvalue value) {
    value.neutral = is_neutral(&value);
    l->value[l->values] = value;
    return l->values++;
}

/* A value in the wanted layout: itself, or the output of a relayout node (made once per value: `converted` remembers it). */
static int in_layout(ss_lowered *l, int value, ss_layout layout, const ss_lnode *user, int *converted) {
    ss_lvalue *v = &l->value[value];
    if (v->neutral || v->layout == layout) return value;
    if (converted[value] >= 0) return converted[value];
    ss_lnode node = {.op = ss_op_find("relayout"), .n_in = 1, .in = {value}, .n_out = 1, .layout = v->layout, .number = user->number, .traced = -1, .layer = user->layer};
    assert(node.op >= 0);
    ss_attr direction = {"to_channels_last", layout == SS_CHANNELS_LAST};
    ss_status status = ss_attrs_fill(ss_op_at(SS_ISA_SCALAR, node.op), &direction, 1, node.attr, NULL);
    assert(status == SS_OK);
    (void)status;
    ss_lvalue out = *v;
    out.kind = SS_VALUE_NODE;
    out.layout = layout;
    out.source = -1;
    out.node = l->nodes;
    int made = node.out[0] = add_value(l, out);
    l->node[l->nodes++] = node;
    converted[value] = made;
    converted[made] = value;
    return made;
}

/* A value rounded to bfloat16 (made once per value). */
static int in_bf16(ss_lowered *l, int value, const ss_lnode *user, int *rounded) {
    if (rounded[value] >= 0) return rounded[value];
    const ss_lvalue *v = &l->value[value];
    ss_lnode node = {.op = ss_op_find("bf16_round"), .n_in = 1, .in = {value}, .n_out = 1, .layout = v->layout, .number = user->number, .traced = -1, .layer = user->layer};
    assert(node.op >= 0);
    ss_lvalue out = *v;
    out.kind = SS_VALUE_NODE;
    out.source = -1;
    out.node = l->nodes;
    int made = node.out[0] = add_value(l, out);
    l->node[l->nodes++] = node;
    rounded[value] = rounded[made] = made;
    return made;
}

/* Traced nodes that an output or a result depends on. */
static void mark_needed(const ss_graph *g, bool with_results, bool *needed) {
    for (int i = 0; i < g->outputs; i++)
        if (g->value[g->output[i]].kind == SS_VALUE_NODE) needed[g->value[g->output[i]].index] = true;
    for (int i = 0; with_results && i < g->results; i++) needed[g->result[i].node] = true;
    for (int i = g->nodes - 1; i >= 0; i--) {
        if (!needed[i]) continue;
        for (int k = 0; k < g->node[i].n_in; k++) {
            int in = g->node[i].in[k];
            if (in >= 0 && g->value[in].kind == SS_VALUE_NODE) needed[g->value[in].index] = true;
        }
    }
}

static void lower_node(ss_lowered *l, const ss_graph *g, int index, bool training, bool bf16, int *map, int *converted, int *rounded) {
    const ss_node *from = &g->node[index];
    const ss_op *op = ss_op_at(SS_ISA_SCALAR, from->op);
    if (!training && (op->flags & SS_OP_TRAINING_ONLY)) {
        map[from->out] = map[from->in[0]];
        return;
    }
    ss_lnode node = {.op = from->op, .n_in = from->n_in, .n_out = from->n_out, .layout = from->layout, .number = (uint32_t)index, .traced = index, .layer = from->layer};
    memcpy(node.attr, from->attr, sizeof node.attr);
    if (from->any_layout) {
        node.layout = SS_PLAIN;
        for (int k = from->n_in - 1; k >= 0; k--) {
            const ss_lvalue *v = from->in[k] < 0 ? NULL : &l->value[map[from->in[k]]];
            if (v && v->batched && !v->neutral) node.layout = v->layout;
        }
    }
    bool needs = false;
    for (int k = 0; k < from->n_in; k++) {
        if (from->in[k] < 0) {
            node.in[k] = -1;
            continue;
        }
        int value = map[from->in[k]];
        node.in[k] = l->value[value].batched ? in_layout(l, value, node.layout, &node, converted) : value;
        if (bf16 && (op->flags & SS_OP_PRODUCT) && !(op->flags & SS_OP_ROUNDS) && l->value[value].batched && l->value[value].dtype == SS_F32) node.in[k] = in_bf16(l, node.in[k], &node, rounded);
        needs |= l->value[node.in[k]].needs_grad;
    }
    for (int k = 0; k < from->n_out; k++) {
        const ss_value *result = &g->value[from->out + k];
        ss_lvalue out = {.kind = SS_VALUE_NODE, .dtype = result->dtype, .shape = result->shape, .batched = true, .layout = node.layout, .source = -1,
                         .needs_grad = needs && result->dtype == SS_F32 && (op->backward || op->flags & SS_OP_ALIAS), .node = l->nodes, .name = result->name};
        map[from->out + k] = node.out[k] = add_value(l, out);
    }
    for (int r = 0; r < g->results; r++)
        if (g->result[r].node == index) node.weight = g->result[r].weight;
    l->node[l->nodes++] = node;
}

/* An input is loaded in the layout that its first user asks for, so nothing needs to be converted. */
static ss_layout input_layout(const ss_graph *g, int value) {
    for (int n = 0; n < g->nodes; n++)
        for (int k = 0; k < g->node[n].n_in; k++)
            if (g->node[n].in[k] == value && !g->node[n].any_layout) return g->node[n].layout;
    return SS_PLAIN;
}

ss_status ss_lower(const ss_graph *g, bool training, bool with_results, bool bf16, ss_lowered **out, ss_error *err) {
    ss_status status = SS_OK;
    /* Each input of each node may need a conversion and a rounding, each output a conversion. */
    size_t room = (size_t)g->values + (size_t)g->nodes * (2 * SS_MAX_IN + 1) + (size_t)g->outputs + 1;
    bool *needed = ss_calloc((size_t)g->nodes + 1, sizeof *needed);
    int *map = ss_calloc((size_t)g->values + 1, sizeof *map);
    int *converted = ss_calloc(room, sizeof *converted), *rounded = ss_calloc(room, sizeof *rounded);
    ss_lowered *l = ss_calloc(1, sizeof *l);
    if (!needed || !map || !converted || !rounded || !l) goto no_memory;
    l->value = ss_calloc(room, sizeof *l->value);
    l->node = ss_calloc(room, sizeof *l->node);
    l->output = ss_calloc((size_t)g->outputs + 1, sizeof *l->output);
    l->result = ss_calloc((size_t)g->results + 1, sizeof *l->result);
    if (!l->value || !l->node || !l->output || !l->result) goto no_memory;
    for (size_t i = 0; i < room; i++) converted[i] = rounded[i] = -1;

    mark_needed(g, with_results, needed);
    for (int i = 0; i < g->values; i++) {
        const ss_value *v = &g->value[i];
        if (v->kind == SS_VALUE_NODE) {
            if (needed[v->index] && v->port == 0) lower_node(l, g, v->index, training, bf16, map, converted, rounded);
            continue;
        }
        ss_lvalue leaf = {.kind = v->kind, .dtype = v->dtype, .shape = v->shape, .batched = v->batched, .trainable = v->trainable,
                          .needs_grad = training && v->kind == SS_VALUE_PARAMETER && v->trainable, .source = i, .node = -1, .name = v->name};
        if (v->kind == SS_VALUE_INPUT) leaf.layout = input_layout(g, i);
        map[i] = add_value(l, leaf);
    }
    for (int i = 0; i < g->outputs; i++) {
        ss_lnode user = {.layer = g->value[g->output[i]].name};
        l->output[l->outputs++] = in_layout(l, map[g->output[i]], SS_PLAIN, &user, converted);
    }
    for (int i = 0; with_results && i < g->results; i++)
        for (int k = 0; k < l->nodes; k++)
            if (l->node[k].traced == g->result[i].node) l->result[l->results++] = k;
    assert(!with_results || l->results == g->results);
    SS_TRY(ss_fuse(l, err));
    *out = l;
    l = NULL;
    goto done;
no_memory:
    status = SS_FAIL(err, SS_ERR_MEMORY, "no memory to lower a graph of %d nodes", g->nodes);
done:
    ss_lowered_free(l);
    ss_free(rounded);
    ss_free(converted);
    ss_free(map);
    ss_free(needed);
    return status;
}
