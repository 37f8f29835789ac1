#include "graph/graph.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"

ss_status ss_graph_create(ss_graph **out, ss_error *err) {
    ss_graph *g = ss_calloc(1, sizeof *g);
    if (!g) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for a graph");
    *out = g;
    return SS_OK;
}

void ss_graph_free(ss_graph *g) {
    if (!g) return;
    ss_free(g->output);
    ss_free(g->result);
    ss_free(g->node);
    ss_free(g->value);
    ss_free(g);
}

/* Room for one more item in an array that grows by doubling. */
static ss_status grow(void **array, int count, int *room, size_t size, ss_error *err) {
    if (count < *room) return SS_OK;
    int wanted = *room ? *room * 2 : 16;
    void *bigger = ss_calloc((size_t)wanted, size);
    if (!bigger) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for a graph of %d entries", wanted);
    if (count) memcpy(bigger, *array, (size_t)count * size);
    ss_free(*array);
    *array = bigger;
    *room = wanted;
    return SS_OK;
}

static ss_status add_value(ss_graph *g, const ss_value *value, int *number, ss_error *err) {
    ss_status status = grow((void **)&g->value, g->values, &g->value_room, sizeof *g->value, err);
    if (status != SS_OK) return status;
    g->value[g->values] = *value;
    *number = g->values++;
    return SS_OK;
}

static ss_status set_name(char *target, const char *name, ss_error *err) {
    if (strlen(name) >= SS_NAME) return SS_FAIL(err, SS_ERR_VALUE, "name '%.40s...' is longer than %d characters", name, SS_NAME - 1);
    memcpy(target, name, strlen(name) + 1);
    return SS_OK;
}

static ss_status add_leaf(ss_graph *g, ss_value *value, const char *name, const ss_shape *shape, int *number, ss_error *err) {
    ss_status status = ss_shape_check(shape, name, err);
    if (status == SS_OK) status = set_name(value->name, name, err);
    if (status != SS_OK) return status;
    if (value->kind != SS_VALUE_INPUT)
        for (int i = 0; i < g->values; i++)
            if ((g->value[i].kind == SS_VALUE_PARAMETER || g->value[i].kind == SS_VALUE_BUFFER) && !strcmp(g->value[i].name, name))
                return SS_FAIL(err, SS_ERR_VALUE, "two parameters or buffers are named '%s'", name);
    value->shape = *shape;
    return add_value(g, value, number, err);
}

ss_status ss_graph_input(ss_graph *g, const char *name, const ss_shape *shape, ss_dtype dtype, int *number, ss_error *err) {
    ss_value value = {.kind = SS_VALUE_INPUT, .dtype = dtype, .batched = true, .index = g->inputs};
    ss_status status = add_leaf(g, &value, name, shape, number, err);
    if (status == SS_OK) g->inputs++;
    return status;
}

ss_status ss_graph_parameter(ss_graph *g, const char *name, const ss_shape *shape, bool trainable, int *number, ss_error *err) {
    ss_value value = {.kind = SS_VALUE_PARAMETER, .trainable = trainable, .index = g->parameters};
    ss_status status = add_leaf(g, &value, name, shape, number, err);
    if (status == SS_OK) g->parameters++;
    return status;
}

ss_status ss_graph_buffer(ss_graph *g, const char *name, const ss_shape *shape, int *number, ss_error *err) {
    ss_value value = {.kind = SS_VALUE_BUFFER, .index = g->buffers};
    ss_status status = add_leaf(g, &value, name, shape, number, err);
    if (status == SS_OK) g->buffers++;
    return status;
}

ss_status ss_attrs_fill(const ss_op *op, const ss_attr *given, int count, double *attr, ss_error *err) {
    int known = 0;
    for (const ss_attr_spec *spec = op->attrs; spec && spec->name; spec++) attr[known++] = spec->initial;
    for (int i = 0; i < count; i++) {
        int at = 0;
        while (at < known && strcmp(op->attrs[at].name, given[i].name)) at++;
        if (at == known) return SS_FAIL(err, SS_ERR_VALUE, "operator %s has no attribute '%s'", op->name, given[i].name);
        const ss_attr_spec *spec = &op->attrs[at];
        double value = given[i].value;
        if (!(value >= spec->least && value <= spec->most))
            return SS_FAIL(err, SS_ERR_VALUE, "%s=%g is outside [%g, %g]", spec->name, value, spec->least, spec->most);
        if (spec->kind != SS_ATTR_FLOAT && value != (double)(int64_t)value)
            return SS_FAIL(err, SS_ERR_VALUE, "%s=%g must be a whole number", spec->name, value);
        attr[at] = value;
    }
    return SS_OK;
}

static ss_role role_of(const ss_value *value) {
    if (value->batched) return SS_ROLE_BATCHED;
    return value->kind == SS_VALUE_BUFFER ? SS_ROLE_BUFFER : SS_ROLE_PARAMETER;
}

