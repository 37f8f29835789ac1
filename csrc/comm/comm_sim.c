/* The simulated network.
 *
 * A message is one node, made by whichever end comes first, its send or its receive. Nodes whose other end has not come wait in the queue of their channel (source, destination,
 * tag); both ends of a channel match in order. Messages on their way lie in a wheel of SLOTS lists by due tick; a tick looks through one list.
 */
#include "comm/sim.h"
#include <assert.h>
#include <string.h>
#include "base/alloc.h"
#include "base/philox.h"

enum { SLOTS = 4096, SLAB_HEAD = 64, SLAB_ITEMS = 1024, LEAST_TABLE = 1024, SLOW_FACTOR = 10, SEND = 1, RECEIVE = 2 };

typedef struct channel channel;
typedef struct message message;
struct message {
    message *next;     /* in the channel's queue */
    message *next_due; /* in the wheel */
    channel *channel;
    const void *source;
    void *target;
    size_t sent, wanted;
    uint64_t due;
    bool has_send, has_receive;           /* which ends have come */
    bool arrived;                         /* the due tick has passed */
    bool complete;                        /* copied */
    bool wrong;                           /* the two ends differ in size */
    bool withdrawn;                       /* the sender cancelled: it will never arrive */
    bool send_held, receive_held, in_wheel; /* who still refers to this node */
};

struct channel {
    channel *next; /* in the table's chain */
    int source, target, tag;
    int live;               /* messages that refer to it */
    message *head, *tail;   /* one end has come; all in a queue lack the same end */
    uint64_t last_due;
};

typedef struct slab {
    struct slab *next;
} slab;

/* Items of one size, in slabs that only ss_sim_free gives back. */
typedef struct item_pool {
    size_t item;
    slab *slabs;
    void *free; /* each free item begins with a pointer to the next */
} item_pool;

typedef struct slot {
    message *head, *tail;
} slot;

typedef struct sim_transport {
    ss_transport base;
    ss_sim *sim;
} sim_transport;

struct ss_sim {
    ss_sim_options options;
    uint64_t now, messages, bytes;
    sim_transport *transports;
    channel **table;
    size_t table_size; /* a power of two */
    size_t channels;
    item_pool message_pool, channel_pool;
    slot wheel[SLOTS];
};

/* ---- memory ---- */

static void *take(item_pool *pool) {
    if (!pool->free) {
        slab *fresh = ss_calloc(1, SLAB_HEAD + SLAB_ITEMS * pool->item);
        if (!fresh) return NULL;
        fresh->next = pool->slabs;
        pool->slabs = fresh;
        for (int i = SLAB_ITEMS - 1; i >= 0; i--) {
            void *item = (char *)fresh + SLAB_HEAD + (size_t)i * pool->item;
            memcpy(item, &pool->free, sizeof pool->free);
            pool->free = item;
        }
    }
    void *item = pool->free;
    memcpy(&pool->free, item, sizeof pool->free);
    memset(item, 0, pool->item);
    return item;
}

static void give_back(item_pool *pool, void *item) {
    memcpy(item, &pool->free, sizeof pool->free);
    pool->free = item;
}

static void free_pool(item_pool *pool) {
    while (pool->slabs) {
        slab *next = pool->slabs->next;
        ss_free(pool->slabs);
        pool->slabs = next;
    }
}

/* ---- channels ---- */

static size_t place(const ss_sim *sim, int source, int target, int tag) {
    uint64_t key = ((uint64_t)(uint32_t)source << 40) ^ ((uint64_t)(uint32_t)target << 20) ^ (uint64_t)(uint32_t)tag;
    key = (key ^ key >> 29) * 0xbf58476d1ce4e5b9u; /* any mixing will do */
    return (size_t)(key ^ key >> 32) & (sim->table_size - 1);
}

/* Doubles the table. Without memory the chains grow longer instead. */
static void grow(ss_sim *sim) {
    channel **old = sim->table;
    size_t old_size = sim->table_size;
    channel **fresh = ss_calloc(old_size * 2, sizeof *fresh);
    if (!fresh) return;
    sim->table = fresh;
    sim->table_size = old_size * 2;
    for (size_t i = 0; i < old_size; i++) {
        for (channel *c = old[i], *next; c; c = next) {
            next = c->next;
            channel **chain = &fresh[place(sim, c->source, c->target, c->tag)];
            c->next = *chain;
            *chain = c;
        }
    }
    ss_free(old);
}

static channel *find(ss_sim *sim, int source, int target, int tag) {
    channel *c = sim->table[place(sim, source, target, tag)];
    while (c && (c->source != source || c->target != target || c->tag != tag)) c = c->next;
    if (c) return c;
    c = take(&sim->channel_pool);
    if (!c) return NULL;
    if (sim->channels >= sim->table_size) grow(sim);
    channel **chain = &sim->table[place(sim, source, target, tag)];
    c->source = source;
    c->target = target;
    c->tag = tag;
    c->next = *chain;
    *chain = c;
    sim->channels++;
    return c;
}

