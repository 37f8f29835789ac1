/* The collectives on 1 to 21 ranks: one thread a rank over the simulated network, behind a lock. A rank that waits ticks the clock. */
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include "comm/collective.h"
#include "comm/sim.h"
#include "tests/comm_test.h"

enum { MOST = 21, PART = 300, PER_HOST = 2, BETWEEN_HOSTS = 7 /* bytes of a message: up to 43 of them, more than are under way at once */ };

typedef struct locked {
    ss_transport base;
    ss_transport *inner;
    ss_sim *sim;
    pthread_mutex_t *lock;
    bool apart[MOST];
} locked;

static ss_status locked_send(ss_transport *t, const void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    locked *l = (locked *)t;
    pthread_mutex_lock(l->lock);
    ss_status status = l->inner->send(l->inner, data, bytes, peer, tag, request, err);
    pthread_mutex_unlock(l->lock);
    return status;
}

static ss_status locked_receive(ss_transport *t, void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    locked *l = (locked *)t;
    pthread_mutex_lock(l->lock);
    ss_status status = l->inner->receive(l->inner, data, bytes, peer, tag, request, err);
    pthread_mutex_unlock(l->lock);
    return status;
}

static bool locked_cancel(ss_transport *t, ss_request *request) {
    locked *l = (locked *)t;
    pthread_mutex_lock(l->lock);
    bool released = l->inner->cancel(l->inner, request);
    pthread_mutex_unlock(l->lock);
    return released;
}

/* Waiting in turns; a dead rank or a stuck job ends after a minute: how many turns another thread needs is the scheduler's affair. */
static ss_status locked_wait(ss_transport *t, ss_request *requests, const int *peers, int count, ss_error *err) {
    locked *l = (locked *)t;
    for (const time_t began = time(NULL);;) {
        pthread_mutex_lock(l->lock);
        ss_status status = l->inner->wait(l->inner, requests, peers, count, err);
        if (status != SS_OK) ss_sim_tick(l->sim);
        pthread_mutex_unlock(l->lock);
        if (status == SS_OK || status == SS_ERR_COMM || time(NULL) - began > 60) return status;
        sched_yield();
    }
}

typedef struct job {
    locked t;
    int arrived_before; /* of the barrier test */
    ss_status status;
    ss_error err;
    void *(*function)(void *);
} job;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int arrived;
static bool hosts; /* whether two ranks share a host, or all of them */
static job jobs[MOST];

static uint64_t run(const ss_sim_options *options, void *(*function)(void *)) {
    ss_error err;
    ss_sim *sim = NULL;
    CHECK_OK(ss_sim_create(options, &sim, &err));
    pthread_t thread[MOST];
    arrived = 0;
    for (int r = 0; r < options->ranks; r++) {
        memset(&jobs[r], 0, sizeof jobs[r]);
        jobs[r].t = (locked){.base = {.name = "locked", .rank = r, .size = options->ranks, .send = locked_send, .receive = locked_receive, .wait = locked_wait, .cancel = locked_cancel},
                             .inner = ss_sim_transport(sim, r), .sim = sim, .lock = &lock};
        if (!hosts) continue;
        for (int other = 0; other < options->ranks; other++) jobs[r].t.apart[other] = other / PER_HOST != r / PER_HOST;
        jobs[r].t.base.apart = jobs[r].t.apart;
        jobs[r].t.base.part = BETWEEN_HOSTS;
    }
    for (int r = 0; r < options->ranks; r++) CHECK(pthread_create(&thread[r], NULL, function, &jobs[r]) == 0);
    for (int r = 0; r < options->ranks; r++) pthread_join(thread[r], NULL);
    uint64_t messages = ss_sim_messages(sim);
    ss_sim_free(sim);
    return messages;
}

static void *barriers(void *argument) {
    job *j = argument;
    int size = j->t.base.size;
    for (int i = 1; i <= 5 && j->status == SS_OK; i++) {
        if (j->t.base.rank % 3 == i % 3) for (int k = 0; k < 50; k++) sched_yield();
        __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
        j->status = ss_barrier(&j->t.base, &j->err);
        if (j->status == SS_OK) CHECK(__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) >= i * size, "a barrier of %d opened early", size);
    }
    return NULL;
}

static unsigned char byte_of(int round, int rank, size_t at) { return (unsigned char)(mix((uint64_t)round * 7919 + (uint64_t)rank * 104729 + at) >> 3); }

