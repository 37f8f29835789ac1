/* Lowering: the graph as the plan will run it. Dead nodes are left out, dropout too when not training, layouts are settled and conversions between them inserted. */
#ifndef SS_PLAN_LOWER_H
#define SS_PLAN_LOWER_H
#include "graph/graph.h"

typedef struct ss_lvalue {
    ss_value_kind kind;
    ss_dtype dtype;
    ss_shape shape;
    bool batched, trainable;
    bool neutral;     /* plain and channels-last coincide in memory (fewer than two axes that matter) */
    ss_layout layout; /* when not neutral */
    bool needs_grad;
    int source;       /* the graph's value, for inputs, parameters and buffers; else -1 */
    int node;         /* the lowered node that makes it; -1 for leaves */
    const char *name;
} ss_lvalue;

typedef struct ss_lnode {
    int op, n_in;
    int in[SS_MAX_IN], out[SS_MAX_OUT], n_out; /* lowered values */
    double weight;   /* of a loss among the results */
    double attr[SS_MAX_ATTR];
    ss_layout layout;
    uint32_t number; /* of the traced node; inserted nodes get the number of the node they serve */
    int traced;      /* index of the traced node, or -1 for an inserted one */
    const char *layer;
} ss_lnode;

typedef struct ss_lowered {
    ss_lvalue *value;
    ss_lnode *node;
    int values, nodes;
    int *output; /* lowered values of the graph's outputs, plain */
    int outputs;
    int *result; /* lowered node of each of the graph's results */
    int results;
} ss_lowered;

/* The graph must outlive the result (names are shared). training also decides whether losses and metrics are differentiated: value.needs_grad is set only then. */
/* bf16: activations that go into products (SS_OP_PRODUCT) are rounded to bfloat16 by inserted nodes. */
ss_status ss_lower(const ss_graph *g, bool training, bool with_results, bool bf16, ss_lowered **out, ss_error *err);
void ss_lowered_free(ss_lowered *l);
/* plan/fuse.c: nodes joined or put in another order where that spares work and changes no bit. The last step of ss_lower. */
ss_status ss_fuse(ss_lowered *l, ss_error *err);

#endif