/* A channel without messages keeps nothing worth remembering. */
static void drop_channel(ss_sim *sim, channel *c) {
    channel **link = &sim->table[place(sim, c->source, c->target, c->tag)];
    while (*link != c) link = &(*link)->next;
    *link = c->next;
    sim->channels--;
    give_back(&sim->channel_pool, c);
}

static void drop_if_unused(ss_sim *sim, message *m) {
    if (m->send_held || m->receive_held || m->in_wheel) return;
    channel *c = m->channel;
    give_back(&sim->message_pool, m);
    if (--c->live == 0) drop_channel(sim, c);
}

/* ---- messages ---- */

static void deliver(message *m) {
    if (!m->arrived || !m->has_receive || !m->has_send || m->complete || m->wrong || m->withdrawn) return;
    if (m->sent && m->target) memcpy(m->target, m->source, m->sent);
    m->complete = true;
}

/* The oldest message of the channel that lacks this end, or a new one in its queue. */
static message *match(ss_sim *sim, channel *c, int end) {
    message *m = c->head;
    if (m && (end == SEND ? m->has_receive : m->has_send)) {
        c->head = m->next;
        if (!c->head) c->tail = NULL;
        m->next = NULL;
        return m;
    }
    m = take(&sim->message_pool);
    if (!m) return NULL;
    m->channel = c;
    c->live++;
    if (c->tail) c->tail->next = m;
    else c->head = m;
    c->tail = m;
    return m;
}

static bool dead(const ss_sim *sim, int rank) { return rank == sim->options.dead_rank && sim->now >= sim->options.dead_tick; }

static ss_status post(sim_transport *t, int end, int peer, int tag, ss_request *request, message **out, ss_error *err) {
    ss_sim *sim = t->sim;
    assert(peer >= 0 && peer < t->base.size && peer != t->base.rank && tag >= 0);
    channel *c = end == SEND ? find(sim, t->base.rank, peer, tag) : find(sim, peer, t->base.rank, tag);
    message *m = c ? match(sim, c, end) : NULL;
    if (!m) {
        if (c && c->live == 0) drop_channel(sim, c);
        return SS_FAIL(err, SS_ERR_MEMORY, "no memory for a message between ranks %d and %d", t->base.rank, peer);
    }
    *request = (ss_request){{(uintptr_t)end, (uintptr_t)m, 0, 0}};
    *out = m;
    return SS_OK;
}

static ss_status sim_send(ss_transport *base, const void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    sim_transport *t = (sim_transport *)base;
    ss_sim *sim = t->sim;
    *request = (ss_request){{0}};
    if (dead(sim, base->rank)) return SS_OK; /* it sends nothing, and believes it has */
    message *m;
    ss_status status = post(t, SEND, peer, tag, request, &m, err);
    if (status != SS_OK) return status;
    m->has_send = m->send_held = true;
    m->source = data;
    m->sent = bytes;
    m->wrong = m->has_receive && m->sent != m->wanted;
    const ss_sim_options *o = &sim->options;
    ss_random4 random = ss_philox(o->seed, (uint32_t)sim->messages, (uint32_t)(sim->messages >> 32), 0, 0);
    uint64_t delay = o->least_delay + random.word[0] % ((uint64_t)o->most_delay - o->least_delay + 1);
    if (base->rank == o->slow_rank) delay *= SLOW_FACTOR;
    m->due = sim->now + delay;
    if (m->due < m->channel->last_due) m->due = m->channel->last_due;
    m->channel->last_due = m->due;
    sim->messages++;
    sim->bytes += bytes;
    if (m->due <= sim->now) {
        m->arrived = true;
        deliver(m);
        return SS_OK;
    }
    m->in_wheel = true;
    slot *s = &sim->wheel[m->due % SLOTS];
    if (s->tail) s->tail->next_due = m;
    else s->head = m;
    s->tail = m;
    return SS_OK;
}

static ss_status sim_receive(ss_transport *base, void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    message *m;
    *request = (ss_request){{0}};
    ss_status status = post((sim_transport *)base, RECEIVE, peer, tag, request, &m, err);
    if (status != SS_OK) return status;
    m->has_receive = m->receive_held = true;
    m->target = data;
    m->wanted = bytes;
    m->wrong = m->has_send && m->sent != m->wanted;
    deliver(m);
    return SS_OK;
}

static void release(ss_sim *sim, ss_request *request, message *m) {
    if (request->word[0] == SEND) m->send_held = false;
    else m->receive_held = false;
    *request = (ss_request){{0}};
    drop_if_unused(sim, m);
}

static ss_status sim_test(ss_transport *base, ss_request *request, bool *done, ss_error *err) {
    ss_sim *sim = ((sim_transport *)base)->sim;
    *done = true;
    if (!request->word[0]) return SS_OK;
    message *m = (message *)request->word[1];
    if (m->wrong) {
        ss_status status = SS_FAIL(err, SS_ERR_COMM, "rank %d sent %zu bytes to rank %d (tag %d), which waits for %zu: the two run different programs or sizes",
                                   m->channel->source, m->sent, m->channel->target, m->channel->tag, m->wanted);
        release(sim, request, m);
        return status;
    }
    *done = m->complete;
    if (*done) release(sim, request, m);
    return SS_OK;
}

