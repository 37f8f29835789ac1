#include "comm/signature.h"
#include <stdio.h>
#include <string.h>

enum { PAIRWISE_RANKS = 8 };

typedef struct signature {
    char doing[32];
    uint64_t call; /* number of the call on this transport */
    int64_t count;
    int32_t root, rank;
} signature;

/* What a rank knows of those it has heard of: one of them, and another one that differs, if any does. */
typedef struct knowledge {
    signature one, other;
    int64_t differ;
} knowledge;

static bool same(const signature *a, const signature *b) {
    return !strcmp(a->doing, b->doing) && a->call == b->call && a->count == b->count && a->root == b->root;
}

static void learn(knowledge *k, const knowledge *heard) {
    if (k->differ) return;
    if (heard->differ) *k = *heard;
    else if (!same(&k->one, &heard->one)) {
        k->other = heard->one;
        k->differ = 1;
    }
}

static void describe(const signature *s, char *text, size_t size) {
    char root[32] = "", count[48] = "";
    if (s->root >= 0) snprintf(root, sizeof root, " from rank %d", (int)s->root);
    if (s->count >= 0) snprintf(count, sizeof count, " of %lld elements", (long long)s->count);
    snprintf(text, size, "rank %d calls %s%s%s (its call %llu)", (int)s->rank, s->doing, count, root, (unsigned long long)s->call);
}

ss_status ss_signature_check(ss_transport *t, const char *doing, int64_t count, int root, ss_error *err) {
    ss_status status = SS_OK;
    if (t->size == 1) return SS_OK;
    ss_request request[2 * PAIRWISE_RANKS];
    int peer[2 * PAIRWISE_RANKS], requests = 0;
    knowledge mine = {.one = {.call = ++t->calls, .count = count, .root = root, .rank = t->rank}}, out, in[PAIRWISE_RANKS];
    snprintf(mine.one.doing, sizeof mine.one.doing, "%s", doing);
    /* Few ranks: everybody tells everybody, so whoever waits in vain waits for the one that did not come, and names no other. Many: dissemination, as in a barrier; after round k a rank has heard
     * of the 2^(k+1) - 1 ranks below. */
    const bool few = t->size <= PAIRWISE_RANKS;
    for (int64_t step = 1; step < t->size; step = few ? t->size : step * 2) {
        const int64_t last = few ? t->size - 1 : step;
        out = mine;
        requests = 0;
        memset(in, 0, sizeof in);
        for (int64_t i = step; i <= last; i++) {
            peer[requests] = (int)((t->rank - i + t->size) % t->size);
            SS_TRY(t->receive(t, &in[i - step], sizeof *in, peer[requests], SS_TAG_SIGNATURE, &request[requests], err));
            requests++;
        }
        for (int64_t i = step; i <= last; i++) {
            peer[requests] = (int)((t->rank + i) % t->size);
            SS_TRY(t->send(t, &out, sizeof out, peer[requests], SS_TAG_SIGNATURE, &request[requests], err));
            requests++;
        }
        SS_TRY(t->wait(t, request, peer, requests, err));
        for (int64_t i = step; i <= last; i++) learn(&mine, &in[i - step]);
    }
    if (mine.differ) {
        const bool ordered = mine.one.rank < mine.other.rank;
        char one[160], other[160];
        describe(ordered ? &mine.one : &mine.other, one, sizeof one);
        describe(ordered ? &mine.other : &mine.one, other, sizeof other);
        return SS_FAIL(err, SS_ERR_COMM, "the ranks do different things: %s, while %s", one, other);
    }
done:
    if (status != SS_OK) ss_transport_cancel(t, request, requests);
    return status;
}
