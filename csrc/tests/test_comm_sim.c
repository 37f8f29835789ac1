/* The simulated network: order, delays, late receives, wrong sizes, dead and slow ranks, cancelled requests. */
#include "comm/sim.h"
#include "tests/comm_test.h"

static const ss_sim_options CALM = {.ranks = 3, .seed = 1, .least_delay = 2, .most_delay = 2, .slow_rank = -1, .dead_rank = -1};

static ss_sim *make(const ss_sim_options *options) {
    ss_error err;
    ss_sim *sim = NULL;
    CHECK_OK(ss_sim_create(options, &sim, &err));
    return sim;
}

static bool is_done(ss_transport *t, ss_request *request) {
    ss_error err;
    bool done = false;
    CHECK_OK(t->test(t, request, &done, &err));
    bool zero = !request->word[0] && !request->word[1] && !request->word[2] && !request->word[3];
    CHECK(zero == done, "a request is all zero exactly when it is done");
    return done;
}

static void delays(void) {
    ss_error err;
    ss_sim *sim = make(&CALM);
    ss_transport *a = ss_sim_transport(sim, 0), *b = ss_sim_transport(sim, 1);
    CHECK(a->rank == 0 && b->rank == 1 && b->size == 3);
    int out = 5, in = 0;
    ss_request send, receive;
    CHECK_OK(b->receive(b, &in, sizeof in, 0, 7, &receive, &err)); /* before the message is sent */
    CHECK(!is_done(b, &receive));
    CHECK_OK(a->send(a, &out, sizeof out, 1, 7, &send, &err));
    ss_sim_tick(sim);
    CHECK(!is_done(b, &receive) && in == 0);
    int zero = 0;
    CHECK_FAILS(b->wait(b, &receive, &zero, 1, &err), SS_ERR_STATE);
    ss_sim_tick(sim);
    CHECK_OK(b->wait(b, &receive, &zero, 1, &err));
    CHECK(in == 5 && is_done(a, &send));

    in = 0;
    CHECK_OK(a->send(a, &out, sizeof out, 1, 7, &send, &err)); /* the receive comes after the delivery: the send waits for it */
    for (int i = 0; i < 5; i++) ss_sim_tick(sim);
    CHECK(!is_done(a, &send));
    out = 6;
    CHECK_OK(b->receive(b, &in, sizeof in, 0, 7, &receive, &err));
    CHECK(is_done(b, &receive) && is_done(a, &send) && in == 6);
    CHECK(ss_sim_messages(sim) == 2 && ss_sim_bytes(sim) == 2 * sizeof out && ss_sim_now(sim) == 7);
    ss_sim_free(sim);
    group_passed("delays");
}

/* Random sends and receives between all pairs with two tags: each pair and tag keeps its order, and equal seeds give equal histories. */
static uint64_t history(uint64_t seed) {
    enum { RANKS = 5, TAGS = 2, EACH = 200, ALL = RANKS * RANKS * TAGS * EACH };
    ss_error err;
    ss_sim *sim = make(&(ss_sim_options){.ranks = RANKS, .seed = seed, .least_delay = 0, .most_delay = 9000, .slow_rank = 2, .dead_rank = -1}); /* beyond a turn of the wheel */
    static int out[ALL], in[ALL];
    static ss_request send[ALL], receive[ALL];
    memset(in, 0, sizeof in);
    uint64_t random = seed, hash = 0;
    int sent[RANKS][RANKS][TAGS] = {0}, posted[RANKS][RANKS][TAGS] = {0}, left = 2 * RANKS * (RANKS - 1) * TAGS * EACH;
    while (left) {
        int s = (int)(draw(&random) % RANKS), d = (int)(draw(&random) % RANKS), tag = (int)(draw(&random) % TAGS);
        if (s == d) continue;
        bool sending = draw(&random) % 2;
        int *count = sending ? &sent[s][d][tag] : &posted[s][d][tag];
        if (*count == EACH) continue;
        int at = ((s * RANKS + d) * TAGS + tag) * EACH + *count;
        ss_transport *t = ss_sim_transport(sim, sending ? s : d);
        out[at] = at + 1;
        if (sending) CHECK_OK(t->send(t, &out[at], sizeof(int), d, tag, &send[at], &err));
        else CHECK_OK(t->receive(t, &in[at], sizeof(int), s, tag, &receive[at], &err));
        ++*count;
        left--;
        ss_sim_tick(sim);
        if (draw(&random) % 16 == 0) {
            int probe = (int)(draw(&random) % ALL);
            hash = hash * 31 + (uint64_t)in[probe];
        }
    }
    for (int i = 0; i < 100000; i++) ss_sim_tick(sim);
    for (int at = 0; at < ALL; at++) {
        int s = at / (EACH * TAGS * RANKS), d = at / (EACH * TAGS) % RANKS;
        if (s == d) continue;
        CHECK(in[at] == at + 1, "message %d of its pair and tag became %d", at, in[at]);
        CHECK(is_done(ss_sim_transport(sim, s), &send[at]) && is_done(ss_sim_transport(sim, d), &receive[at]));
    }
    ss_sim_free(sim);
    return hash;
}

