/* Lowering and the plan of memory: what is alive at the same time never shares space, followed instruction by instruction through segments and sweeps without the planner's own idea of lifetimes. */
#include "tests/train_nets.h"

enum { MAX_TIMES = 4096, MAX_BUFFERS = 512 };

/* ---- lifetimes, from the references of instructions alone ---- */

typedef struct life {
    int first[64], last[64]; /* one interval a sweep, or one for all */
    int count, segment;      /* segment of its references; -1: several */
} life;

static int each_ref(const ss_instruction *i, int k, ss_ref *ref) { /* 1 while there are more */
    if (k < SS_MAX_IN) *ref = i->in[k];
    else if (k < 2 * SS_MAX_IN) *ref = i->grad_in[k - SS_MAX_IN];
    else if (k < 2 * SS_MAX_IN + SS_MAX_OUT) *ref = i->out[k - 2 * SS_MAX_IN];
    else if (k < 2 * SS_MAX_IN + 2 * SS_MAX_OUT) *ref = i->grad_out[k - 2 * SS_MAX_IN - SS_MAX_OUT];
    else if (k == 2 * SS_MAX_IN + 2 * SS_MAX_OUT) *ref = i->saved;
    else return 0;
    return 1;
}

static void touch(life *l, const ss_buffer *b, int sweep, int time) {
    int k = b->full ? 0 : sweep;
    while (l->count <= k) l->first[l->count++] = -1;
    if (l->first[k] < 0) l->first[k] = time;
    l->last[k] = time;
}

static void check_memory(const ss_program *p, const ss_schedule *s) {
    static life lives[MAX_BUFFERS];
    memset(lives, 0, sizeof lives);
    if (!CHECK(p->buffers <= MAX_BUFFERS && s->sweeps <= 64)) return;
    for (int b = 0; b < p->buffers; b++) lives[b].segment = -2;
    int time = 0, first = 0;
    for (int segment = 0; segment < p->segments; segment++) {
        int last = first;
        while (last < p->instructions && p->instruction[last].segment == segment) last++;
        for (int sweep = 0; sweep < s->sweeps; sweep++) {
            for (int n = first; n < last; n++, time++) {
                ss_ref ref;
                for (int k = 0; each_ref(&p->instruction[n], k, &ref); k++) {
                    if (ref.kind != SS_REF_BUFFER) continue;
                    touch(&lives[ref.index], &p->buffer[ref.index], sweep, time);
                    int *where = &lives[ref.index].segment;
                    *where = *where == -2 || *where == segment ? segment : -1;
                }
            }
            for (int k = 0; k < p->outputs && segment == p->segments - 1; k++) { /* copied out after the sweep */
                if (p->output[k].kind != SS_REF_BUFFER) continue;
                touch(&lives[p->output[k].index], &p->buffer[p->output[k].index], sweep, time);
                if (lives[p->output[k].index].segment != segment) lives[p->output[k].index].segment = -1;
            }
            time++;
        }
        first = last;
    }
    CHECK(first == p->instructions);
    int64_t sum = 0;
    for (int a = 0; a < p->buffers; a++) {
        const ss_buffer *x = &p->buffer[a];
        int64_t rows = x->full ? s->most_rows : s->most_sweep_rows;
        sum += x->bytes;
        CHECK(lives[a].count > 0); /* somebody uses it */
        CHECK(x->bytes >= x->sample_bytes * rows + SS_RED_ZONE && x->offset >= 0 && x->offset % SS_ALIGN == 0 && x->offset + x->bytes <= p->activation_bytes);
        if (s->sweeps > 1) CHECK(x->full || lives[a].segment >= 0); /* what crosses a segment's border holds all rows */
        for (int b = 0; b < a; b++) {
            const ss_buffer *y = &p->buffer[b];
            if (x->offset + x->bytes <= y->offset || y->offset + y->bytes <= x->offset) continue;
            bool apart = true;
            for (int i = 0; i < lives[a].count; i++)
                for (int j = 0; j < lives[b].count; j++)
                    if (lives[a].first[i] >= 0 && lives[b].first[j] >= 0) apart &= lives[a].last[i] < lives[b].first[j] || lives[b].last[j] < lives[a].first[i];
            if (!CHECK(apart)) fprintf(stderr, "    buffers %d (%s) and %d (%s)\n", a, x->what, b, y->what);
        }
    }
    CHECK(p->activation_bytes <= sum);
    if (p->buffers > 6) CHECK(p->activation_bytes < sum); /* something was shared */
}

static void check_slots(const ss_graph *g, const ss_program *p) {
    int uses[64] = {0}, expected[64] = {0};
    bool numbered[64][8] = {{false}};
    for (int k = 0; k < p->slots; k++) {
        if (!CHECK(p->slot[k].parameter < 64 && p->slot[k].use < 8)) return;
        CHECK(!numbered[p->slot[k].parameter][p->slot[k].use]);
        numbered[p->slot[k].parameter][p->slot[k].use] = true;
        uses[p->slot[k].parameter]++;
        /* Uses are numbered in graph order; backward instructions run the other way round. */
        for (int j = 0; j < k; j++)
            if (p->slot[j].parameter == p->slot[k].parameter) CHECK((p->slot[j].use > p->slot[k].use) == (p->slot[j].instruction < p->slot[k].instruction));
    }
    for (int n = 0; n < g->nodes; n++)
        for (int k = 0; k < g->node[n].n_in; k++)
            if (g->node[n].in[k] >= 0 && g->value[g->node[n].in[k]].kind == SS_VALUE_PARAMETER) expected[g->value[g->node[n].in[k]].index]++;
    for (int k = 0; k < g->parameters; k++) CHECK(uses[k] == expected[k]);
}

