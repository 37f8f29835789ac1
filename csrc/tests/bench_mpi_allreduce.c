/* Times the exchange of gradients beside MPI_Allreduce, without a network to train: what benchmarks/allreduce.py starts on every rank.
 *
 * Rank 0 reads commands from its standard input, one a line, and answers each with a line:
 *
 *     exchange ELEMENTS BUCKET LANES REPEATS     reduce-scatter in lane order and all-gather, as a step of training makes them; BUCKET elements are posted at once
 *     mpi ELEMENTS 0 0 REPEATS                   MPI_Allreduce of the same library
 *     end                                        ends all ranks: a launcher does not always pass on that its own input has ended
 *
 * The answer is the time of one repetition in seconds, of the slowest rank, and the blocks of the lane tree that the rank with the most of them sends. Every burst is
 * preceded by a repetition that does not count, and its sums are checked. Between commands all ranks sleep, so that a third contestant can be timed beside this program. */
#include <mpi.h>
#include <time.h>
#include "base/arena.h"
#include "base/shape.h"
#include "comm/comm_mpi.h"
#include "comm/exchange.h"
#include "tests/comm_test.h"

enum { FIELDS = 5, WHAT_END = 0, WHAT_EXCHANGE = 1, WHAT_MPI = 2, NAP_NANOSECONDS = 500 * 1000, TAG = 77 };

/* What is kept from one command to the next of the same shape. */
typedef struct arena {
    int64_t what, elements, bucket, lanes;
    int buckets, blocks;
    ss_exchange *exchange;
    ss_arena *memory[2]; /* as a model's: in shared memory */
    float *partials, *data; /* (blocks, elements) and (elements) */
} arena;

static ss_transport *t;
static arena a;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Small whole numbers: their sums are exact in any order. */
static float value(int rank, int block, int64_t element) { return (float)((element + 5 * block + 11 * rank) % 61); }

static void release(void) {
    ss_exchange_free(a.exchange);
    ss_arena_free(a.memory[0]);
    ss_arena_free(a.memory[1]);
    a = (arena){0};
}

static void prepare(int64_t what, int64_t elements, int64_t bucket, int64_t lanes) {
    ss_error err;
    if (a.what == what && a.elements == elements && a.bucket == bucket && a.lanes == lanes) return;
    release();
    a = (arena){.what = what, .elements = elements, .bucket = bucket, .lanes = lanes, .blocks = 1};
    if (what == WHAT_EXCHANGE) {
        a.buckets = (int)((elements + bucket - 1) / bucket);
        int64_t *cut = malloc(((size_t)a.buckets + 1) * sizeof *cut);
        CHECK(cut, "no memory");
        for (int b = 0; b <= a.buckets; b++) cut[b] = ss_min(b * bucket, elements);
        CHECK_OK(ss_exchange_create(t, elements, cut, a.buckets, (int32_t)lanes, &a.exchange, &err));
        free(cut);
        ss_exchange_begin(a.exchange, lanes);
        a.blocks = ss_exchange_blocks(a.exchange);
    }
    int64_t at[2];
    for (int k = 0; k < 2; k++) {
        ss_arena_plan plan = {0};
        CHECK_OK(ss_region_add(&plan, (k ? 1 : a.blocks) * elements * (int64_t)sizeof(float), &at[k], &err));
        CHECK_OK(ss_arena_create_shared(&plan, &a.memory[k], &err));
        if (a.exchange) ss_exchange_share(a.exchange, ss_arena_at(a.memory[k], 0), (size_t)ss_arena_bytes(a.memory[k]), ss_arena_file(a.memory[k]));
    }
    a.partials = ss_arena_at(a.memory[0], at[0]);
    a.data = ss_arena_at(a.memory[1], at[1]);
    if (a.exchange) CHECK_OK(ss_exchange_introduce(a.exchange, &err));
    for (int j = 0; j < a.blocks; j++)
        for (int64_t e = 0; e < elements; e++) a.partials[j * elements + e] = value(t->rank, j, e);
    memset(a.data, 0, (size_t)elements * sizeof *a.data);
}