static void order_and_seeds(void) {
    uint64_t one = history(1);
    CHECK(one == history(1), "a seed gives one history");
    CHECK(one != history(2), "seeds differ");
    group_passed("order and seeds");
}

/* With one tag each, a later message may overtake: delays are real. */
static void overtaking(void) {
    ss_error err;
    ss_sim *sim = make(&(ss_sim_options){.ranks = 2, .seed = 3, .least_delay = 1, .most_delay = 50, .slow_rank = -1, .dead_rank = -1});
    ss_transport *a = ss_sim_transport(sim, 0), *b = ss_sim_transport(sim, 1);
    enum { N = 40 };
    ss_request send[N], receive[N];
    int out[N], in[N], when[N];
    for (int i = 0; i < N; i++) {
        out[i] = i;
        when[i] = -1;
        CHECK_OK(a->send(a, &out[i], sizeof(int), 1, i, &send[i], &err));
        CHECK_OK(b->receive(b, &in[i], sizeof(int), 0, i, &receive[i], &err));
    }
    for (int tick = 1; tick <= 50; tick++) {
        ss_sim_tick(sim);
        for (int i = 0; i < N; i++)
            if (when[i] < 0 && is_done(b, &receive[i])) when[i] = tick;
    }
    bool overtook = false;
    for (int i = 0; i < N; i++) {
        CHECK(when[i] >= 1 && is_done(a, &send[i]));
        overtook = overtook || (i && when[i] < when[i - 1]);
    }
    CHECK(overtook);
    for (int i = 0; i < N; i++) { /* with one tag none does */
        when[i] = -1;
        CHECK_OK(a->send(a, &out[i], sizeof(int), 1, 0, &send[i], &err));
        CHECK_OK(b->receive(b, &in[i], sizeof(int), 0, 0, &receive[i], &err));
    }
    for (int tick = 1; tick <= 50; tick++) {
        ss_sim_tick(sim);
        for (int i = 0; i < N; i++)
            if (when[i] < 0 && is_done(b, &receive[i])) when[i] = tick;
    }
    for (int i = 0; i < N; i++) CHECK(is_done(a, &send[i]) && when[i] >= 1 && (i == 0 || when[i] >= when[i - 1]), "message %d arrived at %d", i, when[i]);
    ss_sim_free(sim);
    group_passed("overtaking");
}

static void wrong_sizes(void) {
    ss_error err;
    for (int receive_first = 0; receive_first < 2; receive_first++) {
        ss_sim *sim = make(&CALM);
        ss_transport *a = ss_sim_transport(sim, 2), *b = ss_sim_transport(sim, 1);
        char data[64] = {0};
        ss_request send, receive;
        if (receive_first) CHECK_OK(b->receive(b, data, 44, 2, 17, &receive, &err));
        CHECK_OK(a->send(a, data, 40, 1, 17, &send, &err));
        if (!receive_first) CHECK_OK(b->receive(b, data, 44, 2, 17, &receive, &err));
        ss_sim_tick(sim);
        ss_sim_tick(sim);
        bool done;
        int peer = 1;
        CHECK_FAILS(b->test(b, &receive, &done, &err), SS_ERR_COMM);
        CHECK(strstr(err.message, "rank 2 sent 40 bytes to rank 1 (tag 17), which waits for 44"), "%s", err.message);
        err.message[0] = '\0';
        CHECK_FAILS(a->wait(a, &send, &peer, 1, &err), SS_ERR_COMM);
        CHECK(strstr(err.message, "rank 2 sent 40 bytes to rank 1 (tag 17), which waits for 44"), "%s", err.message);
        ss_sim_free(sim);
    }
    group_passed("wrong sizes");
}

