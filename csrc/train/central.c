#include "train/central.h"
#include <assert.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "base/alloc.h"
#include "comm/collective.h"
#include "comm/signature.h"

enum { GRAIN = 256, MOST_GROUPS = 32 };
/* Kinds of messages, added to the tag of these servers. A server may still listen when its plan is left for another one: each has tags of its own. */
enum { TAG_HEAD, TAG_BODY, TAG_ANSWER, TAG_VALUES, TAGS, OWN_TAGS = 4096 };
enum { PUSH = 1, LEAVE = 2 };

typedef struct head {
    int32_t kind, groups;
    int64_t step;    /* of the worker */
    int64_t version; /* of the parameters that the gradient belongs to */
    double hyper[MOST_GROUPS][SS_MAX_HYPER];
} head;

typedef struct answer {
    int64_t version;
} answer;

/* A tensor's part that lies in a server's range. */
typedef struct part {
    int64_t offset, count; /* in the vector of all elements */
    uint32_t tensor;
    const ss_compressor *kind;
    int64_t place; /* of its payload in the push to that server */
    bool exact;
} part;

/* What a server knows of a worker. */
typedef struct worker {
    head head;
    answer answer;
    char *body;          /* a push */
    float *values;       /* an answer: the range as it was */
    ss_request heads, sent[2];
    bool listening, sending, joined, left, waiting;
    int64_t clock;       /* pushes so far */
} worker;

struct ss_central {
    ss_transport *t;
    int workers, servers;
    int tag; /* equal on all ranks from ss_central_begin on */
    int64_t staleness, elements;
    int64_t begin, end;       /* server: its range */
    double hyper[SS_COMPRESS_HYPER];
    bool feedback;
    const ss_kernels *kernels;
    part *part;               /* [parts] server after server */
    int parts;
    int *first;               /* [servers + 1] */
    int64_t *bytes, *place;   /* [servers] of a push; where it begins in `sent` */
    int64_t states, state_place; /* running statistics travel with the push to server 0: whichever came last count */
    /* worker */
    head head;
    answer *answer;           /* [servers] */
    char *sent;
    float *residual;          /* [elements] */
    int64_t *version;         /* [servers] */
    ss_request *request;      /* [4 * servers] */
    int *peer;
    /* server */
    worker *worker;           /* [workers] */
    float *gradient;          /* [elements], its range */
    int64_t version_now, applied, behind_sum, most_behind, waits;
};

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int ss_central_workers(const ss_central *c) { return c->workers; }
bool ss_central_serves(const ss_central *c) { return c->t->rank >= c->workers; }

static void range_of(const ss_central *c, int server, int64_t *begin, int64_t *end) { ss_split(c->elements, GRAIN, server, c->servers, begin, end); }

static ss_compress_call call_of(const ss_central *c, const part *p, uint64_t seed, int64_t step, int rank) {
    return (ss_compress_call){.n = p->count, .rows = 1, .columns = p->count, .hyper = c->hyper, .kernels = c->kernels, .feedback = c->feedback, .seed = seed, .step = (uint32_t)step,
                              .tensor = p->tensor, .stream = (uint32_t)rank, .ranks = 1, .first = p->offset};
}

static ss_status choose(ss_central *c, const ss_model *m, const ss_compression_options *o, const ss_compressor **kind, ss_error *err) {
    *kind = ss_compressor_at(m->isa, ss_compressor_find("none"));
    if (!o || !o->name) return SS_OK;
    c->feedback = o->feedback;
    ss_status status = ss_compression_choose(o, m->isa, kind, c->hyper, err);
    if (status == SS_OK && (*kind)->rounds > 1) return SS_FAIL(err, SS_ERR_VALUE, "pushes cannot be compressed by '%s', which needs all ranks at once", o->name);
    return status;
}

