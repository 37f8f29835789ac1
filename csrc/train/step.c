/* One training or inference step. See train/session.h for its life. */
#include <assert.h>
#include <math.h>
#include <string.h>
#include <time.h>
#include "comm/collective.h"
#include "comm/signature.h"
#include "kernels/blocks.h"
#include "kernels/variant.h"
#include "train/session.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- pointers ---- */

static char *resolve(const ss_session *s, ss_ref ref, const ss_sweep *w) {
    const ss_program *p = s->program;
    switch (ref.kind) {
    case SS_REF_NONE:
        return NULL;
    case SS_REF_BUFFER: {
        const ss_buffer *b = &p->buffer[ref.index];
        return s->activations + b->offset + (b->full ? w->row0 * b->sample_bytes : 0);
    }
    case SS_REF_INPUT:
        return (char *)(s->set == 0 && s->lent[ref.index] ? s->lent[ref.index] : s->input[s->set][ref.index]) + w->row0 * s->input_bytes[ref.index];
    case SS_REF_PARAMETER:
        return (char *)(s->model->values + s->model->parameter[s->parameter[ref.index]].offset);
    case SS_REF_STATE:
        return (char *)(s->model->states_at + s->model->state[s->state[ref.index]].offset);
    case SS_REF_ROUNDED:
        return (char *)(s->model->rounded + s->model->parameter[s->parameter[ref.index]].offset);
    case SS_REF_GRADIENT:
        return (char *)(s->gradient + w->top * s->gradient_elements + s->slot_offset[ref.index]);
    }
    return NULL;
}

static double denominator_of(const ss_session *s, int node) {
    const ss_program *p = s->program;
    for (int k = 0; k < p->prepares; k++)
        if (p->instruction[p->prepare[k]].node == node) return s->denominator[k];
    return 1;
}

/* Fills a call for one sweep. */
static void bind(const ss_session *s, const ss_instruction *i, const ss_sweep *w, ss_call *c) {
    *c = i->call;
    for (int k = 0; k < c->n_in; k++) {
        c->in[k] = resolve(s, i->in[k], w);
        c->grad_in[k] = resolve(s, i->grad_in[k], w);
        c->block_stride[k] = s->gradient_elements;
    }
    for (int k = 0; k < c->n_out; k++) {
        c->out[k] = resolve(s, i->out[k], w);
        c->grad_out[k] = resolve(s, i->grad_out[k], w);
    }
    c->host = s->host;
    c->saved = resolve(s, i->saved, w);
    c->scratch = s->scratch;
    c->rows = w->rows;
    c->sample0 = s->schedule->first_row + w->row0;
    c->batch = s->batch;
    c->fold = &w->fold;
    c->seed = s->model->seed;
    c->step = (uint32_t)s->model->step;
    if (i->stat >= 0) {
        const ss_stat *stat = &s->program->stat[i->stat];
        const ss_stat_memory *memory = &s->stat[i->stat];
        const ss_group_join *join = s->join[memory->join];
        c->lane_stat = memory->lanes + w->first_lane * stat->length;
        c->stat = memory->groups;
        if (i->backward && i->stage == SS_STAGE_STAT) /* the backward statistic is made with the forward one at hand */
            for (int k = 0; k < i->stat; k++)
                if (s->program->stat[k].node == i->node) c->stat = s->stat[k].groups;
        c->stat_group = join->local_group + w->first_lane;
        c->stat_groups = join->groups;
        if (stat->result) c->denominator = denominator_of(s, i->node);
    }
}

/* ---- joins over lanes and ranks ---- */

static void join_vectors(const ss_instruction *i, const ss_call *c, bool backward, int64_t length, float *a, const float *b) {
    if (i && i->op->stat_join) {
        i->op->stat_join(c, backward, a, b);
        return;
    }
    for (int64_t k = 0; k < length; k++) a[k] += b[k];
}

/* Folds the rank's lane vectors into its blocks (in place), gathers all ranks' blocks and folds those into one vector a group. */
static ss_status join_lanes(ss_session *s, const ss_group_join *join, const ss_instruction *i, const ss_call *c, bool backward, int64_t length,
                            float *lanes, float *groups, ss_error *err) {
    const ss_schedule *w = s->schedule;
    size_t bytes = (size_t)length * 4;
    int top = 0;
    for (int k = 0; k < w->lanes_used; k++) {
        if (top != k) memmove(lanes + top * length, lanes + k * length, bytes);
        top++;
        for (int n = join->local_adds[k]; n > 0; n--, top--)
            join_vectors(i, c, backward, length, lanes + (top - 2) * length, lanes + (top - 1) * length);
    }
    assert(top == join->blocks[w->rank]);
    float *all = lanes;
    if (w->ranks > 1) {
        size_t offset[SS_MAX_LANES], size[SS_MAX_LANES], at = 0; /* ranks never exceed lanes */
        for (int r = 0; r < w->ranks; r++) {
            offset[r] = at;
            size[r] = (size_t)join->blocks[r] * bytes;
            at += size[r];
        }
        all = s->gathered;
        if (top) memcpy((char *)all + offset[w->rank], lanes, size[w->rank]);
        const double began = now();
        ss_status status = ss_allgather(s->model->transport, all, offset, size, err);
        s->waited += now() - began;
        if (status != SS_OK) return status;
    }
    if (join->groups > 1) memset(groups, 0, (size_t)join->groups * bytes); /* a group without samples has an empty statistic */
    top = 0;
    for (int k = 0; k < join->total; k++) {
        if (top != k) memmove(all + top * length, all + k * length, bytes);
        top++;
        for (int n = join->global_adds[k]; n > 0; n--, top--)
            join_vectors(i, c, backward, length, all + (top - 2) * length, all + (top - 1) * length);
        bool last = k + 1 == join->total || join->block_group[k + 1] != join->block_group[k];
        if (last) memcpy(groups + join->block_group[k] * length, all + --top * length, bytes);
    }
    assert(top == 0);
    return SS_OK;
}

