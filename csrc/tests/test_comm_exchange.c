/* The exchange over the simulated network: for any number of ranks, lanes, buckets, any batch and any delays every rank ends with the bits of the lane tree.
 *
 * The ranks are driven as state machines in one thread. Each folds its pieces and sends out the fold itself, so every rank's vector must equal the total.
 */
#include <time.h>
#include "base/shape.h"
#include "comm/exchange.h"
#include "comm/sim.h"
#include "tests/comm_lanes.h"

enum { MOST_BUCKETS = 4, MOST_ROUNDS = 4 };

typedef struct setting {
    int lanes, ranks, buckets, rounds;
    int64_t cut[MOST_BUCKETS + 1];
    int64_t batch[MOST_ROUNDS];
    ss_sim_options network;
    bool together;  /* post everything at once, and begin a round when all ranks have ended the last */
    bool identical; /* batch and numbers are the same in each round */
    int per_host;   /* ranks on one host; 0: all of them */
    int64_t part;   /* elements of a message between hosts, at most */
    bool shares;    /* ranks of a host read each other's memory */
} setting;

typedef struct player {
    ss_exchange *x;
    int round, next_bucket, blocks;
    bool begun, folded[MOST_BUCKETS];
    float *partials, *fold, *data;
    size_t partials_bytes, data_bytes;
    int partials_file, data_file; /* of shared memory */
    bool *apart;
} player;

typedef struct outcome {
    uint64_t ticks;
    bool ran_ahead;
    uint64_t allocations; /* after the first round */
} outcome;

static int64_t elements_of(const setting *s) { return s->cut[s->buckets]; }

static uint64_t seed_of(const setting *s, int round) { return s->network.seed * 64 + (s->identical ? 0 : (uint64_t)round); }

static float *vector(int64_t elements) {
    float *v = malloc(sizeof *v * (size_t)(elements ? elements : 1));
    CHECK(v != NULL);
    return v;
}

static bool apart(const setting *s, int one, int other) { return s->per_host && one / s->per_host != other / s->per_host; }

/* Cuts of every rank's piece, and messages and bytes of a round, from the definition. */
static void expected_traffic(const setting *s, int64_t batch, uint64_t *messages, uint64_t *bytes) {
    ss_span *blocks = malloc(sizeof *blocks * SS_MAX_LANES);
    int *owed = malloc(sizeof *owed * (size_t)s->ranks);
    /* What sends as one: a rank, or with shared memory all ranks of a host. */
    const int together = s->shares ? s->per_host ? s->per_host : s->ranks : 1;
    for (int r = 0; r < s->ranks; r += together) {
        const int last = (int)ss_min(r + together, s->ranks) - 1;
        const ss_span lanes = {ss_rank_lanes(r, s->ranks, s->lanes).lo, ss_rank_lanes(last, s->ranks, s->lanes).hi};
        owed[r] = tree_blocks(0, s->lanes, lanes, s->lanes, batch, blocks);
    }
    for (int b = 0; b < s->buckets; b++) {
        int64_t units = (s->cut[b + 1] - s->cut[b] + 15) / 16;
        for (int owner = 0; owner < s->ranks; owner++) {
            int64_t first = units * owner / s->ranks * 16, last = units * (owner + 1) / s->ranks * 16;
            if (last > s->cut[b + 1] - s->cut[b]) last = s->cut[b + 1] - s->cut[b];
            if (first >= last) continue;
            for (int r = 0; r < s->ranks; r += together) {
                if (owner >= r && owner < r + together) continue;
                uint64_t here = (uint64_t)owed[r] + 1;
                *messages += here * (uint64_t)(apart(s, r, owner) ? (last - first + s->part - 1) / s->part : 1);
                *bytes += here * (uint64_t)(last - first) * sizeof(float);
            }
        }
    }
    free(blocks);
    free(owed);
}

