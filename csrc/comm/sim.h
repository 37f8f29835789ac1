/* A simulated network: P ranks inside one process and one thread, deterministic for a seed, with delays and failures. For tests.
 *
 * Messages are delivered when the simulated clock reaches their due tick; ss_sim_tick advances it. Order between two ranks with one tag is kept; otherwise delays may reorder.
 * The network buffers nothing: a message is copied at the later of its due tick and its receive, and only then does its send complete. This is the strictest behaviour that MPI
 * allows, so a sender that touches its data too early gives wrong results here. A message whose two ends name different sizes fails both ends' test and wait with SS_ERR_COMM.
 *
 * Memory: the pool of messages grows when more are under way than ever before; otherwise nothing is allocated after creation.
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
/* Frees the transports too. NULL is allowed. */
void ss_sim_free(ss_sim *sim);
/* The transport of one rank; belongs to the sim. Its wait only succeeds when everything has already been delivered: else it answers SS_ERR_RANK_FAILED when
 * a rank is dead and SS_ERR_STATE (it would block for ever) when none is. */
ss_transport *ss_sim_transport(ss_sim *sim, int rank);
void ss_sim_tick(ss_sim *sim);
uint64_t ss_sim_now(const ss_sim *sim);
/* Messages and bytes sent so far. */
uint64_t ss_sim_messages(const ss_sim *sim);
uint64_t ss_sim_bytes(const ss_sim *sim);

#endif