static ss_status cut(ss_central *c, const ss_model *m, const ss_compression_options *o, const ss_compressor *chosen, ss_error *err) {
    const ss_compressor *none = ss_compressor_at(m->isa, ss_compressor_find("none"));
    int64_t total = 0;
    c->part = ss_calloc((size_t)(m->parameters + 1) * (size_t)c->servers, sizeof *c->part);
    c->first = ss_calloc((size_t)c->servers + 1, sizeof *c->first);
    c->bytes = ss_calloc((size_t)c->servers, sizeof *c->bytes);
    c->place = ss_calloc((size_t)c->servers, sizeof *c->place);
    if (!c->part || !c->first || !c->bytes || !c->place) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for %d parameter servers", c->servers);
    for (int s = 0; s < c->servers; s++) {
        int64_t begin, end;
        range_of(c, s, &begin, &end);
        c->first[s] = c->parts;
        c->place[s] = total;
        for (int k = 0; k < m->parameters; k++) {
            const ss_parameter *q = &m->parameter[k];
            const int64_t from = ss_max(begin, q->offset), to = ss_min(end, q->offset + q->count);
            if (!q->trainable || from >= to) continue;
            part *p = &c->part[c->parts++];
            *p = (part){.offset = from, .count = to - from, .tensor = (uint32_t)k, .kind = none, .place = c->bytes[s]};
            for (int j = 0; o && j < o->tensors; j++)
                if (!strcmp(o->tensor[j], q->name)) p->kind = chosen;
            const ss_compress_call call = call_of(c, p, 0, 0, 0);
            p->exact = p->kind->exact && p->kind->exact(&call);
            c->bytes[s] += ss_round_up(p->kind->bytes(&call, 0), 16);
        }
        if (s == 0) {
            c->states = m->state_elements;
            c->state_place = c->bytes[0];
            c->bytes[0] += ss_round_up(4 * m->state_elements, 16);
        }
        total += c->bytes[s];
    }
    c->first[c->servers] = c->parts;
    return SS_OK;
}

ss_status ss_central_create(const ss_model *m, ss_transport *t, const ss_central_options *o, const ss_compression_options *compression, ss_central **out, ss_error *err) {
    ss_status status = SS_OK;
    const ss_compressor *kind;
    if (o->servers < 1 || o->servers >= t->size)
        return SS_FAIL(err, SS_ERR_VALUE, "%d parameter servers of %d ranks: at least one rank must serve and one must work", o->servers, t->size);
    if (!m->optim || m->optim->whole) return SS_FAIL(err, SS_ERR_VALUE, "a parameter server updates pieces of parameters: optimizer '%s' needs them whole", m->optim ? m->optim->name : "none");
    if (m->groups > MOST_GROUPS) return SS_FAIL(err, SS_ERR_VALUE, "a parameter server takes at most %d groups of parameters, not %d", MOST_GROUPS, m->groups);
    ss_central *c = ss_calloc(1, sizeof *c);
    if (!c) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for parameter servers");
    *c = (ss_central){.t = t, .servers = o->servers, .workers = t->size - o->servers, .staleness = o->staleness, .elements = m->trainable, .kernels = m->kernels};
    SS_TRY(choose(c, m, compression, &kind, err));
    SS_TRY(cut(c, m, compression, kind, err));
    if (ss_central_serves(c)) {
        const int s = t->rank - c->workers;
        range_of(c, s, &c->begin, &c->end);
        c->worker = ss_calloc((size_t)c->workers, sizeof *c->worker);
        c->gradient = ss_calloc((size_t)c->elements + 1, sizeof *c->gradient);
        bool good = c->worker && c->gradient;
        for (int w = 0; w < c->workers && good; w++) {
            c->worker[w].body = ss_calloc((size_t)c->bytes[s] + 1, 1);
            c->worker[w].values = ss_calloc((size_t)(c->end - c->begin) + 1, sizeof *c->gradient);
            good = c->worker[w].body && c->worker[w].values;
        }
        if (!good) status = SS_FAIL(err, SS_ERR_MEMORY, "no memory to serve %d workers", c->workers);
    } else {
        const int last = c->servers - 1;
        c->sent = ss_calloc((size_t)(c->place[last] + c->bytes[last]) + 1, 1);
        c->residual = ss_calloc((size_t)c->elements + 1, sizeof *c->residual);
        c->answer = ss_calloc((size_t)c->servers, sizeof *c->answer);
        c->version = ss_calloc((size_t)c->servers, sizeof *c->version);
        c->request = ss_calloc(4 * (size_t)c->servers, sizeof *c->request);
        c->peer = ss_calloc(4 * (size_t)c->servers, sizeof *c->peer);
        if (!c->sent || !c->residual || !c->answer || !c->version || !c->request || !c->peer) status = SS_FAIL(err, SS_ERR_MEMORY, "no memory for a worker of parameter servers");
    }
done:
    if (status == SS_OK) *out = c;
    else ss_central_free(c);
    return status;
}