static ss_status join_stat(ss_session *s, const ss_instruction *i, ss_error *err) {
    const ss_stat *stat = &s->program->stat[i->stat];
    const ss_stat_memory *memory = &s->stat[i->stat];
    ss_call c;
    bind(s, i, &s->schedule->sweep[0], &c);
    c.threads = 1;
    c.stat = memory->groups;
    ss_status status = join_lanes(s, s->join[memory->join], i, &c, stat->backward, stat->length, memory->lanes, memory->groups, err);
    if (status == SS_OK && i->op->stat_done) i->op->stat_done(&c, stat->backward);
    return status;
}

/* ---- the beginning of a step: labels, denominators, agreement ---- */

/* What all ranks must have in common; a difference would leave some of them waiting for ever, or with other bits. */
static const char *const common_names[] = {"batch", "step", "lanes", "trainable elements", "values of optimizer state per element", "update", "gradients", "instructions",
                                           "groups of parameters", "floats of further optimizer state"};
enum { COMMON = sizeof common_names / sizeof *common_names };

typedef struct announcement {
    int32_t code;
    int64_t common[COMMON];
    double worked; /* seconds of this rank's last step */
    double hyper[SS_MAX_HYPER], clip_norm, clip_value; /* of group 0; those of further groups follow in a broadcast */
    char message[SS_ERROR_TEXT];
} announcement;

static ss_status prepare_local(ss_session *s, ss_error *err) {
    const ss_program *p = s->program;
    const ss_schedule *w = s->schedule;
    ss_sweep whole = {.fold = w->whole, .rows = w->rows};
    for (int k = 0; k < p->prepares; k++) {
        const ss_instruction *i = &p->instruction[p->prepare[k]];
        ss_call c;
        bind(s, i, &whole, &c);
        for (int j = 0; j < c.n_in; j++)
            if (i->in[j].kind == SS_REF_BUFFER) c.in[j] = NULL; /* not computed yet */
        for (int j = 0; j < c.n_out; j++) c.out[j] = NULL;
        c.threads = 1;
        c.lane_stat = s->lane_value + (int64_t)k * w->lanes;
        ss_status status = w->rows ? i->op->prepare(&c, err) : SS_OK;
        if (status != SS_OK) {
            if (*i->layer) ss_error_prefix(err, "layer '%s': ", i->layer);
            return status;
        }
    }
    return SS_OK;
}

/* Every rank learns whether all can go on, and rank 0's hyper-parameters. */
static ss_status agree(ss_session *s, ss_status local, ss_error *err) {
    enum { STACK_RANKS = 16 };
    ss_model *m = s->model;
    announcement mine = {.code = local, .worked = s->worked, .common = {s->batch, m->step, s->schedule->lanes, s->training ? m->trainable : 0, m->slots, s->update,
                                                   s->training && s->gradients, s->program->instructions, m->groups, m->extra_elements}}, own[STACK_RANKS];
    size_t offset[SS_MAX_LANES], size[SS_MAX_LANES];
    int ranks = m->transport->size;
    if (local != SS_OK && err) memcpy(mine.message, err->message, sizeof mine.message);
    memcpy(mine.hyper, m->hyper, sizeof mine.hyper);
    mine.clip_norm = m->clip_norm;
    mine.clip_value = m->clip_value;
    /* In rounds of at most STACK_RANKS, so that the messages of thousands of ranks need no heap: everyone hears rank 0 and the first that failed. */
    ss_status worst = SS_OK;
    announcement first = mine, failed;
    int failed_rank = -1;
    for (int base = 0; base < ranks; base += STACK_RANKS) {
        int count = ranks - base < STACK_RANKS ? ranks - base : STACK_RANKS;
        for (int r = 0; r < ranks; r++) {
            bool inside = r >= base && r < base + count;
            offset[r] = inside ? (size_t)(r - base) * sizeof mine : 0;
            size[r] = inside ? sizeof mine : 0;
        }
        if (m->transport->rank >= base && m->transport->rank < base + count) own[m->transport->rank - base] = mine;
        ss_status status = ss_allgather(m->transport, own, offset, size, err);
        if (status != SS_OK) return status;
        if (base == 0) first = own[0];
        for (int r = 0; r < count && s->rank_seconds; r++) s->rank_seconds[base + r] += own[r].worked;
        for (int r = 0; r < count && failed_rank < 0; r++) {
            if (own[r].code != SS_OK) {
                worst = own[r].code;
                failed = own[r];
                failed_rank = base + r;
            } else {
                for (int k = 0; k < COMMON; k++)
                    if (own[r].common[k] != first.common[k])
                        return SS_FAIL(err, SS_ERR_VALUE, "ranks disagree: %s is %lld on rank 0 and %lld on rank %d", common_names[k], (long long)first.common[k],
                                       (long long)own[r].common[k], base + r);
            }
        }
    }
    if (worst != SS_OK) {
        if (local == SS_OK) ss_error_set(err, worst, __FILE__, __LINE__, "rank %d: %s", failed_rank, failed.message);
        else if (failed_rank >= 0) ss_error_prefix(err, "rank %d: ", m->transport->rank);
        return local != SS_OK ? local : worst;
    }
    memcpy(m->hyper, first.hyper, sizeof first.hyper);
    m->clip_norm = first.clip_norm;
    m->clip_value = first.clip_value;
    if (m->groups > 1 && s->update) return ss_broadcast(m->transport, m->hyper + SS_MAX_HYPER, (size_t)(m->groups - 1) * SS_MAX_HYPER * sizeof *m->hyper, 0, err);
    return SS_OK;
}

