/* The transport of a single rank: collectives pass it without a message, an exchange is a copy, and a message is refused. */
#include "comm/collective.h"
#include "comm/exchange.h"
#include "tests/comm_test.h"

static void transport_and_collectives(void) {
    ss_error err;
    ss_transport *t = NULL;
    CHECK_OK(ss_transport_self(&t, &err));
    CHECK(t->rank == 0 && t->size == 1 && strcmp(t->name, "self") == 0);
    int data[3] = {1, 2, 3};
    size_t offset = 0, bytes = sizeof data;
    CHECK_OK(ss_barrier(t, &err));
    CHECK_OK(ss_broadcast(t, data, sizeof data, 0, &err));
    CHECK_OK(ss_allgather(t, data, &offset, &bytes, &err));
    CHECK(data[0] == 1 && data[1] == 2 && data[2] == 3);
    CHECK_FAILS(ss_broadcast(t, data, sizeof data, 1, &err), SS_ERR_VALUE);
    ss_request request = {{0}};
    CHECK_FAILS(t->send(t, data, 4, 0, SS_TAG_STAT, &request, &err), SS_ERR_COMM);
    CHECK_FAILS(t->receive(t, data, 4, 0, SS_TAG_STAT, &request, &err), SS_ERR_COMM);
    bool done = false;
    CHECK_OK(t->test(t, &request, &done, &err));
    CHECK(done);
    int peer = 0;
    CHECK_OK(t->wait(t, &request, &peer, 1, &err));
    CHECK(ss_transport_cancel(t, &request, 1));
    ss_transport_free(t);
    ss_transport_free(NULL);
    group_passed("transport and collectives");
}

static void exchange(void) {
    ss_error err;
    ss_transport *t = NULL;
    CHECK_OK(ss_transport_self(&t, &err));
    int64_t cut[] = {0, 1024, 3001};
    ss_exchange *x = NULL;
    CHECK_OK(ss_exchange_create(t, 3001, cut, 2, 8, &x, &err));
    static float gradient[3001], out[3001];
    for (int i = 0; i < 3001; i++) gradient[i] = (float)i;
    uint64_t allocations = ss_alloc_count();
    for (int round = 0; round < 2; round++) {
        bool in_place = round == 1, ready = false, done = false;
        float *into = in_place ? gradient : out;
        ss_exchange_begin(x, round ? 3 : 64);
        CHECK(ss_exchange_blocks(x) == 1);
        for (int b = 0; b < 2; b++) {
            CHECK_OK(ss_exchange_post(x, b, gradient, 3001, &err));
            CHECK_OK(ss_exchange_poll(x, b, &ready, &err));
            CHECK(ready);
            CHECK_OK(ss_exchange_wait(x, b, &err));
            ss_exchange_fold(x, b, cut[b], cut[b + 1], into);
            CHECK_OK(ss_exchange_gather(x, b, out, &err));
        }
        CHECK_OK(ss_exchange_poll_end(x, &done, &err));
        CHECK(done);
        CHECK_OK(ss_exchange_end(x, &err));
        for (int i = 0; i < 3001; i++) CHECK(into[i] == (float)i, "element %d", i);
    }
    CHECK(ss_alloc_count() == allocations);
    ss_exchange_free(x);
    ss_exchange_free(NULL);
    ss_transport_free(t);
    group_passed("exchange of one rank");
}