void ss_central_free(ss_central *c) {
    if (!c) return;
    for (int w = 0; c->worker && w < c->workers; w++) {
        worker *q = &c->worker[w];
        bool gone = ss_transport_cancel(c->t, &q->heads, 1);
        gone = ss_transport_cancel(c->t, q->sent, 2) && gone;
        if (!gone) continue; /* a transfer may still touch it */
        ss_free(q->values);
        ss_free(q->body);
    }
    if (c->request) ss_transport_cancel(c->t, c->request, 4 * c->servers);
    ss_free(c->gradient);
    ss_free(c->worker);
    ss_free(c->peer);
    ss_free(c->request);
    ss_free(c->version);
    ss_free(c->answer);
    ss_free(c->residual);
    ss_free(c->sent);
    ss_free(c->place);
    ss_free(c->bytes);
    ss_free(c->first);
    ss_free(c->part);
    ss_free(c);
}

/* ---- worker ---- */

static void pack(ss_central *c, const ss_model *m, int server, float *gradient) {
    for (int k = c->first[server]; k < c->first[server + 1]; k++) {
        const part *p = &c->part[k];
        const ss_compress_call call = call_of(c, p, m->seed, m->step + 1, c->t->rank);
        float *x = gradient + p->offset, *left = c->residual + p->offset;
        char *payload = c->sent + c->place[server] + p->place;
        for (int64_t i = 0; c->feedback && !p->exact && i < p->count; i++) x[i] += left[i];
        p->kind->pack(&call, 0, x, payload);
        if (p->exact || !c->feedback) continue;
        memcpy(left, x, (size_t)p->count * sizeof *left);
        p->kind->subtract(&call, payload, NULL, left);
    }
}

/* Puts a message on its way; the requests are waited for together. */
static ss_status post(ss_central *c, bool out, void *data, size_t bytes, int peer, int tag, int *count, ss_error *err) {
    ss_request *request = &c->request[*count];
    *request = (ss_request){{0}};
    ss_status status = out ? c->t->send(c->t, data, bytes, peer, tag, request, err) : c->t->receive(c->t, data, bytes, peer, tag, request, err);
    if (status == SS_OK) c->peer[(*count)++] = peer;
    return status;
}

static void fill_head(ss_central *c, const ss_model *m, int kind) {
    c->head = (head){.kind = kind, .groups = m ? m->groups : 0, .step = m ? m->step : 0};
    for (int g = 0; m && g < m->groups; g++) memcpy(c->head.hyper[g], m->hyper + g * SS_MAX_HYPER, sizeof c->head.hyper[g]);
}

ss_status ss_central_push(ss_central *c, ss_model *m, float *gradient, ss_error *err) {
    ss_status status = SS_OK;
    int count = 0;
    assert(!ss_central_serves(c));
    fill_head(c, m, PUSH);
    memcpy(c->sent + c->place[0] + c->state_place, m->states_at, (size_t)c->states * 4);
    c->head.version = c->version[0];
    for (int s = 0; s < c->servers; s++) {
        const int peer = c->workers + s;
        int64_t begin, end;
        range_of(c, s, &begin, &end);
        pack(c, m, s, gradient);
        SS_TRY(post(c, false, &c->answer[s], sizeof c->answer[s], peer, c->tag + TAG_ANSWER, &count, err));
        SS_TRY(post(c, false, m->values + begin, (size_t)(end - begin) * 4, peer, c->tag + TAG_VALUES, &count, err));
        SS_TRY(post(c, true, &c->head, sizeof c->head, peer, c->tag + TAG_HEAD, &count, err));
        SS_TRY(post(c, true, c->sent + c->place[s], (size_t)c->bytes[s], peer, c->tag + TAG_BODY, &count, err));
    }
    SS_TRY(c->t->wait(c->t, c->request, c->peer, count, err));
    for (int s = 0; s < c->servers; s++) c->version[s] = c->answer[s].version;
    m->step++;
    c->applied++;
    return SS_OK;
done:
    ss_transport_cancel(c->t, c->request, count);
    m->broken = true;
    return status;
}

ss_status ss_central_leave(ss_central *c, ss_error *err) {
    ss_status status = SS_OK;
    int count = 0;
    fill_head(c, NULL, LEAVE);
    for (int s = 0; s < c->servers; s++) SS_TRY(post(c, true, &c->head, sizeof c->head, c->workers + s, c->tag + TAG_HEAD, &count, err));
    SS_TRY(c->t->wait(c->t, c->request, c->peer, count, err));
    return SS_OK;
done:
    ss_transport_cancel(c->t, c->request, count);
    return status;
}

/* ---- server ---- */

static ss_status listen(ss_central *c, int w, ss_error *err) {
    worker *q = &c->worker[w];
    if (q->listening) return SS_OK;
    q->heads = (ss_request){{0}};
    ss_status status = c->t->receive(c->t, &q->head, sizeof q->head, w, c->tag + TAG_HEAD, &q->heads, err);
    q->listening = status == SS_OK;
    return status;
}

