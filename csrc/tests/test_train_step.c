/* Training end to end through the C API on one rank: it learns, its gradients are right, a bad batch changes nothing, and no setting changes a bit. */
#include <math.h>
#include <pthread.h>
#include "tests/train_nets.h"
#include "train/loader.h"

static const char *const names[NET_KINDS] = {"mlp", "cnn", "grouped", "shared", "dropout"};

static bool okay(ss_status status, const ss_error *err) {
    if (status != SS_OK) fprintf(stderr, "    %s\n", err->message);
    return status == SS_OK;
}

/* ---- the same bits whatever the setting ---- */

/* Steps of changing size, fewer samples than lanes among them. */
static const int64_t sizes[] = {32, 31, 5, 1, 32, 17};
enum { STEPS = sizeof sizes / sizeof *sizes };

typedef struct prints {
    uint64_t parameters[STEPS], outputs;
    double results[STEPS][4];
} prints;

static bool train(const net_setting *o, prints *out) {
    static net_data data;
    net_run r;
    ss_error err;
    int features = net_features(o->kind);
    memset(out, 0, sizeof *out);
    if (!CHECK(okay(net_open(o, NULL, &r, &err), &err))) return false;
    uint64_t allocations = 0;
    for (int step = 0; step < STEPS; step++) {
        net_data_fill(&data, features, 40 + (uint64_t)step);
        net_feed(r.session, step % 2, &data, features, sizes[step]);
        if (!CHECK(okay(ss_session_step(r.session, step % 2, sizes[step], true, SS_OK, out->results[step], NULL, &err), &err))) break;
        out->parameters[step] = net_hash(r.model);
        if (step == 0) allocations = ss_alloc_count();
        CHECK(ss_alloc_count() == allocations);
    }
    /* Outputs of the training graph too: they leave by sweeps. */
    static float logits[32 * NET_CLASSES];
    float *outputs[1] = {logits};
    memset(logits, 0, sizeof logits);
    net_feed(r.session, 0, &data, features, 19);
    CHECK(okay(ss_session_step(r.session, 0, 19, false, SS_OK, NULL, outputs, &err), &err));
    out->outputs = ss_hash(SS_HASH_START, logits, 19 * NET_CLASSES * 4);
    CHECK(ss_alloc_count() == allocations && r.model->step == STEPS);
    net_close(&r);
    return true;
}

static void same_bits(net_kind kind, const char *optimizer) {
    static const int lanes_of[] = {8, 6};
    for (int l = 0; l < 2; l++) {
        net_setting o = {.kind = kind, .threads = 1, .lanes = lanes_of[l], .at_once = 0, .isa = SS_ISA_SCALAR, .batch = 32, .optimizer = optimizer};
        prints first, other;
        if (!train(&o, &first)) return;
        for (int k = 0; k < STEPS; k++) CHECK(k == 0 || first.parameters[k] != first.parameters[k - 1]); /* something moved */
        for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
            if (!ss_kernels_for(isa)) continue;
            for (int threads = 1; threads <= 3; threads++)
                for (int at_once = 0; at_once <= 4; at_once = at_once ? 2 * at_once : 1) {
                    if (isa == SS_ISA_SCALAR && kind == NET_CNN && threads == 3) continue; /* slow, and nothing new */
                    o.isa = isa;
                    o.threads = threads;
                    o.at_once = at_once;
                    for (o.sharing = 0; o.sharing < (threads > 1 ? SHARE_KINDS : 1); o.sharing++) {
                        if (!train(&o, &other)) return;
                        if (!CHECK(!memcmp(&first, &other, sizeof first)))
                            fprintf(stderr, "    %s, %s, lanes %d: isa %s, %d threads, lanes_at_once %d, sharing %d\n", names[kind], optimizer, o.lanes, ss_isa_name(isa),
                                    threads, at_once, o.sharing);
                    }
                    o.sharing = SHARE_ALL;
                }
        }
        /* The number of lanes does belong to the run: another one may give other bits, and does here. */
        o.lanes = 4;
        o.threads = 1;
        if (train(&o, &other)) CHECK(memcmp(&first, &other, sizeof first));
    }
}

