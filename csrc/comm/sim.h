/* A simulated network: P ranks inside one process and one thread, deterministic for a seed, with delays and failures. For tests.
 *
 * Messages are delivered when the simulated clock reaches their due tick; ss_sim_tick advances it. Order between two ranks with one tag is kept; otherwise delays may reorder.
 */
#ifndef SS_COMM_SIM_H
#define SS_COMM_SIM_H
#include "comm/transport.h"

typedef struct ss_sim ss_sim;
typedef struct ss_sim_options {
    int ranks;
    uint64_t seed;
    uint32_t least_delay, most_delay; /* ticks, drawn for each message */
    int slow_rank;                    /* its messages take ten times as long; -1: none */
    int dead_rank;                    /* from tick dead_tick on it sends nothing, and others' waits answer SS_ERR_RANK_FAILED naming it; -1: none */
    uint64_t dead_tick;
} ss_sim_options;

ss_status ss_sim_create(const ss_sim_options *options, ss_sim **out, ss_error *err);
void ss_sim_free(ss_sim *sim);
/* The transport of one rank; belongs to the sim. Its wait only succeeds when everything has already been delivered. */
ss_transport *ss_sim_transport(ss_sim *sim, int rank);
void ss_sim_tick(ss_sim *sim);
uint64_t ss_sim_messages(const ss_sim *sim);
uint64_t ss_sim_bytes(const ss_sim *sim);

#endif
