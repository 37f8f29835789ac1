#include "plan/program.h"
#include <assert.h>
#include <string.h>
#include "base/alloc.h"

#define SOLO_SECONDS 2e-6      /* work below which a barrier costs more than sharing saves */
#define FLOPS_PER_SECOND 60e9  /* of one thread, for rough estimates */
#define BYTES_PER_SECOND 30e9
#define REMAKE_BYTES (32 << 20) /* of activations that a rank need not keep, from which on they are made again */

/* What is known of the program while it is being written. */
typedef struct builder {
    const ss_graph *graph;
    const ss_program_options *options;
    const ss_schedule *schedule;
    ss_program *p;
    ss_ref *place;    /* [values] where a lowered value lies */
    ss_ref *gradient; /* [values] the gradient of a value gathered so far */
    ss_ref *saved;    /* [nodes] */
    ss_ref *remade;   /* [values] where a value lies that was made again for the backward pass */
    bool remakes;
    int *uses;        /* [parameters] uses met so far, counted from the last in graph order */
    ss_kernels const *kernels;
    int segment;
} builder;

void ss_program_free(ss_program *p) {
    if (!p) return;
    ss_free(p->result_prepare);
    ss_free(p->result_stat);
    ss_free(p->output);
    ss_free(p->prepare);
    ss_free(p->stat);
    ss_free(p->slot);
    ss_free(p->buffer);
    ss_free(p->instruction);
    ss_lowered_free(p->lowered);
    ss_free(p);
}

static ss_ref new_buffer(builder *b, int64_t sample_bytes, const char *what) {
    ss_program *p = b->p;
    p->buffer[p->buffers] = (ss_buffer){.sample_bytes = sample_bytes, .first = p->instructions, .last = p->instructions, .what = what};
    return (ss_ref){SS_REF_BUFFER, p->buffers++};
}

static int64_t value_bytes(const ss_lvalue *v) { return ss_shape_count(&v->shape) * 4; }

/* Marks a buffer as read by the instruction being written. */
static ss_ref use(builder *b, ss_ref ref) {
    if (ref.kind == SS_REF_BUFFER) b->p->buffer[ref.index].last = b->p->instructions;
    return ref;
}

static const ss_op *op_of(const builder *b, const ss_lnode *node) { return ss_op_at(b->options->isa, node->op); }

/* The part of a call that shapes decide. rows and fold are those of the largest sweep, for workspace questions. */
static void fill_call(const builder *b, const ss_lnode *node, ss_call *c) {
    const ss_lowered *l = b->p->lowered;
    const ss_schedule *s = b->schedule;
    *c = (ss_call){.attr = node->attr, .n_in = node->n_in, .n_out = node->n_out, .layout = node->layout, .training = b->options->training, .bf16 = b->options->bf16, .loss_weight = node->weight,
                   .rows = s->most_sweep_rows, .batch = s->most_batch, .fold = &s->sweep[0].fold, .threads = b->options->threads,
                   .op_number = node->number, .backend = b->options->backend, .kernels = b->kernels};
    for (int k = 0; k < node->n_in; k++) {
        if (node->in[k] < 0) {
            c->in_shape[k].rank = -1;
            continue;
        }
        const ss_lvalue *v = &l->value[node->in[k]];
        c->in_shape[k] = v->shape;
        c->role[k] = v->batched ? SS_ROLE_BATCHED : v->kind == SS_VALUE_BUFFER ? SS_ROLE_BUFFER : SS_ROLE_PARAMETER;
    }
    for (int k = 0; k < node->n_out; k++) c->out_shape[k] = l->value[node->out[k]].shape;
}

/* Begins an instruction for a node; the caller fills its references and calls finish(). */
static ss_instruction *begin(builder *b, int node_index, bool backward, ss_stage stage) {
    ss_program *p = b->p;
    const ss_lnode *node = &p->lowered->node[node_index];
    ss_instruction *i = &p->instruction[p->instructions];
    memset(i, 0, sizeof *i);
    i->op = op_of(b, node);
    i->node = node_index;
    i->backward = backward;
    i->stage = stage;
    i->segment = b->segment;
    i->stat = -1;
    i->layer = node->layer;
    i->phases = 1;
    fill_call(b, node, &i->call);
    if (stage == SS_STAGE_RUN) {
        int phases = backward ? i->op->backward_phases : i->op->forward_phases;
        i->phases = phases ? phases : 1;
        if (i->op->scratch_bytes) {
            /* The deepest fold decides, whichever sweep that is. */
            ss_fold fold = b->schedule->sweep[0].fold;
            fold.depth = b->schedule->most_depth;
            i->call.fold = &fold;
            i->scratch_bytes = i->op->scratch_bytes(&i->call, backward);
        }
    }
    i->call.fold = NULL;
    p->scratch_bytes = ss_max(p->scratch_bytes, i->scratch_bytes);
    return i;
}

