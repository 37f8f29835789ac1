/* The exchange: gradients go straight from the partials to the owners of the pieces, one message per block and peer, without a copy; parameters come back the same way. Between hosts a message
 * is cut into parts of the size that the transport prefers.
 *
 * Neighbours (ranks of one host that have mapped each other's memory) need no messages. Each has a line of flags for every bucket: `posted` shows the round in which its partials became complete,
 * `gathered` that in which its piece of the result did, and the line behind the last bucket that in which it has stopped to read. A rank writes its memory again when all neighbours show that,
 * which is what the end of a round waits for; no neighbour can therefore be a round ahead, and a flag shows this round or an earlier one.
 *
 * All messages of a bucket from one rank to another have one tag and are posted in block order on both sides, so they need no other label, and a rank that is a round ahead does no harm.
 * Pieces without elements cost no message. Everything is laid out at creation for a batch that fills all lanes: fewer lanes with samples never make more blocks.
 */
#include "comm/exchange.h"
#include <assert.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include "base/alloc.h"
#include "base/shape.h"
#include "comm/collective.h"

enum {
    GRAIN = 16,                                            /* elements: pieces begin on cache lines */
    CHUNK = 512,                                           /* elements that are folded at a time: the stack of sums stays in the first cache */
    MOST_DEPTH = 12,                                       /* a tree over SS_MAX_LANES lanes keeps at most log2(SS_MAX_LANES) + 1 partials */
    MOST_BUCKETS = SS_TAG_PARAMETER - SS_TAG_GRADIENT
};

/* Requests of one kind, completed from the front. */
typedef struct flight {
    ss_request *request;
    int *peer;
    int count, first; /* posted; completed without a gap */
} flight;

typedef struct bucket {
    int64_t begin, end;         /* of the gradient vector */
    int64_t own_begin, own_end; /* the piece of this rank */
    float *staging;             /* (blocks of other ranks, own piece rounded up to GRAIN) */
    const float *partials;      /* of the round, (own blocks, elements) at block_stride */
    int64_t block_stride;
    bool posted, gathered;
    float *data; /* gathered into */
    int copied;  /* of the other ranks, in the order of their pieces' copies: 1 ... size - 1 */
    float *relay; /* what this deputy has folded for owners on other hosts, one after another: (blocks of the group, their piece rounded up to GRAIN) */
    bool relayed, spread;
    flight gradients_in, gradients_out, parameters_in, parameters_out;
} bucket;

/* What a rank tells its neighbours about a bucket; a cache line each, which only that rank writes. Places are valid once the flag shows the round. */
typedef struct line {
    _Alignas(64) _Atomic uint32_t posted, gathered, spread;
    int32_t partials_region, data_region;
    int64_t partials, block_stride, data; /* bytes into the region; elements */
} line;

/* A rank of this host whose memory is mapped. */
typedef struct neighbour {
    ss_exchange_card card;
    const char *region[1 + SS_EXCHANGE_REGIONS]; /* region 0: its lines */
    const line *lines;                           /* NULL: not a neighbour, messages go there */
} neighbour;

struct ss_exchange {
    ss_transport *t;
    int rank, size, owners, buckets;
    int32_t lanes;
    int64_t bytes;
    bool failed; /* requests may be lost: nothing more can be exchanged */
    bucket *bucket;
    ss_request *request;
    int *peer;
    float *staging, *relay;
    int64_t laid; /* bytes of requests, peers, staging and relay: they follow from the groups */
    /* Direct loads. */
    uint32_t round, ended; /* rounds begun; the last one whose end was told to the neighbours */
    int regions, neighbours;
    line *lines; /* [buckets + 1] of this rank; the last one's `posted` is the round that has ended. NULL: the transport does not share memory */
    int lines_file;
    ss_card region[1 + SS_EXCHANGE_REGIONS]; /* of this rank */
    neighbour *near;                         /* [size] */
    ss_exchange_card *card;                  /* [size] scratch of the introduction */
    /* The round: the blocks of all ranks in order. */
    int32_t planned;      /* lanes' pattern in the tables: min(batch, lanes) */
    ss_span *lane;        /* [lanes] scratch */
    ss_span *block;       /* [lanes] at most */
    int32_t *adds;        /* [lanes] joins after each block */
    int32_t *first_block; /* [size + 1] rank r owes blocks first_block[r] ... first_block[r + 1] - 1 */
    /* Groups: runs of consecutive ranks of one host. */
    int32_t *group_first, *group_past; /* [size] the run of each rank */
    int32_t *group_blocks;             /* [size] blocks of the run that begins at a rank; of others undefined */
    int32_t *group_adds;               /* [lanes] joins after each block of this rank's group */
    /* What an owner folds: blocks of ranks whose memory it reads, and blocks of groups elsewhere. */
    struct source {
        int32_t rank, block; /* block of a rank; or rank -1: row of staging */
    } *source; /* [lanes] */
    ss_span *leaf; /* [lanes] */
    int leaves;
};

/* ---- layout ---- */

/* The last `owners` ranks share a bucket; those before them have empty pieces at its beginning. */
static void piece(int64_t begin, int64_t end, int rank, int size, int owners, int64_t *piece_begin, int64_t *piece_end) {
    const int owner = rank - (size - owners);
    *piece_begin = *piece_end = 0;
    if (owner >= 0) ss_split(end - begin, GRAIN, owner, owners, piece_begin, piece_end);
    *piece_begin += begin;
    *piece_end += begin;
}

void ss_exchange_piece(const ss_exchange *x, int bucket, int rank, int64_t *begin, int64_t *end) {
    assert(bucket >= 0 && bucket < x->buckets && rank >= 0 && rank < x->size);
    piece(x->bucket[bucket].begin, x->bucket[bucket].end, rank, x->size, x->owners, begin, end);
}