static ss_status sim_wait(ss_transport *base, ss_request *requests, const int *peers, int count, ss_error *err) {
    ss_sim *sim = ((sim_transport *)base)->sim;
    int missing = -1;
    for (int i = 0; i < count; i++) {
        bool done;
        ss_status status = sim_test(base, &requests[i], &done, err);
        if (status != SS_OK) return status;
        if (!done && missing < 0) missing = i;
    }
    if (missing < 0) return SS_OK;
    int gone = sim->options.dead_rank;
    if (gone >= 0 && dead(sim, gone)) return SS_FAIL(err, SS_ERR_RANK_FAILED, "rank %d of %d: rank %d did not answer: it is dead", base->rank, base->size, gone);
    return SS_FAIL(err, SS_ERR_STATE, "rank %d of %d: a message with rank %d has not been delivered, and waiting in a simulation does not advance its clock",
                   base->rank, base->size, peers[missing]);
}

static bool sim_cancel(ss_transport *base, ss_request *request) {
    ss_sim *sim = ((sim_transport *)base)->sim;
    if (!request->word[0]) return true;
    message *m = (message *)request->word[1];
    channel *c = m->channel;
    if (!m->has_send || !m->has_receive) { /* still in its queue: take it out, so that it meets nobody */
        message **link = &c->head, *before = NULL;
        while (*link != m) {
            before = *link;
            link = &before->next;
        }
        *link = m->next;
        if (c->tail == m) c->tail = before;
    }
    if (request->word[0] == SEND) m->withdrawn = !m->complete;
    else m->target = NULL;
    release(sim, request, m);
    return true;
}

static void sim_free(ss_transport *t) { (void)t; } /* the sim owns it */

/* ---- the simulation ---- */

ss_status ss_sim_create(const ss_sim_options *options, ss_sim **out, ss_error *err) {
    const ss_sim_options *o = options;
    if (o->ranks < 1 || o->least_delay > o->most_delay || o->slow_rank < -1 || o->slow_rank >= o->ranks || o->dead_rank < -1 || o->dead_rank >= o->ranks)
        return SS_FAIL(err, SS_ERR_VALUE, "simulated network: %d ranks, delays %u to %u, slow rank %d, dead rank %d", o->ranks, o->least_delay, o->most_delay,
                       o->slow_rank, o->dead_rank);
    ss_status status = SS_OK;
    ss_sim *sim = ss_calloc(1, sizeof *sim);
    if (!sim) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for a simulated network");
    sim->options = *o;
    sim->message_pool.item = sizeof(message);
    sim->channel_pool.item = sizeof(channel);
    sim->table_size = LEAST_TABLE;
    sim->table = ss_calloc(sim->table_size, sizeof *sim->table);
    sim->transports = ss_calloc((size_t)o->ranks, sizeof *sim->transports);
    if (!sim->table || !sim->transports) SS_TRY(SS_FAIL(err, SS_ERR_MEMORY, "no memory for a simulated network of %d ranks", o->ranks));
    for (int r = 0; r < o->ranks; r++) {
        sim->transports[r].sim = sim;
        sim->transports[r].base = (ss_transport){.name = "sim", .rank = r, .size = o->ranks, .send = sim_send, .receive = sim_receive, .test = sim_test,
                                                 .wait = sim_wait, .cancel = sim_cancel, .free = sim_free};
    }
    *out = sim;
done:
    if (status != SS_OK) ss_sim_free(sim);
    return status;
}

void ss_sim_free(ss_sim *sim) {
    if (!sim) return;
    free_pool(&sim->message_pool);
    free_pool(&sim->channel_pool);
    ss_free(sim->transports);
    ss_free(sim->table);
    ss_free(sim);
}

ss_transport *ss_sim_transport(ss_sim *sim, int rank) {
    assert(rank >= 0 && rank < sim->options.ranks);
    return &sim->transports[rank].base;
}

void ss_sim_tick(ss_sim *sim) {
    sim->now++;
    slot *s = &sim->wheel[sim->now % SLOTS];
    message *m = s->head;
    *s = (slot){NULL, NULL};
    while (m) {
        message *next = m->next_due;
        m->next_due = NULL;
        if (m->due > sim->now) { /* due in a later turn of the wheel */
            if (s->tail) s->tail->next_due = m;
            else s->head = m;
            s->tail = m;
        } else {
            m->arrived = true;
            m->in_wheel = false;
            deliver(m);
            drop_if_unused(sim, m);
        }
        m = next;
    }
}

uint64_t ss_sim_now(const ss_sim *sim) { return sim->now; }
uint64_t ss_sim_messages(const ss_sim *sim) { return sim->messages; }
uint64_t ss_sim_bytes(const ss_sim *sim) { return sim->bytes; }
