/* Fails the n-th allocation of a whole training run for n = 1, 2, ... until it succeeds: an error each time, nothing left behind, and never a crash. */
#include "tests/train_nets.h"

/* Graph, model, a training and an inference session, the loader, steps. */
static ss_status scenario(net_kind kind, ss_error *err) {
    static net_data data;
    static const ss_dtype wanted[] = {SS_F32, SS_I32};
    net_setting o = {.kind = kind, .threads = 2, .lanes = 8, .at_once = 2, .isa = SS_ISA_SCALAR, .batch = 16, .optimizer = "adam"};
    ss_options inference = {.batch = 16, .with_results = true};
    ss_status status = SS_OK;
    net_run r = {0};
    ss_session *view = NULL;
    ss_loader *loader = NULL;
    int features = net_features(kind);
    SS_TRY(net_open(&o, NULL, &r, err));
    SS_TRY(ss_session_create(r.model, r.graph, &inference, &view, err));
    SS_TRY(ss_loader_create(r.session, &loader, err));
    net_data_fill(&data, features, 5);
    ss_array array[] = {{(char *)data.x, SS_T_F32, NET_MAX_BATCH, 4 * features, features, "x"}, {(char *)data.y, SS_T_I32, NET_MAX_BATCH, 4, 1, "y"}};
    ss_feed feed = {.array = array, .wanted = wanted, .arrays = 2, .count = 20, .batch = 16};
    ss_loader_start(loader, &feed, 0, 2);
    for (int step = 0; step < 2; step++) {
        int set;
        int64_t batch;
        SS_TRY(ss_loader_next(loader, &set, &batch, err));
        SS_TRY(ss_session_step(r.session, set, batch, true, SS_OK, NULL, NULL, err));
    }
    ss_loader_stop(loader);
    net_feed(view, 0, &data, features, 16);
    SS_TRY(ss_session_step(view, 0, 16, false, SS_OK, NULL, NULL, err));
    SS_TRY(ss_model_broadcast(r.model, err));
done:
    ss_loader_free(loader);
    ss_session_free(view);
    net_close(&r);
    return status;
}

int main(void) {
    uint64_t held = ss_alloc_bytes();
    for (int kind = 0; kind < NET_KINDS; kind++) {
        int failures = 0;
        for (uint64_t n = 1; n < 10000; n++) {
            ss_error err = {0};
            ss_alloc_fail_after(n);
            ss_status status = scenario(kind, &err);
            ss_alloc_fail_after(0);
            if (!CHECK(ss_alloc_bytes() == held)) fprintf(stderr, "    %d bytes leaked by failure %d\n", (int)(ss_alloc_bytes() - held), (int)n);
            if (status == SS_OK) break;
            if (!CHECK(status == SS_ERR_MEMORY && err.code == SS_ERR_MEMORY && err.message[0])) fprintf(stderr, "    failure %d: %s: %s\n", (int)n, ss_status_text(status), err.message);
            failures++;
        }
        CHECK(failures > 60 && failures < 9999);
    }
    return TEST_DONE();
}