static void finish(builder *b) { b->p->instructions++; }

static void refer_inputs(builder *b, ss_instruction *i, bool batched_too) {
    const ss_lnode *node = &b->p->lowered->node[i->node];
    for (int k = 0; k < node->n_in; k++) {
        if (node->in[k] < 0) continue;
        const ss_lvalue *v = &b->p->lowered->value[node->in[k]];
        /* What is not an activation is always at hand; activations are kept only for operators that say they read them. */
        if (batched_too || !v->batched) {
            bool again = i->backward && b->remade[node->in[k]].kind != SS_REF_NONE;
            i->in[k] = use(b, again ? b->remade[node->in[k]] : b->place[node->in[k]]);
        }
        bool rounded = b->options->bf16 && (i->op->flags & (SS_OP_PRODUCT | SS_OP_ROUNDS)) == SS_OP_PRODUCT && v->kind == SS_VALUE_PARAMETER && v->shape.rank >= 2;
        if (rounded) i->in[k].kind = SS_REF_ROUNDED;
        b->p->rounded |= rounded;
    }
}

static int64_t stat_length(const ss_instruction *i, bool backward) {
    return i->op->stat_len ? i->op->stat_len(&i->call, backward) : 0;
}

static int add_stat(builder *b, const ss_instruction *i, int64_t length, bool result) {
    ss_program *p = b->p;
    const double *attr = p->lowered->node[i->node].attr;
    p->stat[p->stats] = (ss_stat){.node = i->node, .instruction = p->instructions, .backward = i->backward, .result = result, .length = length,
                                  .group_lanes = i->op->stat_lanes ? (int)i->op->stat_lanes(attr) : 0};
    return p->stats++;
}

static bool is_result(const ss_op *op) { return op->flags & (SS_OP_LOSS | SS_OP_METRIC); }

static void write_forward(builder *b, int index) {
    ss_program *p = b->p;
    const ss_lnode *node = &p->lowered->node[index];
    const ss_op *op = op_of(b, node);
    if (op->flags & SS_OP_ALIAS) {
        b->place[node->out[0]] = b->place[node->in[0]];
        return;
    }
    p->hosted |= (op->flags & SS_OP_HOST) != 0;
    ss_instruction *i = begin(b, index, false, SS_STAGE_RUN);
    int64_t saved = op->saved_bytes ? op->saved_bytes(&i->call) : 0;
    int64_t length = stat_length(i, false);
    int stat = -1;
    if (length) {
        i = begin(b, index, false, SS_STAGE_STAT);
        refer_inputs(b, i, true);
        if (saved && is_result(op)) b->saved[index] = i->saved = new_buffer(b, saved, "saved");
        i->stat = stat = add_stat(b, i, length, is_result(op));
        finish(b);
        if (is_result(op)) return;
        b->segment++;
        i = begin(b, index, false, SS_STAGE_RUN);
    }
    i->stat = stat;
    refer_inputs(b, i, true);
    if (saved) b->saved[index] = i->saved = new_buffer(b, saved, "saved");
    for (int k = 0; k < node->n_out; k++) b->place[node->out[k]] = i->out[k] = new_buffer(b, value_bytes(&p->lowered->value[node->out[k]]), "activation");
    finish(b);
}