static ss_status begin_step(ss_session *s, ss_status local, ss_error *err) {
    const ss_program *p = s->program;
    ss_status status = local;
    ss_model *m = s->model;
    if (status == SS_OK && s->update && m->swapped)
        status = SS_FAIL(err, SS_ERR_STATE, "the averages stand in the place of the parameters: exchange them back before training goes on");
    if (status == SS_OK) status = prepare_local(s, err);
    if (m->transport->size > 1) {
        const double began = now();
        ss_status met = ss_signature_check(m->transport, s->training ? "a training step" : "a step without training", -1, -1, err);
        if (met != SS_OK) return met;
        status = agree(s, status, err);
        s->waited += now() - began;
        if (s->worked > 0) s->rank_steps++;
    }
    if (status != SS_OK) return status;
    if (s->exchange && !s->introduced) { /* here all ranks are known to take part */
        status = ss_exchange_introduce(s->exchange, err);
        if (status != SS_OK) return status;
        s->introduced = true;
    }
    for (int g = 0; s->training && m->optim->prepare && g < m->groups; g++) /* from rank 0's hyper-parameters, the same bits on every machine */
        m->optim->prepare(m->hyper + g * SS_MAX_HYPER, m->step + 1, m->derived + g * SS_MAX_DERIVED);
    for (int k = 0; k < p->prepares; k++) {
        float total = 0;
        status = join_lanes(s, s->join[0], NULL, NULL, false, 1, s->lane_value + (int64_t)k * s->schedule->lanes, &total, err);
        if (status != SS_OK) return status;
        s->denominator[k] = total; /* 0 when every label is ignored or has weight 0: the losses' gradients are 0 then */
    }
    return SS_OK;
}

/* ---- the walk of one thread ---- */

typedef struct walk {
    ss_session *s;
    int thread, threads;
    int turn;     /* of lead[] */
    bool unseen;  /* thread 0 has worked alone since the last barrier */
} walk;

static void meet(walk *w) {
    if (w->threads > 1) ss_pool_barrier(w->s->model->pool, w->thread);
    w->unseen = false;
}

/* What thread 0 did alone becomes visible to all before they share work again. */
static void settle(walk *w) {
    if (w->unseen) meet(w);
}

/* Thread 0 does `call` when nothing has failed; the others learn the outcome at the barrier, and all leave together. Two places in turn carry the outcome:
 * thread 0 may be in its next call while another thread still reads the last one. */
#define LEAD(w, call)                                                                   \
    do {                                                                                \
        (w)->turn ^= 1;                                                                 \
        if ((w)->thread == 0) {                                                         \
            if ((w)->s->status == SS_OK) (w)->s->status = (call);                       \
            (w)->s->lead[(w)->turn] = (w)->s->status;                                   \
        }                                                                               \
        meet(w);                                                                        \
        if ((w)->s->lead[(w)->turn] != SS_OK) return;                                   \
    } while (0)

static void trace_lanes(ss_session *s, const ss_instruction *i, const ss_call *c, const ss_sweep *w) {
    const char *pass = i->backward ? "backward" : "forward", *op = i->sum ? "sum" : i->op->name;
    int index = (int)(i - s->program->instruction);
    for (int k = 0; k < w->fold.lanes; k++) {
        uint64_t hash = SS_HASH_START;
        int64_t row = w->fold.row[k], rows = w->fold.row[k + 1] - row;
        if (i->stage == SS_STAGE_STAT) {
            int64_t length = s->program->stat[i->stat].length;
            hash = ss_hash(hash, (float *)c->lane_stat + k * length, 4 * length);
        } else if (!i->backward || i->sum) {
            for (int j = 0; j < c->n_out; j++) {
                int64_t bytes = 4 * ss_shape_count(&c->out_shape[j]);
                hash = ss_hash(hash, (char *)c->out[j] + row * bytes, rows * bytes);
            }
        } else {
            for (int j = 0; j < c->n_in; j++) {
                if (c->role[j] != SS_ROLE_BATCHED || !c->grad_in[j]) continue;
                int64_t bytes = 4 * ss_shape_count(&c->in_shape[j]);
                hash = ss_hash(hash, (char *)c->grad_in[j] + row * bytes, rows * bytes);
            }
        }
        ss_trace_line(s->trace, s->model->step, index, pass, op, i->layer, w->fold.lane[k], hash);
    }
}