static void check_pieces(const setting *s, const ss_exchange *x) {
    for (int b = 0; b < s->buckets; b++) {
        int64_t at = s->cut[b], least = INT64_MAX, most = 0;
        for (int r = 0; r < s->ranks; r++) {
            int64_t begin, end;
            ss_exchange_piece(x, b, r, &begin, &end);
            CHECK(begin == at && end >= begin, "bucket %d: piece %d begins at %lld, not %lld", b, r, (long long)begin, (long long)at);
            CHECK(begin % 16 == 0 || begin == s->cut[b + 1]);
            if (end - begin < least) least = end - begin;
            if (end - begin > most) most = end - begin;
            at = end;
        }
        CHECK(at == s->cut[b + 1] && most - least <= 32, "bucket %d: pieces end at %lld", b, (long long)at);
    }
}

static void begin_round(const setting *s, player *p, int rank) {
    ss_span blocks[64];
    int64_t batch = s->batch[p->round], elements = elements_of(s);
    p->blocks = tree_blocks(0, s->lanes, ss_rank_lanes(rank, s->ranks, s->lanes), s->lanes, batch, blocks);
    for (int j = 0; j < p->blocks; j++)
        for (int64_t e = 0; e < elements; e++)
            tree_sum(seed_of(s, p->round), blocks[j].lo, blocks[j].hi, s->lanes, batch, e, &p->partials[j * (elements + 16) + e]);
    for (int64_t e = 0; e < elements; e++) p->fold[e] = p->data[e] = NAN;
    ss_exchange_begin(p->x, batch);
    CHECK(ss_exchange_blocks(p->x) == p->blocks, "rank %d owes %d blocks, not %d", rank, ss_exchange_blocks(p->x), p->blocks);
    p->begun = true;
    p->next_bucket = 0;
    memset(p->folded, 0, sizeof p->folded);
}

/* In two halves (as threads would), into a vector apart or over the first own block. */
static ss_status fold_and_gather(const setting *s, player *p, int rank, int bucket, ss_error *err) {
    int64_t begin, end;
    ss_exchange_piece(p->x, bucket, rank, &begin, &end);
    int64_t middle = begin + (end - begin) * 3 / 7;
    float *into = p->blocks > 0 && (rank + bucket + p->round) % 2 ? p->partials + (p->blocks - 1) * (elements_of(s) + 16) : p->fold;
    ss_exchange_fold(p->x, bucket, middle, end, into);
    ss_exchange_fold(p->x, bucket, begin, middle, into);
    memcpy(p->data + begin, into + begin, (size_t)(end - begin) * sizeof *into);
    p->folded[bucket] = true;
    return ss_exchange_gather(p->x, bucket, p->data, err);
}

/* One turn of one rank: whatever it can do now. */
static ss_status turn(const setting *s, player *p, int rank, uint64_t *random, const float *expected, ss_error *err) {
    ss_status status = SS_OK;
    if (p->round == s->rounds) return SS_OK;
    int64_t elements = elements_of(s);
    if (!p->begun) begin_round(s, p, rank);
    while (p->next_bucket < s->buckets && (s->together || draw(random) % 3 == 0)) {
        SS_TRY(ss_exchange_post(p->x, p->next_bucket, p->partials, elements + 16, err));
        p->next_bucket++;
    }
    for (int b = 0; b < p->next_bucket; b++) {
        bool ready = false;
        if (p->folded[b]) continue;
        SS_TRY(ss_exchange_poll(p->x, b, &ready, err));
        if (!ready) continue;
        SS_TRY(ss_exchange_wait(p->x, b, err));
        SS_TRY(fold_and_gather(s, p, rank, b, err));
    }
    for (int b = 0; b < s->buckets; b++)
        if (!p->folded[b]) return SS_OK;
    bool done = false;
    SS_TRY(ss_exchange_poll_end(p->x, &done, err));
    if (!done) return SS_OK;
    SS_TRY(ss_exchange_end(p->x, err));
    const float *total = expected + p->round * elements;
    for (int64_t e = 0; e < elements; e++)
        CHECK(memcmp(&p->data[e], &total[e], sizeof(float)) == 0, "%d ranks, %d lanes, batch %lld, round %d: rank %d has %a at %lld, the tree gives %a", s->ranks, s->lanes,
              (long long)s->batch[p->round], p->round, rank, (double)p->data[e], (long long)e, (double)total[e]);
    /* The round is over for this rank: its memory is its own again. */
    for (int64_t e = 0; e < elements; e++) p->data[e] = NAN;
    for (int64_t e = 0; e < p->blocks * (elements + 16); e++) p->partials[e] = NAN;
    p->round++;
    p->begun = false;
done:
    return status;
}