static int64_t row_length(const bucket *b) { return ss_round_up(b->own_end - b->own_begin, GRAIN); }

static int own_blocks(const ss_exchange *x) { return x->first_block[x->rank + 1] - x->first_block[x->rank]; }
static bool is_near(const ss_exchange *x, int rank) { return x->neighbours && x->near[rank].lines; }

/* Fills the tables of the round. */
static void plan_round(ss_exchange *x, int64_t batch) {
    int total = 0;
    for (int r = 0; r < x->size; r++) {
        ss_span run = ss_rank_lanes(r, x->size, x->lanes);
        int count = 0;
        for (int32_t v = run.lo; v < run.hi; v++)
            if (ss_lane_begin(v, x->lanes, batch) < ss_lane_begin(v + 1, x->lanes, batch)) x->lane[count++] = (ss_span){v, v + 1};
        x->first_block[r] = total;
        if (count) total += ss_fold_plan(x->lanes, run, x->lane, count, NULL, x->block + total, NULL);
    }
    x->first_block[x->size] = total;
    /* Groups, and the leaves of the own pieces. */
    int rows = 0;
    x->leaves = 0;
    for (int r = 0; r < x->size; r++) {
        const int first = x->group_first[r], past = x->group_past[r], count = x->first_block[past] - x->first_block[first];
        const ss_span range = {ss_rank_lanes(first, x->size, x->lanes).lo, ss_rank_lanes(past - 1, x->size, x->lanes).hi};
        if (r == first) {
            int depth = 0;
            int32_t *adds = x->rank >= first && x->rank < past ? x->group_adds : NULL;
            x->group_blocks[r] = count ? ss_fold_plan(x->lanes, range, x->block + x->first_block[first], count, adds, x->lane, &depth) : 0;
            assert(depth <= MOST_DEPTH);
        }
        if (r == x->rank || is_near(x, r)) {
            for (int g = x->first_block[r]; g < x->first_block[r + 1]; g++) {
                x->source[x->leaves] = (struct source){r, g - x->first_block[r]};
                x->leaf[x->leaves++] = x->block[g];
            }
        } else if (r == first) {
            for (int j = 0; j < x->group_blocks[r]; j++) {
                x->source[x->leaves] = (struct source){-1, rows++};
                x->leaf[x->leaves++] = x->lane[j];
            }
        }
    }
    int depth = 0;
    if (x->leaves) {
        int left = ss_fold_plan(x->lanes, (ss_span){0, x->lanes}, x->leaf, x->leaves, x->adds, NULL, &depth);
        assert(left == 1 && depth <= MOST_DEPTH);
        (void)left;
    }
    x->planned = (int32_t)ss_min(batch, x->lanes);
}

/* The rank of group `first` ... that talks with an owner on another host. */
static int deputy(const ss_exchange *x, int member, int owner) {
    const int first = x->group_first[member];
    return first + owner % (x->group_past[member] - first);
}

static bool is_deputy(const ss_exchange *x, int owner) { return deputy(x, x->rank, owner) == x->rank; }
static bool alone(const ss_exchange *x) { return x->group_past[x->rank] - x->group_first[x->rank] == 1; }
static int own_group_blocks(const ss_exchange *x) { return x->group_blocks[x->group_first[x->rank]]; }

/* Rows of staging. */
static int staged_blocks(const ss_exchange *x) {
    int rows = 0;
    for (int r = 0; r < x->size; r++)
        if (r != x->rank && !is_near(x, r) && r == x->group_first[r]) rows += x->group_blocks[r];
    return rows;
}

/* Elements of a message between this rank and a peer, which sees it the same way. */
static int64_t part_of(const ss_exchange *x, int peer) {
    const ss_transport *t = x->t;
    return t->apart && t->apart[peer] && t->part ? ss_max(GRAIN, (int64_t)(t->part / sizeof(float))) : INT64_MAX;
}

/* Messages that `count` elements make. */
static int64_t parts(const ss_exchange *x, int64_t count, int peer) { return count > 0 ? (count - 1) / part_of(x, peer) + 1 : 0; }

/* Messages of a bucket in a round. */
typedef struct traffic {
    int64_t gradients_in, gradients_out, parameters_in, parameters_out, relay; /* the last one: elements */
} traffic;

static traffic traffic_of(const ss_exchange *x, int index) {
    const bucket *b = &x->bucket[index];
    traffic n = {0};
    for (int r = 0; r < x->size; r++) {
        int64_t begin, end;
        if (r == x->rank || is_near(x, r)) continue;
        ss_exchange_piece(x, index, r, &begin, &end);
        const int64_t own = parts(x, b->own_end - b->own_begin, r), theirs = parts(x, end - begin, r);
        if (r == x->group_first[r]) {
            n.gradients_in += own * x->group_blocks[r];
            n.parameters_out += own;
        }
        if (!is_deputy(x, r)) continue;
        n.gradients_out += theirs * own_group_blocks(x);
        n.parameters_in += theirs;
        if (!alone(x)) n.relay += own_group_blocks(x) * ss_round_up(end - begin, GRAIN);
    }
    return n;
}