/* ---- it learns ---- */

static void learns(net_kind kind, const char *optimizer) {
    static net_data data;
    net_setting o = {.kind = kind, .threads = 2, .lanes = 8, .at_once = 4, .isa = SS_ISA_SCALAR, .batch = NET_MAX_BATCH, .optimizer = optimizer};
    net_run r;
    ss_error err;
    double result[4], first = 0, accuracy = 0, loss = 0;
    if (!CHECK(okay(net_open(&o, NULL, &r, &err), &err))) return;
    net_data_fill(&data, net_features(kind), 3);
    for (int step = 0; step < 150; step++) {
        net_feed(r.session, 0, &data, net_features(kind), NET_MAX_BATCH);
        if (!CHECK(okay(ss_session_step(r.session, 0, NET_MAX_BATCH, true, SS_OK, result, NULL, &err), &err))) break;
        CHECK(result[1] == NET_MAX_BATCH && result[3] == NET_MAX_BATCH);
        loss = result[0] / result[1];
        accuracy = result[2] / result[3];
        if (step == 0) first = loss;
    }
    CHECK(loss < 0.5 * first && accuracy > 0.8);
    net_close(&r);
}

/* ---- gradients ---- */

static double loss_of(net_run *r, const net_data *data, int features, int64_t batch) {
    double result[4] = {0};
    ss_error err;
    net_feed(r->session, 0, data, features, batch);
    CHECK(okay(ss_session_step(r->session, 0, batch, false, SS_OK, result, NULL, &err), &err));
    return result[0] / result[1];
}

/* Every parameter of the tanh network with a shared weight, by central differences; the error of the quotient in float is about 1e-7 / h. */
static void finite_differences(void) {
    static net_data data;
    static float gradient[4096];
    net_setting o = {.kind = NET_SHARED, .threads = 1, .lanes = 4, .isa = SS_ISA_SCALAR, .batch = 12, .optimizer = "sgd"};
    net_run r;
    ss_error err;
    if (!CHECK(okay(net_open(&o, NULL, &r, &err), &err))) return;
    net_data_fill(&data, net_features(NET_SHARED), 8);
    uint64_t before = net_hash(r.model);
    loss_of(&r, &data, net_features(NET_SHARED), 12);
    CHECK(net_hash(r.model) == before); /* update = false */
    if (!CHECK(r.model->trainable <= 4096)) goto done;
    memcpy(gradient, r.session->gradient, (size_t)r.model->trainable * 4);
    double largest = 0;
    for (int k = 0; k < r.model->parameters; k++) {
        const ss_parameter *p = &r.model->parameter[k];
        for (int64_t e = 0; e < p->count; e++) {
            float *at = r.model->values + p->offset + e, kept = *at;
            volatile float up = kept + 0.01f, down = kept - 0.01f;
            *at = up;
            double high = loss_of(&r, &data, net_features(NET_SHARED), 12);
            *at = down;
            double low = loss_of(&r, &data, net_features(NET_SHARED), 12);
            *at = kept;
            double found = gradient[p->offset + e];
            largest = fmax(largest, fabs(found));
            if (!CHECK_NEAR(found, (high - low) / ((double)up - (double)down), 2e-4)) fprintf(stderr, "    %s[%lld]\n", p->name, (long long)e);
            if (!strcmp(p->name, "unused")) CHECK(found == 0);
        }
    }
    CHECK(largest > 0.05); /* not a comparison of zeros */
done:
    net_close(&r);
}

/* fc1 and fc2 share their weight. With two weights of equal values the gradient of the shared one is the sum of theirs, to the bit: first use plus second use, after the lane tree. */
static ss_status pair_graph(bool shared, ss_graph **out) {
    builder b = {0};
    ss_status status = ss_graph_create(&b.g, &b.err);
    if (status != SS_OK) return status;
    int x = put_input(&b, "x", shape1(6), SS_F32), y = put_input(&b, "y", (ss_shape){.rank = 0}, SS_I32);
    int w1 = put_parameter(&b, "w1", shape2(6, 6)), w2 = shared ? w1 : put_parameter(&b, "w2", shape2(6, 6));
    int h = PUT(&b, "tanh", "t", NULL, 0, PUT(&b, "linear", "fc1", NULL, 0, x, w1));
    int loss = PUT(&b, "cross_entropy", "loss", NULL, 0, PUT(&b, "linear", "fc2", NULL, 0, h, w2), y);
    if (b.status == SS_OK) b.status = ss_graph_result(b.g, loss, "loss", 1, &b.err);
    *out = b.g;
    return b.status;
}