/* Not under the thread sanitizer: the barrier that poisoning needs would hide a missing one. */
#if defined SS_DEBUG && !defined __SANITIZE_THREAD__
#define CHECK_BUFFERS 1
/* Buffers share space by their lifetimes, so the red zone at a buffer's end is drawn when it is first written and checked after its last use. A buffer of all the rank's rows
 * (full) has its space to itself from its first segment to its last, and is drawn in the first sweep with samples. */
static unsigned char *zone_of(const ss_session *s, const ss_buffer *b) { return (unsigned char *)s->activations + b->offset + b->bytes - SS_RED_ZONE; }
static unsigned char zone_byte(int k) { return (unsigned char)(0x5A ^ k * 37); }

static void debug_before(walk *w, const ss_instruction *i, const ss_sweep *sweep) {
    ss_session *s = w->s;
    int index = (int)(i - s->program->instruction);
    if (w->thread == 0) {
        ss_arena_poison(s->scratch, i->scratch_bytes);
        for (int k = 0; k < s->program->buffers; k++) {
            const ss_buffer *b = &s->program->buffer[k];
            if (b->first != index || (b->full && sweep->row0)) continue;
            ss_arena_poison(s->activations + b->offset, b->bytes);
            for (int z = 0; z < SS_RED_ZONE; z++) zone_of(s, b)[z] = zone_byte(z);
        }
    }
    meet(w);
}

static void debug_after(const walk *w, const ss_instruction *i) {
    ss_session *s = w->s;
    int index = (int)(i - s->program->instruction);
    for (int k = 0; w->thread == 0 && k < s->program->buffers; k++) {
        const ss_buffer *b = &s->program->buffer[k];
        int last = b->last < s->program->instructions ? b->last : s->program->instructions - 1; /* outputs live on */
        for (int z = 0; last == index && z < SS_RED_ZONE; z++)
            if (zone_of(s, b)[z] != zone_byte(z) && s->status == SS_OK)
                s->status = SS_FAIL(&s->error, SS_ERR_STATE, "byte %d behind buffer %d (%s, written first by instruction %d) was written", z, k, b->what, b->first);
    }
}
#endif

static void run_shared(walk *w, const ss_instruction *i, const ss_sweep *sweep) {
    ss_session *s = w->s;
    ss_call c;
    bind(s, i, sweep, &c);
    c.thread = w->thread;
    c.threads = w->threads;
#ifdef CHECK_BUFFERS
    debug_before(w, i, sweep);
#endif
    double started = s->profiling && w->thread == 0 ? now() : 0;
    for (c.phase = 0; c.phase < i->phases; c.phase++) {
        if (i->stage == SS_STAGE_STAT) i->op->stat(&c, i->backward);
        else if (i->backward && !i->sum) i->op->backward(&c);
        else i->op->forward(&c);
        meet(w);
    }
#ifdef CHECK_BUFFERS
    debug_after(w, i);
#endif
    if (w->thread == 0 && s->profiling) {
        int64_t index = i - s->program->instruction;
        s->seconds[index] += now() - started;
        s->calls[index]++;
    }
    if (s->trace) {
        if (w->thread == 0) trace_lanes(s, i, &c, sweep);
        meet(w);
    }
}

/* An instruction so small that sharing it would cost more than it saves runs on thread 0, without a barrier. */
static void run_instruction(walk *w, const ss_instruction *i, const ss_sweep *sweep) {
    if (!i->solo || w->threads == 1) {
        settle(w);
        run_shared(w, i, sweep);
        return;
    }
    if (w->thread == 0) {
        walk alone = {.s = w->s, .threads = 1};
        run_shared(&alone, i, sweep);
    }
    w->unseen = true;
}

/* Joins the blocks of a sweep with those of the sweeps before it, for the slots that this segment filled. */
static void merge_sweep(walk *w, const ss_sweep *sweep, int segment) {
    ss_session *s = w->s;
    const ss_program *p = s->program;
    int64_t stride = s->gradient_elements;
    for (int k = 0; k < p->slots; k++) {
        if (p->instruction[p->slot[k].instruction].segment != segment) continue;
        int64_t count = s->model->parameter[s->parameter[p->slot[k].parameter]].count, begin, end;
        ss_split(count, 16, w->thread, w->threads, &begin, &end);
        float *base = s->gradient + s->slot_offset[k];
        int top = sweep->top;
        for (int b = 0; b < sweep->fold.blocks; b++) {
            float *block = base + (sweep->top + b) * stride, *place = base + top * stride;
            if (place != block) memcpy(place + begin, block + begin, (size_t)(end - begin) * 4);
            top++;
            for (int n = s->schedule->rank_adds[sweep->first_leaf + b]; n > 0; n--, top--) {
                float *a = base + (top - 2) * stride, *c = base + (top - 1) * stride;
                for (int64_t e = begin; e < end; e++) a[e] += c[e];
            }
        }
    }
    meet(w);
}

