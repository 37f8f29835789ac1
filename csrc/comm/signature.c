#include "comm/signature.h"
#include <stdio.h>
#include <string.h>

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
    ss_request request[2] = {{{0}}, {{0}}};
    knowledge mine = {.one = {.call = ++t->calls, .count = count, .root = root, .rank = t->rank}}, out, in;
    snprintf(mine.one.doing, sizeof mine.one.doing, "%s", doing);
    /* Dissemination, as in a barrier: after round k a rank has heard of the 2^(k+1) - 1 ranks below. */
    for (int64_t step = 1; step < t->size; step *= 2) {
        const int up = (int)((t->rank + step) % t->size), down = (int)((t->rank - step + t->size) % t->size), peer[] = {down, up};
        out = mine;
        memset(&in, 0, sizeof in);
        SS_TRY(t->receive(t, &in, sizeof in, down, SS_TAG_SIGNATURE, &request[0], err));
        SS_TRY(t->send(t, &out, sizeof out, up, SS_TAG_SIGNATURE, &request[1], err));
        SS_TRY(t->wait(t, request, peer, 2, err));
        learn(&mine, &in);
    }
    if (mine.differ) {
        const bool ordered = mine.one.rank < mine.other.rank;
        char one[160], other[160];
        describe(ordered ? &mine.one : &mine.other, one, sizeof one);
        describe(ordered ? &mine.other : &mine.one, other, sizeof other);
        return SS_FAIL(err, SS_ERR_COMM, "the ranks do different things: %s, while %s", one, other);
    }
done:
    if (status != SS_OK) ss_transport_cancel(t, request, 2);
    return status;
}