static void shared_is_sum(int threads, int at_once, ss_isa isa) {
    static net_data data;
    ss_error err;
    float gradient[2][2][36];
    net_data_fill(&data, 6, 21);
    for (int shared = 0; shared < 2; shared++) {
        net_run r = {0};
        ss_model_options model = {.optimizer = "sgd", .threads = threads, .isa = isa};
        ss_options session = {.batch = 30, .training = true, .with_results = true, .lanes = 8, .lanes_at_once = at_once};
        double result[2];
        if (!CHECK(ss_transport_self(&r.world, &err) == SS_OK && pair_graph(shared, &r.graph) == SS_OK)) return;
        if (!CHECK(okay(ss_model_create(r.graph, r.world, &model, &r.model, &err), &err))) return;
        for (int k = 0; k < r.model->parameters; k++) ss_fill_normal(r.model->values + r.model->parameter[k].offset, 36, 4, 4, 0, 0.5f);
        if (!CHECK(okay(ss_session_create(r.model, r.graph, &session, &r.session, &err), &err))) return;
        net_share(r.session, SHARE_ALL);
        for (int again = 0; again < 2; again++) { /* the sum does not pile up from step to step */
            net_feed(r.session, 0, &data, 6, 30);
            CHECK(okay(ss_session_step(r.session, 0, 30, false, SS_OK, result, NULL, &err), &err));
        }
        memcpy(gradient[shared][0], net_gradient(&r, "w1"), sizeof gradient[shared][0]);
        if (!shared) memcpy(gradient[0][1], net_gradient(&r, "w2"), sizeof gradient[0][1]);
        CHECK(ss_session_gradient(r.session, -1) == NULL && ss_session_gradient(r.session, 5) == NULL);
        net_close(&r);
    }
    for (int k = 0; k < 36; k++) {
        float sum = gradient[0][0][k] + gradient[0][1][k];
        CHECK(memcmp(&sum, &gradient[1][0][k], 4) == 0 && gradient[0][0][k] != 0 && gradient[0][1][k] != 0);
    }
}

/* ---- batches that cannot be learnt from ---- */