static ss_status check(const ss_transport *t, int64_t elements, const int64_t *cut, int buckets, int32_t lanes, ss_error *err) {
    if (lanes < 1 || lanes > SS_MAX_LANES) return SS_FAIL(err, SS_ERR_VALUE, "lanes=%d: must be between 1 and %d", (int)lanes, SS_MAX_LANES);
    if (t->size > lanes)
        return SS_FAIL(err, SS_ERR_VALUE, "%d ranks but %d lanes: every rank needs a lane; set lanes to at least %d or start fewer ranks", t->size, (int)lanes, t->size);
    if (buckets < 0 || buckets > MOST_BUCKETS) return SS_FAIL(err, SS_ERR_VALUE, "%d buckets: at most %d", buckets, MOST_BUCKETS);
    bool fits = elements >= 0 && cut[0] == 0 && cut[buckets] == elements;
    for (int i = 0; i < buckets && fits; i++) fits = cut[i] <= cut[i + 1] && cut[i] % GRAIN == 0;
    if (!fits) return SS_FAIL(err, SS_ERR_VALUE, "bucket cuts must rise from 0 to %lld in multiples of %d", (long long)elements, GRAIN);
    return SS_OK;
}

/* ss_calloc that keeps the account of the exchange; count 0 gives NULL and success. */
static ss_status take(ss_exchange *x, int64_t count, size_t item, void *out, ss_error *err) {
    int64_t bytes;
    void *memory = NULL;
    bool fits = ss_mul(count, (int64_t)item, &bytes);
    if (fits && count > 0) memory = ss_calloc((size_t)count, item);
    if (!fits || (count > 0 && !memory))
        return SS_FAIL(err, SS_ERR_MEMORY, "the exchange of gradients needs %lld times %zu bytes", (long long)count, item);
    x->bytes += bytes;
    memcpy(out, &memory, sizeof memory);
    return SS_OK;
}

static size_t lines_bytes(const ss_exchange *x) { return ((size_t)x->buckets + 1) * sizeof *x->lines; }

/* Makes groups of the runs of ranks of one host; NULL: every rank is one. */
static void group_by(ss_exchange *x, const ss_exchange_card *cards) {
    for (int r = 0, past; r < x->size; r = past) {
        for (past = r + 1; cards && past < x->size && cards[past].host == cards[r].host; past++) {}
        for (int k = r; k < past; k++) x->group_first[k] = r, x->group_past[k] = past;
    }
}

/* Hands the next `count` requests to a flight. */
static flight board(ss_exchange *x, int64_t *used, int64_t count) {
    flight f = {.request = x->request + *used, .peer = x->peer + *used};
    *used += count;
    return f;
}

/* Requests and memory for the groups as they are, in the place of those that were. Nothing has changed when it fails. */
static ss_status lay_out(ss_exchange *x, ss_error *err) {
    ss_status status = SS_OK;
    int64_t requests = 0, staged = 0, relayed = 0;
    const int64_t before = x->bytes;
    const int32_t planned = x->planned;
    ss_request *request = NULL;
    int *peer = NULL;
    float *staging = NULL, *relay = NULL;
    plan_round(x, x->lanes); /* all lanes hold samples: the most blocks that can be */
    const int rows = staged_blocks(x);
    for (int i = 0; i < x->buckets; i++) {
        int64_t more;
        traffic n = traffic_of(x, i);
        if (!ss_mul(row_length(&x->bucket[i]), rows, &more) || !ss_add(staged, more, &staged) || !ss_add(relayed, n.relay, &relayed))
            SS_TRY(SS_FAIL(err, SS_ERR_MEMORY, "the exchange of %lld gradients overflows", (long long)x->bucket[x->buckets - 1].end));
        requests += n.gradients_in + n.gradients_out + n.parameters_in + n.parameters_out;
    }
    SS_TRY(take(x, requests, sizeof *request, &request, err));
    SS_TRY(take(x, requests, sizeof *peer, &peer, err));
    SS_TRY(take(x, staged, sizeof *staging, &staging, err));
    SS_TRY(take(x, relayed, sizeof *relay, &relay, err));
    ss_free(x->request);
    ss_free(x->peer);
    ss_free(x->staging);
    ss_free(x->relay);
    x->bytes -= x->laid;
    x->laid = x->bytes - (before - x->laid);
    x->request = request;
    x->peer = peer;
    x->staging = staging;
    x->relay = relay;
    request = NULL, peer = NULL, staging = NULL, relay = NULL;
    int64_t used = 0;
    float *row = x->staging, *relay_row = x->relay;
    for (int i = 0; i < x->buckets; i++) {
        bucket *b = &x->bucket[i];
        traffic n = traffic_of(x, i);
        b->staging = row;
        b->relay = relay_row;
        if (row) row += row_length(b) * rows;
        if (relay_row) relay_row += n.relay;
        b->gradients_in = board(x, &used, n.gradients_in);
        b->gradients_out = board(x, &used, n.gradients_out);
        b->parameters_in = board(x, &used, n.parameters_in);
        b->parameters_out = board(x, &used, n.parameters_out);
    }
    assert(used == requests);
done:
    if (status != SS_OK) x->bytes = before;
    ss_free(relay);
    ss_free(staging);
    ss_free(peer);
    ss_free(request);
    if (planned) plan_round(x, planned);
    return status;
}