static void copy_outputs(walk *w, const ss_sweep *sweep) {
    ss_session *s = w->s;
    const ss_program *p = s->program;
    for (int k = 0; k < p->outputs; k++) {
        int64_t bytes = 4 * ss_shape_count(&p->lowered->value[p->lowered->output[k]].shape), begin, end;
        ss_split(sweep->rows, 1, w->thread, w->threads, &begin, &end);
        if (end > begin)
            memcpy((char *)s->destination[k] + (sweep->row0 + begin) * bytes, resolve(s, p->output[k], sweep) + begin * bytes, (size_t)((end - begin) * bytes));
    }
    meet(w);
}

static bool completes_bucket(const ss_session *s, int instruction) {
    for (int b = 0; b < s->buckets; b++)
        if (s->bucket[b].ready == instruction) return true;
    return false;
}

static ss_status post_ready(ss_session *s, int instruction, ss_error *err) {
    if (s->profiling && s->posted == 0) s->posted = now();
    for (int b = 0; b < s->buckets; b++) {
        if (s->bucket[b].ready != instruction) continue;
        ss_status status = ss_exchange_post(s->exchange, b, s->gradient, s->gradient_elements, err);
        if (status != SS_OK) return status;
    }
    return SS_OK;
}

static ss_status post_segment(ss_session *s, int segment, ss_error *err) {
    const ss_program *p = s->program;
    for (int k = 0; k < p->instructions; k++) {
        if (p->instruction[k].segment != segment) continue;
        ss_status status = post_ready(s, k, err);
        if (status != SS_OK) return status;
    }
    return SS_OK;
}

static ss_status join_segment(ss_session *s, int segment, ss_error *err) {
    const ss_program *p = s->program;
    for (int k = 0; k < p->stats; k++) {
        const ss_instruction *i = &p->instruction[p->stat[k].instruction];
        if (p->stat[k].result || i->segment != segment) continue;
        ss_status status = join_stat(s, i, err);
        if (status != SS_OK) return status;
    }
    return SS_OK;
}

/* One update of elements [begin, end) of the parameters from the gradient in block 0, shared by the threads. */
static void update(const walk *w, int64_t begin, int64_t end) {
    int64_t from, to;
    ss_split(end - begin, 16, w->thread, w->threads, &from, &to);
    ss_model_update(w->s->model, w->s->gradient, begin + from, begin + to);
}

/* The root of the sum of the squares of all gradients: parameters in the graph's order, and in each of them its blocks. */
static double gradient_norm(ss_model *m) {
    double *each = m->square + m->squares;
    int64_t count = 0;
    for (int k = 0; k < m->parameters; k++)
        if (m->parameter[k].trainable) each[count++] = ss_tree_sum(m->square + m->parameter[k].square_offset, ss_blocks(m->parameter[k].count));
    return sqrt(ss_tree_sum(each, count));
}

/* Clips the complete gradient in place, as torch.nn.utils.clip_grad_value_ and then clip_grad_norm_. */
static void clip(walk *w) {
    ss_session *s = w->s;
    ss_model *m = s->model;
    int64_t from, to, first, past;
    ss_split(m->trainable, 16, w->thread, w->threads, &from, &to);
    if (m->clip_value > 0) {
        m->kernels->clamp(to - from, s->gradient + from, (float)m->clip_value);
        meet(w);
    }
    if (!(m->clip_norm > 0)) return;
    ss_split(m->squares, 1, w->thread, w->threads, &first, &past);
    for (int k = 0; k < m->parameters; k++) {
        const ss_parameter *p = &m->parameter[k];
        if (!p->trainable) continue;
        int64_t b = ss_max(first - p->square_offset, 0), end = ss_min(past - p->square_offset, ss_blocks(p->count));
        for (; b < end; b++) {
            const float *x = s->gradient + p->offset + b * SS_BLOCK;
            m->square[p->square_offset + b] = (double)m->kernels->dot(ss_min(SS_BLOCK, p->count - b * SS_BLOCK), x, x);
        }
    }
    meet(w);
    if (w->thread == 0) {
        m->gradient_norm = gradient_norm(m);
        double scale = m->clip_norm / (m->gradient_norm + 1e-6);
        s->clip_scale = scale > 1 ? 1 : scale;
        if (m->clip_norm > 1e300) s->clip_scale = 1; /* infinity: only measured */
    }
    meet(w);
    if (s->clip_scale != 1) m->kernels->scale(to - from, s->gradient + from, (float)s->clip_scale);
    meet(w);
}