static ss_status finish_sending(ss_central *c, int w, ss_error *err) {
    worker *q = &c->worker[w];
    const int peers[2] = {w, w};
    if (!q->sending) return SS_OK;
    q->sending = false;
    return c->t->wait(c->t, q->sent, peers, 2, err);
}

static ss_status reply(ss_central *c, const ss_model *m, int w, ss_error *err) {
    worker *q = &c->worker[w];
    const size_t bytes = (size_t)(c->end - c->begin) * 4;
    ss_status status = finish_sending(c, w, err);
    if (status != SS_OK) return status;
    q->answer.version = c->version_now;
    memcpy(q->values, m->values + c->begin, bytes); /* as they are now, whatever comes while they travel */
    memset(q->sent, 0, sizeof q->sent);
    status = c->t->send(c->t, &q->answer, sizeof q->answer, w, c->tag + TAG_ANSWER, &q->sent[0], err);
    if (status == SS_OK) status = c->t->send(c->t, q->values, bytes, w, c->tag + TAG_VALUES, &q->sent[1], err);
    q->sending = true;
    q->waiting = false;
    return status;
}

static ss_status apply(ss_central *c, ss_model *m, int w, ss_error *err) {
    worker *q = &c->worker[w];
    const int s = c->t->rank - c->workers;
    ss_request request = {{0}};
    ss_status status = c->t->receive(c->t, q->body, (size_t)c->bytes[s], w, c->tag + TAG_BODY, &request, err);
    if (status == SS_OK) status = c->t->wait(c->t, &request, &w, 1, err);
    if (status != SS_OK) {
        ss_transport_cancel(c->t, &request, 1);
        return status;
    }
    for (int k = c->first[s]; k < c->first[s + 1]; k++) {
        const part *p = &c->part[k];
        const ss_compress_call call = call_of(c, p, m->seed, q->head.step + 1, w);
        const void *payload = q->body + p->place;
        p->kind->merge(&call, 0, &payload, c->gradient + p->offset);
    }
    if (s == 0) memcpy(m->states_at, q->body + c->state_place, (size_t)c->states * 4);
    if (q->head.groups != m->groups) return SS_FAIL(err, SS_ERR_VALUE, "worker %d has %d groups of parameters, the server %d", w, q->head.groups, m->groups);
    for (int g = 0; g < m->groups; g++) {
        memcpy(m->hyper + g * SS_MAX_HYPER, q->head.hyper[g], sizeof q->head.hyper[g]);
        if (m->optim->prepare) m->optim->prepare(m->hyper + g * SS_MAX_HYPER, m->step + 1, m->derived + g * SS_MAX_DERIVED);
    }
    ss_model_update(m, c->gradient, c->begin, c->end);
    const int64_t behind = ss_max(0, c->version_now - q->head.version);
    c->behind_sum += behind;
    c->most_behind = ss_max(c->most_behind, behind);
    m->step++;
    c->version_now++;
    c->applied++;
    q->clock++;
    return SS_OK;
}

/* The clock of the slowest worker that has come and not left. */
static int64_t slowest(const ss_central *c) {
    int64_t least = INT64_MAX;
    for (int w = 0; w < c->workers; w++)
        if (c->worker[w].joined && !c->worker[w].left) least = ss_min(least, c->worker[w].clock);
    return least;
}

static ss_status answer_those_who_may(ss_central *c, const ss_model *m, ss_error *err) {
    for (int w = 0; w < c->workers; w++) {
        worker *q = &c->worker[w];
        if (!q->waiting || (c->staleness >= 0 && q->clock - slowest(c) > c->staleness)) continue;
        ss_status status = reply(c, m, w, err);
        if (status != SS_OK) return status;
    }
    return SS_OK;
}

static ss_status take(ss_central *c, ss_model *m, int w, ss_error *err) {
    worker *q = &c->worker[w];
    q->listening = false;
    if (q->head.kind == LEAVE) {
        q->left = true;
        return answer_those_who_may(c, m, err);
    }
    if (q->head.kind != PUSH) return SS_FAIL(err, SS_ERR_COMM, "worker %d sent a message of unknown kind %d", w, q->head.kind);
    q->joined = true;
    ss_status status = apply(c, m, w, err);
    if (status != SS_OK) return status;
    q->waiting = true;
    const int64_t before = c->version_now;
    status = answer_those_who_may(c, m, err);
    c->waits += q->waiting && before == c->version_now;
    return status;
}