ss_status ss_exchange_create_on(ss_transport *t, int64_t elements, const int64_t *bucket_begin, int buckets, int32_t lanes, int owners, ss_exchange **out, ss_error *err) {
    ss_status status = check(t, elements, bucket_begin, buckets, lanes, err);
    if (status == SS_OK && (owners < 0 || owners > t->size)) status = SS_FAIL(err, SS_ERR_VALUE, "%d owners of gradients among %d ranks", owners, t->size);
    if (status != SS_OK) return status;
    ss_exchange *x = ss_calloc(1, sizeof *x);
    if (!x) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for an exchange of gradients");
    x->t = t;
    x->rank = t->rank;
    x->size = t->size;
    x->owners = owners ? owners : t->size;
    x->lanes = lanes;
    SS_TRY(take(x, buckets, sizeof *x->bucket, &x->bucket, err));
    SS_TRY(take(x, lanes, sizeof *x->lane, &x->lane, err));
    SS_TRY(take(x, lanes, sizeof *x->block, &x->block, err));
    SS_TRY(take(x, lanes, sizeof *x->adds, &x->adds, err));
    SS_TRY(take(x, (int64_t)t->size + 1, sizeof *x->first_block, &x->first_block, err));
    SS_TRY(take(x, t->size, sizeof *x->group_first, &x->group_first, err));
    SS_TRY(take(x, t->size, sizeof *x->group_past, &x->group_past, err));
    SS_TRY(take(x, t->size, sizeof *x->group_blocks, &x->group_blocks, err));
    SS_TRY(take(x, lanes, sizeof *x->group_adds, &x->group_adds, err));
    SS_TRY(take(x, lanes, sizeof *x->source, &x->source, err));
    SS_TRY(take(x, lanes, sizeof *x->leaf, &x->leaf, err));
    x->buckets = buckets;
    group_by(x, NULL);
    for (int i = 0; i < buckets; i++) {
        bucket *b = &x->bucket[i];
        b->begin = bucket_begin[i];
        b->end = bucket_begin[i + 1];
        ss_exchange_piece(x, i, x->rank, &b->own_begin, &b->own_end);
    }
    SS_TRY(lay_out(x, err));
    if (t->shares && t->size > 1) {
        SS_TRY(take(x, t->size, sizeof *x->near, &x->near, err));
        SS_TRY(take(x, t->size, sizeof *x->card, &x->card, err));
        x->lines = ss_calloc_shared(lines_bytes(x), &x->lines_file);
        if (x->lines) x->bytes += (int64_t)lines_bytes(x);
        x->region[0] = ss_card_of(x->lines, lines_bytes(x), x->lines ? x->lines_file : -1);
        x->regions = 1;
    }

    *out = x;
done:
    if (status != SS_OK) ss_exchange_free(x);
    return status;
}

static void unmap(ss_exchange *x) {
    for (int r = 0; x->near && r < x->size; r++) {
        neighbour *n = &x->near[r];
        for (int k = 0; k <= SS_EXCHANGE_REGIONS; k++) ss_card_unmap(&n->card.region[k], n->region[k]);
        *n = (neighbour){0};
    }
    x->neighbours = 0;
}

void ss_exchange_free(ss_exchange *x) {
    if (!x) return;
    bool released = true, sent = true;
    for (int i = 0; i < x->buckets; i++) {
        bucket *b = &x->bucket[i];
        flight *all[] = {&b->gradients_in, &b->gradients_out, &b->parameters_in, &b->parameters_out};
        for (int k = 0; k < 4; k++) {
            flight *f = all[k];
            bool gone = f->count == f->first || ss_transport_cancel(x->t, f->request + f->first, f->count - f->first);
            if (k == 0 && !gone) released = false;
            if (k == 1 && !gone) sent = false;
        }
    }
    unmap(x);
    ss_free_shared(x->lines, x->lines ? lines_bytes(x) : 0, x->lines_file);
    ss_free(x->card);
    ss_free(x->near);
    ss_free(x->leaf);
    ss_free(x->source);
    ss_free(x->group_adds);
    ss_free(x->group_blocks);
    ss_free(x->group_past);
    ss_free(x->group_first);
    if (sent) ss_free(x->relay);
    if (released) ss_free(x->staging); /* else a transfer may still write there: a leak is better than a torn heap */
    ss_free(x->peer);
    ss_free(x->request);
    ss_free(x->first_block);
    ss_free(x->adds);
    ss_free(x->block);
    ss_free(x->lane);
    ss_free(x->bucket);
    ss_free(x);
}

/* ---- neighbours ---- */

void ss_exchange_share(ss_exchange *x, const void *memory, size_t bytes, int file) {
    if (!x->regions) return; /* the transport shares no memory */
    assert(x->regions <= SS_EXCHANGE_REGIONS && !x->neighbours);
    x->region[x->regions++] = ss_card_of(memory, bytes, file);
}

ss_exchange_card ss_exchange_card_of(const ss_exchange *x, int host) {
    ss_exchange_card card = {.host = host};
    for (int k = 0; k <= SS_EXCHANGE_REGIONS; k++) card.region[k] = k < x->regions ? x->region[k] : (ss_card){.file = -1};
    return card;
}

int ss_exchange_neighbours(const ss_exchange *x) { return x->neighbours; }

ss_status ss_exchange_disconnect(ss_exchange *x, ss_error *err) {
    unmap(x);
    group_by(x, NULL);
    return lay_out(x, err);
}

ss_status ss_exchange_connect(ss_exchange *x, const ss_exchange_card *cards, ss_error *err) {
    ss_status status = SS_OK;
    int count = 0;
    assert(!x->neighbours);
    for (int r = 0; r < x->size; r++) {
        if (r == x->rank || cards[r].host != cards[x->rank].host) continue;
        if (!x->lines) return SS_FAIL(err, SS_ERR_STATE, "rank %d has no memory that others can map", x->rank);
        neighbour *n = &x->near[r];
        n->card = cards[r];
        for (int k = 0; k < x->regions && status == SS_OK; k++) {
            n->region[k] = ss_card_map(&n->card.region[k]);
            if (!n->region[k] || (k == 0 && n->card.region[k].bytes != (int64_t)lines_bytes(x)))
                status = SS_FAIL(err, SS_ERR_STATE, "rank %d cannot map the memory of rank %d (process %d)", x->rank, r, (int)n->card.region[k].process);
        }
        count++;
    }
    if (status == SS_OK) {
        for (int r = 0; r < x->size && count; r++)
            if (r != x->rank && cards[r].host == cards[x->rank].host) x->near[r].lines = (const line *)(const void *)x->near[r].region[0];
        x->neighbours = count;
        group_by(x, cards);
        status = lay_out(x, err);
    }
    if (status != SS_OK) {
        unmap(x);
        group_by(x, NULL);
        plan_round(x, x->planned);
    }
    return status;
}