/* Every parameter in turn, all threads at each of its phases. */
static void update_whole(walk *w) {
    ss_session *s = w->s;
    ss_model *m = s->model;
    int64_t from, to;
    ss_split(m->trainable, 16, w->thread, w->threads, &from, &to);
    ss_model_before_update(m, from, to);
    meet(w);
    for (int k = 0; k < m->parameters; k++) {
        const ss_parameter *p = &m->parameter[k];
        if (!p->trainable || !p->count) continue;
        float *slot[SS_MAX_SLOTS];
        for (int j = 0; j < m->optim_slots; j++) slot[j] = m->slot[j] + p->offset;
        ss_whole whole = {.shape = &p->shape, .count = p->count, .param = m->values + p->offset, .grad = s->gradient + p->offset, .slot = slot,
                          .extra = p->extra_count ? m->extra + p->extra_offset : NULL, .scratch = m->scratch, .hyper = m->hyper + p->group * SS_MAX_HYPER,
                          .derived = m->derived + p->group * SS_MAX_DERIVED, .step = m->step + 1, .kernels = m->kernels, .backend = m->backend,
                          .thread = w->thread, .threads = w->threads};
        int phases = m->optim->phases(whole.hyper, whole.shape);
        for (; whole.phase < phases; whole.phase++) {
            m->optim->whole(&whole);
            meet(w);
        }
    }
    ss_model_after_update(m, from, to);
}

static void add_extras(const walk *w, int bucket, int64_t begin, int64_t end) {
    ss_session *s = w->s;
    int64_t from, to;
    ss_split(end - begin, 16, w->thread, w->threads, &from, &to);
    for (int x = 0; x < s->extras; x++) {
        if (s->extra[x].home != bucket) continue;
        float *home = s->gradient + begin, *more = home + s->extra[x].offset;
        for (int64_t e = from; e < to; e++) home[e] += more[e];
    }
}

static ss_status gather_pieces(ss_session *s, float *vector, ss_error *err);

/* Until a bucket's partials have come, or, with -1, until the round has ended. */
static ss_status wait_for(ss_session *s, int bucket, ss_error *err) {
    const double started = now();
    ss_status status = bucket < 0 ? ss_exchange_end(s->exchange, err) : ss_exchange_wait(s->exchange, bucket, err);
    const double ended = now();
    s->waited += ended - started;
    if (!s->profiling) return status;
    s->blocked_seconds += ended - started;
    if (bucket < 0 && s->posted > 0) {
        s->exchange_seconds += ended - s->posted;
        s->exchanges++;
        s->posted = 0;
    }
    return status;
}

/* The end of a step in which every rank updates all parameters itself: the folded gradient goes to all ranks, which costs as much as sending the parameters would. */
static void finish_complete(walk *w) {
    ss_session *s = w->s;
    ss_error *err = &s->error;
    for (int b = 0; b < s->buckets && s->extras; b++) {
        int64_t begin = s->bucket[b].begin, end = s->bucket[b].end;
        if (s->bucket[b].extra) continue;
        if (s->exchange) ss_exchange_piece(s->exchange, b, s->schedule->rank, &begin, &end);
        add_extras(w, b, begin, end);
    }
    meet(w);
    if (s->exchange) {
        LEAD(w, wait_for(s, -1, err));
        if (s->update) LEAD(w, gather_pieces(s, s->gradient, err));
        if (w->thread == 0) s->whole_gradient = s->update;
    }
    if (!s->update) return;
    clip(w);
    if (s->model->optim->whole) update_whole(w);
    else update(w, 0, s->model->trainable);
}

/* The end of a step whose gradients travel compressed: from the rank's own sum, which its blocks make in order, to the same complete gradient on every rank. */
static void finish_compressed(walk *w) {
    ss_session *s = w->s;
    ss_model *m = s->model;
    ss_compression *c = m->compression;
    const int64_t step = m->step + 1;
    int64_t from, to;
    ss_split(s->gradient_elements, 16, w->thread, w->threads, &from, &to);
    if (!s->schedule->rows) memset(s->gradient + from, 0, (size_t)(to - from) * 4);
    for (int j = 1; j < s->schedule->blocks; j++) {
        const float *block = s->gradient + j * s->gradient_elements;
        for (int64_t e = from; e < to; e++) s->gradient[e] += block[e];
    }
    meet(w);
    for (int b = 0; b < s->buckets && s->extras; b++)
        if (!s->bucket[b].extra) add_extras(w, b, s->bucket[b].begin, s->bucket[b].end);
    meet(w);
    for (int round = 0; round < ss_compression_rounds(c); round++) {
        ss_compression_pack(c, round, s->gradient, m->seed, step, s->update, w->thread, w->threads);
        meet(w);
        LEAD(w, ss_compression_send(c, round, &s->error));
        ss_compression_merge(c, round, s->gradient, m->seed, step, s->update, w->thread, w->threads);
        meet(w);
    }
    if (ss_compression_shares(c)) {
        LEAD(w, ss_compression_share(c, &s->error));
        ss_compression_unpack(c, s->gradient, m->seed, step, w->thread, w->threads);
    }
    if (w->thread == 0) {
        if (s->update) ss_compression_measure(c);
        s->whole_gradient = true;
    }
    meet(w);
    if (!s->update) return;
    clip(w);
    if (m->optim->whole) update_whole(w);
    else update(w, 0, m->trainable);
}

