/* Run under mpiexec: several ranks take the steps of a single rank to the bit, hear of each other's failures in the same step, and refuse to train on different batches. */
#include "comm/collective.h"
#include "comm/comm_mpi.h"
#include "tests/train_nets.h"

static const char *const names[NET_KINDS] = {"mlp", "cnn", "grouped", "shared", "dropout"};
static const int64_t sizes[] = {40, 39, 3, 1, 40, 11};
enum { STEPS = sizeof sizes / sizeof *sizes };

static ss_transport *world;

static bool okay(ss_status status, const ss_error *err) {
    if (status != SS_OK) fprintf(stderr, "    rank %d: %s\n", world->rank, err->message);
    return status == SS_OK;
}

typedef struct prints {
    uint64_t parameters[STEPS], slots, gradient;
    double results[STEPS][4];
} prints;

/* spoil: on the way, steps that must fail on every rank and change nothing. */
static void spoiled_steps(net_run *r, net_data *data, int features) {
    ss_error err;
    int64_t begin, end;
    uint64_t before = net_hash(r->model);
    int bad = world->size - 1;
    char wanted[32];
    snprintf(wanted, sizeof wanted, "rank %d: ", bad);
    /* One label, that only the last rank sees. */
    net_feed(r->session, 0, data, features, 40);
    ss_session_rows(r->session, 40, &begin, &end);
    if (world->rank == bad) ((int32_t *)ss_session_input(r->session, 0, 1))[end - begin - 1] = 77;
    CHECK(ss_session_step(r->session, 0, 40, true, SS_OK, NULL, NULL, &err) == SS_ERR_VALUE);
    if (!CHECK(strstr(err.message, wanted) == err.message && strstr(err.message, "layer 'loss'") && strstr(err.message, "sample 39") && strstr(err.message, " is 77")))
        fprintf(stderr, "    rank %d: %s\n", world->rank, err.message);
    /* A rank that could not load its rows says so in the step. */
    ss_status local = SS_OK;
    if (world->rank == bad) local = SS_FAIL(&err, SS_ERR_DTYPE, "this rank has no data");
    CHECK(ss_session_step(r->session, 0, world->rank == bad ? 1 : 40, true, local, NULL, NULL, &err) == SS_ERR_DTYPE);
    CHECK(strstr(err.message, wanted) == err.message && strstr(err.message, "this rank has no data"));
    /* Two different batches; one that is too large; an update on one rank only. */
    net_feed(r->session, 0, data, features, 40);
    CHECK(ss_session_step(r->session, 0, world->rank == bad ? 39 : 40, true, SS_OK, NULL, NULL, &err) == SS_ERR_VALUE);
    CHECK(strstr(err.message, "ranks disagree") && strstr(err.message, "batch is 40 on rank 0 and 39"));
    CHECK(ss_session_step(r->session, 0, world->rank == bad ? 41 : 40, true, SS_OK, NULL, NULL, &err) == SS_ERR_VALUE && strstr(err.message, wanted) == err.message);
    CHECK(ss_session_step(r->session, 0, 40, world->rank != bad, SS_OK, NULL, NULL, &err) == SS_ERR_VALUE && strstr(err.message, "ranks disagree: update"));
    if (world->rank == bad) r->model->step++;
    CHECK(ss_session_step(r->session, 0, 40, true, SS_OK, NULL, NULL, &err) == SS_ERR_VALUE && strstr(err.message, "ranks disagree: step"));
    if (world->rank == bad) r->model->step--;
    CHECK(net_hash(r->model) == before && !r->model->broken);
}

static bool train(net_setting o, ss_transport *transport, bool spoil, prints *out) {
    static net_data data;
    net_run r;
    ss_error err;
    int features = net_features(o.kind);
    memset(out, 0, sizeof *out);
    if (!CHECK(okay(net_open(&o, transport, &r, &err), &err))) return false;
    if (transport) {
        if (transport->rank) memset(r.model->values, 0, (size_t)r.model->elements * 4); /* rank 0's values count */
        CHECK(okay(ss_model_broadcast(r.model, &err), &err));
    }
    uint64_t allocations = 0;
    bool all = true;
    for (int step = 0; step < STEPS && all; step++) {
        net_data_fill(&data, features, 40 + (uint64_t)step);
        if (spoil && step == 2) {
            net_data fresh = data;
            spoiled_steps(&r, &fresh, features);
        }
        /* Rank 0's learning rate counts, too. */
        CHECK(ss_model_set_hyper(r.model, 0, "lr", transport && transport->rank ? 7 : 0.01 * (step + 1), &err) == SS_OK);
        net_feed(r.session, step % 2, &data, features, sizes[step]);
        all = CHECK(okay(ss_session_step(r.session, step % 2, sizes[step], true, SS_OK, out->results[step], NULL, &err), &err));
        out->parameters[step] = net_hash(r.model);
        if (step == 0) allocations = ss_alloc_count();
        CHECK(ss_alloc_count() == allocations);
    }
    if (o.gradients || !transport) out->gradient = ss_hash(SS_HASH_START, r.session->gradient, 4 * r.model->trainable);
    CHECK(okay(ss_session_gather_slots(r.session, &err), &err));
    out->slots = SS_HASH_START;
    for (int k = 0; k < r.model->slots; k++) out->slots = ss_hash(out->slots, r.model->slot[k], 4 * r.model->trainable);
    if (transport) r.world = NULL; /* used again */
    net_close(&r);
    return all;
}