/* Every rank's outcome, 1 where it has mapped what it wanted. */
static ss_status share_outcome(ss_exchange *x, uint8_t *outcome, ss_error *err) {
    size_t offset[SS_MAX_LANES], size[SS_MAX_LANES];
    for (int r = 0; r < x->size; r++) offset[r] = (size_t)r, size[r] = 1;
    return ss_allgather(x->t, outcome, offset, size, err);
}

ss_status ss_exchange_introduce(ss_exchange *x, ss_error *err) {
    ss_status status = SS_OK;
    ss_transport *t = x->t;
    if (t->size == 1) return SS_OK;
    size_t offset[SS_MAX_LANES], size[SS_MAX_LANES];
    uint8_t outcome[SS_MAX_LANES] = {0}; /* ranks never exceed lanes */
    if (!t->shares) return SS_OK; /* a property of the kind of transport: the same on every rank */
    bool able = x->lines;
    for (int k = 0; able && k < x->regions; k++) able = x->region[k].file >= 0;
    outcome[x->rank] = able;
    SS_TRY(share_outcome(x, outcome, err));
    int host = 0; /* the first able rank of this one's host; a rank that shares nothing is a host of its own */
    while (host < x->rank && !(able && outcome[host] && !(t->apart && t->apart[host]))) host++;
    x->card[x->rank] = ss_exchange_card_of(x, host);
    for (int r = 0; r < t->size; r++) {
        offset[r] = (size_t)r * sizeof *x->card;
        size[r] = sizeof *x->card;
    }
    SS_TRY(ss_allgather(t, x->card, offset, size, err));
    memset(outcome, 0, sizeof outcome);
    outcome[x->rank] = ss_exchange_connect(x, x->card, NULL) == SS_OK;
    SS_TRY(share_outcome(x, outcome, err));
    bool all = true;
    for (int r = 0; r < t->size; r++) all = all && outcome[r];
    if (!all) SS_TRY(ss_exchange_disconnect(x, err));
done:
    return status;
}

int64_t ss_exchange_bytes(const ss_exchange *x) { return x->bytes; }
int ss_exchange_blocks(const ss_exchange *x) { return own_blocks(x); }

/* ---- a round ---- */

static bool under_way(const flight *f) { return f->first < f->count; }

void ss_exchange_begin(ss_exchange *x, int64_t batch) {
    assert(batch >= 0);
    bool posted = false;
    for (int i = 0; i < x->buckets; i++) posted = posted || x->bucket[i].posted;
    if (x->neighbours && posted && x->ended != x->round) x->failed = true; /* a neighbour may still read */
    x->round++;
    for (int i = 0; i < x->buckets; i++) {
        bucket *b = &x->bucket[i];
        if (under_way(&b->gradients_in) || under_way(&b->gradients_out) || under_way(&b->parameters_in) || under_way(&b->parameters_out)) {
            x->failed = true; /* the next post says so: this function cannot */
            return;
        }
    }
    for (int i = 0; i < x->buckets; i++) {
        bucket *b = &x->bucket[i];
        b->posted = b->gathered = false;
        b->partials = NULL;
        b->data = NULL;
        b->copied = 1;
        b->gradients_in.count = b->gradients_in.first = 0;
        b->gradients_out.count = b->gradients_out.first = 0;
        b->parameters_in.count = b->parameters_in.first = 0;
        b->parameters_out.count = b->parameters_out.first = 0;
        b->relayed = b->spread = false;
    }
    if (x->planned != (int32_t)ss_min(batch, x->lanes)) plan_round(x, batch);
}

static ss_status usable(const ss_exchange *x, ss_error *err) {
    if (x->failed) return SS_FAIL(err, SS_ERR_STATE, "the exchange of gradients failed earlier, or a round began before the last had ended");
    return SS_OK;
}

static ss_status start_send(ss_exchange *x, flight *f, const float *data, int64_t count, int peer, int tag, ss_error *err) {
    int64_t part = part_of(x, peer);
    for (int64_t at = 0; at < count; at += ss_min(part, count - at)) {
        ss_status status = x->t->send(x->t, data + at, (size_t)ss_min(part, count - at) * sizeof *data, peer, tag, &f->request[f->count], err);
        if (status != SS_OK) {
            x->failed = true;
            return status;
        }
        f->peer[f->count++] = peer;
    }
    return SS_OK;
}

static ss_status start_receive(ss_exchange *x, flight *f, float *data, int64_t count, int peer, int tag, ss_error *err) {
    int64_t part = part_of(x, peer);
    for (int64_t at = 0; at < count; at += ss_min(part, count - at)) {
        ss_status status = x->t->receive(x->t, data + at, (size_t)ss_min(part, count - at) * sizeof *data, peer, tag, &f->request[f->count], err);
        if (status != SS_OK) {
            x->failed = true;
            return status;
        }
        f->peer[f->count++] = peer;
    }
    return SS_OK;
}

/* Where memory lies among what this rank shares. */
static ss_status place_of(ss_exchange *x, const void *memory, int32_t *region, int64_t *at, ss_error *err) {
    for (int k = 1; k < x->regions; k++) {
        const uint64_t begin = x->region[k].address, address = (uint64_t)(uintptr_t)memory;
        if (address < begin || address >= begin + (uint64_t)x->region[k].bytes) continue;
        *region = k;
        *at = (int64_t)(address - begin);
        return SS_OK;
    }
    x->failed = true;
    return SS_FAIL(err, SS_ERR_STATE, "the exchange was given memory that it does not share with the other ranks of the host");
}

