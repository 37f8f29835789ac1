/* Rewrites of the lowered graph that spare passes over memory and change no bit.
 *
 *   relu(batch_norm(x))            becomes batch_norm with relu
 *   relu(batch_norm(x) + y)        becomes batch_norm with y as residual and relu; the later operand is the one that is kept
 *   attention(q, k, v)             of heads that are cut out of one (T, 3 heads D) and moved in front, whose result goes back to (T, heads D): reads and writes
 *                                  these in place
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
    int attention, slice, reshape, permute, round, packed_attr;
} fusion;

static int attribute(const ss_op *op, const char *name) {
    for (int k = 0; op->attrs[k].name; k++)
        if (!strcmp(op->attrs[k].name, name)) return k;
    assert(false);
    return -1;
}

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

static double attribute_of(const ss_lnode *n, const char *name) { return n->attr[attribute(ss_op_at(SS_ISA_SCALAR, n->op), name)]; }

/* The nodes between (T, 3 heads D) and one operand of attention, from the operand back. */
typedef struct head_chain {
    int round, permute, reshape, slice, source; /* round: -1 without precision bf16; source: a value */
} head_chain;

/* permute of (a, b, D) to (b, a, D) */
static bool swaps(const ss_lnode *n) { return attribute_of(n, "rank") == 3 && attribute_of(n, "p0") == 1 && attribute_of(n, "p1") == 0 && attribute_of(n, "p2") == 2; }

/* Whether `value` (heads, T, D) is part number `part` of a (T, 3 heads D). */
static bool cut_out(const fusion *f, int value, int part, head_chain *c) {
    const ss_lowered *l = f->l;
    if (value < 0) return false;
    const ss_shape heads = l->value[value].shape;
    c->round = sole_maker(f, value, f->round);
    if (c->round >= 0) value = l->node[c->round].in[0];
    c->permute = sole_maker(f, value, f->permute);
    if (c->permute < 0 || !swaps(&l->node[c->permute])) return false;
    c->reshape = sole_maker(f, l->node[c->permute].in[0], f->reshape);
    if (c->reshape < 0) return false;
    c->slice = sole_maker(f, l->node[c->reshape].in[0], f->slice);
    if (c->slice < 0) return false;
    const ss_lnode *cut = &l->node[c->slice];
    c->source = cut->in[0];
    const ss_lvalue *whole = &l->value[c->source];
    const int64_t width = heads.dim[0] * heads.dim[2];
    const double axis = attribute_of(cut, "axis");
    return whole->shape.rank == 2 && whole->shape.dim[0] == heads.dim[1] && whole->shape.dim[1] == 3 * width && whole->dtype == SS_F32 && (whole->neutral || whole->layout == SS_PLAIN) &&
           (axis == 1 || axis == -1) && attribute_of(cut, "start") == (double)(part * width) && attribute_of(cut, "step") == 1 && attribute_of(cut, "count") == (double)width;
}

/* The one user of a value; -1 when there are more, or the value is an output. */
static int sole_user(const fusion *f, int value, int op) {
    if (f->users[value] != 1) return -1;
    for (int i = 0; i < f->l->nodes; i++)
        for (int k = 0; k < f->l->node[i].n_in; k++)
            if (!f->dead[i] && f->l->node[i].in[k] == value) return f->l->node[i].op == op && f->l->node[i].n_in == 1 ? i : -1;
    return -1;
}

static void pack_heads(fusion *f, int index) {
    ss_lowered *l = f->l;
    ss_lnode *n = &l->node[index];
    head_chain c[3];
    for (int k = 3; k < n->n_in; k++)
        if (n->in[k] >= 0) return; /* masks: as it is */
    for (int k = 0; k < 3; k++)
        if (!cut_out(f, n->in[k], k, &c[k]) || c[k].source != c[0].source || (c[k].round < 0) != (c[0].round < 0)) return;
    if (f->users[c[0].source] != 3) return;
    const ss_shape heads = l->value[n->in[0]].shape, *result = &l->value[n->out[0]].shape;
    const int back = sole_user(f, n->out[0], f->permute), flat = back < 0 || !swaps(&l->node[back]) ? -1 : sole_user(f, l->node[back].out[0], f->reshape);
    if (flat < 0 || !ss_shape_equal(&heads, result)) return;
    const int out = l->node[flat].out[0];
    const ss_shape *joined = &l->value[out].shape;
    if (joined->rank != 2 || joined->dim[0] != heads.dim[1] || joined->dim[1] != heads.dim[0] * heads.dim[2] || !(l->value[out].neutral || l->value[out].layout == SS_PLAIN)) return;
    int source = c[0].source;
    for (int k = 0; k < 3; k++) {
        f->dead[c[k].permute] = f->dead[c[k].reshape] = f->dead[c[k].slice] = true;
        if (c[k].round >= 0) f->dead[c[k].round] = k > 0;
    }
    if (c[0].round >= 0) { /* one rounding of the whole */
        ss_lnode *r = &l->node[c[0].round];
        const int rounded = r->out[0];
        l->value[rounded].shape = l->value[source].shape;
        l->value[rounded].layout = l->value[source].layout;
        l->value[rounded].neutral = l->value[source].neutral;
        r->in[0] = source;
        source = rounded;
    }
    f->dead[back] = f->dead[flat] = true;
    n->n_in = 3;
    n->in[0] = source;
    n->in[1] = n->in[2] = -1;
    n->out[0] = out;
    n->attr[f->packed_attr] = (double)heads.dim[0];
    l->value[out].node = index;
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

ss_status ss_fuse(ss_lowered *l, ss_error *err) {
    ss_status status = SS_OK;
    fusion f = {.l = l, .relu = ss_op_find("relu"), .add = ss_op_find("add"), .batch_norm = ss_op_find("batch_norm"), .max_pool = ss_op_find("max_pool2d"),
                .attention = ss_op_find("attention"), .slice = ss_op_find("slice"), .reshape = ss_op_find("reshape"), .permute = ss_op_find("permute"), .round = ss_op_find("bf16_round")};
    f.users = ss_calloc((size_t)l->values + 1, sizeof *f.users);
    f.dead = ss_calloc((size_t)l->nodes + 1, sizeof *f.dead);
    if (!f.users || !f.dead) {
        status = SS_FAIL(err, SS_ERR_MEMORY, "no memory to fuse a graph of %d nodes", l->nodes);
        goto done;
    }
    f.packed_attr = attribute(ss_op_at(SS_ISA_SCALAR, f.attention), "packed");
    f.relu_attr = attribute(ss_op_at(SS_ISA_SCALAR, f.batch_norm), "relu");
    for (int i = 0; i < l->nodes; i++)
        for (int k = 0; k < l->node[i].n_in; k++)
            if (l->node[i].in[k] >= 0) f.users[l->node[i].in[k]]++;
    for (int k = 0; k < l->outputs; k++) f.users[l->output[k]]++;
    for (int i = 0; i < l->nodes; i++) {
        if (l->node[i].op == f.relu) fuse_relu(&f, i);
        else if (l->node[i].op == f.max_pool) swap_pool(&f, i);
        else if (l->node[i].op == f.attention) pack_heads(&f, i);
    }
    compact(l, f.dead);
done:
    ss_free(f.dead);
    ss_free(f.users);
    return status;
}
