/* The MPI transport, on any number of ranks: make check-mpi-3, or mpiexec -n 4 test_mpi_transport. SAMESTEP_TEST_HUGE=1 also sends a message of more than 2^31 bytes. */
#include <mpi.h>
#include <time.h>
#include "base/arena.h"
#include "comm/collective.h"
#include "comm/comm_mpi.h"
#include "comm/exchange.h"
#include "comm/signature.h"
#include "tests/comm_lanes.h"

static ss_transport *t;

static void report(const char *name) {
    if (t->rank == 0) group_passed(name);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void barriers(void) {
    ss_error err;
    for (int late = 0; late < t->size; late++) { /* nobody leaves before the last has come */
        struct timespec nap = {.tv_nsec = 30 * 1000 * 1000};
        CHECK_OK(ss_barrier(t, &err));
        double begin = seconds();
        if (t->rank == late) nanosleep(&nap, NULL);
        CHECK_OK(ss_barrier(t, &err));
        CHECK(seconds() - begin > 0.02, "rank %d left the barrier after %g s", t->rank, seconds() - begin);
    }
    report("barrier");
}

static void collectives(void) {
    ss_error err;
    enum { PART = 100000 };
    unsigned char *data = malloc((size_t)t->size * PART);
    size_t *offset = malloc(sizeof *offset * (size_t)t->size), *bytes = malloc(sizeof *bytes * (size_t)t->size);
    for (int root = 0; root < t->size; root++) {
        for (int i = 0; i < PART; i++) data[i] = (unsigned char)(t->rank == root ? mix((uint64_t)(root + i)) : 0);
        CHECK_OK(ss_broadcast(t, data, PART, root, &err));
        for (int i = 0; i < PART; i++) CHECK(data[i] == (unsigned char)mix((uint64_t)(root + i)), "byte %d from %d at %d", i, root, t->rank);
    }
    for (int round = 0; round < 3; round++) {
        for (int r = 0; r < t->size; r++) {
            offset[r] = (size_t)r * PART;
            bytes[r] = (r + round) % 3 == 0 ? 0 : (size_t)(PART - r);
        }
        memset(data, 0, (size_t)t->size * PART);
        for (size_t i = 0; i < bytes[t->rank]; i++) data[offset[t->rank] + i] = (unsigned char)mix((uint64_t)t->rank * PART + i);
        CHECK_OK(ss_allgather(t, data, offset, bytes, &err));
        for (int r = 0; r < t->size; r++)
            for (size_t i = 0; i < PART; i++)
                CHECK(data[offset[r] + i] == (i < bytes[r] ? (unsigned char)mix((uint64_t)r * PART + i) : 0), "byte %d of rank %d at %d", (int)i, r, t->rank);
    }
    free(data);
    free(offset);
    free(bytes);
    report("broadcast, allgather");
}

/* Round the ring, with sizes on both sides of the place where a message is split in two. */
static void large_messages(void) {
    ss_error err;
    static const size_t sizes[] = {0, 1, 2u << 20, (2u << 20) + 1, 3u << 20, (9u << 20) + 12345};
    ss_transport_mpi_split_above(t, 2u << 20);
    for (int i = 0; i < 6 && t->size > 1; i++) {
        size_t bytes = sizes[i];
        unsigned char *out = malloc(bytes + 1), *in = calloc(bytes + 1, 1);
        int peers[2] = {(t->rank + 1) % t->size, (t->rank + t->size - 1) % t->size};
        for (size_t k = 0; k < bytes; k++) out[k] = (unsigned char)(mix(k / 4) >> (k % 4 * 8)) ^ (unsigned char)t->rank;
        in[bytes] = 77;
        ss_request request[2];
        CHECK_OK(t->send(t, out, bytes, peers[0], SS_TAG_STAT, &request[0], &err));
        CHECK_OK(t->receive(t, in, bytes, peers[1], SS_TAG_STAT, &request[1], &err));
        CHECK_OK(t->wait(t, request, peers, 2, &err));
        for (size_t k = 0; k < bytes; k++)
            CHECK(in[k] == ((unsigned char)(mix(k / 4) >> (k % 4 * 8)) ^ (unsigned char)peers[1]), "byte %zu of %zu", k, bytes);
        CHECK(in[bytes] == 77);
        free(out);
        free(in);
    }
    ss_transport_mpi_split_above(t, INT32_MAX);
    report("large messages");
}

static void huge_message(void) {
    ss_error err;
    size_t bytes = ((size_t)1 << 31) + 4097;
    if (t->size < 2 || t->rank > 1) return;
    char *data = calloc(bytes, 1);
    CHECK(data != NULL);
    int peer = 1 - t->rank;
    ss_request request;
    if (t->rank == 0) {
        for (size_t k = 0; k < bytes; k += 4093) data[k] = (char)(k % 127 + 1);
        CHECK_OK(t->send(t, data, bytes, 1, SS_TAG_STAT, &request, &err));
    } else {
        CHECK_OK(t->receive(t, data, bytes, 0, SS_TAG_STAT, &request, &err));
    }
    double begin = seconds();
    CHECK_OK(t->wait(t, &request, &peer, 1, &err));
    for (size_t k = 0; k < bytes; k += 4093) CHECK(data[k] == (char)(k % 127 + 1), "byte %zu", k);
    if (t->rank == 1) printf("%zu bytes in %.2f s: ", bytes, seconds() - begin);
    free(data);
    if (t->rank == 1) group_passed("huge message");
}

/* direct: the ranks, which are of one host here, read each other's memory. */
static void exchanges(bool direct) {
    ss_error err;
    enum { ELEMENTS = 30011, LANES = 13, ROUNDS = 6 };
    static const int64_t batch[ROUNDS] = {100, 5, 13, 13, 1, 1000};
    int64_t cut[] = {0, 16384, 16400, ELEMENTS};
    ss_span blocks[LANES];
    ss_exchange *x = NULL;
    ss_arena *arena = NULL;
    ss_arena_plan plan = {0};
    int64_t at[2];
    CHECK_OK(ss_region_add(&plan, 4 * LANES * ELEMENTS, &at[0], &err));
    CHECK_OK(ss_region_add(&plan, 4 * ELEMENTS, &at[1], &err));
    CHECK_OK(ss_arena_create_shared(&plan, &arena, &err));
    float(*partials)[ELEMENTS] = ss_arena_at(arena, at[0]), *data = ss_arena_at(arena, at[1]);
    CHECK_OK(ss_exchange_create(t, ELEMENTS, cut, 3, LANES, &x, &err));
    if (direct) {
        CHECK(t->shares && ss_arena_file(arena) >= 0, "no shared memory");
        ss_exchange_share(x, ss_arena_at(arena, 0), (size_t)ss_arena_bytes(arena), ss_arena_file(arena));
        CHECK_OK(ss_exchange_introduce(x, &err));
        CHECK(ss_exchange_neighbours(x) == t->size - 1, "%d neighbours", ss_exchange_neighbours(x));
    }
    uint64_t allocations = ss_alloc_count();
    for (int round = 0; round < ROUNDS; round++) {
        int count = tree_blocks(0, LANES, ss_rank_lanes(t->rank, t->size, LANES), LANES, batch[round], blocks);
        for (int j = 0; j < count; j++)
            for (int e = 0; e < ELEMENTS; e++) tree_sum((uint64_t)round, blocks[j].lo, blocks[j].hi, LANES, batch[round], e, &partials[j][e]);
        ss_exchange_begin(x, batch[round]);
        CHECK(ss_exchange_blocks(x) == count);
        for (int b = 0; b < 3; b++) CHECK_OK(ss_exchange_post(x, b, partials[0], ELEMENTS, &err));
        for (int b = 0; b < 3; b++) {
            int64_t begin, end;
            bool ready = false;
            if (round % 2) CHECK_OK(ss_exchange_wait(x, b, &err));
            while (!ready) CHECK_OK(ss_exchange_poll(x, b, &ready, &err));
            ss_exchange_piece(x, b, t->rank, &begin, &end);
            ss_exchange_fold(x, b, begin, end, data);
            CHECK_OK(ss_exchange_gather(x, b, data, &err));
        }
        bool done = false;
        if (round % 2) CHECK_OK(ss_exchange_end(x, &err));
        while (!done) CHECK_OK(ss_exchange_poll_end(x, &done, &err));
        for (int e = 0; e < ELEMENTS; e++) {
            float sum;
            CHECK(tree_sum((uint64_t)round, 0, LANES, LANES, batch[round], e, &sum));
            CHECK(memcmp(&sum, &data[e], sizeof sum) == 0, "round %d, rank %d, element %d: %a, the tree gives %a", round, t->rank, e, (double)data[e], (double)sum);
        }
    }
    CHECK(ss_alloc_count() == allocations, "an exchange allocates nothing after creation");
    ss_exchange_free(x);
    ss_arena_free(arena);
    report(direct ? "exchange with direct loads" : "exchange");
}

/* Ranks that do different things all say so, and name two that differ. */
static void signatures(void) {
    ss_error err;
    char name[64];
    for (int odd = 0; odd < t->size && t->size > 1; odd++) {
        CHECK_OK(ss_signature_check(t, "a step", 12, 1, &err));
        const bool me = t->rank == odd;
        CHECK_FAILS(ss_signature_check(t, me ? "a barrier" : "a step", 12, 1, &err), SS_ERR_COMM);
        snprintf(name, sizeof name, "rank %d calls a barrier of 12 elements", odd);
        CHECK(strstr(err.message, name) && strstr(err.message, "calls a step of 12 elements from rank 1"), "%s", err.message);
        CHECK_FAILS(ss_signature_check(t, "a step", me ? 13 : 12, 1, &err), SS_ERR_COMM);
        snprintf(name, sizeof name, "rank %d calls a step of 13 elements", odd);
        CHECK(strstr(err.message, name), "%s", err.message);
        CHECK_FAILS(ss_signature_check(t, "a step", 12, me ? 0 : 1, &err), SS_ERR_COMM);
        CHECK(strstr(err.message, "from rank 0") && strstr(err.message, "from rank 1"), "%s", err.message);
        if (me) t->calls++;
        CHECK_FAILS(ss_signature_check(t, "a step", -1, -1, &err), SS_ERR_COMM);
        CHECK(strstr(err.message, "its call"), "%s", err.message);
        if (!me) t->calls++;
        CHECK_OK(ss_signature_check(t, "a step", -1, -1, &err));
    }
    report("signatures");
}

/* Rank 0 sends fewer bytes than the others wait for, and more. */
static void wrong_sizes(void) {
    ss_error err;
    char data[256] = {0};
    for (int longer = 0; longer < 2; longer++) {
        ss_request request;
        int zero = 0;
        if (t->rank == 0) {
            for (int peer = 1; peer < t->size; peer++) {
                CHECK_OK(t->send(t, data, longer ? 200 : 50, peer, SS_TAG_STAT, &request, &err));
                CHECK_OK(t->wait(t, &request, &peer, 1, &err));
            }
        } else {
            CHECK_OK(t->receive(t, data, 100, 0, SS_TAG_STAT, &request, &err));
            CHECK_FAILS(t->wait(t, &request, &zero, 1, &err), SS_ERR_COMM);
            CHECK(strstr(err.message, "from rank 0 (tag 3)") && strstr(err.message, "100 bytes"), "%s", err.message);
            ss_transport_cancel(t, &request, 1);
        }
    }
    CHECK_OK(ss_barrier(t, &err));
    report("wrong sizes");
}

/* The last rank keeps silent: the others are told who, in time, and their memory is free again. Afterwards all can go on. */
static void timeout(void) {
    ss_error err;
    int silent = t->size - 1;
    if (t->size == 1) return;
    CHECK_OK(ss_barrier(t, &err));
    if (t->rank == silent) {
        struct timespec nap = {.tv_sec = 1, .tv_nsec = 500 * 1000 * 1000};
        nanosleep(&nap, NULL);
    } else {
        double usual = t->timeout, begin = seconds();
        char data[2][64], name[64];
        ss_request request[3] = {{{0}}};
        int peers[3] = {silent, silent, silent};
        t->timeout = 0.5;
        for (int i = 0; i < 2; i++) CHECK_OK(t->receive(t, data[i], 64, silent, SS_TAG_STATUS, &request[i], &err));
        CHECK_FAILS(t->wait(t, request, peers, 3, &err), SS_ERR_RANK_FAILED);
        double waited = seconds() - begin;
        CHECK(waited > 0.49 && waited < 1.4, "%g s", waited);
        snprintf(name, sizeof name, "and rank %d did not answer", silent);
        CHECK(strstr(err.message, name) && strstr(err.message, "it died"), "%s", err.message);
        CHECK(ss_transport_cancel(t, request, 3), "a receive without a message can be withdrawn");
        CHECK(!request[0].word[0] && !request[1].word[0]);
        t->timeout = usual;
    }
    CHECK_OK(ss_barrier(t, &err));
    /* An exchange that waits for the silent rank. */
    int64_t cut[] = {0, 4096};
    static float partials[4096], data[4096];
    ss_exchange *x = NULL;
    uint64_t held = ss_alloc_bytes();
    for (int direct = 0; direct < 2; direct++) {
        CHECK_OK(ss_exchange_create(t, 4096, cut, 1, t->size, &x, &err));
        int file = -1;
        float *shared = NULL;
        if (direct) {
            shared = ss_calloc_shared(4096 * sizeof *shared, &file);
            CHECK(shared);
            ss_exchange_share(x, shared, 4096 * sizeof *shared, file);
            CHECK_OK(ss_exchange_introduce(x, &err));
        }
        ss_exchange_begin(x, t->size);
        if (t->rank != silent) {
            double usual = t->timeout;
            t->timeout = 0.2;
            CHECK_OK(ss_exchange_post(x, 0, direct ? shared : partials, 4096, &err));
            CHECK_FAILS(ss_exchange_wait(x, 0, &err), SS_ERR_RANK_FAILED);
            char name[64];
            snprintf(name, sizeof name, "and rank %d did not answer", silent);
            CHECK(strstr(err.message, name), "%s", err.message);
            CHECK_FAILS(ss_exchange_gather(x, 0, data, &err), SS_ERR_STATE);
            t->timeout = usual;
        }
        ss_exchange_free(x);
        ss_free_shared(shared, 4096 * sizeof *shared, file);
        CHECK(ss_alloc_bytes() == held, "%llu bytes leaked", (unsigned long long)(ss_alloc_bytes() - held));
        CHECK_OK(ss_barrier(t, &err));
    }
    report("timeout");
}

static void other_communicators(void) {
    ss_error err;
    MPI_Comm half;
    ss_transport *u[3] = {NULL};
    MPI_Errhandler before, after;
    CHECK(MPI_Comm_split(MPI_COMM_WORLD, t->rank % 2, -t->rank, &half) == MPI_SUCCESS);
    MPI_Comm_get_errhandler(half, &before);
    CHECK_OK(ss_transport_mpi(&half, &u[0], &err));
    CHECK_OK(ss_transport_mpi_fortran((int)MPI_Comm_c2f(half), &u[1], &err));
    CHECK_OK(ss_transport_mpi_value((uintptr_t)half, &u[2], &err));
    MPI_Comm_get_errhandler(half, &after);
    CHECK(before == after, "the error handler of the caller's communicator is left alone");
    MPI_Errhandler_free(&before);
    MPI_Errhandler_free(&after);
    for (int i = 0; i < 3; i++) {
        int size = (t->size + 1 - t->rank % 2) / 2;
        CHECK(u[i]->size == size && u[i]->rank == size - 1 - t->rank / 2, "rank %d of %d", u[i]->rank, u[i]->size);
        int value = u[i]->rank == 0 ? t->rank : -1;
        CHECK_OK(ss_broadcast(u[i], &value, sizeof value, 0, &err));
        CHECK(value == (size - 1) * 2 + t->rank % 2, "%d", value);
        ss_transport_free(u[i]);
    }
    MPI_Comm none = MPI_COMM_NULL;
    CHECK_FAILS(ss_transport_mpi(&none, &u[0], &err), SS_ERR_VALUE);
    MPI_Comm_free(&half);
    report("other communicators");
}

int main(void) {
    ss_error err;
    int rank = -1, size = -1;
    char version[64];
    ss_mpi_version(version, sizeof version);
    CHECK(strlen(version) > 5, "%s", version);
    ss_mpi_world(&rank, &size);
    CHECK(rank == 0 && size == 1 && !ss_mpi_initialized() && !ss_mpi_finalized());
    CHECK_FAILS(ss_transport_mpi(NULL, &t, &err), SS_ERR_STATE);
    CHECK_FAILS(ss_transport_mpi_fortran(0, &t, &err), SS_ERR_STATE);
    ss_mpi_finalize(); /* nothing to do, and it does nothing */
    if (!getenv("OMPI_COMM_WORLD_SIZE") && !getenv("PMIX_RANK") && !getenv("PMI_RANK")) {
        printf("run this under mpiexec\n");
        return 1;
    }
    CHECK_OK(ss_mpi_init(&err));
    CHECK_OK(ss_mpi_init(&err));
    CHECK(ss_mpi_initialized());
    ss_mpi_world(&rank, &size);
    CHECK_OK(ss_transport_mpi(NULL, &t, &err));
    CHECK(t->rank == rank && t->size == size && strcmp(t->name, "mpi") == 0 && t->timeout > 0);
    if (rank == 0) printf("%s, %d ranks\n", version, size);
    uint64_t held = ss_alloc_bytes();
    barriers();
    collectives();
    large_messages();
    exchanges(false);
    exchanges(true);
    signatures();
    wrong_sizes();
    timeout();
    other_communicators();
    if (getenv("SAMESTEP_TEST_HUGE")) huge_message();
    CHECK(ss_alloc_bytes() == held, "%llu bytes leaked", (unsigned long long)(ss_alloc_bytes() - held));
    CHECK_OK(ss_barrier(t, &err));
    ss_transport_free(t);
    ss_transport *forgotten = NULL;
    CHECK_OK(ss_transport_mpi(NULL, &forgotten, &err));
    ss_mpi_finalize();
    CHECK(ss_mpi_finalized());
    ss_transport_free(forgotten); /* too late for its communicator, in time for its memory */
    CHECK_FAILS(ss_mpi_init(&err), SS_ERR_STATE);
    CHECK_FAILS(ss_transport_mpi(NULL, &t, &err), SS_ERR_STATE);
    ss_mpi_finalize();
    CHECK(ss_alloc_bytes() == 0, "%llu bytes leaked", (unsigned long long)ss_alloc_bytes());
    return 0;
}