/* Folds, updates and gathers. On one rank block 0 of the gradient is complete as it lies. */
static void finish_gradients(walk *w) {
    ss_session *s = w->s;
    ss_error *err = &s->error;
    int64_t begin, end, from, to;
    if (s->model->compression) {
        finish_compressed(w);
        return;
    }
    if (s->exchange) {
        for (int b = 0; b < s->buckets; b++) {
            LEAD(w, wait_for(s, b, err));
            ss_exchange_piece(s->exchange, b, s->schedule->rank, &begin, &end);
            ss_split(end - begin, 16, w->thread, w->threads, &from, &to);
            ss_exchange_fold(s->exchange, b, begin + from, begin + to, s->gradient);
            meet(w);
        }
    }
    if (s->model->complete) {
        finish_complete(w);
        return;
    }
    if (!s->exchange && !s->extras) { /* one pass over everything */
        if (s->update) update(w, 0, s->model->trainable);
        return;
    }
    for (int b = 0; b < s->buckets; b++) {
        if (s->bucket[b].extra) continue;
        begin = s->bucket[b].begin;
        end = s->bucket[b].end;
        if (s->exchange) ss_exchange_piece(s->exchange, b, s->schedule->rank, &begin, &end);
        add_extras(w, b, begin, end);
        if (s->update) update(w, begin, end);
        meet(w);
        if (s->exchange && s->update) LEAD(w, ss_exchange_gather(s->exchange, b, s->model->values, err));
    }
    if (s->exchange) LEAD(w, wait_for(s, -1, err));
}

/* Completes a vector of which every rank holds its own pieces. */
static ss_status gather_pieces(ss_session *s, float *vector, ss_error *err) {
    size_t offset[SS_MAX_LANES], size[SS_MAX_LANES];
    for (int b = 0; b < s->buckets; b++) {
        if (s->bucket[b].extra) continue;
        for (int r = 0; r < s->schedule->ranks; r++) {
            int64_t begin, end;
            ss_exchange_piece(s->exchange, b, r, &begin, &end);
            offset[r] = (size_t)begin * 4;
            size[r] = (size_t)(end - begin) * 4;
        }
        ss_status status = ss_allgather(s->model->transport, vector, offset, size, err);
        if (status != SS_OK) return status;
    }
    return SS_OK;
}

ss_status ss_session_gather_slots(ss_session *s, ss_error *err) {
    ss_status status = ss_signature_check(s->model->transport, "a gather of optimizer state", s->model->trainable, -1, err);
    for (int k = 0; s->exchange && !s->model->complete && k < s->model->slots && status == SS_OK; k++) status = gather_pieces(s, s->model->slot[k], err);
    return status;
}

/* A function of the host may have failed on any rank. The step goes on without an update, so that every message that was posted finds its receiver, and ends with the failure. */
static ss_status agree_on_host(ss_session *s, ss_error *err) {
    enum { LIMIT = 16 };
    const ss_transport *t = s->model->transport;
    struct report {
        int32_t code;
        char message[SS_ERROR_TEXT];
    } mine = {.code = s->host_status}, all[LIMIT];
    size_t offset[SS_MAX_LANES], size[SS_MAX_LANES];
    memcpy(mine.message, s->host_error.message, sizeof mine.message);
    for (int base = 0; t->size > 1 && base < t->size; base += LIMIT) {
        for (int r = 0; r < t->size; r++) {
            bool inside = r >= base && r < base + LIMIT;
            offset[r] = inside ? (size_t)(r - base) * sizeof mine : 0;
            size[r] = inside ? sizeof mine : 0;
        }
        if (t->rank >= base && t->rank < base + LIMIT) all[t->rank - base] = mine;
        const double began = now();
        ss_status status = ss_allgather(s->model->transport, all, offset, size, err);
        s->waited += now() - began;
        if (status != SS_OK) return status;
        for (int r = base; r < t->size && r < base + LIMIT; r++)
            if (s->host_status == SS_OK && all[r - base].code != SS_OK) {
                s->host_status = all[r - base].code;
                ss_error_set(&s->host_error, s->host_status, __FILE__, __LINE__, "rank %d: %s", r, all[r - base].message);
            }
    }
    if (s->host_status != SS_OK) s->update = false;
    return SS_OK;
}