static void bad_batches(int at_once) {
    static net_data data;
    net_setting o = {.kind = NET_CNN, .threads = 2, .lanes = 8, .at_once = at_once, .isa = SS_ISA_SCALAR, .batch = 24, .optimizer = "adam"};
    net_run r, clean;
    ss_error err;
    double result[4], expected[4];
    int features = net_features(NET_CNN);
    if (!CHECK(okay(net_open(&o, NULL, &r, &err), &err)) || !CHECK(okay(net_open(&o, NULL, &clean, &err), &err))) return;
    net_data_fill(&data, features, 6);
    uint64_t before = net_hash(r.model);

    data.y[13] = NET_CLASSES;
    net_feed(r.session, 0, &data, features, 24);
    CHECK(ss_session_step(r.session, 0, 24, true, SS_OK, result, NULL, &err) == SS_ERR_VALUE);
    CHECK(strstr(err.message, "layer 'loss'") && strstr(err.message, "sample 13") && strstr(err.message, " is 5"));
    data.y[13] = -1;
    net_feed(r.session, 0, &data, features, 24);
    CHECK(ss_session_step(r.session, 0, 24, true, SS_OK, result, NULL, &err) == SS_ERR_VALUE && strstr(err.message, " is -1"));
    CHECK(ss_session_step(r.session, 0, 0, true, SS_OK, result, NULL, &err) == SS_ERR_VALUE);
    CHECK(ss_session_step(r.session, 0, 25, true, SS_OK, result, NULL, &err) == SS_ERR_VALUE && strstr(err.message, "25"));
    CHECK(ss_session_step(r.session, 2, 24, true, SS_OK, result, NULL, &err) == SS_ERR_VALUE);
    ss_error_set(&err, SS_ERR_DTYPE, "f", 1, "said before");
    CHECK(ss_session_step(r.session, 0, 24, true, SS_ERR_DTYPE, result, NULL, &err) == SS_ERR_DTYPE && !strcmp(err.message, "said before"));
    CHECK(ss_session_step(r.session, 0, 24, true, SS_ERR_DTYPE, result, NULL, NULL) == SS_ERR_DTYPE); /* nobody wants to know why */
    CHECK(net_hash(r.model) == before && r.model->step == 0 && !r.model->broken);

    /* And it goes on as if nothing had been. Some labels ignored: the denominator counts the others. */
    net_data_fill(&data, features, 6);
    for (int k = 0; k < 24; k += 3) data.y[k] = -100;
    net_run *both[2] = {&r, &clean};
    for (int k = 0; k < 2; k++) {
        net_feed(both[k]->session, 1, &data, features, 24);
        CHECK(okay(ss_session_step(both[k]->session, 1, 24, true, SS_OK, k ? expected : result, NULL, &err), &err));
    }
    CHECK(result[1] == 16 && result[3] == 16 && !memcmp(result, expected, sizeof result));
    CHECK(net_hash(r.model) == net_hash(clean.model) && net_hash(r.model) != before);

    /* A batch whose labels are all ignored moves nothing: every gradient is 0, and so are the sums and what they are divided by. */
    for (int k = 0; k < 24; k++) data.y[k] = -100;
    net_feed(r.session, 0, &data, features, 24);
    CHECK(okay(ss_session_step(r.session, 0, 24, false, SS_OK, result, NULL, &err), &err));
    for (int k = 0; k < 4; k++) CHECK(result[k] == 0);
    for (int64_t k = 0; k < r.session->gradient_elements; k++) CHECK(r.session->gradient[k] == 0);
    net_close(&clean);
    net_close(&r);
}

/* ---- one thread at a time ---- */

typedef struct visitor {
    ss_model *model;
    ss_status status;
    ss_error err;
} visitor;

static void *enter(void *argument) {
    visitor *v = argument;
    v->status = ss_model_enter(v->model, &v->err);
    if (v->status == SS_OK) ss_model_leave(v->model);
    return NULL;
}

static void one_at_a_time(void) {
    net_setting o = {.kind = NET_MLP, .threads = 1, .batch = 8, .optimizer = "sgd"};
    net_run r;
    ss_error err;
    if (!CHECK(okay(net_open(&o, NULL, &r, &err), &err))) return;
    for (int inside = 1; inside >= 0; inside--) {
        visitor v = {.model = r.model};
        pthread_t thread;
        if (inside) CHECK(ss_model_enter(r.model, &err) == SS_OK);
        if (!CHECK(pthread_create(&thread, NULL, enter, &v) == 0)) break;
        pthread_join(thread, NULL);
        CHECK(v.status == (inside ? SS_ERR_STATE : SS_OK));
        if (inside) {
            CHECK(strstr(v.err.message, "another thread"));
            ss_model_leave(r.model);
        }
    }
    r.model->broken = true;
    CHECK(ss_model_enter(r.model, &err) == SS_ERR_STATE && ss_model_enter(r.model, &err) == SS_ERR_STATE && strstr(err.message, "half way"));
    net_close(&r);
}

/* ---- the loader ---- */