static void refusals(void) {
    ss_error err;
    ss_transport *t = NULL;
    ss_exchange *x = NULL;
    CHECK_OK(ss_transport_self(&t, &err));
    int64_t good[] = {0, 16, 40}, late[] = {16, 32, 40}, falling[] = {0, 32, 16}, crooked[] = {0, 15, 40};
    CHECK_FAILS(ss_exchange_create(t, 40, late, 2, 8, &x, &err), SS_ERR_VALUE);
    CHECK_FAILS(ss_exchange_create(t, 16, falling, 2, 8, &x, &err), SS_ERR_VALUE);
    CHECK_FAILS(ss_exchange_create(t, 40, crooked, 2, 8, &x, &err), SS_ERR_VALUE);
    CHECK_FAILS(ss_exchange_create(t, 41, good, 2, 8, &x, &err), SS_ERR_VALUE);
    CHECK_FAILS(ss_exchange_create(t, 40, good, 2, 0, &x, &err), SS_ERR_VALUE);
    CHECK_FAILS(ss_exchange_create(t, 40, good, 2, SS_MAX_LANES + 1, &x, &err), SS_ERR_VALUE);
    ss_transport many = {.size = 9};
    CHECK_FAILS(ss_exchange_create(&many, 40, good, 2, 8, &x, &err), SS_ERR_VALUE);
    CHECK(strstr(err.message, "9 ranks but 8 lanes"), "%s", err.message);
    CHECK(x == NULL);
    CHECK_OK(ss_exchange_create(t, 40, good, 2, 8, &x, &err));
    float data[40] = {0};
    bool ready;
    ss_exchange_begin(x, 8);
    CHECK_FAILS(ss_exchange_poll(x, 0, &ready, &err), SS_ERR_STATE);
    CHECK_FAILS(ss_exchange_wait(x, 0, &err), SS_ERR_STATE);
    CHECK_OK(ss_exchange_post(x, 0, data, 40, &err));
    CHECK_FAILS(ss_exchange_post(x, 0, data, 40, &err), SS_ERR_STATE);
    CHECK_OK(ss_exchange_gather(x, 0, data, &err));
    CHECK_FAILS(ss_exchange_gather(x, 0, data, &err), SS_ERR_STATE);
    ss_exchange_free(x);
    ss_transport_free(t);
    group_passed("refusals");
}

/* A transport of two ranks on which nothing ever arrives, and whose receives can or cannot be withdrawn. */
static int cancelled;
static bool can_withdraw;
static void *first_received;

static ss_status mute_send(ss_transport *t, const void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    (void)t, (void)data, (void)bytes, (void)peer, (void)tag, (void)err;
    *request = (ss_request){{1}};
    return SS_OK;
}

static ss_status mute_receive(ss_transport *t, void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    if (!first_received) first_received = data;
    ss_status status = mute_send(t, data, bytes, peer, tag, request, err);
    request->word[0] = 2;
    return status;
}

static bool mute_cancel(ss_transport *t, ss_request *request) {
    (void)t;
    bool released = can_withdraw || request->word[0] == 1;
    *request = (ss_request){{0}};
    cancelled++;
    return released;
}

/* Staging that a transfer may still write to is kept; everything else is freed, and every request is cancelled. */
static void giving_up(void) {
    ss_error err;
    int64_t cut[] = {0, 64};
    static float data[64];
    for (int withdraw = 0; withdraw < 2; withdraw++) {
        ss_transport mute = {.size = 2, .send = mute_send, .receive = mute_receive, .cancel = mute_cancel};
        uint64_t held = ss_alloc_bytes();
        ss_exchange *x = NULL;
        can_withdraw = withdraw;
        cancelled = 0;
        first_received = NULL;
        CHECK_OK(ss_exchange_create(&mute, 64, cut, 1, 2, &x, &err));
        ss_exchange_begin(x, 2);
        CHECK_OK(ss_exchange_post(x, 0, data, 64, &err));
        CHECK_OK(ss_exchange_gather(x, 0, data, &err));
        void *staging = first_received;
        ss_exchange_free(x);
        CHECK(cancelled == 4, "%d of 4 requests cancelled", cancelled);
        CHECK(withdraw || ss_alloc_bytes() > held, "staging was freed under a transfer");
        if (!withdraw) ss_free(staging);
        CHECK(ss_alloc_bytes() == held, "%llu bytes leaked", (unsigned long long)(ss_alloc_bytes() - held));
    }
    group_passed("giving up");
}

int main(void) {
    transport_and_collectives();
    exchange();
    refusals();
    giving_up();
    CHECK(ss_alloc_bytes() == 0, "%llu bytes leaked", (unsigned long long)ss_alloc_bytes());
    return 0;
}
