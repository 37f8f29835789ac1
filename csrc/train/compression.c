#include "train/compression.h"
#include <assert.h>
#include <math.h>
#include <string.h>
#include "base/alloc.h"
#include "comm/collective.h"

enum { GRAIN = 256, ALIGN = 16 }; /* elements that pieces begin at: whole blocks of int8, whole counters; bytes of payloads */
enum { SUM_STREAM = 0x10000 };    /* random numbers of sums are other ones than those of gradients */

/* Elements [*begin, *end) of a tensor that rank r owns. */
static void piece_of(const ss_compression *c, const ss_compression_tensor *t, int r, int64_t *begin, int64_t *end) { ss_split(t->count, GRAIN, r, c->ranks, begin, end); }

static ss_compress_call call_of(const ss_compression *c, int tensor, int64_t begin, int64_t end, uint64_t seed, int64_t step, uint32_t stream) {
    const ss_compression_tensor *t = &c->tensor[tensor];
    return (ss_compress_call){.n = end - begin, .first = begin, .rows = t->rows, .columns = t->columns, .hyper = c->hyper, .kernels = c->kernels, .feedback = c->feedback, .seed = seed,
                              .step = (uint32_t)step, .tensor = (uint32_t)tensor, .stream = stream, .ranks = c->ranks, .state = c->state + t->state_offset};
}

ss_status ss_compression_choose(const ss_compression_options *o, ss_isa isa, const ss_compressor **kind, double *hyper, ss_error *err) {
    int index = ss_compressor_find(o->name);
    if (index < 0) return SS_FAIL(err, SS_ERR_VALUE, "there is no compressor '%s'", o->name);
    *kind = ss_compressor_at(isa, index);
    const ss_compress_spec *spec = (*kind)->hypers;
    for (int k = 0; spec[k].name; k++) hyper[k] = spec[k].initial;
    for (int h = 0; h < o->hypers; h++) {
        int at = 0;
        while (spec[at].name && strcmp(spec[at].name, o->hyper[h].name)) at++;
        if (!spec[at].name) return SS_FAIL(err, SS_ERR_VALUE, "compressor %s has no argument '%s'", o->name, o->hyper[h].name);
        if (!(o->hyper[h].value >= spec[at].least && o->hyper[h].value <= spec[at].most))
            return SS_FAIL(err, SS_ERR_VALUE, "%s=%g is outside [%g, %g]", spec[at].name, o->hyper[h].value, spec[at].least, spec[at].most);
        hyper[at] = o->hyper[h].value;
    }
    return SS_OK;
}

static int order(const ss_compression_parameter *a, const ss_compression_parameter *b) { return a->offset < b->offset ? -1 : a->offset > b->offset; }

static ss_status take_tensors(ss_compression *c, const ss_compression_options *o, const ss_compression_parameter *p, int count, ss_isa isa, ss_error *err) {
    const ss_compressor *none = ss_compressor_at(isa, ss_compressor_find("none"));
    for (int k = 0; k < count; k++) {
        int at = c->count++; /* by insertion: they come nearly in order */
        for (; at > 0 && order(&p[k], &(ss_compression_parameter){.offset = c->tensor[at - 1].offset}) < 0; at--) c->tensor[at] = c->tensor[at - 1];
        const int64_t n = ss_shape_count(&p[k].shape), rows = p[k].shape.rank > 0 ? p[k].shape.dim[0] : 1;
        c->tensor[at] = (ss_compression_tensor){.name = p[k].name, .kind = none, .offset = p[k].offset, .count = n, .rows = rows, .columns = rows ? n / rows : 0};
        for (int j = 0; j < o->tensors; j++)
            if (n > 0 && !strcmp(o->tensor[j], p[k].name)) c->tensor[at].kind = c->compressor;
        if (n > UINT32_MAX) return SS_FAIL(err, SS_ERR_SHAPE, "parameter '%s' has too many elements to compress: at most 2^32", p[k].name);
    }
    for (int k = 0; k < c->count; k++) {
        ss_compression_tensor *t = &c->tensor[k];
        const ss_compress_call call = call_of(c, k, 0, t->count, 0, 0, 0);
        t->exact = t->kind->exact && t->kind->exact(&call);
        t->state_count = t->kind->state ? t->kind->state(&call) : 0;
        t->state_offset = c->states;
        if (!ss_add(c->states, ss_round_up(t->state_count, ALIGN), &c->states)) return SS_FAIL(err, SS_ERR_MEMORY, "the compressor's state overflows the address space");
    }
    return SS_OK;
}