/* Adds a contribution to the gradient of a value: the first is kept as it is, a further one is summed into a buffer of its own. */
static void contribute(builder *b, int value, ss_ref contribution, const ss_lnode *from) {
    ss_program *p = b->p;
    if (b->gradient[value].kind == SS_REF_NONE) {
        b->gradient[value] = contribution;
        return;
    }
    const ss_lvalue *v = &p->lowered->value[value];
    ss_instruction *i = &p->instruction[p->instructions];
    memset(i, 0, sizeof *i);
    i->op = ss_op_at(b->options->isa, ss_op_find("add"));
    i->node = -1;
    i->sum = i->backward = true;
    i->stage = SS_STAGE_RUN;
    i->phases = i->op->forward_phases ? i->op->forward_phases : 1;
    i->segment = b->segment;
    i->stat = -1;
    i->layer = from->layer;
    i->call = (ss_call){.n_in = 2, .n_out = 1, .in_shape = {v->shape, v->shape}, .out_shape = {v->shape}, .layout = v->layout,
                        .training = true, .threads = b->options->threads, .backend = b->options->backend, .kernels = b->kernels};
    i->in[0] = use(b, b->gradient[value]);
    i->in[1] = use(b, contribution);
    i->out[0] = b->gradient[value] = new_buffer(b, value_bytes(v), "gradient");
    finish(b);
}

/* The gradient of a product's output, rounded to bfloat16: an operand of the backward products. */
static void round_gradient(builder *b, int value, const ss_lnode *from) {
    ss_program *p = b->p;
    const ss_lvalue *v = &p->lowered->value[value];
    ss_instruction *i = &p->instruction[p->instructions];
    memset(i, 0, sizeof *i);
    i->op = ss_op_at(b->options->isa, ss_op_find("bf16_round"));
    i->node = -1;
    i->sum = i->backward = true;
    i->stage = SS_STAGE_RUN;
    i->phases = 1;
    i->segment = b->segment;
    i->stat = -1;
    i->layer = from->layer;
    i->call = (ss_call){.n_in = 1, .n_out = 1, .in_shape = {v->shape}, .out_shape = {v->shape}, .layout = v->layout,
                        .training = true, .threads = b->options->threads, .backend = b->options->backend, .kernels = b->kernels};
    i->in[0] = use(b, b->gradient[value]);
    i->out[0] = b->gradient[value] = new_buffer(b, value_bytes(v), "gradient");
    finish(b);
}

static void refer_backward(builder *b, ss_instruction *i) {
    const ss_lnode *node = &b->p->lowered->node[i->node];
    refer_inputs(b, i, i->op->flags & SS_OP_NEEDS_IN);
    i->saved = use(b, b->saved[i->node]);
    for (int k = 0; k < node->n_out; k++) {
        if (i->op->flags & SS_OP_NEEDS_OUT) i->out[k] = use(b, b->place[node->out[k]]);
        i->grad_out[k] = use(b, b->gradient[node->out[k]]);
    }
}

/* What may be made again instead of being kept: -1, or the node that makes it. */
static int remaker(const builder *b, const ss_lnode *user, int k) {
    if (user->in[k] < 0 || !(op_of(b, user)->flags & SS_OP_NEEDS_IN)) return -1;
    const ss_lvalue *v = &b->p->lowered->value[user->in[k]];
    if (!v->batched || v->node < 0) return -1;
    return op_of(b, &b->p->lowered->node[v->node])->flags & SS_OP_REMADE ? v->node : -1;
}

/* Bytes of a sample that need not be kept. */
static int64_t remade_bytes(const builder *b) {
    const ss_lowered *l = b->p->lowered;
    int64_t bytes = 0;
    for (int n = 0; n < l->nodes; n++)
        for (int k = 0; k < l->node[n].n_in; k++)
            if (remaker(b, &l->node[n], k) >= 0) bytes += value_bytes(&l->value[l->node[n].in[k]]);
    return bytes;
}

/* Runs the node of a value once more, right before the backward instruction that is about to be written. */
static void remake(builder *b, const ss_lnode *user) {
    for (int k = 0; b->remakes && k < user->n_in; k++) {
        int node = remaker(b, user, k), value = user->in[k];
        if (node < 0 || b->remade[value].kind != SS_REF_NONE) continue;
        ss_instruction *i = begin(b, node, false, SS_STAGE_RUN);
        refer_inputs(b, i, true);
        i->saved = use(b, b->saved[node]);
        i->out[0] = b->remade[value] = new_buffer(b, value_bytes(&b->p->lowered->value[value]), "activation made again");
        finish(b);
    }
}

