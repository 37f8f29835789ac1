#include "train/meeting.h"
#include <string.h>
#include "base/alloc.h"
#include "comm/collective.h"
#include "comm/signature.h"
#include "kernels/variant.h"

enum { GRAIN = 16, CHUNK = 1 << 16 }; /* elements: pieces begin on cache lines; what is received from each rank at a time */

struct ss_meeting {
    ss_transport *t;
    int64_t elements, states;
    float lr, momentum;
    bool outer;
    int first, past; /* the ranks of this one's host */
    float *start, *velocity; /* [elements] with an outer optimizer; this rank's piece of the velocity counts */
    float *staging;          /* [ranks][CHUNK] */
    ss_request *request;     /* [2 * ranks] */
    int *peer;
};

ss_status ss_meeting_create(const ss_model *m, ss_transport *t, bool outer, double lr, double momentum, int host_ranks, ss_meeting **out, ss_error *err) {
    if (host_ranks < 0 || host_ranks > t->size) return SS_FAIL(err, SS_ERR_VALUE, "%d ranks on a host, of %d in all", host_ranks, t->size);
    ss_meeting *g = ss_calloc(1, sizeof *g);
    if (!g) goto no_memory;
    *g = (ss_meeting){.t = t, .elements = m->elements, .states = m->state_elements, .outer = outer, .lr = (float)lr, .momentum = (float)momentum};
    if (host_ranks) {
        g->first = t->rank / host_ranks * host_ranks;
        g->past = (int)ss_min(g->first + host_ranks, t->size);
    } else {
        for (g->first = t->rank; g->first > 0 && !(t->apart && t->apart[g->first - 1]); g->first--) {}
        for (g->past = t->rank + 1; g->past < t->size && !(t->apart && t->apart[g->past]); g->past++) {}
    }
    g->staging = ss_calloc((size_t)t->size, CHUNK * sizeof *g->staging);
    g->request = ss_calloc(2 * (size_t)t->size, sizeof *g->request);
    g->peer = ss_calloc(2 * (size_t)t->size, sizeof *g->peer);
    if (!g->staging || !g->request || !g->peer) goto no_memory;
    if (outer) {
        g->start = ss_calloc((size_t)m->elements + 1, sizeof *g->start);
        g->velocity = ss_calloc((size_t)m->elements + 1, sizeof *g->velocity);
        if (!g->start || !g->velocity) goto no_memory;
        memcpy(g->start, m->values, (size_t)m->elements * sizeof *g->start);
    }
    *out = g;
    return SS_OK;
no_memory:
    ss_meeting_free(g);
    return SS_FAIL(err, SS_ERR_MEMORY, "no memory for the meetings of %d ranks", t->size);
}

void ss_meeting_free(ss_meeting *g) {
    if (!g) return;
    ss_free(g->peer);
    ss_free(g->request);
    ss_free(g->staging);
    ss_free(g->velocity);
    ss_free(g->start);
    ss_free(g);
}

ss_status ss_meeting_begin(ss_meeting *g, ss_model *m, ss_error *err) {
    ss_status status = ss_signature_check(g->t, "the start of local training", g->elements, 0, err);
    if (status == SS_OK) status = ss_broadcast(g->t, m->values, (size_t)m->elements * 4, 0, err);
    if (status == SS_OK) status = ss_broadcast(g->t, m->states_at, (size_t)m->state_elements * 4, 0, err);
    if (status == SS_OK) status = ss_broadcast(g->t, &m->step, sizeof m->step, 0, err);
    if (status == SS_OK && g->outer) memcpy(g->start, m->values, (size_t)m->elements * 4);
    return status;
}

/* part 0 = the sum of parts [first, past) of `length` elements each, in the tree over ranks. */
static void tree(float *part, int first, int past, int64_t length) {
    if (past - first < 2) return;
    int half = 1;
    while (half * 2 < past - first) half *= 2;
    tree(part, first, first + half, length);
    tree(part, first + half, past, length);
    float *restrict to = part + first * length;
    const float *restrict from = part + (first + half) * length;
    for (int64_t i = 0; i < length; i++) to[i] += from[i];
}

/* values[0..n) of this rank from the mean of `ranks` ranks' (or by a step of the outer optimizer); `at`: their place among the parameters. */
static void settle(ss_meeting *g, int ranks, bool outer, int64_t at, int64_t n, const float *sum, float *values) {
    const float share = 1 / (float)ranks;
    if (!outer) {
        for (int64_t i = 0; i < n; i++) values[i] = sum[i] * share;
        return;
    }
    const float *restrict start = g->start + at;
    float *restrict velocity = g->velocity + at, *restrict to = values;
    for (int64_t i = 0; i < n; i++) {
        const float delta = fma_r(-share, sum[i], start[i]);
        velocity[i] = fma_r(g->momentum, velocity[i], delta);
        to[i] = fma_r(-g->lr, fma_r(g->momentum, velocity[i], delta), start[i]);
    }
}

static ss_status pieces(const ss_meeting *g, float *data, int64_t elements, ss_error *err) {
    size_t offset[SS_MAX_LANES], size[SS_MAX_LANES];
    for (int r = 0; r < g->t->size; r++) {
        int64_t begin, end;
        ss_split(elements, GRAIN, r, g->t->size, &begin, &end);
        offset[r] = (size_t)begin * 4;
        size[r] = (size_t)(end - begin) * 4;
    }
    return ss_allgather(g->t, data, offset, size, err);
}