static void check_program(const ss_graph *g, bool training, int lanes, int at_once, int64_t batch, int rank, int ranks) {
    ss_error err;
    ss_schedule *s = NULL;
    ss_program *p = NULL;
    ss_program_options o = {.training = training, .with_results = true, .isa = SS_ISA_SCALAR, .threads = 2};
    if (!CHECK(ss_schedule_create(rank, ranks, lanes, at_once, batch, &s, &err) == SS_OK)) return;
    if (CHECK(ss_program_build(g, &o, s, &p, &err) == SS_OK)) {
        check_memory(p, s);
        if (training) check_slots(g, p);
        else CHECK(p->slots == 0);
        CHECK(p->results == g->results && p->outputs == g->outputs && p->prepares == g->results);
        for (int k = 0; k < p->instructions; k++) CHECK(k == 0 || p->instruction[k].segment - p->instruction[k - 1].segment <= 1);
    }
    ss_program_free(p);
    ss_schedule_free(s);
}

static int nodes_of(const ss_lowered *l, const char *op) {
    int count = 0, index = ss_op_find(op);
    for (int n = 0; n < l->nodes; n++) count += l->node[n].op == index;
    return count;
}

static ss_lowered *lower(const ss_graph *g, bool training, bool with_results) {
    ss_lowered *l = NULL;
    ss_error err;
    CHECK(ss_lower(g, training, with_results, false, &l, &err) == SS_OK);
    return l;
}

static void check_dropout(void) {
    ss_graph *g = NULL;
    ss_error err;
    if (!CHECK(net_graph(NET_DROPOUT, &g, &err) == SS_OK)) return;
    for (int training = 0; training < 2; training++) {
        ss_lowered *l = lower(g, training, true);
        if (!l) break;
        CHECK(nodes_of(l, "dropout") == training && nodes_of(l, "linear") == 3 && nodes_of(l, "relayout") == 0);
        /* The number of random numbers is that of the traced node, whatever was left out. */
        for (int n = 0; n < l->nodes; n++) CHECK(l->node[n].traced < 0 || l->node[n].number == (uint32_t)l->node[n].traced);
        for (int v = 0; v < l->values; v++) CHECK(training || !l->value[v].needs_grad);
        ss_lowered_free(l);
    }
    ss_graph_free(g);
}

/* One image read by two convolutions, a plain operator and twice as an output: each conversion is made once. */
static void check_relayout(void) {
    builder b = {0};
    if (!CHECK(ss_graph_create(&b.g, &b.err) == SS_OK)) return;
    int x = put_input(&b, "x", ss_shape_of(3, 3, 8, 8, 0), SS_F32), y = put_input(&b, "y", (ss_shape){.rank = 0}, SS_I32);
    int p = put_conv(&b, "a", x, 3, 4), q = put_conv(&b, "b", x, 3, 4);
    int sum = PUT(&b, "relu", "relu", NULL, 0, PUT(&b, "add", "sum", NULL, 0, p, q));
    int h = put_linear(&b, "fc", PUT(&b, "flatten", "flat", NULL, 0, sum), 4 * 8 * 8, NET_CLASSES);
    int dead = PUT(&b, "tanh", "dead", NULL, 0, put_linear(&b, "dead_fc", h, NET_CLASSES, 3));
    int loss = PUT(&b, "cross_entropy", "loss", NULL, 0, h, y);
    CHECK(b.status == SS_OK && dead >= 0);
    CHECK(ss_graph_output(b.g, sum, &b.err) == SS_OK && ss_graph_output(b.g, sum, &b.err) == SS_OK && ss_graph_output(b.g, h, &b.err) == SS_OK);
    CHECK(ss_graph_result(b.g, loss, "loss", 1, &b.err) == SS_OK);
    ss_lowered *l = lower(b.g, true, true);
    if (l) {
        CHECK(nodes_of(l, "relayout") == 1); /* sum to plain, for three users; x is loaded channels last */
        CHECK(l->value[0].kind == SS_VALUE_INPUT && l->value[0].layout == SS_CHANNELS_LAST);
        CHECK(nodes_of(l, "tanh") == 0 && nodes_of(l, "linear") == 1 && nodes_of(l, "cross_entropy") == 1);
        CHECK(l->outputs == 3 && l->output[0] == l->output[1] && l->value[l->output[0]].layout == SS_PLAIN);
        for (int n = 0; n < l->nodes; n++) { /* every batched input has the layout its node wants, and is made before */
            for (int k = 0; k < l->node[n].n_in; k++) {
                const ss_lvalue *v = &l->value[l->node[n].in[k]];
                CHECK(!v->batched || v->neutral || v->layout == l->node[n].layout);
                CHECK(v->node < n);
            }
            for (int k = 0; k < l->node[n].n_out; k++) CHECK(l->value[l->node[n].out[k]].node == n);
        }
    }
    ss_lowered_free(l);
    if ((l = lower(b.g, false, false))) {
        CHECK(nodes_of(l, "cross_entropy") == 0 && l->results == 0);
        ss_lowered_free(l);
    }
    check_program(b.g, false, 8, 2, 19, 0, 1);
    ss_graph_free(b.g);
}

