/* Small networks and data for the tests of plan/ and train/. A builder keeps its first failure and does nothing after it, so a network reads like a list, also where allocations are made to fail. */
#ifndef SS_TESTS_TRAIN_NETS_H
#define SS_TESTS_TRAIN_NETS_H
#include <stdlib.h>
#include "base/alloc.h"
#include "base/philox.h"
#include "include/samestep.h"
#include "tests/test.h"

typedef enum net_kind { NET_MLP, NET_CNN, NET_GROUPED, NET_SHARED, NET_DROPOUT, NET_KINDS } net_kind;

enum { NET_CLASSES = 5, NET_MAX_FEATURES = 3 * 8 * 8, NET_MAX_BATCH = 64 };

typedef struct builder {
    ss_graph *g;
    ss_status status;
    ss_error err;
} builder;

static inline ss_shape shape1(int64_t a) { return ss_shape_of(1, a, 0, 0, 0); }
static inline ss_shape shape2(int64_t a, int64_t b) { return ss_shape_of(2, a, b, 0, 0); }

static inline int put_input(builder *b, const char *name, ss_shape shape, ss_dtype dtype) {
    int value = -1;
    if (b->status == SS_OK) b->status = ss_graph_input(b->g, name, &shape, dtype, &value, &b->err);
    return value;
}

static inline int put_parameter(builder *b, const char *name, ss_shape shape) {
    int value = -1;
    if (b->status == SS_OK) b->status = ss_graph_parameter(b->g, name, &shape, true, &value, &b->err);
    return value;
}

static inline int put_buffer(builder *b, const char *name, ss_shape shape) {
    int value = -1;
    if (b->status == SS_OK) b->status = ss_graph_buffer(b->g, name, &shape, &value, &b->err);
    return value;
}

/* inputs end with -2 (-1 stands for an absent one). */
#define PUT(b, op, layer, attr, attrs, ...) put_node((b), (op), (layer), (attr), (attrs), (int[]){__VA_ARGS__, -2})
static inline int put_node(builder *b, const char *op, const char *layer, const ss_attr *attr, int attrs, const int *in) {
    int value = -1, n = 0;
    while (in[n] != -2) n++;
    if (b->status == SS_OK) b->status = ss_graph_node(b->g, op, in, n, attr, attrs, layer, &value, &b->err);
    return value;
}

static inline int put_linear(builder *b, const char *layer, int x, int64_t in, int64_t out) {
    char weight[SS_NAME], bias[SS_NAME];
    snprintf(weight, sizeof weight, "%s.weight", layer);
    snprintf(bias, sizeof bias, "%s.bias", layer);
    int w = put_parameter(b, weight, shape2(out, in)), c = put_parameter(b, bias, shape1(out));
    return PUT(b, "linear", layer, NULL, 0, x, w, c);
}

static inline int put_conv(builder *b, const char *layer, int x, int64_t in, int64_t out) {
    static const ss_attr padded[] = {{"pad_h", 1}, {"pad_w", 1}};
    char weight[SS_NAME];
    snprintf(weight, sizeof weight, "%s.weight", layer);
    int w = put_parameter(b, weight, ss_shape_of(4, out, in, 3, 3));
    return PUT(b, "conv2d", layer, padded, 2, x, w);
}

static inline int put_batch_norm(builder *b, const char *layer, int x, int64_t channels, int stats_lanes) {
    static const char *const parts[] = {"gamma", "beta", "running_mean", "running_var"};
    char name[SS_NAME];
    int in[6] = {x, -1, -1, -1, -1, -2};
    for (int k = 0; k < 4; k++) {
        snprintf(name, sizeof name, "%s.%s", layer, parts[k]);
        in[k + 1] = k < 2 ? put_parameter(b, name, shape1(channels)) : put_buffer(b, name, shape1(channels));
    }
    ss_attr groups = {"stats_lanes", stats_lanes};
    return put_node(b, "batch_norm", layer, &groups, 1, in);
}

static inline int net_features(net_kind kind) { return kind == NET_CNN || kind == NET_GROUPED ? 3 * 8 * 8 : kind == NET_SHARED ? 6 : 10; }