/* The same among the ranks of a host. */
static ss_status pieces_of_host(ss_meeting *g, float *data, int64_t elements, ss_error *err) {
    ss_transport *t = g->t;
    ss_status status = SS_OK;
    const int ranks = g->past - g->first, self = t->rank - g->first;
    int count = 0;
    for (int pass = 0; pass < 2 && status == SS_OK; pass++)
        for (int i = 1; i < ranks && status == SS_OK; i++) {
            const int owner = pass ? self : (self - i + ranks) % ranks, peer = g->first + (pass ? (self + i) % ranks : owner);
            int64_t begin, end;
            ss_split(elements, GRAIN, owner, ranks, &begin, &end);
            if (begin >= end) continue;
            const size_t bytes = (size_t)(end - begin) * sizeof *data;
            status = pass ? t->send(t, data + begin, bytes, peer, SS_TAG_PARAMETER + 1, &g->request[count], err)
                          : t->receive(t, data + begin, bytes, peer, SS_TAG_PARAMETER + 1, &g->request[count], err);
            if (status == SS_OK) g->peer[count++] = peer;
        }
    if (status == SS_OK) status = t->wait(t, g->request, g->peer, count, err);
    if (status != SS_OK) ss_transport_cancel(t, g->request, count);
    return status;
}

/* Ranks first ... past - 1: every one sums its own piece of all their vectors, chunk after chunk, and all gather what the owners made of them. outer: as the outer optimizer wants it. */
static ss_status meet(ss_meeting *g, int first_rank, int past_rank, float *data, int64_t elements, bool outer, ss_error *err) {
    ss_transport *t = g->t;
    ss_status status = SS_OK;
    const int ranks = past_rank - first_rank, self = t->rank - first_rank;
    int64_t begin, end, longest = (elements + ranks - 1) / ranks + GRAIN;
    ss_split(elements, GRAIN, self, ranks, &begin, &end);
    for (int64_t done = 0; done < longest && status == SS_OK; done += CHUNK) {
        const int64_t own = ss_max(0, ss_min(CHUNK, end - begin - done));
        int count = 0;
        for (int i = 1; i < ranks && own > 0 && status == SS_OK; i++) {
            const int from = (self - i + ranks) % ranks;
            status = t->receive(t, g->staging + from * CHUNK, (size_t)own * 4, first_rank + from, SS_TAG_PARAMETER, &g->request[count], err);
            if (status == SS_OK) g->peer[count++] = first_rank + from;
        }
        for (int i = 1; i < ranks && status == SS_OK; i++) {
            const int to = (self + i) % ranks;
            int64_t first, past;
            ss_split(elements, GRAIN, to, ranks, &first, &past);
            const int64_t theirs = ss_max(0, ss_min(CHUNK, past - first - done));
            if (!theirs) continue;
            status = t->send(t, data + first + done, (size_t)theirs * 4, first_rank + to, SS_TAG_PARAMETER, &g->request[count], err);
            if (status == SS_OK) g->peer[count++] = first_rank + to;
        }
        if (status == SS_OK && count) status = t->wait(t, g->request, g->peer, count, err);
        if (status != SS_OK) {
            ss_transport_cancel(t, g->request, count);
            break;
        }
        if (!own) continue;
        memcpy(g->staging + self * CHUNK, data + begin + done, (size_t)own * 4);
        tree(g->staging, 0, ranks, CHUNK);
        settle(g, ranks, outer, begin + done, own, g->staging, data + begin + done);
    }
    if (status != SS_OK) return status;
    return ranks == t->size ? pieces(g, data, elements, err) : pieces_of_host(g, data, elements, err);
}

ss_status ss_meeting_hold(ss_meeting *g, ss_model *m, ss_error *err) {
    ss_status status = ss_signature_check(g->t, "a meeting", g->elements, -1, err);
    const int all = g->t->size;
    if (status == SS_OK) status = meet(g, 0, all, m->values, g->elements, g->outer, err);
    if (status == SS_OK) status = meet(g, 0, all, m->states_at, g->states, false, err);
    if (status == SS_OK && g->outer) memcpy(g->start, m->values, (size_t)g->elements * 4);
    if (status != SS_OK) m->broken = true;
    return status;
}

ss_status ss_meeting_hold_host(ss_meeting *g, ss_model *m, ss_error *err) {
    ss_status status = meet(g, g->first, g->past, m->values, g->elements, false, err);
    if (status == SS_OK) status = meet(g, g->first, g->past, m->states_at, g->states, false, err);
    if (status != SS_OK) m->broken = true;
    return status;
}

float *ss_meeting_velocity(ss_meeting *g) { return g->velocity; }
ss_status ss_meeting_gather(ss_meeting *g, ss_error *err) { return g->outer ? pieces(g, g->velocity, g->elements, err) : SS_OK; }
int64_t ss_meeting_bytes(const ss_meeting *g) { return 4LL * g->t->size * CHUNK + (g->outer ? 8 * g->elements : 0); }