/* The same steps, fed by hand, by ss_feed_load and by the loader's thread, give the same bits; none of them allocates. */
static void loaders(void) {
    enum { COUNT = 50, BATCH = 16, BATCHES = 4 };
    static double x[COUNT * 10];
    static uint8_t y[COUNT];
    static int64_t order[COUNT];
    static float from[COUNT * 10];
    static const ss_dtype wanted[] = {SS_F32, SS_I32};
    ss_fill_normal(from, COUNT * 10, 17, 0, 0, 1);
    for (int k = 0; k < COUNT * 10; k++) x[k] = from[k];
    for (int k = 0; k < COUNT; k++) {
        y[k] = (uint8_t)(k % NET_CLASSES);
        order[k] = ss_permute(3, 1, COUNT, k);
    }
    ss_array array[] = {{(char *)x, SS_T_F64, COUNT, 80, 10, "x"}, {(char *)y, SS_T_U8, COUNT, 1, 1, "y"}};
    ss_feed feed = {.array = array, .wanted = wanted, .arrays = 2, .order = order, .count = COUNT, .batch = BATCH};
    uint64_t print[3];
    for (int way = 0; way < 3; way++) {
        net_setting o = {.kind = NET_DROPOUT, .threads = 2, .lanes = 8, .at_once = 2, .isa = SS_ISA_SCALAR, .batch = BATCH, .optimizer = "sgd"};
        net_run r;
        ss_loader *loader = NULL;
        ss_error err;
        if (!CHECK(okay(net_open(&o, NULL, &r, &err), &err))) return;
        if (way == 2) CHECK(ss_loader_create(r.session, &loader, &err) == SS_OK && ss_loader_alive(loader));
        uint64_t allocations = ss_alloc_count();
        for (int epoch = 0; epoch < 3; epoch++) {
            if (way == 2) ss_loader_start(loader, &feed, 0, BATCHES);
            for (int step = 0; step < BATCHES; step++) {
                int64_t batch = way ? 0 : ss_min(BATCH, COUNT - step * BATCH);
                int set = 0;
                if (way == 0)
                    for (int64_t k = 0; k < batch; k++) {
                        int64_t row = order[step * BATCH + k];
                        memcpy((float *)ss_session_input(r.session, 0, 0) + 10 * k, from + 10 * row, 40);
                        ((int32_t *)ss_session_input(r.session, 0, 1))[k] = y[row];
                    }
                else if (way == 1) CHECK(okay(ss_feed_load(&feed, r.session, 0, step, &batch, &err), &err));
                else CHECK(okay(ss_loader_next(loader, &set, &batch, &err), &err));
                CHECK(batch == (step < 3 ? 16 : 2));
                if (!CHECK(okay(ss_session_step(r.session, set, batch, true, SS_OK, NULL, NULL, &err), &err))) break;
            }
            if (way == 2) ss_loader_stop(loader);
        }
        CHECK(ss_alloc_count() == allocations);
        print[way] = net_hash(r.model);
        if (way == 2) { /* left in the middle, started again, and failures arrive with their step */
            int set;
            int64_t batch;
            ss_loader_start(loader, &feed, 0, BATCHES);
            CHECK(ss_loader_next(loader, &set, &batch, &err) == SS_OK && set == 0);
            ss_loader_stop(loader);
            y[order[BATCH]] = 7; /* a wrong label is not the loader's business */
            ss_loader_start(loader, &feed, 1, 2);
            CHECK(ss_loader_next(loader, &set, &batch, &err) == SS_OK && set == 0 && batch == BATCH);
            CHECK(((int32_t *)ss_session_input(r.session, 0, 1))[0] == 7);
            ss_loader_stop(loader);
            order[BATCH + 3] = COUNT;
            ss_loader_start(loader, &feed, 0, BATCHES);
            CHECK(ss_loader_next(loader, &set, &batch, &err) == SS_OK);
            CHECK(ss_loader_next(loader, &set, &batch, &err) == SS_ERR_VALUE && strstr(err.message, "index 50") && strstr(err.message, "50 rows of x"));
            ss_loader_stop(loader);
            ss_loader_start(loader, &feed, 0, BATCHES); /* freed while it works */
        }
        ss_loader_free(loader);
        net_close(&r);
    }
    ss_loader_free(NULL);
    CHECK(print[0] == print[1] && print[0] == print[2]);
}