/* ---- flags of neighbours ---- */

static bool shows(const _Atomic uint32_t *flag, uint32_t round) { return atomic_load_explicit((_Atomic uint32_t *)flag, memory_order_acquire) == round; }

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Until a neighbour's flag shows this round. */
static ss_status wait_flag(ss_exchange *x, const _Atomic uint32_t *flag, int peer, ss_error *err) {
    enum { SPINS = 2000, BETWEEN_LOOKS = 64 };
    const ss_transport *t = x->t;
    double begin = 0;
    for (uint64_t turn = 0; !shows(flag, x->round); turn++) {
        if (turn < SPINS && !t->crowded) {
            __builtin_ia32_pause();
            continue;
        }
        if (turn % BETWEEN_LOOKS == 0) {
            if (begin == 0) begin = seconds();
            if (x->neighbours < x->size - 1) ss_exchange_progress(x); /* others wait for messages of this rank */
            if (t->timeout > 0 && seconds() - begin > t->timeout) {
                x->failed = true;
                return SS_FAIL(err, SS_ERR_RANK_FAILED,
                               "rank %d of %d waited %g s, and rank %d did not answer: it died, it is stopped or very slow, or it runs a different sequence of calls", x->rank,
                               x->size, t->timeout, peer);
            }
        }
        sched_yield();
    }
    return SS_OK;
}

/* Whether all neighbours have posted a bucket in this round. */
static bool all_posted(const ss_exchange *x, int index) {
    for (int r = 0; x->neighbours && r < x->size; r++)
        if (is_near(x, r) && !shows(&x->near[r].lines[index].posted, x->round)) return false;
    return true;
}

/* Copies what neighbours have made of their pieces, in order, until one is not ready or, with wait, all are here. */
static ss_status copy_pieces(ss_exchange *x, int index, bool wait, bool *done, ss_error *err) {
    bucket *b = &x->bucket[index];
    *done = true;
    for (; x->neighbours && b->gathered && b->copied < x->size; b->copied++) {
        const int from = (x->rank - b->copied + x->size) % x->size;
        int64_t begin, end;
        /* A piece of another host lies with the deputy, which may be this rank. */
        const int holder = is_near(x, from) ? from : deputy(x, x->rank, from);
        ss_exchange_piece(x, index, from, &begin, &end);
        if (holder == x->rank || begin >= end) continue;
        const line *theirs = &x->near[holder].lines[index];
        const _Atomic uint32_t *flag = holder == from ? &theirs->gathered : &theirs->spread;
        if (wait) {
            ss_status status = wait_flag(x, flag, holder, err);
            if (status != SS_OK) return status;
        } else if (!shows(flag, x->round)) {
            *done = false;
            return SS_OK;
        }
        const float *source = (const float *)(const void *)(x->near[holder].region[theirs->data_region] + theirs->data);
        memcpy(b->data + begin, source + begin, (size_t)(end - begin) * sizeof *source);
    }
    return SS_OK;
}

/* What this rank has received as deputy lies in its data. */
static void tell_spread(ss_exchange *x, int index) {
    bucket *b = &x->bucket[index];
    if (!x->neighbours || !b->gathered || b->spread) return;
    b->spread = true;
    atomic_store_explicit(&x->lines[index].spread, x->round, memory_order_release);
}

/* This rank reads nothing of its neighbours any more. */
static void tell_end(ss_exchange *x) {
    if (!x->neighbours || x->ended == x->round) return;
    x->ended = x->round;
    atomic_store_explicit(&x->lines[x->buckets].posted, x->round, memory_order_release);
}

/* Element `at` of block j of a rank whose memory is at hand. */
static const float *partial(const ss_exchange *x, const bucket *b, int rank, int j, int64_t at) {
    if (rank == x->rank) return b->partials + j * b->block_stride + at;
    const line *theirs = &x->near[rank].lines[b - x->bucket];
    return (const float *)(const void *)(x->near[rank].region[theirs->partials_region] + theirs->partials) + j * theirs->block_stride + at;
}

/* Element `at` of leaf g of the own piece. */
static const float *leaf(const ss_exchange *x, const bucket *b, int g, int64_t at) {
    const struct source *from = &x->source[g];
    return from->rank >= 0 ? partial(x, b, from->rank, from->block, at) : b->staging + from->block * row_length(b) + (at - b->own_begin);
}

static void add(float *into, const float *left, const float *right, int64_t n) {
    for (int64_t i = 0; i < n; i++) into[i] = left[i] + right[i];
}

/* Folds the partials of the group over elements [begin, end) into its blocks: rows of `stride` elements. */
static void fold_group(const ss_exchange *x, const bucket *b, int64_t begin, int64_t end, float *rows, int64_t stride) {
    const int first = x->group_first[x->rank], past = x->group_past[x->rank], base = x->first_block[first], total = x->first_block[past] - base;
    float sum[MOST_DEPTH][CHUNK];
    const float *stack[MOST_DEPTH];
    for (int64_t at = begin; at < end; at += CHUNK) {
        const int64_t n = ss_min(CHUNK, end - at);
        int height = 0, done = 0; /* rows that are complete lie at the bottom: nothing joins them any more */
        for (int g = 0, from = first; g < total; g++) {
            while (base + g >= x->first_block[from + 1]) from++;
            stack[height++] = partial(x, b, from, base + g - x->first_block[from], at);
            for (int32_t joins = x->group_adds[g]; joins > 0; joins--, height--) {
                add(sum[height - 2], stack[height - 2], stack[height - 1], n);
                stack[height - 2] = sum[height - 2];
            }
        }
        assert(height == own_group_blocks(x));
        for (; done < height; done++) memcpy(rows + done * stride + (at - begin), stack[done], (size_t)n * sizeof *rows);
    }
}

