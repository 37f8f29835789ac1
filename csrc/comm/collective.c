/* Blocking collectives. No allocation: what is in flight lies on the stack, at most IN_FLIGHT requests. Parts without bytes send no message.
 *
 * Successive collectives share one tag: messages between two ranks stay in order, and every rank makes the same calls.
 */
#include "comm/collective.h"
#include <assert.h>

enum { IN_FLIGHT = 64, PAIRWISE_RANKS = 8 };

typedef struct flight {
    ss_transport *t;
    ss_request request[IN_FLIGHT];
    int peer[IN_FLIGHT];
    int count;
} flight;

static ss_status start_send(flight *f, const void *data, size_t bytes, int peer, ss_error *err) {
    assert(f->count < IN_FLIGHT);
    ss_request *request = &f->request[f->count];
    *request = (ss_request){{0}};
    ss_status status = f->t->send(f->t, data, bytes, peer, SS_TAG_COLLECTIVE, request, err);
    if (status == SS_OK) f->peer[f->count++] = peer;
    return status;
}

static ss_status start_receive(flight *f, void *data, size_t bytes, int peer, ss_error *err) {
    assert(f->count < IN_FLIGHT);
    ss_request *request = &f->request[f->count];
    *request = (ss_request){{0}};
    ss_status status = f->t->receive(f->t, data, bytes, peer, SS_TAG_COLLECTIVE, request, err);
    if (status == SS_OK) f->peer[f->count++] = peer;
    return status;
}

static ss_status land(flight *f, ss_error *err) {
    ss_status status = f->t->wait(f->t, f->request, f->peer, f->count, err);
    if (status == SS_OK) f->count = 0;
    return status;
}

/* The requests live in the caller's frame: none may be pending when it returns. */
static ss_status leave(flight *f, ss_status status) {
    if (status != SS_OK) ss_transport_cancel(f->t, f->request, f->count);
    return status;
}

/* Dissemination (Hensgen, Finkel, Manber: "Two algorithms for barrier synchronization", 1988): in round k everybody tells the rank 2^k above. */
ss_status ss_barrier(ss_transport *t, ss_error *err) {
    flight f = {.t = t};
    ss_status status = SS_OK;
    for (int64_t step = 1; step < t->size; step *= 2) {
        int up = (int)((t->rank + step) % t->size), down = (int)((t->rank - step + t->size) % t->size);
        SS_TRY(start_receive(&f, NULL, 0, down, err));
        SS_TRY(start_send(&f, NULL, 0, up, err));
        SS_TRY(land(&f, err));
    }
done:
    return leave(&f, status);
}

ss_status ss_broadcast(ss_transport *t, void *data, size_t bytes, int root, ss_error *err) {
    if (root < 0 || root >= t->size) return SS_FAIL(err, SS_ERR_VALUE, "broadcast from rank %d, but there are %d ranks", root, t->size);
    if (bytes == 0) return SS_OK;
    flight f = {.t = t};
    ss_status status = SS_OK;
    /* Ranks are counted from the root. A rank's parent is itself without its lowest set bit; its children add a lower bit. */
    int64_t self = (t->rank - root + t->size) % t->size, bit = 1;
    while (bit < t->size && !(self & bit)) bit *= 2;
    if (self != 0) {
        SS_TRY(start_receive(&f, data, bytes, (int)((self - bit + root) % t->size), err));
        SS_TRY(land(&f, err));
    }
    for (bit /= 2; bit >= 1; bit /= 2) /* the largest subtree first: it has the longest way to go */
        if (self + bit < t->size) SS_TRY(start_send(&f, data, bytes, (int)((self + bit + root) % t->size), err));
    SS_TRY(land(&f, err));
done:
    return leave(&f, status);
}

/* A message to a rank on another host travels in parts of the size that the transport prefers; both ends cut it the same way. */
static size_t part_of(const flight *f, int peer) {
    const ss_transport *t = f->t;
    return t->apart && t->apart[peer] && t->part ? t->part : SIZE_MAX;
}

static size_t parts(const flight *f, size_t bytes, int peer) { return bytes ? (bytes - 1) / part_of(f, peer) + 1 : 0; }

/* Starts parts [first, first + most) of a message, as far as there are so many. */
static ss_status start_parts(flight *f, bool sends, char *data, size_t bytes, int peer, size_t first, size_t most, ss_error *err) {
    size_t part = part_of(f, peer), count = parts(f, bytes, peer);
    for (size_t k = first; k < count && k < first + most; k++) {
        size_t at = k * part, length = bytes - at < part ? bytes - at : part; /* k is 0 where parts have no limit */
        ss_status status = sends ? start_send(f, data + at, length, peer, err) : start_receive(f, data + at, length, peer, err);
        if (status != SS_OK) return status;
    }
    return SS_OK;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Everybody to everybody at once: the shortest way for few ranks. Messages of many parts take several turns, as many parts at a time as there are requests for. */
static ss_status allgather_pairwise(flight *f, char *data, const size_t *offset, const size_t *bytes, ss_error *err) {
    ss_status status = SS_OK;
    int rank = f->t->rank, size = f->t->size;
    size_t turn = size > 1 ? IN_FLIGHT / (2 * (size_t)(size - 1)) : 1, most = 0;
    for (int r = 0; r < size; r++)
        if (r != rank) most = larger(most, larger(parts(f, bytes[r], r), parts(f, bytes[rank], r)));
    for (size_t first = 0; first < most; first += turn) {
        for (int i = 1; i < size; i++) {
            int from = (rank - i + size) % size;
            SS_TRY(start_parts(f, false, data + offset[from], bytes[from], from, first, turn, err));
        }
        for (int i = 1; i < size; i++) SS_TRY(start_parts(f, true, data + offset[rank], bytes[rank], (rank + i) % size, first, turn, err));
        SS_TRY(land(f, err));
    }
done:
    return status;
}

/* A ring: in each step a rank hands on the part that it got in the step before, so only neighbours talk. */
static ss_status allgather_ring(flight *f, char *data, const size_t *offset, const size_t *bytes, ss_error *err) {
    ss_status status = SS_OK;
    int rank = f->t->rank, size = f->t->size;
    int up = (rank + 1) % size, down = (rank - 1 + size) % size;
    const size_t turn = IN_FLIGHT / 2;
    for (int step = 0; step < size - 1; step++) {
        int out = (rank - step + size) % size, in = (rank - step - 1 + size) % size;
        size_t most = larger(parts(f, bytes[in], down), parts(f, bytes[out], up));
        for (size_t first = 0; first < most; first += turn) {
            SS_TRY(start_parts(f, false, data + offset[in], bytes[in], down, first, turn, err));
            SS_TRY(start_parts(f, true, data + offset[out], bytes[out], up, first, turn, err));
            SS_TRY(land(f, err));
        }
    }
done:
    return status;
}

ss_status ss_allgather(ss_transport *t, void *data, const size_t *offset, const size_t *bytes, ss_error *err) {
    flight f = {.t = t};
    ss_status status = t->size <= PAIRWISE_RANKS ? allgather_pairwise(&f, data, offset, bytes, err) : allgather_ring(&f, data, offset, bytes, err);
    return leave(&f, status);
}