static void walk_program(void *argument, int thread, int threads) {
    ss_session *s = argument;
    const ss_program *p = s->program;
    const ss_schedule *sch = s->schedule;
    walk w = {.s = s, .thread = thread, .threads = threads};
    bool under_way = false; /* a bucket has been posted */
    int first = 0;
    if (p->rounded) {
        int64_t from, to;
        ss_split(s->model->elements, 16, thread, threads, &from, &to);
        for (int64_t e = from; e < to; e++) s->model->rounded[e] = bf16_round(s->model->values[e]);
        meet(&w);
    }
    for (int segment = 0; segment < p->segments; segment++) {
        int last = first;
        while (last < p->instructions && p->instruction[last].segment == segment) last++;
        for (int k = 0; k < sch->sweeps; k++) {
            const ss_sweep *sweep = &sch->sweep[k];
            for (int n = first; n < last && sweep->rows; n++) {
                run_instruction(&w, &p->instruction[n], sweep);
                if (!s->exchange || sch->sweeps > 1) continue;
                if (completes_bucket(s, n)) {
                    LEAD(&w, post_ready(s, n, &s->error));
                    under_way = true;
                } else if (under_way && thread == 0) {
                    ss_exchange_progress(s->exchange); /* the library moves messages only while it is called */
                }
            }
            settle(&w);
            if (p->training && sch->sweeps > 1) merge_sweep(&w, sweep, segment);
            if (s->destination && segment == p->segments - 1) copy_outputs(&w, sweep);
        }
        /* A rank without a sample in the batch posts nothing of its own, but takes part. */
        if (s->exchange && (sch->sweeps > 1 || !sch->rows)) LEAD(&w, post_segment(s, segment, &s->error));
        if (segment < p->segments - 1) LEAD(&w, join_segment(s, segment, &s->error));
        first = last;
    }
    if (p->hosted) LEAD(&w, agree_on_host(s, &s->error));
    if (!p->training) return;
    double started = s->profiling && thread == 0 ? now() : 0;
    finish_gradients(&w);
    if (s->profiling && thread == 0) {
        s->finish_seconds += now() - started;
        s->finishes++;
    }
}

/* Sums and denominators of losses and metrics, a pair for each element of each. */
static ss_status finish_results(ss_session *s, double *results, ss_error *err) {
    const ss_program *p = s->program;
    for (int k = 0; k < p->results; k++) {
        const ss_stat_memory *memory = &s->stat[p->result_stat[k]];
        const ss_stat *stat = &p->stat[p->result_stat[k]];
        const ss_instruction *i = &p->instruction[stat->instruction];
        ss_call c;
        bind(s, i, &s->schedule->sweep[0], &c);
        ss_status status = join_lanes(s, s->join[memory->join], i, &c, false, stat->length, memory->lanes, memory->groups, err);
        if (status != SS_OK) return status;
        for (int64_t e = 0; e < stat->length; e++) {
            *results++ = memory->groups[e];
            *results++ = s->denominator[p->result_prepare[k]];
        }
    }
    return SS_OK;
}

static void trace_parameters(ss_session *s) {
    const ss_model *m = s->model;
    if (!s->trace || m->transport->rank != 0) return;
    for (int k = 0; k < m->parameters; k++)
        if (m->parameter[k].trainable)
            ss_trace_line(s->trace, m->step, s->program->instructions + k, "update", m->optim->name, m->parameter[k].name, -1,
                          ss_hash(SS_HASH_START, m->values + m->parameter[k].offset, 4 * m->parameter[k].count));
}

ss_status ss_session_step(ss_session *s, int set, int64_t batch, bool do_update, ss_status local, double *results, float **outputs, ss_error *err) {
    ss_status status = SS_OK;
    if (local == SS_OK && (batch < 1 || batch > s->schedule->most_batch || set < 0 || set > 1)) /* told to all ranks, like any failure before the start */
        local = SS_FAIL(err, SS_ERR_VALUE, "a step on input set %d with a batch of %lld: sets are 0 and 1, batches 1 to %lld", set, (long long)batch,
                        (long long)s->schedule->most_batch);
    if (local != SS_OK) batch = 1, set = 0;
    s->set = set;
    s->batch = batch;
    s->update = do_update && s->training;
    s->whole_gradient = false;
    s->destination = outputs;
    s->status = s->host_status = SS_OK;
    s->waited = 0;
    const double began = s->rank_seconds ? now() : 0;
    if (s->schedule->batch != batch) {
        ss_schedule_set(s->schedule, batch);
        for (int k = 0; k < s->joins; k++) ss_group_join_set(s->join[k], s->schedule, s->join_lanes[k]);
    }
    SS_TRY(begin_step(s, local, err));
    if (s->exchange) ss_exchange_begin(s->exchange, batch);
    /* From here on a failure is one of communication, and leaves the parameters half way. */
    status = ss_pool_run(s->single ? s->model->single : s->model->pool, walk_program, s, err);
    if (status == SS_OK && s->status != SS_OK) {
        status = s->status;
        if (err) *err = s->error;
    }
    if (status == SS_OK && s->training) status = ss_arena_check(s->gradient_arena, err);
    if (status == SS_OK) status = ss_arena_check(s->arena, err); /* red zones of the regions; nothing in release builds */
    if (status == SS_OK && s->exchange && s->gradients && !s->whole_gradient) status = gather_pieces(s, s->gradient, err);
    if (status == SS_OK && s->program->results) status = finish_results(s, results ? results : s->unread, err);
    if (status != SS_OK) {
        s->model->broken |= s->training;
        goto done;
    }
    if (s->host_status != SS_OK) {
        if (err) *err = s->host_error;
        return s->host_status;
    }
    if (s->rank_seconds) s->worked = now() - began - s->waited;
    if (s->update) {
        trace_parameters(s);
        s->model->step++;
    }
done:
    return status;
}