/* As the deputy of its group: when all of the group have posted a bucket, their partials are folded for the owners on other hosts and sent there. */
static ss_status relay(ss_exchange *x, int index, bool wait, ss_error *err) {
    bucket *b = &x->bucket[index];
    ss_status status = SS_OK;
    if (b->relayed || !b->posted) return SS_OK;
    for (int r = x->group_first[x->rank]; r < x->group_past[x->rank]; r++) {
        if (r == x->rank) continue;
        if (wait) SS_TRY(wait_flag(x, &x->near[r].lines[index].posted, r, err));
        else if (!shows(&x->near[r].lines[index].posted, x->round)) return SS_OK;
    }
    if (b->relayed) return SS_OK; /* while this rank waited */
    b->relayed = true;
    float *rows = b->relay;
    for (int i = 1; i < x->size; i++) {
        const int to = (x->rank + i) % x->size;
        int64_t begin, end;
        if (is_near(x, to) || !is_deputy(x, to)) continue;
        ss_exchange_piece(x, index, to, &begin, &end);
        if (begin >= end) continue;
        const int64_t stride = ss_round_up(end - begin, GRAIN);
        fold_group(x, b, begin, end, rows, stride);
        for (int j = 0; j < own_group_blocks(x); j++, rows += stride) SS_TRY(start_send(x, &b->gradients_out, rows, end - begin, to, SS_TAG_GRADIENT + index, err));
    }
done:
    return status;
}

ss_status ss_exchange_post(ss_exchange *x, int index, const float *partials, int64_t block_stride, ss_error *err) {
    assert(index >= 0 && index < x->buckets);
    bucket *b = &x->bucket[index];
    ss_status status = usable(x, err);
    if (status != SS_OK) return status;
    if (b->posted) return SS_FAIL(err, SS_ERR_STATE, "bucket %d was posted twice in a round", index);
    assert(partials || own_blocks(x) == 0);
    b->posted = true;
    b->partials = partials;
    b->block_stride = block_stride;
    int tag = SS_TAG_GRADIENT + index;
    int64_t length = b->own_end - b->own_begin;
    /* Ranks begin with different peers, so that nobody is everybody's first. */
    int row = 0;
    for (int r = 0; r < x->size && length > 0; r++) {
        if (r == x->rank || is_near(x, r) || r != x->group_first[r]) continue;
        const int from = deputy(x, r, x->rank);
        for (int j = 0; j < x->group_blocks[r]; j++) SS_TRY(start_receive(x, &b->gradients_in, b->staging + row++ * row_length(b), length, from, tag, err));
    }
    for (int i = 1; i < x->size && alone(x); i++) {
        int to = (x->rank + i) % x->size;
        int64_t begin, end;
        if (is_near(x, to)) continue;
        ss_exchange_piece(x, index, to, &begin, &end);
        for (int j = 0; j < own_blocks(x) && begin < end; j++)
            SS_TRY(start_send(x, &b->gradients_out, partials + j * block_stride + begin, end - begin, to, tag, err));
    }
    b->relayed = alone(x);
    if (x->neighbours) {
        line *mine = &x->lines[index];
        mine->block_stride = block_stride;
        if (own_blocks(x)) SS_TRY(place_of(x, partials, &mine->partials_region, &mine->partials, err));
        atomic_store_explicit(&mine->posted, x->round, memory_order_release);
        SS_TRY(relay(x, index, false, err));
    }
done:
    return status;
}

/* Tests from the front and stops at the first that is still under way: each request is asked about once, and one more time per call. */
static ss_status advance(ss_exchange *x, flight *f, bool *done, ss_error *err) {
    *done = true;
    while (f->first < f->count) {
        ss_status status = x->t->test(x->t, &f->request[f->first], done, err);
        if (status != SS_OK) {
            x->failed = true;
            return status;
        }
        if (!*done) return SS_OK;
        f->first++;
    }
    return SS_OK;
}

static ss_status finish(ss_exchange *x, flight *f, ss_error *err) {
    if (!under_way(f)) return SS_OK;
    ss_status status = x->t->wait(x->t, f->request + f->first, f->peer + f->first, f->count - f->first, err);
    if (status == SS_OK) f->first = f->count;
    else x->failed = true;
    return status;
}

static ss_status check_posted(const ss_exchange *x, int index, ss_error *err) {
    assert(index >= 0 && index < x->buckets);
    ss_status status = usable(x, err);
    if (status == SS_OK && !x->bucket[index].posted) status = SS_FAIL(err, SS_ERR_STATE, "bucket %d has not been posted in this round", index);
    return status;
}

ss_status ss_exchange_poll(ss_exchange *x, int index, bool *ready, ss_error *err) {
    ss_status status = check_posted(x, index, err);
    bool done = false;
    if (status == SS_OK) status = relay(x, index, false, err);
    if (status == SS_OK) status = advance(x, &x->bucket[index].gradients_in, &done, err);
    if (status == SS_OK) *ready = done && all_posted(x, index);
    return status;
}

void ss_exchange_progress(ss_exchange *x) {
    for (int i = 0; i < x->buckets && !x->failed; i++) {
        bucket *b = &x->bucket[i];
        flight *flights[] = {&b->gradients_in, &b->gradients_out};
        if (relay(x, i, false, NULL) != SS_OK) return;
        for (int k = 0; k < 2; k++) {
            bool done = true;
            if (under_way(flights[k]) && advance(x, flights[k], &done, NULL) == SS_OK && !done) return; /* one request asked about in vain drives all the others */
        }
    }
}