/* Every rank with those of its host. */
static void connect_players(const setting *s, player *players) {
    ss_error err;
    ss_exchange_card *cards = calloc((size_t)s->ranks, sizeof *cards);
    CHECK(cards);
    for (int r = 0; r < s->ranks; r++) cards[r] = ss_exchange_card_of(players[r].x, s->per_host ? r / s->per_host : 0);
    for (int r = 0; r < s->ranks; r++) {
        int count = -1;
        for (int other = 0; other < s->ranks; other++) count += !apart(s, r, other);
        CHECK_OK(ss_exchange_connect(players[r].x, cards, &err));
        CHECK(ss_exchange_neighbours(players[r].x) == count);
    }
    free(cards);
}

static void make_players(const setting *s, ss_sim *sim, player *players) {
    ss_error err;
    int64_t elements = elements_of(s);
    ss_span blocks[64];
    for (int r = 0; r < s->ranks; r++) {
        player *p = &players[r];
        ss_transport *t = ss_sim_transport(sim, r);
        if (s->per_host) {
            p->apart = calloc((size_t)s->ranks, sizeof *p->apart);
            CHECK(p->apart != NULL);
            for (int other = 0; other < s->ranks; other++) p->apart[other] = apart(s, r, other);
            t->apart = p->apart;
            t->part = (size_t)s->part * sizeof(float);
        }
        t->shares = s->shares;
        uint64_t before = ss_alloc_bytes();
        CHECK_OK(ss_exchange_create(t, elements, s->cut, s->buckets, s->lanes, &p->x, &err));
        if (!s->shares) CHECK(ss_exchange_bytes(p->x) <= (int64_t)(ss_alloc_bytes() - before) && ss_exchange_bytes(p->x) + 4096 >= (int64_t)(ss_alloc_bytes() - before));
        int most = tree_blocks(0, s->lanes, ss_rank_lanes(r, s->ranks, s->lanes), s->lanes, s->lanes, blocks);
        p->fold = vector(elements);
        if (!s->shares) {
            p->partials = vector(most * (elements + 16));
            p->data = vector(elements);
            continue;
        }
        p->partials_bytes = (size_t)(most * (elements + 16)) * sizeof(float);
        p->data_bytes = (size_t)elements * sizeof(float);
        p->partials = ss_calloc_shared(p->partials_bytes, &p->partials_file);
        p->data = ss_calloc_shared(p->data_bytes, &p->data_file);
        CHECK(p->partials && p->data);
        ss_exchange_share(p->x, p->partials, p->partials_bytes, p->partials_file);
        ss_exchange_share(p->x, p->data, p->data_bytes, p->data_file);
    }
    if (s->shares) connect_players(s, players);
    check_pieces(s, players[0].x);
    check_pieces(s, players[s->ranks - 1].x);
}

static void free_players(const setting *s, player *players) {
    for (int r = 0; r < s->ranks; r++) {
        player *p = &players[r];
        ss_exchange_free(p->x);
        if (s->shares) {
            ss_free_shared(p->partials, p->partials_bytes, p->partials_file);
            ss_free_shared(p->data, p->data_bytes, p->data_file);
        } else {
            free(p->partials);
            free(p->data);
        }
        free(p->fold);
        free(players[r].apart);
    }
    free(players);
}

