/* Fails the n-th allocation of a whole exchange for n = 1, 2, ... until it succeeds: an error each time, and nothing is left behind. */
#include "comm/exchange.h"
#include "comm/sim.h"
#include "tests/comm_test.h"

enum { RANKS = 40, ELEMENTS = 700 }; /* more than 1024 channels: the sim's table grows too */

static ss_status scenario(ss_error *err) {
    ss_status status = SS_OK;
    ss_sim *sim = NULL;
    ss_transport *self = NULL;
    ss_exchange *x[RANKS] = {NULL};
    static float partials[RANKS][2 * ELEMENTS], data[RANKS][ELEMENTS];
    int64_t cut[] = {0, ELEMENTS};
    ss_sim_options options = {.ranks = RANKS, .seed = 5, .least_delay = 1, .most_delay = 3, .slow_rank = -1, .dead_rank = -1};
    SS_TRY(ss_transport_self(&self, err));
    SS_TRY(ss_sim_create(&options, &sim, err));
    for (int r = 0; r < RANKS; r++) {
        SS_TRY(ss_exchange_create(ss_sim_transport(sim, r), ELEMENTS, cut, 1, RANKS, &x[r], err));
        ss_exchange_begin(x[r], RANKS);
        for (int e = 0; e < ELEMENTS; e++) partials[r][e] = (float)(r + e);
    }
    for (int r = 0; r < RANKS; r++) SS_TRY(ss_exchange_post(x[r], 0, partials[r], ELEMENTS, err));
    for (int i = 0; i < 4; i++) ss_sim_tick(sim);
    for (int r = 0; r < RANKS; r++) {
        int64_t begin, end;
        ss_exchange_piece(x[r], 0, r, &begin, &end);
        SS_TRY(ss_exchange_wait(x[r], 0, err));
        ss_exchange_fold(x[r], 0, begin, end, data[r]);
        SS_TRY(ss_exchange_gather(x[r], 0, data[r], err));
    }
    for (int i = 0; i < 4; i++) ss_sim_tick(sim);
    for (int r = 0; r < RANKS; r++) {
        SS_TRY(ss_exchange_end(x[r], err));
        for (int e = 0; e < ELEMENTS; e++) CHECK(data[r][e] == (float)(RANKS * e + RANKS * (RANKS - 1) / 2), "rank %d, element %d: %g", r, e, (double)data[r][e]);
    }
done:
    for (int r = 0; r < RANKS; r++) ss_exchange_free(x[r]);
    ss_sim_free(sim);
    ss_transport_free(self);
    return status;
}

/* Six ranks on three hosts meet, part and meet again. Without memory that others can map (SS_ERR_STATE) they would go on with messages. */
static ss_status shared_scenario(ss_error *err) {
    enum { SIX = 6 };
    ss_status status = SS_OK;
    ss_sim *sim = NULL;
    ss_exchange *x[SIX] = {NULL};
    ss_exchange_card cards[SIX];
    bool apart[SIX][SIX];
    float *memory[SIX] = {NULL};
    int file[SIX];
    int64_t cut[] = {0, ELEMENTS};
    ss_sim_options options = {.ranks = SIX, .seed = 5, .least_delay = 1, .most_delay = 3, .slow_rank = -1, .dead_rank = -1};
    SS_TRY(ss_sim_create(&options, &sim, err));
    for (int r = 0; r < SIX; r++) {
        ss_transport *t = ss_sim_transport(sim, r);
        for (int other = 0; other < SIX; other++) apart[r][other] = other / 2 != r / 2;
        t->apart = apart[r];
        t->shares = true;
        SS_TRY(ss_exchange_create(t, ELEMENTS, cut, 1, 64, &x[r], err));
        memory[r] = ss_calloc_shared(ELEMENTS * sizeof(float), &file[r]);
        if (!memory[r]) SS_TRY(SS_FAIL(err, SS_ERR_MEMORY, "no shared memory"));
        ss_exchange_share(x[r], memory[r], ELEMENTS * sizeof(float), file[r]);
        cards[r] = ss_exchange_card_of(x[r], r / 2);
    }
    for (int turn = 0; turn < 2; turn++) {
        for (int r = 0; r < SIX; r++) {
            status = ss_exchange_connect(x[r], cards, err);
            CHECK(ss_exchange_neighbours(x[r]) == (status == SS_OK ? 1 : 0));
            if (status != SS_OK) goto done;
        }
        for (int r = 0; r < SIX && turn == 0; r++) SS_TRY(ss_exchange_disconnect(x[r], err));
    }
done:
    for (int r = 0; r < SIX; r++) {
        ss_exchange_free(x[r]);
        if (memory[r]) ss_free_shared(memory[r], ELEMENTS * sizeof(float), file[r]);
    }
    ss_sim_free(sim);
    return status;
}

static int fail_each(ss_status (*scenario)(ss_error *), ss_status other) {
    ss_error err;
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        ss_alloc_fail_after(n);
        ss_status status = scenario(&err);
        ss_alloc_fail_after(0);
        CHECK(ss_alloc_bytes() == 0, "allocation %d failed: %llu bytes leaked", (int)n, (unsigned long long)ss_alloc_bytes());
        if (status == SS_OK) break;
        CHECK((status == SS_ERR_MEMORY || status == other) && err.code == status, "allocation %d failed: %s (%s)", (int)n, ss_status_text(status), err.message);
        failures++;
    }
    return failures;
}

int main(void) {
    const int failures = fail_each(scenario, SS_ERR_MEMORY), more = fail_each(shared_scenario, SS_ERR_STATE);
    CHECK(failures > 9 * RANKS, "only %d allocations", failures);
    CHECK(more > 6 * 12, "only %d allocations", more);
    printf("%d allocations failed in turn\n", failures + more);
    return 0;
}