static void write_backward(builder *b, int index) {
    ss_program *p = b->p;
    const ss_lnode *node = &p->lowered->node[index];
    const ss_lvalue *value = p->lowered->value, *out = &value[node->out[0]];
    const ss_op *op = op_of(b, node);
    bool loss = op->flags & SS_OP_LOSS, asked = loss && node->weight != 0;
    for (int k = 0; !loss && k < node->n_out; k++) asked |= value[node->out[k]].needs_grad && b->gradient[node->out[k]].kind != SS_REF_NONE;
    if (!asked) return;
    bool wanted = false, all_pass = op->flags & SS_OP_PASS;
    for (int k = 0; k < node->n_in; k++) {
        if (node->in[k] < 0 || !value[node->in[k]].needs_grad) continue;
        wanted = true;
        if (!value[node->in[k]].batched || !ss_shape_equal(&value[node->in[k]].shape, &out->shape)) all_pass = false;
    }
    if (!wanted) return;
    if ((op->flags & SS_OP_ALIAS) || all_pass) {
        for (int k = 0; k < node->n_in; k++)
            if (node->in[k] >= 0 && value[node->in[k]].needs_grad) contribute(b, node->in[k], b->gradient[node->out[0]], node);
        return;
    }
    for (int k = 0; b->options->bf16 && (op->flags & (SS_OP_PRODUCT | SS_OP_ROUNDS)) == SS_OP_PRODUCT && k < node->n_out; k++)
        if (b->gradient[node->out[k]].kind != SS_REF_NONE) round_gradient(b, node->out[k], node);
    remake(b, node);
    ss_instruction *i = begin(b, index, true, SS_STAGE_RUN);
    int64_t length = loss ? 0 : stat_length(i, true);
    int stat = -1;
    if (loss) /* the denominator alone is needed, and that is known before the step */
        for (int k = 0; k < p->stats; k++)
            if (p->stat[k].node == index) stat = k;
    if (length) {
        i = begin(b, index, true, SS_STAGE_STAT);
        refer_backward(b, i);
        i->stat = stat = add_stat(b, i, length, false);
        finish(b);
        b->segment++;
        i = begin(b, index, true, SS_STAGE_RUN);
    }
    i->stat = stat;
    refer_backward(b, i);
    for (int k = 0; k < node->n_in; k++) {
        if (node->in[k] < 0 || !value[node->in[k]].needs_grad) continue;
        const ss_lvalue *v = &value[node->in[k]];
        if (v->batched) {
            i->grad_in[k] = new_buffer(b, value_bytes(v), "gradient");
        } else {
            int parameter = b->graph->value[v->source].index;
            p->slot[p->slots] = (ss_slot){.parameter = parameter, .use = b->uses[parameter]++, .instruction = p->instructions};
            i->grad_in[k] = (ss_ref){SS_REF_GRADIENT, p->slots++};
        }
    }
    ss_ref made[SS_MAX_IN];
    memcpy(made, i->grad_in, sizeof made);
    finish(b);
    for (int k = 0; k < node->n_in; k++)
        if (made[k].kind == SS_REF_BUFFER) contribute(b, node->in[k], made[k], node);
}

ss_cost ss_instruction_cost(const ss_instruction *i) {
    ss_cost cost = {0}, forward = {0};
    if (i->sum || i->stage == SS_STAGE_STAT || !i->op->cost) return cost;
    ss_call c = i->call;
    static float wanted;
    for (int k = 0; k < c.n_in; k++) c.grad_in[k] = i->grad_in[k].kind == SS_REF_NONE ? NULL : &wanted;
    i->op->cost(&c, i->backward, &cost);
    if (!i->backward) return cost;
    i->op->cost(&c, false, &forward); /* `cost` of the backward pass includes the forward one */
    return (ss_cost){cost.flops - forward.flops, cost.bytes - forward.bytes};
}

/* Rough seconds of one sweep of an instruction on one thread: enough to tell a microsecond from ten. */
static double seconds_of(const ss_instruction *i) {
    ss_cost cost = {0};
    int64_t in = i->call.in_shape[0].rank < 0 ? 0 : ss_shape_count(&i->call.in_shape[0]);
    if (i->sum) {
        cost.bytes = 12.0 * (double)in;
    } else if (i->stage == SS_STAGE_STAT || !i->op->cost) {
        cost.flops = 20.0 * (double)in; /* a loss takes exponentials */
        cost.bytes = 8.0 * (double)in;
    } else {
        cost = ss_instruction_cost(i);
    }
    return (double)i->call.rows * (cost.flops / FLOPS_PER_SECOND + cost.bytes / BYTES_PER_SECOND);
}