static outcome run(const setting *s) {
    ss_error err;
    outcome result = {0};
    uint64_t held = ss_alloc_bytes(), random = s->network.seed, after_first = 0, messages = 0, bytes = 0;
    int64_t elements = elements_of(s);
    float *expected = vector(elements * s->rounds);
    for (int round = 0; round < s->rounds; round++) {
        for (int64_t e = 0; e < elements; e++)
            CHECK(tree_sum(seed_of(s, round), 0, s->lanes, s->lanes, s->batch[round], e, &expected[round * elements + e]));
        expected_traffic(s, s->batch[round], &messages, &bytes);
    }
    ss_sim *sim = NULL;
    CHECK_OK(ss_sim_create(&s->network, &sim, &err));
    player *players = calloc((size_t)s->ranks, sizeof *players);
    make_players(s, sim, players);
    for (;;) {
        int first = s->rounds, last = 0;
        for (int r = 0; r < s->ranks; r++) {
            if (players[r].round < first) first = players[r].round;
            if (players[r].round > last) last = players[r].round;
        }
        if (first == s->rounds) break;
        CHECK(last - first <= 1, "a rank is %d rounds ahead", last - first);
        if (last > first) result.ran_ahead = true;
        if (first >= 1 && !after_first) after_first = ss_alloc_count();
        for (int r = 0; r < s->ranks; r++)
            if (!s->together || players[r].round == first) CHECK_OK(turn(s, &players[r], r, &random, expected, &err));
        ss_sim_tick(sim);
        CHECK(++result.ticks < 1000000, "%d ranks, %d lanes: no end", s->ranks, s->lanes);
    }
    result.allocations = s->rounds > 1 ? ss_alloc_count() - after_first : 0;
    CHECK(ss_sim_messages(sim) == messages, "%llu messages, not %llu", (unsigned long long)ss_sim_messages(sim), (unsigned long long)messages);
    CHECK(ss_sim_bytes(sim) == bytes, "%llu bytes, not %llu", (unsigned long long)ss_sim_bytes(sim), (unsigned long long)bytes);
    free_players(s, players);
    ss_sim_free(sim);
    free(expected);
    CHECK(ss_alloc_bytes() == held, "%llu bytes leaked", (unsigned long long)(ss_alloc_bytes() - held));
    return result;
}

static setting base_setting(int lanes, int ranks) {
    return (setting){.lanes = lanes, .ranks = ranks, .buckets = 1, .rounds = 1, .cut = {0, 203}, .batch = {lanes},
                     .network = {.ranks = ranks, .seed = 1, .least_delay = 1, .most_delay = 9, .slow_rank = -1, .dead_rank = -1}};
}

static void every_small_size(void) {
    static const int ranks[] = {1, 2, 3, 4, 5, 7, 8, 16};
    int cases = 0;
    for (int lanes = 1; lanes <= 40; lanes++) {
        for (int i = 0; i < 8 && ranks[i] <= lanes; i++) {
            setting s = base_setting(lanes, ranks[i]);
            s.network.seed = (uint64_t)cases++;
            s.network.least_delay = (uint32_t)cases % 2;
            s.network.most_delay = 1u + (uint32_t)cases % 23;
            s.buckets = 3; /* one shorter than a grain, one empty */
            s.cut[0] = 0, s.cut[1] = cases % 2 ? 16 : 64, s.cut[2] = s.cut[1], s.cut[3] = 171;
            s.rounds = 4;
            s.batch[0] = lanes * 3 + 1, s.batch[1] = 1 + lanes / 3, s.batch[2] = lanes, s.batch[3] = 1;
            run(&s);
        }
    }
    group_passed("lanes 1 to 40, ranks 1 to 16");
}

/* Direct loads inside hosts of one, two, three ranks or all: the bits of messages, none inside a host, and between hosts each host's partials once and each piece once. */
static void shared_memory(void) {
    static const int ranks[] = {2, 3, 4, 6, 7, 16}, hosts[] = {0, 1, 2, 3};
    int cases = 0;
    for (int i = 0; i < 6; i++)
        for (int h = 0; h < 4; h++)
            for (int together = 0; together < 2; together++) {
                setting s = base_setting(ranks[i] * 3 + cases % 5, ranks[i]);
                s.network.seed = 900u + (uint64_t)cases++;
                s.network.most_delay = 1u + (uint32_t)cases % 23;
                s.per_host = hosts[h];
                s.part = 32;
                s.shares = true;
                s.together = together;
                s.buckets = 3;
                s.cut[1] = 64, s.cut[2] = 64, s.cut[3] = 331;
                s.rounds = 4;
                s.batch[0] = s.lanes * 3 + 1, s.batch[1] = 1 + s.lanes / 3, s.batch[2] = s.lanes, s.batch[3] = 1;
                run(&s);
            }
    group_passed("shared memory inside hosts of 1 to 3 ranks or all");
}

