/* The transport interface: point-to-point messages between ranks. Everything collective is built on it (comm/collective.h, comm/exchange.h).
 *
 * Nothing here allocates after creation: requests belong to the caller. Messages between two ranks with one tag arrive in order. A receive names its sender, tag and exact size.
 */
#ifndef SS_COMM_TRANSPORT_H
#define SS_COMM_TRANSPORT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

typedef struct ss_request {
    uintptr_t word[4]; /* the transport's own; all zero: nothing pending */
} ss_request;

typedef struct ss_transport ss_transport;
struct ss_transport {
    const char *name; /* "self", "mpi", "sim" */
    int rank, size;
    uint64_t calls;    /* of entry points at which all ranks come together (comm/signature.h) */
    const bool *apart; /* [size] whether a rank is on another host than this one; NULL: none is. Two ranks agree about each other */
    size_t part;       /* bytes: what goes to a rank apart travels fastest in messages of at most this size; 0: of any size */
    bool shares;       /* ranks that are not apart are processes of one machine, which can map each other's memory (base/shared.h) */
    bool crowded;      /* more ranks than processors on this host: whoever spins keeps its peer from running */
    double timeout; /* seconds that wait may take before it answers SS_ERR_RANK_FAILED and names the ranks that did not answer; 0: no limit */
    ss_status (*send)(ss_transport *t, const void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err);
    ss_status (*receive)(ss_transport *t, void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err);
    /* *done becomes true when the request has completed (then it is all zero). Drives progress. */
    ss_status (*test)(ss_transport *t, ss_request *request, bool *done, ss_error *err);
    /* Returns when all requests have completed, the timeout has passed, or the transport failed. peers[i] is the rank that request i belongs to.
     * After a failure some requests are still pending: cancel them before their memory goes away. */
    ss_status (*wait)(ss_transport *t, ss_request *requests, const int *peers, int count, ss_error *err);
    /* For the way out after a failure: gives a request up; it becomes all zero. True: the transport will not touch the request's memory again. False: a transfer
     * that cannot be stopped may still read (send) or write (receive) it, so it must not be released. */
    bool (*cancel)(ss_transport *t, ss_request *request);
    void (*free)(ss_transport *t); /* NULL-safe through ss_transport_free */
};

/* Tags: the kind of traffic. */
enum { SS_TAG_COLLECTIVE = 1, SS_TAG_STATUS = 2, SS_TAG_STAT = 3, SS_TAG_RESULT = 4, SS_TAG_SIGNATURE = 5, SS_TAG_GRADIENT = 16 /* + bucket */, SS_TAG_PARAMETER = 8192 /* + bucket */,
       SS_TAG_CENTRAL = 16384 /* + messages of parameter servers */ };

void ss_transport_free(ss_transport *t);
/* Cancels every pending request of the array; true when all of them let go of their memory. */
bool ss_transport_cancel(ss_transport *t, ss_request *requests, int count);

/* One rank, no messages. */
ss_status ss_transport_self(ss_transport **out, ss_error *err);
/* Open MPI over a duplicate of a communicator. comm points to an MPI_Comm, or is NULL for MPI_COMM_WORLD. MPI must be initialised (comm/comm_mpi.h).
 * Collective: every rank of comm calls it. The timeout begins at 600 seconds. */
ss_status ss_transport_mpi(const void *comm, ss_transport **out, ss_error *err);

#endif