static void gathers(void) {
    ss_error err;
    int32_t whole[4];
    float real[4];
    static const int64_t wide[] = {1, INT32_MIN, INT32_MAX, (int64_t)INT32_MAX + 1};
    static const uint64_t huge[] = {5, INT32_MAX, UINT64_MAX, 0};
    static const float single[] = {1.5f, 2, 3, 4};
    static const int8_t small[] = {-1, 2, -3, 4};
    ss_array a = {(const char *)wide, SS_T_I64, 4, 8, 1, "labels"};
    CHECK(ss_gather(&a, NULL, 0, 3, SS_I32, 1, whole, &err) == SS_OK && whole[1] == INT32_MIN && whole[2] == INT32_MAX);
    CHECK(ss_gather(&a, NULL, 3, 1, SS_I32, 1, whole, &err) == SS_ERR_VALUE && strstr(err.message, "labels") && strstr(err.message, "row 3"));
    CHECK(ss_gather(&a, NULL, 2, 3, SS_I32, 1, whole, &err) == SS_ERR_VALUE);                /* beyond the end */
    CHECK(ss_gather(&a, (int64_t[]){-1}, 0, 1, SS_I32, 1, whole, &err) == SS_ERR_VALUE);     /* no counting from behind */
    CHECK(ss_gather(&a, (int64_t[]){INT64_MAX}, 0, 1, SS_I32, 1, whole, &err) == SS_ERR_VALUE);
    float pixels[2][6] = {{0, 1, 2, 10, 11, 12}, {3, 4, 5, 13, 14, 15}}, turned[12]; /* two samples of (2 channels, 3 positions) */
    ss_array image = {.data = (const char *)pixels, .type = SS_T_F32, .rows = 2, .row_stride = sizeof pixels[0], .count = 6, .name = "image"};
    CHECK(ss_gather(&image, NULL, 0, 2, SS_F32, 2, turned, &err) == SS_OK && turned[0] == 0 && turned[1] == 10 && turned[4] == 2 && turned[5] == 12 && turned[11] == 15);
    CHECK(ss_gather(&a, NULL, 0, 4, SS_F32, 1, real, &err) == SS_OK && real[3] == 0x1p31f);
    a = (ss_array){(const char *)huge, SS_T_U64, 4, 8, 1, "u"};
    CHECK(ss_gather(&a, NULL, 0, 2, SS_I32, 1, whole, &err) == SS_OK && whole[1] == INT32_MAX && ss_gather(&a, NULL, 2, 1, SS_I32, 1, whole, &err) == SS_ERR_VALUE);
    a = (ss_array){(const char *)single, SS_T_F32, 4, 4, 1, "f"};
    CHECK(ss_gather(&a, NULL, 0, 1, SS_I32, 1, whole, &err) == SS_ERR_DTYPE);
    a = (ss_array){(const char *)(small + 3), SS_T_I8, 4, -1, 1, "backwards"};
    CHECK(ss_gather(&a, NULL, 0, 4, SS_I32, 1, whole, &err) == SS_OK && whole[0] == 4 && whole[3] == -1);
    CHECK(ss_gather(&a, NULL, 0, 4, SS_F32, 1, real, &err) == SS_OK && real[2] == 2 && real[3] == -1);
}

/* ---- what a model and a session refuse ---- */

