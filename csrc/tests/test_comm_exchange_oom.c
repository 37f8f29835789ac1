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

int main(void) {
    ss_error err;
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        ss_alloc_fail_after(n);
        ss_status status = scenario(&err);
        ss_alloc_fail_after(0);
        CHECK(ss_alloc_bytes() == 0, "allocation %d failed: %llu bytes leaked", (int)n, (unsigned long long)ss_alloc_bytes());
        if (status == SS_OK) break;
        CHECK(status == SS_ERR_MEMORY && err.code == SS_ERR_MEMORY, "allocation %d failed: %s (%s)", (int)n, ss_status_text(status), err.message);
        failures++;
    }
    CHECK(failures > 9 * RANKS, "only %d allocations", failures);
    printf("%d allocations failed in turn\n", failures);
    return 0;
}