/* Memory that the neighbours do not know is refused by name, not read by nobody. */
static void unknown_memory(void) {
    ss_error err;
    ss_sim *sim = NULL;
    ss_sim_options options = {.ranks = 2, .seed = 1, .least_delay = 1, .most_delay = 1, .slow_rank = -1, .dead_rank = -1};
    CHECK_OK(ss_sim_create(&options, &sim, &err));
    int64_t cut[] = {0, 64};
    ss_exchange *x[2];
    ss_exchange_card cards[2];
    int file[2];
    float *known[2], *stranger = vector(64);
    for (int r = 0; r < 2; r++) {
        ss_sim_transport(sim, r)->shares = true;
        CHECK_OK(ss_exchange_create(ss_sim_transport(sim, r), 64, cut, 1, 2, &x[r], &err));
        known[r] = ss_calloc_shared(64 * sizeof(float), &file[r]);
        CHECK(known[r]);
        ss_exchange_share(x[r], known[r], 64 * sizeof(float), file[r]);
        cards[r] = ss_exchange_card_of(x[r], 0);
    }
    ss_exchange_card wrong[2] = {cards[0], cards[0]};
    wrong[1].region[1].process = 1 << 30; /* no such process */
    CHECK_FAILS(ss_exchange_connect(x[0], wrong, &err), SS_ERR_STATE);
    CHECK(strstr(err.message, "cannot map the memory of rank 1"), "%s", err.message);
    wrong[1] = cards[1];
    wrong[1].region[1].inode++; /* a process of the same number that is another one, as in another container */
    CHECK_FAILS(ss_exchange_connect(x[0], wrong, &err), SS_ERR_STATE);
    CHECK(ss_exchange_neighbours(x[0]) == 0);
    for (int r = 0; r < 2; r++) CHECK_OK(ss_exchange_connect(x[r], cards, &err));
    ss_exchange_begin(x[0], 2);
    CHECK_FAILS(ss_exchange_post(x[0], 0, stranger, 64, &err), SS_ERR_STATE);
    for (int r = 0; r < 2; r++) {
        ss_exchange_free(x[r]);
        ss_free_shared(known[r], 64 * sizeof(float), file[r]);
    }
    free(stranger);
    ss_sim_free(sim);
    group_passed("memory that is not shared");
}

static void many_lanes(void) {
    static const int sizes[][2] = {{64, 2}, {64, 3}, {64, 16}, {64, 64}, {100, 7}, {127, 64}, {128, 5}, {513, 3}, {1000, 16}, {1023, 64}, {1024, 1}, {1024, 7}};
    for (int i = 0; i < 12; i++) {
        setting s = base_setting(sizes[i][0], sizes[i][1]);
        s.network.seed = 100u + (uint64_t)i;
        s.buckets = 2;
        s.cut[1] = 1136, s.cut[2] = 1300;
        s.rounds = 3;
        s.batch[0] = s.lanes * 2 - 1, s.batch[1] = s.lanes * 2 / 3 + 1, s.batch[2] = 5;
        run(&s);
    }
    group_passed("64 to 1024 lanes");
}

/* Between hosts messages are cut into parts; the ranks of one host send each other whole ones. */
static void several_hosts(void) {
    for (int i = 0; i < 60; i++) {
        setting s = base_setting(16 + i % 9, 2 + i % 7);
        s.network.seed = 500u + (uint64_t)i;
        s.per_host = 1 + i % 3;
        s.part = 16 + i % 4 * 24; /* some divide a piece, some leave a rest */
        s.buckets = 3;
        s.cut[1] = 800, s.cut[2] = 816, s.cut[3] = 1999;
        s.rounds = 3;
        s.batch[0] = s.lanes * 3, s.batch[1] = s.lanes / 2, s.batch[2] = s.lanes * 2 - 1;
        run(&s);
    }
    group_passed("messages between hosts in parts");
}