static void refusals(void) {
    net_run r = {0};
    net_setting o = {.kind = NET_MLP, .threads = 1, .batch = 8, .optimizer = "nonsense"};
    ss_error err;
    uint64_t held = ss_alloc_bytes();
    CHECK(net_open(&o, NULL, &r, &err) == SS_ERR_VALUE && strstr(err.message, "nonsense"));
    o.optimizer = "sgd";
    o.threads = 0;
    CHECK(net_open(&o, NULL, &r, &err) == SS_ERR_VALUE);
    o.threads = 1;
    o.batch = 0;
    CHECK(net_open(&o, NULL, &r, &err) == SS_ERR_VALUE);
    o.batch = 8;
    o.at_once = 3;
    CHECK(net_open(&o, NULL, &r, &err) == SS_ERR_VALUE);
    o.at_once = 0;
    for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
        o.isa = isa;
        if (!ss_kernels_for(isa)) CHECK(net_open(&o, NULL, &r, &err) == SS_ERR_VALUE && strstr(err.message, ss_isa_name(isa)));
    }
    o.isa = SS_ISA_SCALAR;
    o.kind = NET_GROUPED;
    o.lanes = 7; /* statistics of 2 lanes */
    CHECK(net_open(&o, NULL, &r, &err) == SS_ERR_VALUE && strstr(err.message, "layer 'bn1'") && strstr(err.message, "stats_lanes"));
    CHECK(ss_alloc_bytes() == held);

    o.kind = NET_MLP;
    o.lanes = 0;
    if (!CHECK(okay(net_open(&o, NULL, &r, &err), &err))) return;
    CHECK(ss_model_set_hyper(r.model, 0, "lr", NAN, &err) == SS_ERR_VALUE && ss_model_set_hyper(r.model, 0, "lr", -1, &err) == SS_ERR_VALUE);
    CHECK(ss_model_set_hyper(r.model, 0, "lr", INFINITY, &err) == SS_ERR_VALUE && ss_model_set_hyper(r.model, 0, "rate", 1, &err) == SS_ERR_VALUE);
    CHECK(ss_model_set_hyper(r.model, 0, "momentum", 0.9, &err) == SS_ERR_VALUE && strstr(err.message, "compile again")); /* made without room for it */
    CHECK(r.model->hyper[ss_model_find_hyper(r.model, "lr")] == 0.05 && r.model->hyper[ss_model_find_hyper(r.model, "momentum")] == 0);
    CHECK(!ss_session_input(r.session, 2, 0) && !ss_session_input(r.session, -1, 0) && !ss_session_input(r.session, 0, 2) && !ss_session_input(r.session, 0, -1));
    CHECK(ss_session_input(r.session, 0, 0) && ss_session_input(r.session, 0, 0) != ss_session_input(r.session, 1, 0));

    /* A second session of the model, for inference: it sees the trained values, and its graph must fit the model. */
    static net_data data;
    static float logits[8 * NET_CLASSES];
    float *outputs[1] = {logits};
    double result[4];
    ss_graph *other = NULL;
    ss_session *view = NULL;
    ss_options inference = {.batch = 8, .with_results = true}, training = {.batch = 8, .training = true, .with_results = true};
    CHECK(okay(ss_session_create(r.model, r.graph, &inference, &view, &err), &err));
    net_data_fill(&data, 10, 2);
    net_feed(view, 0, &data, 10, 8);
    uint64_t before = net_hash(r.model);
    CHECK(okay(ss_session_step(view, 0, 8, true, SS_OK, result, outputs, &err), &err));
    CHECK(net_hash(r.model) == before && r.model->step == 0 && !ss_session_gradient(view, 0) && result[1] == 8 && logits[0] != 0);
    ss_session_free(view);
    view = NULL;
    CHECK(net_graph(NET_CNN, &other, &err) == SS_OK && ss_session_create(r.model, other, &inference, &view, &err) == SS_ERR_VALUE && strstr(err.message, "conv1.weight") && !view);
    ss_model *bare = NULL;
    ss_model_options none = {.threads = 1};
    CHECK(ss_model_create(r.graph, r.world, &none, &bare, &err) == SS_OK && ss_session_create(bare, r.graph, &training, &view, &err) == SS_ERR_VALUE && !view);
    CHECK(ss_model_set_hyper(bare, 0, "lr", 1, &err) == SS_ERR_VALUE);
    ss_model_free(bare);
    ss_graph_free(other);
    net_close(&r);
    CHECK(ss_alloc_bytes() == held);
}

/* ---- several losses and metrics ---- */