/* Inputs x and y (labels), output logits, results loss and accuracy. */
static inline ss_status net_graph(net_kind kind, ss_graph **out, ss_error *err) {
    builder b = {0};
    ss_status status = ss_graph_create(&b.g, err);
    if (status != SS_OK) return status;
    int64_t features = net_features(kind);
    bool image = kind == NET_CNN || kind == NET_GROUPED;
    int x = put_input(&b, "x", image ? ss_shape_of(3, 3, 8, 8, 0) : shape1(features), SS_F32), y = put_input(&b, "y", (ss_shape){.rank = 0}, SS_I32);
    int h = -1;
    if (image) {
        int groups = kind == NET_GROUPED ? 2 : 0;
        int a = PUT(&b, "relu", "relu1", NULL, 0, put_batch_norm(&b, "bn1", put_conv(&b, "conv1", x, 3, 8), 8, groups));
        int c = put_batch_norm(&b, "bn2", put_conv(&b, "conv2", a, 8, 8), 8, groups);
        h = PUT(&b, "relu", "relu2", NULL, 0, PUT(&b, "add", "add", NULL, 0, c, a));
        static const ss_attr pool[] = {{"kernel_h", 2}, {"kernel_w", 2}, {"stride_h", 2}, {"stride_w", 2}};
        h = PUT(&b, "flatten", "flatten", NULL, 0, PUT(&b, "max_pool2d", "pool", pool, 4, h));
        h = put_linear(&b, "fc", h, 8 * 4 * 4, NET_CLASSES);
    } else if (kind == NET_SHARED) { /* one weight used by two layers, a third use of its bias, and a bias that nothing uses */
        int w = put_parameter(&b, "shared", shape2(6, 6)), c = put_parameter(&b, "shared_bias", shape1(6));
        put_parameter(&b, "unused", shape1(7));
        h = PUT(&b, "tanh", "t1", NULL, 0, PUT(&b, "linear", "fc1", NULL, 0, x, w, c));
        h = PUT(&b, "tanh", "t2", NULL, 0, PUT(&b, "linear", "fc2", NULL, 0, h, w, c));
        int own = put_parameter(&b, "own", shape2(6, 6));
        h = PUT(&b, "tanh", "t3", NULL, 0, PUT(&b, "linear", "fc3", NULL, 0, h, own, c));
        h = put_linear(&b, "head", h, 6, NET_CLASSES);
    } else {
        h = PUT(&b, "relu", "relu1", NULL, 0, put_linear(&b, "fc1", x, features, 24));
        if (kind == NET_DROPOUT) {
            static const ss_attr rate = {"p", 0.4};
            h = PUT(&b, "dropout", "drop", &rate, 1, h);
        }
        h = PUT(&b, "relu", "relu2", NULL, 0, put_linear(&b, "fc2", h, 24, 17));
        h = put_linear(&b, "fc3", h, 17, NET_CLASSES);
    }
    int loss = PUT(&b, "cross_entropy", "loss", NULL, 0, h, y), right = PUT(&b, "accuracy", "accuracy", NULL, 0, h, y);
    if (b.status == SS_OK) b.status = ss_graph_output(b.g, h, &b.err);
    if (b.status == SS_OK) b.status = ss_graph_result(b.g, loss, "loss", 1, &b.err);
    if (b.status == SS_OK) b.status = ss_graph_result(b.g, right, "accuracy", 1, &b.err);
    if (b.status != SS_OK) {
        *err = b.err;
        ss_graph_free(b.g);
        return b.status;
    }
    *out = b.g;
    return SS_OK;
}

/* Values that do not depend on the order of parameters in memory. */
static inline void net_fill(ss_model *m) {
    for (int k = 0; k < m->parameters; k++) {
        const ss_parameter *p = &m->parameter[k];
        float *at = m->values + p->offset;
        if (strstr(p->name, "gamma"))
            for (int64_t e = 0; e < p->count; e++) at[e] = 1;
        else
            ss_fill_normal(at, p->count, 11, (uint32_t)k, 0, strstr(p->name, "conv") ? 0.2f : 0.4f);
    }
    for (int k = 0; k < m->states; k++)
        for (int64_t e = 0; e < m->state[k].count; e++) m->states_at[m->state[k].offset + e] = strstr(m->state[k].name, "var") != NULL;
}