static void thousand_ranks(void) {
    struct timespec begin, end;
    for (int i = 0; i < 2; i++) {
        setting s = base_setting(i ? 1024 : 1000, 1000);
        s.cut[1] = 16003;
        s.batch[0] = i ? 700 : 4000;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        outcome o = run(&s);
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("1000 ranks: %llu ticks, %.1f s. ", (unsigned long long)o.ticks, (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec));
    }
    group_passed("1000 ranks");
}

static void slow_rank_and_running_ahead(void) {
    setting s = base_setting(24, 5);
    s.buckets = 3;
    s.cut[1] = 80, s.cut[2] = 96, s.cut[3] = 500;
    s.rounds = 4;
    for (int i = 0; i < 4; i++) s.batch[i] = 50 + i;
    s.network.most_delay = 40;
    bool ahead = false;
    uint64_t even = 0, slow = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        s.network.seed = seed;
        s.network.slow_rank = -1;
        outcome o = run(&s);
        even += o.ticks;
        ahead = ahead || o.ran_ahead;
        s.network.slow_rank = (int)(seed % 5);
        o = run(&s);
        slow += o.ticks;
        ahead = ahead || o.ran_ahead;
    }
    CHECK(ahead, "no rank ever ran ahead: the case was not met");
    CHECK(slow > even && slow < 12 * even, "%llu ticks with a slow rank, %llu without", (unsigned long long)slow, (unsigned long long)even);
    group_passed("slow rank, running ahead");
}

static void no_allocation(void) {
    setting s = base_setting(13, 5);
    s.buckets = 2;
    s.cut[1] = 96, s.cut[2] = 1000;
    s.rounds = 4;
    s.together = s.identical = true;
    s.network.least_delay = s.network.most_delay = 3; /* equal rounds need equally many messages of the sim's pool */
    for (int i = 0; i < 4; i++) s.batch[i] = 40;
    outcome o = run(&s);
    CHECK(o.allocations == 0, "%llu allocations in the rounds after the first", (unsigned long long)o.allocations);
    group_passed("no allocation after creation");
}

/* One rank dies at some tick: every other one either has finished or is told who is missing. */
static void dead_rank(void) {
    ss_error err;
    setting s = base_setting(11, 5);
    s.cut[1] = 500;
    s.batch[0] = 33;
    float *expected = vector(500);
    for (int64_t e = 0; e < 500; e++) tree_sum(seed_of(&s, 0), 0, s.lanes, s.lanes, s.batch[0], e, &expected[e]);
    int waiting_for_gradients = 0, waiting_for_parameters = 0;
    for (uint64_t tick = 0; tick < 24; tick++) {
        for (int gone = 0; gone < 5; gone += 2) {
            uint64_t held = ss_alloc_bytes(), random = tick;
            s.network.dead_rank = gone;
            s.network.dead_tick = tick;
            ss_sim *sim = NULL;
            CHECK_OK(ss_sim_create(&s.network, &sim, &err));
            player *players = calloc(5, sizeof *players);
            make_players(&s, sim, players);
            for (int i = 0; i < 200; i++) {
                for (int r = 0; r < 5; r++)
                    if (r != gone || (uint64_t)i < tick) CHECK_OK(turn(&s, &players[r], r, &random, expected, &err));
                ss_sim_tick(sim);
            }
            char name[32];
            snprintf(name, sizeof name, "rank %d did not answer", gone);
            bool all = true;
            for (int r = 0; r < 5; r++) {
                player *p = &players[r];
                if (r == gone || p->round == 1) continue;
                all = false;
                if (!p->folded[0]) {
                    waiting_for_gradients++;
                    CHECK_FAILS(ss_exchange_wait(p->x, 0, &err), SS_ERR_RANK_FAILED);
                } else {
                    waiting_for_parameters++;
                    CHECK_FAILS(ss_exchange_end(p->x, &err), SS_ERR_RANK_FAILED);
                }
                CHECK(strstr(err.message, name), "%s", err.message);
                bool done;
                CHECK_FAILS(ss_exchange_poll_end(p->x, &done, &err), SS_ERR_STATE);
            }
            CHECK(!all || players[gone].next_bucket == 1, "rank %d died at tick %llu without a word, and nobody missed it", gone, (unsigned long long)tick);
            free_players(&s, players);
            ss_sim_free(sim);
            CHECK(ss_alloc_bytes() == held, "%llu bytes leaked", (unsigned long long)(ss_alloc_bytes() - held));
        }
    }
    free(expected);
    CHECK(waiting_for_gradients > 0 && waiting_for_parameters > 0, "%d and %d", waiting_for_gradients, waiting_for_parameters);
    group_passed("dead rank");
}