static void compare(net_kind kind, const char *optimizer) {
    net_setting o = {.kind = kind, .threads = 1, .lanes = 8, .isa = SS_ISA_SCALAR, .batch = 40, .optimizer = optimizer};
    prints alone, together;
    if (!train(o, NULL, false, &alone)) return;
    static const int settings[][2] = {{1, 0}, {1, 2}, {2, 1}, {2, 4}}; /* threads, lanes_at_once */
    for (int k = 0; k < 4; k++) {
        o.threads = settings[k][0];
        o.at_once = settings[k][1];
        o.gradients = k % 2;
        o.sharing = k == 3 ? SHARE_EVERY_OTHER : SHARE_ALL;
        o.isa = ss_kernels_for(SS_ISA_AVX2) && k > 1 ? SS_ISA_AVX2 : SS_ISA_SCALAR;
        if (!train(o, world, k < 2, &together)) return;
        if (!o.gradients) together.gradient = alone.gradient;
        if (!CHECK(!memcmp(&alone, &together, sizeof alone)))
            fprintf(stderr, "    rank %d of %d, %s, %d threads, lanes_at_once %d\n", world->rank, world->size, names[kind], o.threads, o.at_once);
    }
}

/* Ranks whose models differ cannot train together. */
static void different_models(void) {
    net_setting o = {.kind = NET_MLP, .threads = 1, .lanes = world->rank ? 8 : 16, .isa = SS_ISA_SCALAR, .batch = 40, .optimizer = "sgd"};
    static net_data data;
    net_run r;
    ss_error err;
    if (!CHECK(okay(net_open(&o, world, &r, &err), &err))) return;
    net_data_fill(&data, net_features(NET_MLP), 1);
    net_feed(r.session, 0, &data, net_features(NET_MLP), 40);
    ss_status status = ss_session_step(r.session, 0, 40, true, SS_OK, NULL, NULL, &err);
    CHECK(status == (world->size > 1 ? SS_ERR_VALUE : SS_OK) && (world->size == 1 || strstr(err.message, "ranks disagree: lanes is 16 on rank 0 and 8")));
    r.world = NULL;
    net_close(&r);
    /* More ranks than lanes: the message says what to set. */
    o.lanes = world->size - 1;
    if (o.lanes > 0) {
        ss_graph *g = NULL;
        ss_model *m = NULL;
        ss_session *s = NULL;
        ss_model_options model = {.optimizer = "sgd", .threads = 1};
        ss_options session = {.batch = 40, .training = true, .with_results = true, .lanes = o.lanes};
        CHECK(net_graph(NET_MLP, &g, &err) == SS_OK && ss_model_create(g, world, &model, &m, &err) == SS_OK);
        CHECK(ss_session_create(m, g, &session, &s, &err) == SS_ERR_VALUE && strstr(err.message, "ranks cannot share") && !s);
        ss_model_free(m);
        ss_graph_free(g);
    }
}

int main(void) {
    ss_error err;
    if (!getenv("OMPI_COMM_WORLD_SIZE") && !getenv("PMIX_RANK") && !getenv("PMI_RANK")) {
        printf("run this under mpiexec\n");
        return 1;
    }
    if (!CHECK(ss_mpi_init(&err) == SS_OK && ss_transport_mpi(NULL, &world, &err) == SS_OK)) return TEST_DONE();
    world->timeout = 60;
    CHECK(world->size > 1);
    for (int kind = 0; kind < NET_KINDS; kind++) compare(kind, kind == NET_CNN ? "adam" : "sgd");
    different_models();
    CHECK(ss_barrier(world, &err) == SS_OK);
    ss_transport_free(world);
    ss_mpi_finalize();
    CHECK(ss_alloc_bytes() == 0);
    return TEST_DONE();
}