static void *moves(void *argument) {
    job *j = argument;
    ss_transport *t = &j->t.base;
    unsigned char data[MOST * (PART + 3)];
    for (int root = 0; root < t->size && j->status == SS_OK; root++) {
        for (int i = 0; i < PART; i++) data[i] = t->rank == root ? byte_of(0, root, (size_t)i) : 0;
        j->status = ss_broadcast(t, data, PART, root, &j->err);
        for (int i = 0; i < PART && j->status == SS_OK; i++) CHECK(data[i] == byte_of(0, root, (size_t)i), "broadcast from %d of %d: byte %d at rank %d", root, t->size, i, t->rank);
    }
    for (int round = 0; round < 3 && j->status == SS_OK; round++) { /* parts of all sizes, some empty, in falling order of place with gaps; in round 2 all are empty */
        size_t offset[MOST], bytes[MOST];
        memset(data, 0xAA, sizeof data);
        for (int r = 0; r < t->size; r++) {
            bytes[r] = round == 2 || (r + round) % 3 == 0 ? 0 : (size_t)(PART - r * 5);
            offset[r] = (size_t)(t->size - 1 - r) * (PART + 3);
        }
        for (size_t i = 0; i < bytes[t->rank]; i++) data[offset[t->rank] + i] = byte_of(round, t->rank, i);
        j->status = ss_allgather(t, data, offset, bytes, &j->err);
        for (int r = 0; r < t->size && j->status == SS_OK; r++)
            for (size_t i = 0; i < PART + 3; i++)
                CHECK(data[offset[r] + i] == (i < bytes[r] ? byte_of(round, r, i) : 0xAA), "allgather on %d, round %d: byte %d of rank %d at rank %d", t->size, round, (int)i, r, t->rank);
    }
    return NULL;
}

static void *different_sizes(void *argument) {
    job *j = argument;
    char data[64] = {0};
    j->status = ss_broadcast(&j->t.base, data, j->t.base.rank == 1 ? 32 : 64, 0, &j->err);
    return NULL;
}

int main(void) {
    ss_sim_options options = {.least_delay = 0, .most_delay = 12, .slow_rank = -1, .dead_rank = -1};
    for (int size = 1; size <= MOST; size++) {
        options.ranks = size;
        options.seed = (uint64_t)size;
        int steps = 0;
        while (1 << steps < size) steps++;
        uint64_t messages = run(&options, barriers);
        for (int r = 0; r < size; r++) CHECK(jobs[r].status == SS_OK, "%s", jobs[r].err.message);
        CHECK(messages == 5u * (uint64_t)steps * (uint64_t)size, "%d messages in 5 barriers of %d", (int)messages, size);
        messages = run(&options, moves);
        uint64_t expected = (uint64_t)size * (uint64_t)(size - 1);
        for (int r = 0; r < size; r++) CHECK(jobs[r].status == SS_OK, "%s", jobs[r].err.message);
        for (int round = 0; round < 2; round++)
            for (int r = 0; r < size; r++) expected += (r + round) % 3 ? (uint64_t)(size - 1) : 0;
        CHECK(messages == expected, "%d messages, not %d, on %d ranks", (int)messages, (int)expected, size);
    }
    group_passed("barrier, broadcast, allgather on 1 to 21 ranks");

    hosts = true;
    for (int size = 1; size <= MOST; size++) {
        options.ranks = size;
        run(&options, moves);
        for (int r = 0; r < size; r++) CHECK(jobs[r].status == SS_OK, "%s", jobs[r].err.message);
    }
    hosts = false;
    group_passed("several hosts");

    options.ranks = 2; /* with more, the ones behind would wait for ever: rank 0 gives its other sends up */
    run(&options, different_sizes);
    CHECK(jobs[1].status == SS_ERR_COMM && strstr(jobs[1].err.message, "rank 0 sent 64 bytes to rank 1"), "%s", jobs[1].err.message);
    CHECK(jobs[0].status == SS_ERR_COMM);
    group_passed("different sizes");

    options.ranks = 11;
    options.dead_rank = 5;
    options.dead_tick = 0;
    run(&options, barriers);
    for (int r = 0; r < 11; r++)
        if (r != 5) CHECK(jobs[r].status == SS_ERR_RANK_FAILED && strstr(jobs[r].err.message, "rank 5 did not answer"), "rank %d: %s", r, jobs[r].err.message);
    group_passed("dead rank");
    CHECK(ss_alloc_bytes() == 0, "%llu bytes leaked", (unsigned long long)ss_alloc_bytes());
    return 0;
}