static void estimate(builder *b) {
    ss_program *p = b->p;
    for (int k = 0; k < p->instructions; k++) {
        ss_instruction *i = &p->instruction[k];
        if (i->sum) i->call.rows = b->schedule->most_sweep_rows;
        double seconds = seconds_of(i);
        i->solo = seconds < SOLO_SECONDS;
        p->seconds += seconds;
    }
}

/* Every reference to buffer `from` refers to buffer `to`. */
static void rename_buffer(ss_program *p, int from, int to) {
    for (int n = 0; n < p->instructions; n++) {
        ss_instruction *i = &p->instruction[n];
        ss_ref *lists[] = {i->in, i->grad_in, i->out, i->grad_out, &i->saved};
        const int lengths[] = {SS_MAX_IN, SS_MAX_IN, SS_MAX_OUT, SS_MAX_OUT, 1};
        for (int k = 0; k < 5; k++)
            for (int j = 0; j < lengths[k]; j++)
                if (lists[k][j].kind == SS_REF_BUFFER && lists[k][j].index == from) lists[k][j].index = to;
    }
    for (int k = 0; k < p->outputs; k++)
        if (p->output[k].kind == SS_REF_BUFFER && p->output[k].index == from) p->output[k].index = to;
}

/* Buffer `from` becomes a part of the life of buffer `to`. */
static void merge_buffers(ss_program *p, int from, int to) {
    rename_buffer(p, from, to);
    p->buffer[to].last = p->buffer[from].last;
    p->buffers--;
    if (from == p->buffers) return;
    rename_buffer(p, p->buffers, from); /* the last one moves into the gap */
    p->buffer[from] = p->buffer[p->buffers];
}

/* `made` is first written by instruction n; `read` is read by it for the last time. */
static bool may_share(const ss_program *p, int n, ss_ref made, ss_ref read) {
    if (made.kind != SS_REF_BUFFER || read.kind != SS_REF_BUFFER || made.index == read.index) return false;
    const ss_buffer *a = &p->buffer[made.index], *b = &p->buffer[read.index];
    return a->first == n && b->last == n && b->first < n && a->sample_bytes == b->sample_bytes && a->sample_bytes > 0;
}

/* Results of elementwise operators are written over operands that nobody reads again: the lines are in the cache, and less memory is needed. */
static void share_buffers(ss_program *p) {
    for (int n = 0; n < p->instructions; n++) {
        const ss_instruction *i = &p->instruction[n];
        if (i->stage != SS_STAGE_RUN) continue;
        bool forward = !i->backward || i->sum;
        if (!(i->op->flags & (forward ? SS_OP_IN_PLACE : SS_OP_GRAD_IN_PLACE))) continue;
        for (int k = 0; k < i->call.n_in; k++) {
            ss_ref made = forward ? i->out[0] : i->grad_in[k], read = forward ? i->in[k] : i->grad_out[0];
            bool alike = i->call.role[k] == SS_ROLE_BATCHED && ss_shape_equal(&i->call.in_shape[k], &i->call.out_shape[0]);
            if (!alike || !may_share(p, n, made, read)) continue;
            merge_buffers(p, made.index, read.index);
            break;
        }
    }
}

static ss_status collect_prepares(builder *b, ss_error *err) {
    ss_program *p = b->p;
    for (int k = 0; k < p->instructions; k++) {
        const ss_instruction *i = &p->instruction[k];
        if (i->backward || !i->op->prepare) continue;
        if (p->prepares && p->instruction[p->prepare[p->prepares - 1]].node == i->node) continue;
        for (int j = 0; j < i->call.n_in; j++) {
            /* prepare reads inputs of the step before anything ran. Losses and metrics need their targets then; operators that check indices get NULL for what is computed. */
            bool judge = i->op->flags & (SS_OP_LOSS | SS_OP_METRIC), free = i->op->flags & SS_OP_FREE_TARGET;
            bool activation = judge && i->in[j].kind == SS_REF_BUFFER && !(j == 0 || (j == 1 && free));
            if (activation)
                return SS_FAIL(err, SS_ERR_VALUE, "layer '%s': input %d of %s must come from the data, not from another layer", i->layer, j, i->op->name);
        }
        p->prepare[p->prepares++] = k;
    }
    return SS_OK;
}

