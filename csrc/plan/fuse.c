/* Rewrites of the lowered graph that spare passes over memory and change no bit.
 *
 *   relu(batch_norm(x))            becomes batch_norm with relu
 *   relu(batch_norm(x) + y)        becomes batch_norm with y as residual and relu; the later operand is the one that is kept
 *   max_pool2d(relu(x))            becomes relu(max_pool2d(x)): the maximum and relu commute, and the relu meets fewer elements
 *
 * A value between two of these nodes must have no other user and be no output.
 */
#include <assert.h>
#include <string.h>
#include "base/alloc.h"
#include "plan/lower.h"

enum { BATCH_NORM_INPUTS = 5 };

typedef struct fusion {
    ss_lowered *l;
    int *users; /* [values] */
    bool *dead; /* [nodes] */
    int relu, add, batch_norm, max_pool, relu_attr;
} fusion;

/* The node that makes a value for one user alone; -1 when there is none. */
static int sole_maker(const fusion *f, int value, int op) {
    int node = value < 0 || f->users[value] != 1 ? -1 : f->l->value[value].node;
    return node >= 0 && !f->dead[node] && f->l->node[node].op == op ? node : -1;
}

static bool bare(const fusion *f, int node) { return node >= 0 && f->l->node[node].attr[f->relu_attr] == 0 && f->l->node[node].n_in <= BATCH_NORM_INPUTS; }

/* `node` makes the output of `user`, which is no more. */
static void take_over(fusion *f, int node, int user) {
    ss_lnode *n = &f->l->node[node];
    n->out[0] = f->l->node[user].out[0];
    f->l->value[n->out[0]].node = node;
    n->attr[f->relu_attr] = 1;
    f->dead[user] = true;
}

static void fuse_relu(fusion *f, int index) {
    ss_lnode *node = f->l->node;
    int norm = sole_maker(f, node[index].in[0], f->batch_norm), add = sole_maker(f, node[index].in[0], f->add);
    if (bare(f, norm)) {
        take_over(f, norm, index);
        return;
    }
    if (add < 0) return;
    int best = -1, residual = -1;
    for (int k = 0; k < 2; k++) {
        int maker = sole_maker(f, node[add].in[k], f->batch_norm), other = node[add].in[1 - k];
        const ss_lvalue *a = &f->l->value[node[add].in[k]], *b = &f->l->value[other];
        bool alike = b->batched && b->dtype == SS_F32 && ss_shape_equal(&a->shape, &b->shape) && (b->neutral || a->layout == b->layout);
        if (!bare(f, maker) || !alike || b->node >= maker || maker < best) continue;
        best = maker;
        residual = other;
    }
    if (best < 0) return;
    ss_lnode *n = &node[best];
    while (n->n_in < BATCH_NORM_INPUTS) n->in[n->n_in++] = -1;
    n->in[n->n_in++] = residual;
    f->dead[add] = true;
    take_over(f, best, index);
}

/* The nodes change places: the pool reads what the relu has read, and the value between them is the pooled one. */
static void swap_pool(fusion *f, int index) {
    ss_lnode *node = f->l->node;
    int relu = sole_maker(f, node[index].in[0], f->relu);
    if (relu < 0) return;
    int x = node[relu].in[0], between = node[relu].out[0], out = node[index].out[0];
    ss_lnode pool = node[index], after = node[relu];
    pool.in[0] = x;
    pool.out[0] = between;
    after.in[0] = between;
    after.out[0] = out;
    after.layout = pool.layout;
    f->l->value[between].shape = f->l->value[out].shape;
    f->l->value[between].layout = f->l->value[out].layout;
    f->l->value[between].neutral = f->l->value[out].neutral;
    node[relu] = pool;
    node[index] = after;
}

static void compact(ss_lowered *l, const bool *dead) {
    int kept = 0;
    for (int i = 0; i < l->nodes; i++) {
        if (dead[i]) continue;
        l->node[kept] = l->node[i];
        for (int k = 0; k < l->node[kept].n_out; k++) l->value[l->node[kept].out[k]].node = kept;
        for (int k = 0; k < l->results; k++)
            if (l->result[k] == i) l->result[k] = kept;
        kept++;
    }
    l->nodes = kept;
}

static int attribute(const ss_op *op, const char *name) {
    for (int k = 0; op->attrs[k].name; k++)
        if (!strcmp(op->attrs[k].name, name)) return k;
    assert(false);
    return -1;
}

ss_status ss_fuse(ss_lowered *l, ss_error *err) {
    ss_status status = SS_OK;
    fusion f = {.l = l, .relu = ss_op_find("relu"), .add = ss_op_find("add"), .batch_norm = ss_op_find("batch_norm"), .max_pool = ss_op_find("max_pool2d")};
    f.users = ss_calloc((size_t)l->values + 1, sizeof *f.users);
    f.dead = ss_calloc((size_t)l->nodes + 1, sizeof *f.dead);
    if (!f.users || !f.dead) {
        status = SS_FAIL(err, SS_ERR_MEMORY, "no memory to fuse a graph of %d nodes", l->nodes);
        goto done;
    }
    f.relu_attr = attribute(ss_op_at(SS_ISA_SCALAR, f.batch_norm), "relu");
    for (int i = 0; i < l->nodes; i++)
        for (int k = 0; k < l->node[i].n_in; k++)
            if (l->node[i].in[k] >= 0) f.users[l->node[i].in[k]]++;
    for (int k = 0; k < l->outputs; k++) f.users[l->output[k]]++;
    for (int i = 0; i < l->nodes; i++) {
        if (l->node[i].op == f.relu) fuse_relu(&f, i);
        else if (l->node[i].op == f.max_pool) swap_pool(&f, i);
    }
    compact(l, f.dead);
done:
    ss_free(f.dead);
    ss_free(f.users);
    return status;
}