static void check_refusals(void) {
    ss_graph *g = NULL;
    ss_schedule *s = NULL;
    ss_program *p = NULL;
    ss_error err;
    int value;
    ss_shape huge = ss_shape_of(2, 1 << 20, 1 << 20, 0, 0), flat = shape1(1 << 20);
    builder b = {0};
    if (!CHECK(net_graph(NET_MLP, &g, &err) == SS_OK && ss_graph_create(&b.g, &err) == SS_OK)) return;
    /* A graph without a loss has nothing to train. */
    ss_program_options o = {.training = true, .isa = SS_ISA_SCALAR, .threads = 1};
    CHECK(ss_schedule_create(0, 1, 8, 0, 16, &s, &err) == SS_OK);
    CHECK(ss_program_build(g, &o, s, &p, &err) == SS_ERR_VALUE && strstr(err.message, "nothing to train") && !p);
    ss_schedule_free(s);
    s = NULL;
    /* Sizes beyond the address space are an answer, not an overflow. */
    int x = put_input(&b, "x", huge, SS_F32), y = put_input(&b, "y", huge, SS_F32), w = put_parameter(&b, "w", shape2(1 << 20, 1 << 20));
    int loss = PUT(&b, "mse", "loss", NULL, 0, PUT(&b, "linear", "fc", NULL, 0, x, w), y);
    CHECK(b.status == SS_OK && ss_graph_result(b.g, loss, "loss", 1, &err) == SS_OK);
    o.with_results = true;
    CHECK(ss_schedule_create(0, 1, 8, 0, INT32_MAX, &s, &err) == SS_OK);
    CHECK(ss_program_build(b.g, &o, s, &p, &err) == SS_ERR_MEMORY && !p);
    ss_schedule_free(s);
    /* Losses are known at the end of a step only. */
    CHECK(ss_graph_node(b.g, "relu", &loss, 1, NULL, 0, "after", &value, &err) == SS_ERR_VALUE && strstr(err.message, "layer 'after'"));
    CHECK(ss_graph_output(b.g, loss, &err) == SS_ERR_VALUE);
    CHECK(ss_graph_result(b.g, x, "x", 1, &err) == SS_ERR_VALUE);
    CHECK(ss_graph_output(b.g, w, &err) == SS_ERR_VALUE && ss_graph_output(b.g, 999, &err) == SS_ERR_VALUE);
    int before = b.g->values, nodes = b.g->nodes;
    CHECK(ss_graph_parameter(b.g, "w", &flat, true, &value, &err) == SS_ERR_VALUE); /* the name is taken */
    CHECK(ss_graph_node(b.g, "nonsense", &x, 1, NULL, 0, "l", &value, &err) == SS_ERR_VALUE);
    CHECK(ss_graph_node(b.g, "relu", &before, 1, NULL, 0, "l", &value, &err) == SS_ERR_VALUE);
    CHECK(ss_graph_node(b.g, "relu", (int[]){x, x, x, x, x, x, x, x, x}, 9, NULL, 0, "l", &value, &err) == SS_ERR_VALUE);
    CHECK(ss_graph_node(b.g, "relu", &w, 1, NULL, 0, NULL, &value, &err) == SS_ERR_VALUE);
    ss_attr nan = {"p", NAN}, odd = {"q", 0};
    CHECK(ss_graph_node(b.g, "dropout", &x, 1, &nan, 1, "l", &value, &err) == SS_ERR_VALUE && ss_graph_node(b.g, "dropout", &x, 1, &odd, 1, "l", &value, &err) == SS_ERR_VALUE);
    CHECK(b.g->values == before && b.g->nodes == nodes);
    ss_graph_free(b.g);
    ss_graph_free(g);
}

int main(void) {
    uint64_t held = ss_alloc_bytes();
    static const int at_once[] = {0, 1, 2, 4};
    for (int kind = 0; kind < NET_KINDS; kind++) {
        ss_graph *g = NULL;
        ss_error err;
        if (!CHECK(net_graph(kind, &g, &err) == SS_OK)) continue;
        for (int training = 0; training < 2; training++)
            for (int k = 0; k < 4; k++) {
                check_program(g, training, 8, at_once[k], 40, 0, 1);
                check_program(g, training, 8, at_once[k], 5, 1, 3);
                check_program(g, training, 13, at_once[k], 29, 1, 3);
            }
        ss_graph_free(g);
    }
    check_dropout();
    check_relayout();
    check_refusals();
    CHECK(ss_alloc_bytes() == held);
    return TEST_DONE();
}