ss_status ss_program_build(const ss_graph *g, const ss_program_options *o, const ss_schedule *s, ss_program **out, ss_error *err) {
    ss_status status = SS_OK;
    builder b = {.graph = g, .options = o, .schedule = s, .kernels = ss_kernels_for(o->isa)};
    ss_program *p = b.p = ss_calloc(1, sizeof *p);
    if (!p) goto no_memory;
    SS_TRY(ss_lower(g, o->training, o->with_results, o->bf16, &p->lowered, err));
    size_t nodes = (size_t)p->lowered->nodes + 1, values = (size_t)p->lowered->values + 1;
    size_t instructions = nodes * (4 + SS_MAX_IN + SS_MAX_OUT);
    p->training = o->training;
    p->instruction = ss_calloc(instructions, sizeof *p->instruction);
    p->buffer = ss_calloc(nodes * (2 + 2 * SS_MAX_IN + 2 * SS_MAX_OUT), sizeof *p->buffer);
    p->slot = ss_calloc(nodes * SS_MAX_IN, sizeof *p->slot);
    p->stat = ss_calloc(nodes * 2, sizeof *p->stat);
    p->prepare = ss_calloc(nodes, sizeof *p->prepare);
    p->output = ss_calloc((size_t)g->outputs + 1, sizeof *p->output);
    p->result_stat = ss_calloc((size_t)g->results + 1, sizeof *p->result_stat);
    p->result_prepare = ss_calloc((size_t)g->results + 1, sizeof *p->result_prepare);
    b.place = ss_calloc(values, sizeof *b.place);
    b.gradient = ss_calloc(values, sizeof *b.gradient);
    b.saved = ss_calloc(nodes, sizeof *b.saved);
    b.remade = ss_calloc(values, sizeof *b.remade);
    b.uses = ss_calloc((size_t)g->parameters + 1, sizeof *b.uses);
    if (!p->instruction || !p->buffer || !p->slot || !p->stat || !p->prepare || !p->output || !p->result_stat || !p->result_prepare || !b.place ||
        !b.gradient || !b.saved || !b.remade || !b.uses)
        goto no_memory;

    const ss_lowered *l = p->lowered;
    for (int v = 0; v < l->values; v++) {
        if (l->value[v].source < 0) continue;
        const ss_value *leaf = &g->value[l->value[v].source];
        ss_ref_kind kind = leaf->kind == SS_VALUE_INPUT ? SS_REF_INPUT : leaf->kind == SS_VALUE_PARAMETER ? SS_REF_PARAMETER : SS_REF_STATE;
        b.place[v] = (ss_ref){kind, leaf->index};
    }
    /* Every rank must decide alike, so the average number of rows counts. */
    b.remakes = o->training && remade_bytes(&b) > REMAKE_BYTES / ss_max(s->most_batch, 1) * s->ranks;
    for (int n = 0; n < l->nodes; n++) write_forward(&b, n);
    for (int n = l->nodes - 1; o->training && n >= 0; n--) write_backward(&b, n);
    p->segments = b.segment + 1;
    /* Uses were met from the last to the first; number them in graph order. */
    for (int k = 0; k < p->slots; k++) p->slot[k].use = b.uses[p->slot[k].parameter] - 1 - p->slot[k].use;
    SS_TRY(collect_prepares(&b, err));
    for (int k = 0; k < l->outputs; k++) p->output[p->outputs++] = use(&b, b.place[l->output[k]]);
    share_buffers(p);
    for (int k = 0; k < l->results; k++) {
        for (int j = 0; j < p->stats; j++)
            if (p->stat[j].node == l->result[k]) p->result_stat[k] = j;
        for (int j = 0; j < p->prepares; j++)
            if (p->instruction[p->prepare[j]].node == l->result[k]) p->result_prepare[k] = j;
        p->results++;
    }
    if (o->training && p->slots == 0) {
        status = SS_FAIL(err, SS_ERR_VALUE, "nothing to train: no trainable parameter influences a loss");
        goto done;
    }
    estimate(&b);
    SS_TRY(ss_memory_plan(p, s, err));
    *out = p;
    p = NULL;
    goto done;
no_memory:
    status = SS_FAIL(err, SS_ERR_MEMORY, "no memory to plan a graph of %d nodes", g->nodes);
done:
    ss_free(b.uses);
    ss_free(b.remade);
    ss_free(b.saved);
    ss_free(b.gradient);
    ss_free(b.place);
    ss_program_free(p);
    return status;
}