/* Where payloads lie, and how long they are. */
static void lay_out(ss_compression *c) {
    const bool pieces = c->compressor->pieces;
    int64_t total = 0;
    for (int region = 0; region < (pieces ? c->ranks : c->compressor->rounds); region++) {
        int64_t bytes = 0;
        for (int k = 0; k < c->count; k++) {
            const ss_compression_tensor *t = &c->tensor[k];
            int64_t begin = 0, end = t->count;
            if (pieces) piece_of(c, t, region, &begin, &end);
            const ss_compress_call call = call_of(c, k, begin, end, 0, 0, 0);
            c->place[pieces ? k * c->ranks + region : region * c->count + k] = bytes;
            if (begin < end && (pieces || region < t->kind->rounds)) bytes += ss_round_up(t->kind->bytes(&call, pieces ? 0 : region), ALIGN);
        }
        c->region[region] = total;
        c->region_bytes[region] = bytes;
        c->most_bytes = ss_max(c->most_bytes, bytes);
        total += bytes;
    }
    const int others = c->ranks - 1;
    c->bytes = pieces ? total - c->region_bytes[c->rank] + others * c->region_bytes[c->rank] : others * total;
    for (int k = 0; k < c->count; k++) c->plain_bytes += c->tensor[k].count * 4;
    c->plain_bytes = 2 * c->plain_bytes * others / c->ranks;
}

/* count items, or nothing where count is 0. */
static ss_status take(int64_t count, size_t item, void *out, ss_error *err) {
    int64_t bytes;
    void *memory = NULL;
    if (count > 0 && ss_mul(count, (int64_t)item, &bytes)) memory = ss_calloc((size_t)count, item);
    if (count > 0 && !memory) return SS_FAIL(err, SS_ERR_MEMORY, "the compression of gradients needs %lld times %zu bytes", (long long)count, item);
    memcpy(out, &memory, sizeof memory);
    return SS_OK;
}

ss_status ss_compression_create(const ss_compression_options *o, const ss_compression_parameter *p, int count, int64_t elements, const ss_kernels *kernels, ss_transport *t, ss_compression **out,
                                ss_error *err) {
    ss_status status = SS_OK;
    *out = NULL;
    ss_compression *c = ss_calloc(1, sizeof *c);
    if (!c) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for the compression of gradients");
    *c = (ss_compression){.feedback = o->feedback, .kernels = kernels, .transport = t, .rank = t->rank, .ranks = t->size, .elements = elements};
    SS_TRY(ss_compression_choose(o, kernels->isa, &c->compressor, c->hyper, err));
    if (t->size == 1) goto done; /* the arguments have been checked */
    SS_TRY(take(count, sizeof *c->tensor, &c->tensor, err));
    SS_TRY(take_tensors(c, o, p, count, kernels->isa, err));
    const bool pieces = c->compressor->pieces;
    const int64_t regions = pieces ? c->ranks : c->compressor->rounds;
    SS_TRY(take(regions * ss_max(count, 1), sizeof *c->place, &c->place, err));
    SS_TRY(take(regions, sizeof *c->region, &c->region, err));
    SS_TRY(take(regions, sizeof *c->region_bytes, &c->region_bytes, err));
    lay_out(c);
    c->units = c->count * (pieces ? c->ranks : 1);
    SS_TRY(take(elements, sizeof *c->residual, &c->residual, err));
    if (c->feedback && pieces) SS_TRY(take(elements, sizeof *c->owed, &c->owed, err));
    SS_TRY(take(c->states, sizeof *c->state, &c->state, err));
    if (pieces) {
        SS_TRY(take(c->region[c->ranks - 1] + c->region_bytes[c->ranks - 1], 1, &c->sent, err));
        SS_TRY(take(c->region_bytes[c->rank] * c->ranks, 1, &c->received, err));
        SS_TRY(take(c->region[c->ranks - 1] + c->region_bytes[c->ranks - 1], 1, &c->shared, err));
    } else {
        SS_TRY(take(c->most_bytes * c->ranks, 1, &c->shared, err));
    }
    SS_TRY(take(2LL * c->ranks, sizeof *c->request, &c->request, err));
    SS_TRY(take(2LL * c->ranks, sizeof *c->peer, &c->peer, err));
    SS_TRY(take(2LL * c->units, sizeof *c->norm, &c->norm, err));
    *out = c;
    c = NULL;
done:
    ss_compression_free(c);
    return status;
}