/* The order of calls is that of a step whose buckets are all complete: post them, fold each as it comes in, send out the results. */
static void exchange_once(void) {
    ss_error err;
    ss_exchange_begin(a.exchange, a.lanes);
    for (int b = 0; b < a.buckets; b++) CHECK_OK(ss_exchange_post(a.exchange, b, a.partials, a.elements, &err));
    for (int b = 0; b < a.buckets; b++) {
        int64_t begin, end;
        CHECK_OK(ss_exchange_wait(a.exchange, b, &err));
        ss_exchange_piece(a.exchange, b, t->rank, &begin, &end);
        ss_exchange_fold(a.exchange, b, begin, end, a.data);
        CHECK_OK(ss_exchange_gather(a.exchange, b, a.data, &err));
    }
    CHECK_OK(ss_exchange_end(a.exchange, &err));
}

static void once(void) {
    if (a.what == WHAT_EXCHANGE) exchange_once();
    else CHECK(MPI_Allreduce(a.partials, a.data, (int)a.elements, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) == MPI_SUCCESS, "MPI_Allreduce failed");
}

/* blocks[r]: of rank r. */
static void check_sums(const int *blocks) {
    for (int64_t e = 0; e < a.elements; e += 1 + a.elements / 997) {
        float sum = 0;
        for (int r = 0; r < t->size; r++)
            for (int j = 0; j < blocks[r]; j++) sum += value(r, j, e);
        CHECK(a.data[e] == sum, "element %lld is %g, not %g", (long long)e, a.data[e], sum);
    }
}

/* Rank 0 reads; the others sleep until it tells them. */
static void next_command(int64_t field[FIELDS]) {
    struct timespec nap = {.tv_nsec = NAP_NANOSECONDS};
    char what[16], line[200];
    if (t->rank == 0) {
        field[0] = WHAT_END;
        long long n[FIELDS - 1];
        if (fgets(line, sizeof line, stdin) && sscanf(line, "%15s %lld %lld %lld %lld", what, n, n + 1, n + 2, n + 3) == FIELDS) {
            field[0] = strcmp(what, "exchange") == 0 ? WHAT_EXCHANGE : WHAT_MPI;
            for (int i = 1; i < FIELDS; i++) field[i] = n[i - 1];
        }
        for (int r = 1; r < t->size; r++) MPI_Send(field, FIELDS, MPI_INT64_T, r, TAG, MPI_COMM_WORLD);
        return;
    }
    for (int here = 0;; nanosleep(&nap, NULL)) {
        MPI_Iprobe(0, TAG, MPI_COMM_WORLD, &here, MPI_STATUS_IGNORE);
        if (here) break;
    }
    MPI_Recv(field, FIELDS, MPI_INT64_T, 0, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

int main(void) {
    ss_error err;
    CHECK_OK(ss_mpi_init(&err));
    CHECK_OK(ss_transport_mpi(NULL, &t, &err));
    int *blocks = malloc((size_t)t->size * sizeof *blocks);
    CHECK(blocks, "no memory");
    for (int64_t field[FIELDS];;) {
        next_command(field);
        if (field[0] == WHAT_END) break;
        prepare(field[0], field[1], field[2], field[3]);
        MPI_Allgather(&a.blocks, 1, MPI_INT, blocks, 1, MPI_INT, MPI_COMM_WORLD);
        once();
        MPI_Barrier(MPI_COMM_WORLD);
        double taken = seconds(), slowest = 0;
        for (int64_t i = 0; i < field[4]; i++) once();
        taken = (seconds() - taken) / (double)field[4];
        check_sums(blocks);
        MPI_Reduce(&taken, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
        int most = 0;
        for (int r = 0; r < t->size; r++) most = (int)ss_max(most, blocks[r]);
        if (t->rank == 0) {
            printf("%.9f %d\n", slowest, most);
            fflush(stdout);
        }
    }
    release();
    free(blocks);
    ss_transport_free(t);
    ss_mpi_finalize();
    return 0;
}