ss_status ss_central_serve(ss_central *c, ss_model *m, int64_t pushes, ss_error *err) {
    ss_status status = SS_OK;
    assert(ss_central_serves(c));
    const int64_t wanted = c->applied + pushes;
    int at_work = c->workers, idle = 0;
    double heard = seconds();
    for (int w = 0; w < c->workers; w++) c->worker[w].left = false;
    while (pushes >= 0 ? c->applied < wanted : at_work > 0) {
        bool any = false;
        at_work = 0;
        for (int w = 0; w < c->workers; w++) {
            bool done = false;
            if (c->worker[w].left) continue;
            at_work++;
            SS_TRY(listen(c, w, err));
            SS_TRY(c->t->test(c->t, &c->worker[w].heads, &done, err));
            if (!done) continue;
            any = true;
            SS_TRY(take(c, m, w, err));
            if (c->worker[w].left) at_work--;
            if (pushes >= 0 && c->applied >= wanted) break;
        }
        if (any) {
            heard = seconds();
            idle = 0;
            continue;
        }
        if (++idle < 64) continue;
        if (idle < 4096) sched_yield();
        else nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        if (c->t->timeout > 0 && idle % 1024 == 0 && seconds() - heard > c->t->timeout) {
            char names[128] = "";
            for (int w = 0; w < c->workers && strlen(names) < 100; w++)
                if (!c->worker[w].left) snprintf(names + strlen(names), sizeof names - strlen(names), "%s%d", *names ? ", " : "", w);
            SS_TRY(SS_FAIL(err, SS_ERR_RANK_FAILED, "parameter server on rank %d: no push within %g s; rank %s did not answer", c->t->rank, c->t->timeout, names));
        }
    }
    if (pushes < 0)
        for (int w = 0; w < c->workers; w++) SS_TRY(finish_sending(c, w, err));
    return SS_OK;
done:
    m->broken = true;
    return status;
}

/* ---- all ---- */

/* The servers' ranges of a vector reach every rank. */
static ss_status spread(ss_central *c, float *vector, ss_error *err) {
    size_t offset[SS_MAX_LANES] = {0}, size[SS_MAX_LANES] = {0};
    if (c->t->size > SS_MAX_LANES) return SS_FAIL(err, SS_ERR_VALUE, "at most %d ranks share parameter servers", SS_MAX_LANES);
    for (int s = 0; s < c->servers; s++) {
        int64_t begin, end;
        range_of(c, s, &begin, &end);
        offset[c->workers + s] = (size_t)begin * 4;
        size[c->workers + s] = (size_t)(end - begin) * 4;
    }
    return ss_allgather(c->t, vector, offset, size, err);
}

ss_status ss_central_gather(ss_central *c, ss_model *m, bool slots, ss_error *err) {
    ss_status status = ss_signature_check(c->t, "a gather from the servers", c->elements, -1, err);
    if (status == SS_OK) status = spread(c, m->values, err);
    for (int k = 0; k < m->slots && status == SS_OK && slots; k++) status = spread(c, m->slot[k], err);
    if (status == SS_OK) status = ss_broadcast(c->t, m->states_at, (size_t)m->state_elements * 4, c->workers, err);
    if (status != SS_OK) m->broken = true;
    return status;
}

ss_status ss_central_begin(ss_central *c, ss_model *m, ss_error *err) {
    static _Atomic int count;
    if (!c->tag) c->tag = SS_TAG_CENTRAL + TAGS * (atomic_fetch_add(&count, 1) % OWN_TAGS);
    ss_status status = ss_signature_check(c->t, "the start of parameter servers", c->elements, 0, err);
    if (status == SS_OK) status = ss_broadcast(c->t, &c->tag, sizeof c->tag, 0, err);
    if (status == SS_OK) status = ss_broadcast(c->t, m->values, (size_t)m->elements * 4, 0, err);
    if (status == SS_OK) status = ss_broadcast(c->t, m->states_at, (size_t)m->state_elements * 4, 0, err);
    if (status == SS_OK) status = ss_broadcast(c->t, &m->step, sizeof m->step, 0, err);
    return status;
}

ss_central_report ss_central_tell(const ss_central *c) {
    ss_central_report r = {.pushes = c->applied, .most_behind = c->most_behind, .mean_behind = c->applied ? (double)c->behind_sum / (double)c->applied : 0, .waits = c->waits};
    if (ss_central_serves(c)) r.bytes = c->bytes[c->t->rank - c->workers];
    else
        for (int s = 0; s < c->servers; s++) r.bytes += c->bytes[s];
    return r;
}