/* One rank believes in a longer vector. */
static void wrong_sizes(void) {
    ss_error err;
    uint64_t held = ss_alloc_bytes();
    ss_sim_options network = base_setting(4, 2).network;
    ss_sim *sim = NULL;
    CHECK_OK(ss_sim_create(&network, &sim, &err));
    int64_t cut[2][2] = {{0, 64}, {0, 128}};
    static float partials[2][128];
    ss_exchange *x[2];
    for (int r = 0; r < 2; r++) {
        CHECK_OK(ss_exchange_create(ss_sim_transport(sim, r), cut[r][1], cut[r], 1, 4, &x[r], &err));
        ss_exchange_begin(x[r], 8);
        CHECK_OK(ss_exchange_post(x[r], 0, partials[r], 128, &err));
    }
    for (int i = 0; i < 20; i++) ss_sim_tick(sim);
    for (int r = 0; r < 2; r++) {
        bool ready;
        CHECK_FAILS(ss_exchange_poll(x[r], 0, &ready, &err), SS_ERR_COMM);
        /* Rank 0 sends its elements 32 to 64; rank 1 owns 64 to 128 and waits for so many. */
        CHECK(strstr(err.message, r ? "rank 0 sent 128 bytes to rank 1 (tag 16), which waits for 256" : "rank 1 sent 256 bytes to rank 0 (tag 16), which waits for 128"), "%s",
              err.message);
        CHECK_FAILS(ss_exchange_wait(x[r], 0, &err), SS_ERR_STATE);
        ss_exchange_free(x[r]);
    }
    ss_sim_free(sim);
    CHECK(ss_alloc_bytes() == held, "%llu bytes leaked", (unsigned long long)(ss_alloc_bytes() - held));
    group_passed("wrong sizes");
}

/* A round that has not ended cannot be left. */
static void unended_round(void) {
    ss_error err;
    ss_sim_options network = base_setting(4, 2).network;
    ss_sim *sim = NULL;
    CHECK_OK(ss_sim_create(&network, &sim, &err));
    int64_t cut[2] = {0, 64};
    static float partials[64];
    ss_exchange *x;
    CHECK_OK(ss_exchange_create(ss_sim_transport(sim, 0), 64, cut, 1, 4, &x, &err));
    ss_exchange_begin(x, 8);
    CHECK_OK(ss_exchange_post(x, 0, partials, 64, &err));
    ss_exchange_begin(x, 8);
    CHECK_FAILS(ss_exchange_post(x, 0, partials, 64, &err), SS_ERR_STATE);
    ss_exchange_free(x);
    ss_sim_free(sim);
    group_passed("a round that has not ended");
}

int main(void) {
    every_small_size();
    shared_memory();
    unknown_memory();
    many_lanes();
    several_hosts();
    slow_rank_and_running_ahead();
    no_allocation();
    dead_rank();
    wrong_sizes();
    unended_round();
    thousand_ranks();
    CHECK(ss_alloc_bytes() == 0, "%llu bytes leaked", (unsigned long long)ss_alloc_bytes());
    return 0;
}