static void several_results(int at_once) {
    enum { BATCH = 20 };
    static net_data data;
    builder b = {0};
    net_run r = {0};
    double result[6] = {0}, squares = 0;
    static float logits[BATCH * NET_CLASSES], target[BATCH * NET_CLASSES];
    float *outputs[1] = {logits};
    if (!CHECK(ss_graph_create(&b.g, &b.err) == SS_OK && ss_transport_self(&r.world, &b.err) == SS_OK)) return;
    r.graph = b.g;
    int x = put_input(&b, "x", shape1(10), SS_F32), y = put_input(&b, "y", (ss_shape){.rank = 0}, SS_I32), t = put_input(&b, "t", shape1(NET_CLASSES), SS_F32);
    int h = put_linear(&b, "fc", x, 10, NET_CLASSES);
    int accuracy = PUT(&b, "accuracy", "accuracy", NULL, 0, h, y), mse = PUT(&b, "mse", "mse", NULL, 0, h, t), loss = PUT(&b, "cross_entropy", "ce", NULL, 0, h, y);
    CHECK(b.status == SS_OK && ss_graph_output(b.g, h, &b.err) == SS_OK);
    CHECK(ss_graph_result(b.g, loss, "ce", 1, &b.err) == SS_OK && ss_graph_result(b.g, accuracy, "accuracy", 1, &b.err) == SS_OK &&
          ss_graph_result(b.g, mse, "first name", 1, &b.err) == SS_OK && ss_graph_result(b.g, mse, "mse", 1, &b.err) == SS_OK && b.g->results == 3);
    ss_model_options model = {.optimizer = "sgd", .threads = 2};
    ss_options session = {.batch = BATCH, .training = true, .with_results = true, .lanes = 5, .lanes_at_once = at_once};
    if (!CHECK(ss_model_create(r.graph, r.world, &model, &r.model, &b.err) == SS_OK)) return;
    net_fill(r.model);
    if (!CHECK(ss_session_create(r.model, r.graph, &session, &r.session, &b.err) == SS_OK)) return;
    net_share(r.session, SHARE_ALL);
    net_data_fill(&data, 10, 12);
    ss_fill_normal(target, BATCH * NET_CLASSES, 1, 1, 0, 1);
    net_feed(r.session, 0, &data, 10, BATCH);
    memcpy(ss_session_input(r.session, 0, 2), target, sizeof target);
    CHECK(okay(ss_session_step(r.session, 0, BATCH, false, SS_OK, result, outputs, &b.err), &b.err));
    int right = 0;
    double entropy = 0;
    static double expected[NET_CLASSES][10];
    for (int i = 0; i < BATCH; i++) {
        const float *row = logits + i * NET_CLASSES;
        double sum = 0, best = -1e30;
        int at = 0;
        for (int k = 0; k < NET_CLASSES; k++) {
            if (row[k] > best) best = row[at = k];
            sum += exp(row[k]);
            double d = (double)row[k] - target[i * NET_CLASSES + k];
            squares += d * d;
        }
        for (int k = 0; k < NET_CLASSES; k++) {
            double g = (exp(row[k]) / sum - (k == data.y[i])) / BATCH + 2 * ((double)row[k] - target[i * NET_CLASSES + k]) / (BATCH * NET_CLASSES);
            for (int e = 0; e < 10; e++) expected[k][e] += g * data.x[i * 10 + e];
        }
        right += at == data.y[i];
        entropy += log(sum) - row[data.y[i]];
    }
    CHECK_NEAR(result[0], entropy, 1e-4);
    CHECK(result[1] == BATCH && result[3] == BATCH && result[2] == right);
    CHECK_NEAR(result[4] / result[5], squares / (BATCH * NET_CLASSES), 1e-5);
    const float *gradient = net_gradient(&r, "fc.weight"); /* of the sum of both losses */
    for (int k = 0; k < NET_CLASSES * 10; k++) CHECK_NEAR(gradient[k], expected[k / 10][k % 10], 1e-5);
    memset(expected, 0, sizeof expected); /* for the next call */
    net_close(&r);
}

int main(void) {
    uint64_t held = ss_alloc_bytes();
    for (int kind = 0; kind < NET_KINDS; kind++) same_bits(kind, kind == NET_CNN ? "adam" : "sgd");
    learns(NET_MLP, "adam");
    learns(NET_CNN, "adam");
    learns(NET_SHARED, "adam");
    finite_differences();
    for (int threads = 1; threads <= 3; threads++)
        for (int at_once = 0; at_once <= 4; at_once = at_once ? 2 * at_once : 1)
            for (int isa = 0; isa < SS_ISA_COUNT; isa++)
                if (ss_kernels_for(isa)) shared_is_sum(threads, at_once, isa);
    bad_batches(0);
    bad_batches(2);
    one_at_a_time();
    gathers();
    loaders();
    refusals();
    several_results(0);
    several_results(1);
    CHECK(ss_alloc_bytes() == held);
    return TEST_DONE();
}