ss_status ss_exchange_wait(ss_exchange *x, int index, ss_error *err) {
    ss_status status = check_posted(x, index, err);
    if (status == SS_OK) status = relay(x, index, true, err);
    if (status == SS_OK) status = finish(x, &x->bucket[index].gradients_in, err);
    for (int r = 0; x->neighbours && r < x->size && status == SS_OK; r++)
        if (is_near(x, r)) status = wait_flag(x, &x->near[r].lines[index].posted, r, err);
    return status;
}

void ss_exchange_fold(const ss_exchange *x, int index, int64_t begin, int64_t end, float *out) {
    assert(index >= 0 && index < x->buckets);
    const bucket *b = &x->bucket[index];
    assert(b->posted && !under_way(&b->gradients_in) && all_posted(x, index));
    assert(begin >= end || (begin >= b->own_begin && end <= b->own_end));
    const int total = x->leaves;
    float sum[MOST_DEPTH][CHUNK];
    const float *stack[MOST_DEPTH]; /* leaves are read where they lie; sums live in `sum`, at the height where they stand */
    for (int64_t at = begin; at < end; at += CHUNK) {
        int64_t n = ss_min(CHUNK, end - at);
        int height = 0;
        if (total == 0) {
            memset(out + at, 0, (size_t)n * sizeof *out);
            continue;
        }
        for (int g = 0; g < total; g++) {
            stack[height++] = leaf(x, b, g, at);
            for (int32_t joins = x->adds[g]; joins > 0; joins--, height--) {
                /* Only the very last sum is written to out, which may be a leaf. */
                float *into = g == total - 1 && joins == 1 ? out + at : sum[height - 2];
                add(into, stack[height - 2], stack[height - 1], n);
                stack[height - 2] = into;
            }
        }
        assert(height == 1);
        if (stack[0] != out + at) memmove(out + at, stack[0], (size_t)n * sizeof *out);
    }
}

ss_status ss_exchange_gather(ss_exchange *x, int index, float *data, ss_error *err) {
    assert(index >= 0 && index < x->buckets);
    bucket *b = &x->bucket[index];
    ss_status status = usable(x, err);
    if (status != SS_OK) return status;
    if (b->gathered) return SS_FAIL(err, SS_ERR_STATE, "bucket %d was gathered twice in a round", index);
    b->gathered = true;
    int tag = SS_TAG_PARAMETER + index;
    for (int i = 1; i < x->size; i++) {
        int from = (x->rank - i + x->size) % x->size;
        int64_t begin, end;
        if (is_near(x, from) || !is_deputy(x, from)) continue;
        ss_exchange_piece(x, index, from, &begin, &end);
        if (begin < end) SS_TRY(start_receive(x, &b->parameters_in, data + begin, end - begin, from, tag, err));
    }
    for (int i = 1; i < x->size && b->own_begin < b->own_end; i++) {
        const int other = (x->rank + i) % x->size;
        if (is_near(x, other) || deputy(x, other, x->rank) != other) continue;
        SS_TRY(start_send(x, &b->parameters_out, data + b->own_begin, b->own_end - b->own_begin, other, tag, err));
    }
    if (x->neighbours) {
        line *mine = &x->lines[index];
        b->data = data;
        SS_TRY(place_of(x, data, &mine->data_region, &mine->data, err));
        atomic_store_explicit(&mine->gathered, x->round, memory_order_release);
    }
done:
    return status;
}

ss_status ss_exchange_poll_end(ss_exchange *x, bool *done, ss_error *err) {
    ss_status status = usable(x, err);
    if (status != SS_OK) return status;
    bool all = true;
    for (int i = 0; i < x->buckets; i++) { /* none waits for the one before: others may wait for what this rank hands on */
        bucket *b = &x->bucket[i];
        flight *flights[] = {&b->parameters_in, &b->gradients_in, &b->gradients_out, &b->parameters_out};
        bool done = true;
        status = relay(x, i, false, err);
        for (int k = 0; k < 4 && status == SS_OK; k++) {
            status = advance(x, flights[k], &done, err);
            if (k == 0 && status == SS_OK && done) tell_spread(x, i);
            all = all && done;
        }
        if (status == SS_OK) status = copy_pieces(x, i, false, &done, err);
        if (status != SS_OK) return status;
        all = all && done && (b->relayed || !b->posted);
    }
    if (all) tell_end(x);
    for (int r = 0; x->neighbours && r < x->size && all; r++) all = !is_near(x, r) || shows(&x->near[r].lines[x->buckets].posted, x->round);
    *done = all;
    return SS_OK;
}

ss_status ss_exchange_end(ss_exchange *x, ss_error *err) {
    ss_status status = usable(x, err);
    if (status != SS_OK) return status;
    for (int i = 0; i < x->buckets; i++) {
        bucket *b = &x->bucket[i];
        SS_TRY(relay(x, i, true, err));
        SS_TRY(finish(x, &b->gradients_in, err));
        SS_TRY(finish(x, &b->gradients_out, err));
        SS_TRY(finish(x, &b->parameters_in, err));
        tell_spread(x, i);
    }
    for (int i = 0; i < x->buckets; i++) {
        bool done;
        SS_TRY(finish(x, &x->bucket[i].parameters_out, err));
        SS_TRY(copy_pieces(x, i, true, &done, err));
    }
    tell_end(x);
    for (int r = 0; x->neighbours && r < x->size; r++)
        if (is_near(x, r)) SS_TRY(wait_flag(x, &x->near[r].lines[x->buckets].posted, r, err));
done:
    return status;
}