void ss_compression_free(ss_compression *c) {
    if (!c) return;
    ss_free(c->norm);
    ss_free(c->peer);
    ss_free(c->request);
    ss_free(c->shared);
    ss_free(c->received);
    ss_free(c->sent);
    ss_free(c->state);
    ss_free(c->owed);
    ss_free(c->residual);
    ss_free(c->region_bytes);
    ss_free(c->region);
    ss_free(c->place);
    ss_free(c->tensor);
    ss_free(c);
}

int64_t ss_compression_memory(const ss_compression *c) {
    if (!c) return 0;
    const int64_t payloads = c->compressor->pieces ? 2 * (c->region[c->ranks - 1] + c->region_bytes[c->ranks - 1]) + c->region_bytes[c->rank] * c->ranks : c->most_bytes * c->ranks;
    return payloads + 4 * (c->states + c->elements + (c->owed ? c->elements : 0));
}

int ss_compression_rounds(const ss_compression *c) { return c->compressor->rounds; }
bool ss_compression_shares(const ss_compression *c) { return c->compressor->pieces; }

static double squares(int64_t n, const float *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

static void add(int64_t n, float *restrict to, const float *restrict from) {
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

/* Packs x, with feedback together with what was left out before, and writes down in `left` (NULL: nowhere) what this leaves out. norm, if not NULL: squares of that and of x. */
static void pack_piece(const ss_compress_call *call, const ss_compression_tensor *t, float *x, float *left, bool keep, void *payload, double *norm) {
    if (left && call->feedback && !t->exact) add(call->n, x, left);
    t->kind->pack(call, 0, x, payload);
    if (!left || t->exact || !keep) return;
    memcpy(left, x, (size_t)call->n * sizeof *left);
    t->kind->subtract(call, payload, NULL, left);
    if (norm) norm[0] = squares(call->n, left), norm[1] = squares(call->n, x);
}

void ss_compression_pack(ss_compression *c, int round, float *gradient, uint64_t seed, int64_t step, bool keep, int thread, int threads) {
    if (c->compressor->pieces) {
        for (int u = thread; u < c->units; u += threads) {
            const int k = u / c->ranks, r = u % c->ranks;
            const ss_compression_tensor *t = &c->tensor[k];
            int64_t begin, end;
            piece_of(c, t, r, &begin, &end);
            c->norm[2 * u] = c->norm[2 * u + 1] = 0;
            if (begin == end) continue;
            const ss_compress_call call = call_of(c, k, begin, end, seed, step, (uint32_t)c->rank);
            pack_piece(&call, t, gradient + t->offset + begin, c->residual + t->offset + begin, keep, c->sent + c->region[r] + c->place[u], &c->norm[2 * u]);
        }
        return;
    }
    for (int k = thread; k < c->count; k += threads) {
        const ss_compression_tensor *t = &c->tensor[k];
        if (!t->count || round >= t->kind->rounds) continue;
        float *x = gradient + t->offset, *left = c->residual + t->offset;
        const ss_compress_call call = call_of(c, k, 0, t->count, seed, step, (uint32_t)c->rank);
        if (round == 0 && c->feedback && !t->exact) add(t->count, x, left);
        t->kind->pack(&call, round, x, c->shared + c->rank * c->region_bytes[round] + c->place[round * c->count + k]);
    }
}

static ss_status finish(ss_compression *c, int count, ss_error *err) {
    ss_status status = count ? c->transport->wait(c->transport, c->request, c->peer, count, err) : SS_OK;
    if (status != SS_OK) ss_transport_cancel(c->transport, c->request, count);
    return status;
}

/* Every rank's payload of every region goes to the region's owner. */
static ss_status scatter(ss_compression *c, ss_error *err) {
    ss_transport *t = c->transport;
    ss_status status = SS_OK;
    int count = 0;
    const int64_t mine = c->region_bytes[c->rank];
    for (int i = 1; i < c->ranks && status == SS_OK && mine > 0; i++) {
        const int from = (c->rank - i + c->ranks) % c->ranks;
        status = t->receive(t, c->received + from * mine, (size_t)mine, from, SS_TAG_GRADIENT, &c->request[count], err);
        if (status == SS_OK) c->peer[count++] = from;
    }
    for (int i = 1; i < c->ranks && status == SS_OK; i++) {
        const int to = (c->rank + i) % c->ranks;
        if (!c->region_bytes[to]) continue;
        status = t->send(t, c->sent + c->region[to], (size_t)c->region_bytes[to], to, SS_TAG_GRADIENT, &c->request[count], err);
        if (status == SS_OK) c->peer[count++] = to;
    }
    if (status != SS_OK) {
        ss_transport_cancel(t, c->request, count);
        return status;
    }
    return finish(c, count, err);
}

static ss_status gather(ss_compression *c, const int64_t *begin, const int64_t *bytes, bool equal, ss_error *err) {
    size_t offset[SS_MAX_LANES], size[SS_MAX_LANES]; /* ranks never exceed lanes */
    assert(c->ranks <= SS_MAX_LANES);
    for (int r = 0; r < c->ranks; r++) {
        offset[r] = equal ? (size_t)r * (size_t)*bytes : (size_t)begin[r];
        size[r] = (size_t)(equal ? *bytes : bytes[r]);
    }
    return ss_allgather(c->transport, c->shared, offset, size, err);
}

ss_status ss_compression_send(ss_compression *c, int round, ss_error *err) {
    if (c->compressor->pieces) return scatter(c, err);
    return gather(c, NULL, &c->region_bytes[round], true, err);
}

ss_status ss_compression_share(ss_compression *c, ss_error *err) { return gather(c, c->region, c->region_bytes, false, err); }

void ss_compression_merge(ss_compression *c, int round, float *gradient, uint64_t seed, int64_t step, bool keep, int thread, int threads) {
    const void *payload[SS_MAX_LANES];
    for (int k = thread; k < c->count; k += threads) {
        const ss_compression_tensor *t = &c->tensor[k];
        float *x = gradient + t->offset;
        if (c->compressor->pieces) {
            int64_t begin, end;
            piece_of(c, t, c->rank, &begin, &end);
            if (begin == end) continue;
            const int64_t place = c->place[k * c->ranks + c->rank];
            for (int r = 0; r < c->ranks; r++) payload[r] = r == c->rank ? c->sent + c->region[r] + place : c->received + r * c->region_bytes[c->rank] + place;
            const ss_compress_call call = call_of(c, k, begin, end, seed, step, (uint32_t)c->rank + SUM_STREAM);
            t->kind->merge(&call, 0, payload, x + begin);
            pack_piece(&call, t, x + begin, c->owed ? c->owed + t->offset + begin : NULL, keep, c->shared + c->region[c->rank] + place, NULL);
            continue;
        }
        if (!t->count || round >= t->kind->rounds) continue;
        const ss_compress_call call = call_of(c, k, 0, t->count, seed, step, (uint32_t)c->rank);
        const int64_t place = c->place[round * c->count + k];
        for (int r = 0; r < c->ranks; r++) payload[r] = c->shared + r * c->region_bytes[round] + place;
        const bool last = round == t->kind->rounds - 1, lossy = last && !t->exact && keep;
        c->norm[2 * k] = c->norm[2 * k + 1] = 0;
        if (lossy) memcpy(c->residual + t->offset, x, (size_t)t->count * sizeof *x);
        if (lossy) c->norm[2 * k + 1] = squares(t->count, x);
        t->kind->merge(&call, round, payload, x);
        if (!lossy) continue;
        t->kind->subtract(&call, payload[c->rank], x, c->residual + t->offset);
        c->norm[2 * k] = squares(t->count, c->residual + t->offset);
    }
}

void ss_compression_unpack(ss_compression *c, float *gradient, uint64_t seed, int64_t step, int thread, int threads) {
    for (int u = thread; u < c->units; u += threads) {
        const int k = u / c->ranks, r = u % c->ranks;
        const ss_compression_tensor *t = &c->tensor[k];
        int64_t begin, end;
        piece_of(c, t, r, &begin, &end);
        if (begin == end) continue;
        ss_compress_call call = call_of(c, k, begin, end, seed, step, (uint32_t)r + SUM_STREAM);
        call.ranks = 1;
        const void *payload = c->shared + c->region[r] + c->place[u];
        t->kind->merge(&call, 0, &payload, gradient + t->offset + begin);
    }
}

void ss_compression_keep_own(ss_compression *c, const char *name) {
    for (int k = 0; k < c->count && c->owed; k++) {
        const ss_compression_tensor *t = &c->tensor[k];
        int64_t begin, end;
        if (strcmp(t->name, name)) continue;
        piece_of(c, t, c->rank, &begin, &end);
        memset(c->owed + t->offset, 0, (size_t)begin * sizeof *c->owed);
        memset(c->owed + t->offset + end, 0, (size_t)(t->count - end) * sizeof *c->owed);
    }
}

void ss_compression_measure(ss_compression *c) {
    double left = 0, packed = 0;
    for (int u = 0; u < c->units; u++) left += c->norm[2 * u], packed += c->norm[2 * u + 1];
    c->error = packed > 0 ? sqrt(left / packed) : 0;
}