typedef struct net_data {
    float x[NET_MAX_BATCH * NET_MAX_FEATURES];
    int32_t y[NET_MAX_BATCH];
} net_data;

/* Labels that can be learnt: which of the first features is largest. */
static inline void net_data_fill(net_data *d, int features, uint64_t seed) {
    ss_fill_normal(d->x, (int64_t)NET_MAX_BATCH * features, seed, 900, 0, 1);
    for (int i = 0; i < NET_MAX_BATCH; i++) {
        d->y[i] = 0;
        for (int k = 1; k < NET_CLASSES; k++)
            if (d->x[i * features + k] > d->x[i * features + d->y[i]]) d->y[i] = k;
    }
}

/* This rank's rows of the first `batch` samples. */
static inline void net_feed(ss_session *s, int set, const net_data *d, int features, int64_t batch) {
    int64_t begin, end;
    ss_session_rows(s, batch, &begin, &end);
    memcpy(ss_session_input(s, set, 0), d->x + begin * features, (size_t)((end - begin) * features) * 4);
    memcpy(ss_session_input(s, set, 1), d->y + begin, (size_t)(end - begin) * 4);
}

/* FNV over the parameters and running statistics by name order of the graph, without padding. */
static inline uint64_t net_hash(const ss_model *m) {
    uint64_t h = SS_HASH_START;
    for (int k = 0; k < m->parameters; k++) h = ss_hash(h, m->values + m->parameter[k].offset, 4 * m->parameter[k].count);
    for (int k = 0; k < m->states; k++) h = ss_hash(h, m->states_at + m->state[k].offset, 4 * m->state[k].count);
    return h;
}

/* Everything of one run. */
typedef struct net_run {
    ss_transport *world;
    ss_graph *graph;
    ss_model *model;
    ss_session *session;
} net_run;

typedef struct net_setting {
    net_kind kind;
    int threads, lanes, at_once;
    ss_isa isa;
    int64_t batch;
    const char *optimizer;
    bool gradients;
    int sharing; /* how threads share work, below */
} net_setting;

/* These networks are so small that a session would leave them to one thread: the tests want the threads to work. */
enum { SHARE_ALL, SHARE_EVERY_OTHER, SHARE_ODD, SHARE_AS_PLANNED, SHARE_KINDS };

static inline void net_share(ss_session *s, int sharing) {
    if (sharing == SHARE_AS_PLANNED) return;
    s->single = false;
    for (int k = 0; k < s->program->instructions; k++) s->program->instruction[k].solo = sharing != SHARE_ALL && (k + sharing) % 2;
}

static inline void net_close(net_run *r) {
    ss_session_free(r->session);
    ss_model_free(r->model);
    ss_graph_free(r->graph);
    ss_transport_free(r->world);
    *r = (net_run){0};
}

/* world: taken over; NULL: a single rank. On failure nothing is left behind. */
static inline ss_status net_open(const net_setting *o, ss_transport *world, net_run *r, ss_error *err) {
    static const ss_attr lr = {"lr", 0.05};
    ss_status status = SS_OK;
    *r = (net_run){.world = world};
    ss_model_options model = {.optimizer = o->optimizer, .hyper = &lr, .hypers = o->optimizer ? 1 : 0, .threads = o->threads, .isa = o->isa, .seed = 5};
    ss_options session = {.batch = o->batch, .training = o->optimizer != NULL, .with_results = true, .lanes = o->lanes, .lanes_at_once = o->at_once, .gradients = o->gradients};
    if (!r->world) SS_TRY(ss_transport_self(&r->world, err));
    SS_TRY(net_graph(o->kind, &r->graph, err));
    SS_TRY(ss_model_create(r->graph, r->world, &model, &r->model, err));
    net_fill(r->model);
    SS_TRY(ss_session_create(r->model, r->graph, &session, &r->session, err));
    net_share(r->session, o->sharing);
done:
    if (status != SS_OK) net_close(r);
    return status;
}

static inline const float *net_gradient(const net_run *r, const char *name) { return ss_session_gradient(r->session, ss_model_find(r->model, name)); }

#endif
