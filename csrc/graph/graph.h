/* A traced network: values and the nodes that make them, in the order of tracing. The batch axis is never part of a shape.
 *
 * The graph is what the user wrote; a plan rewrites its own copy (plan/lower.h). The number of a node here is the op number of its random numbers, whatever the rewriting.
 */
#ifndef SS_GRAPH_GRAPH_H
#define SS_GRAPH_GRAPH_H
#include "ops/op.h"

enum { SS_NAME = 160 };

typedef enum ss_value_kind { SS_VALUE_INPUT, SS_VALUE_PARAMETER, SS_VALUE_BUFFER, SS_VALUE_NODE } ss_value_kind;

typedef struct ss_value {
    ss_value_kind kind;
    ss_dtype dtype;
    ss_shape shape; /* of one sample when batched */
    bool batched;
    bool trainable; /* parameters */
    int index;      /* among the inputs, parameters, buffers or nodes */
    int port;       /* which output of the node */
    char name[SS_NAME];
} ss_value;

typedef struct ss_node {
    int op; /* index in the operator table */
    int n_in;
    int in[SS_MAX_IN]; /* values; -1: absent */
    int out, n_out;    /* the first output value; further ones follow it */
    double attr[SS_MAX_ATTR];
    ss_layout layout;
    bool any_layout;
    char layer[SS_NAME]; /* the module's path, for messages */
} ss_node;

/* A loss or metric whose value a step returns. */
typedef struct ss_result {
    int node;
    double weight; /* of a loss in the sum that is differentiated */
    char name[SS_NAME];
} ss_result;

typedef struct ss_graph {
    ss_value *value;
    ss_node *node;
    ss_result *result;
    int *output; /* values that a forward pass returns */
    int values, nodes, results, outputs, inputs, parameters, buffers;
    int value_room, node_room, result_room, output_room;
} ss_graph;

ss_status ss_graph_create(ss_graph **out, ss_error *err);
void ss_graph_free(ss_graph *graph);

/* Each writes the new value's number. Names must be unique among parameters and buffers. */
ss_status ss_graph_input(ss_graph *g, const char *name, const ss_shape *shape, ss_dtype dtype, int *value, ss_error *err);
ss_status ss_graph_parameter(ss_graph *g, const char *name, const ss_shape *shape, bool trainable, int *value, ss_error *err);
ss_status ss_graph_buffer(ss_graph *g, const char *name, const ss_shape *shape, int *value, ss_error *err);

/* An attribute by name. */
typedef struct ss_attr {
    const char *name;
    double value;
} ss_attr;

/* Infers the shapes of the outputs; *value is the first, g->node[...].n_out tells how many follow. A failure leaves the graph as it was, and its message names the layer. */
ss_status ss_graph_node(ss_graph *g, const char *op, const int *in, int n_in, const ss_attr *attr, int attrs, const char *layer, int *value, ss_error *err);
ss_status ss_graph_output(ss_graph *g, int value, ss_error *err);
/* Marks a loss or metric; a second call for the same node changes its name and weight. weight: factor of a loss in the sum that is differentiated, 0: measured only. */
ss_status ss_graph_result(ss_graph *g, int value, const char *name, double weight, ss_error *err);

/* Fills attr[] from defaults and the given pairs, checked against the operator's ranges. */
ss_status ss_attrs_fill(const ss_op *op, const ss_attr *given, int count, double *attr, ss_error *err);

#endif