static void dead_and_slow(void) {
    ss_error err;
    ss_sim_options options = CALM;
    options.dead_rank = 1;
    options.dead_tick = 3;
    options.slow_rank = 2;
    ss_sim *sim = make(&options);
    ss_transport *a = ss_sim_transport(sim, 0), *b = ss_sim_transport(sim, 1), *c = ss_sim_transport(sim, 2);
    int out = 9, before = 0, after = 0, slow = 0, peer = 1;
    ss_request send[3], receive[3];
    CHECK_OK(b->send(b, &out, sizeof out, 0, 1, &send[0], &err)); /* while it lives */
    CHECK_OK(c->send(c, &out, sizeof out, 0, 1, &send[2], &err));
    CHECK_OK(a->receive(a, &before, sizeof before, 1, 1, &receive[0], &err));
    CHECK_OK(a->receive(a, &after, sizeof after, 1, 1, &receive[1], &err));
    CHECK_OK(a->receive(a, &slow, sizeof slow, 2, 1, &receive[2], &err));
    for (int i = 0; i < 3; i++) ss_sim_tick(sim);
    CHECK_OK(b->send(b, &out, sizeof out, 0, 1, &send[1], &err)); /* dead by now */
    for (int i = 3; i < 19; i++) ss_sim_tick(sim);
    CHECK(is_done(a, &receive[0]) && before == 9);
    CHECK(!is_done(a, &receive[2]));
    ss_sim_tick(sim); /* ten times two */
    CHECK(is_done(a, &receive[2]) && slow == 9);
    for (int i = 0; i < 100; i++) ss_sim_tick(sim);
    CHECK(!is_done(a, &receive[1]) && after == 0);
    CHECK_FAILS(a->wait(a, &receive[1], &peer, 1, &err), SS_ERR_RANK_FAILED);
    CHECK(strstr(err.message, "rank 1 did not answer"), "%s", err.message);
    CHECK(ss_sim_messages(sim) == 2, "the dead send nothing");
    ss_sim_free(sim);
    group_passed("dead and slow ranks");
}

static void cancelling(void) {
    ss_error err;
    ss_sim *sim = make(&CALM);
    ss_transport *a = ss_sim_transport(sim, 0), *b = ss_sim_transport(sim, 1);
    int out[3] = {1, 2, 3}, in[3] = {0};
    ss_request send[3], receive[3];
    for (int i = 0; i < 3; i++) CHECK_OK(b->receive(b, &in[i], sizeof(int), 0, 1, &receive[i], &err));
    CHECK(ss_transport_cancel(b, &receive[2], 1)); /* the last in the queue: it meets nobody */
    CHECK(ss_transport_cancel(b, &receive[0], 1));
    for (int i = 0; i < 2; i++) CHECK_OK(a->send(a, &out[i], sizeof(int), 1, 1, &send[i], &err));
    CHECK(ss_transport_cancel(a, &send[1], 1)); /* no receive left, and it is on its way */
    ss_sim_tick(sim);
    ss_sim_tick(sim);
    CHECK(is_done(b, &receive[1]) && is_done(a, &send[0]));
    CHECK(in[0] == 0 && in[1] == 1 && in[2] == 0);
    CHECK_OK(a->send(a, &out[2], sizeof(int), 1, 1, &send[2], &err));
    CHECK_OK(b->receive(b, &in[2], sizeof(int), 0, 1, &receive[2], &err));
    CHECK(ss_transport_cancel(b, &receive[2], 1)); /* matched and on its way: arrives nowhere, and the sender is free */
    ss_sim_tick(sim);
    ss_sim_tick(sim);
    CHECK(is_done(a, &send[2]) && in[2] == 0);
    ss_sim_free(sim);
    group_passed("cancelling");
}

static void refusals(void) {
    ss_error err;
    ss_sim *sim = NULL;
    ss_sim_options bad[4] = {CALM, CALM, CALM, CALM};
    bad[0].ranks = 0;
    bad[1].least_delay = 3;
    bad[2].slow_rank = 3;
    bad[3].dead_rank = -2;
    for (int i = 0; i < 4; i++) CHECK_FAILS(ss_sim_create(&bad[i], &sim, &err), SS_ERR_VALUE);
    CHECK(sim == NULL);
    ss_sim_free(NULL);
    group_passed("refusals");
}

int main(void) {
    delays();
    order_and_seeds();
    overtaking();
    wrong_sizes();
    dead_and_slow();
    cancelling();
    refusals();
    CHECK(ss_alloc_bytes() == 0, "%llu bytes leaked", (unsigned long long)ss_alloc_bytes());
    return 0;
}