static bool is_result(const ss_graph *g, const ss_value *value) {
    return value->kind == SS_VALUE_NODE && ss_op_at(SS_ISA_SCALAR, g->node[value->index].op)->flags & (SS_OP_LOSS | SS_OP_METRIC);
}

ss_status ss_graph_node(ss_graph *g, const char *name, const int *in, int n_in, const ss_attr *attr, int attrs, const char *layer,
                        int *number, ss_error *err) {
    ss_status status = SS_OK;
    ss_node node = {.n_in = n_in};
    ss_infer q = {.attr = node.attr, .n_in = n_in};
    const ss_op *op;
    bool batched = false;

    node.op = ss_op_find(name);
    if (node.op < 0) {
        status = SS_FAIL(err, SS_ERR_VALUE, "there is no operator '%s'", name);
        goto done;
    }
    op = ss_op_at(SS_ISA_SCALAR, node.op);
    SS_TRY(set_name(node.layer, layer ? layer : "", err));
    if (n_in < 1 || n_in > SS_MAX_IN) {
        status = SS_FAIL(err, SS_ERR_VALUE, "%s takes 1 to %d inputs, not %d", name, SS_MAX_IN, n_in);
        goto done;
    }
    SS_TRY(ss_attrs_fill(op, attr, attrs, node.attr, err));
    for (int i = 0; i < n_in; i++) {
        node.in[i] = in[i];
        if (in[i] < 0) {
            q.in[i].rank = -1;
            continue;
        }
        if (in[i] >= g->values) {
            status = SS_FAIL(err, SS_ERR_VALUE, "input %d of %s is value %d, but the graph has %d values", i, name, in[i], g->values);
            goto done;
        }
        const ss_value *value = &g->value[in[i]];
        if (is_result(g, value)) { /* known at the end of the step alone: nothing can be computed from it */
            status = SS_FAIL(err, SS_ERR_VALUE, "input %d of %s is the loss or metric '%s', which cannot be computed with further", i, name, value->name);
            goto done;
        }
        q.in[i] = value->shape;
        q.role[i] = role_of(value);
        q.dtype[i] = value->dtype;
        batched |= value->batched;
    }
    if (!batched) {
        status = SS_FAIL(err, SS_ERR_VALUE, "%s has no batched input", name);
        goto done;
    }
    SS_TRY(op->infer(&q, err));
    assert(q.n_out >= 1 && q.n_out <= SS_MAX_OUT);
    for (int k = 0; k < q.n_out; k++) SS_TRY(ss_shape_check(&q.out[k], "output", err));
    SS_TRY(grow((void **)&g->node, g->nodes, &g->node_room, sizeof *g->node, err));
    node.layout = q.layout;
    node.any_layout = q.any_layout;
    node.out = g->values;
    node.n_out = q.n_out;
    for (int k = 0; k < q.n_out; k++) {
        ss_value value = {.kind = SS_VALUE_NODE, .dtype = q.out_dtype[k], .shape = q.out[k], .batched = true, .index = g->nodes, .port = k};
        int added;
        snprintf(value.name, sizeof value.name, "%s", node.layer);
        status = add_value(g, &value, &added, err);
        if (status != SS_OK) {
            g->values = node.out;
            goto done;
        }
    }
    g->node[g->nodes++] = node;
    *number = node.out;
done:
    if (status != SS_OK && layer && *layer) ss_error_prefix(err, "layer '%s': ", layer);
    return status;
}

ss_status ss_graph_output(ss_graph *g, int value, ss_error *err) {
    if (value < 0 || value >= g->values || !g->value[value].batched)
        return SS_FAIL(err, SS_ERR_VALUE, "value %d cannot be an output: it is not a batched value of this graph", value);
    if (is_result(g, &g->value[value])) return SS_FAIL(err, SS_ERR_VALUE, "value %d cannot be an output: losses and metrics are results", value);
    ss_status status = grow((void **)&g->output, g->outputs, &g->output_room, sizeof *g->output, err);
    if (status != SS_OK) return status;
    g->output[g->outputs++] = value;
    return SS_OK;
}

ss_status ss_graph_result(ss_graph *g, int value, const char *name, double weight, ss_error *err) {
    if (value < 0 || value >= g->values || !is_result(g, &g->value[value]))
        return SS_FAIL(err, SS_ERR_VALUE, "value %d cannot be a result: only losses and metrics can", value);
    if (!(weight >= -1e30 && weight <= 1e30)) return SS_FAIL(err, SS_ERR_VALUE, "result '%s': weight=%g must be finite", name, weight);
    ss_status status = grow((void **)&g->result, g->results, &g->result_room, sizeof *g->result, err);
    if (status != SS_OK) return status;
    int node = g->value[value].index, at = 0;
    while (at < g->results && g->result[at].node != node) at++;
    ss_result result = {.node = node, .weight = weight};
    if ((status = set_name(result.name, name, err)) != SS_OK) return status;
    g->result[at] = result;
    if (at == g->results) g->results++;
    return SS_OK;
}
