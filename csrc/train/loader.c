#include "train/loader.h"
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include "base/alloc.h"
#include "train/mix.h"

/* Loops over one row; the destination is dense. */
#define TO_FLOAT(type)                                                   \
    do {                                                                 \
        const type *from = (const type *)row;                            \
        for (int64_t c = 0; c < channels; c++)                           \
            for (int64_t p = 0; p < n; p++)                              \
                to_float[p * channels + c] = (float)from[c * n + p];     \
    } while (0)

static ss_status row_to_int(const ss_array *a, const char *row, int64_t at, int32_t *to_int, ss_error *err) {
    int64_t n = a->count;
    switch (a->type) {
    case SS_T_BOOL:
    case SS_T_U8: for (int64_t e = 0; e < n; e++) to_int[e] = ((const uint8_t *)row)[e]; break;
    case SS_T_I8: for (int64_t e = 0; e < n; e++) to_int[e] = ((const int8_t *)row)[e]; break;
    case SS_T_I16: for (int64_t e = 0; e < n; e++) to_int[e] = ((const int16_t *)row)[e]; break;
    case SS_T_U16: for (int64_t e = 0; e < n; e++) to_int[e] = ((const uint16_t *)row)[e]; break;
    case SS_T_I32: memcpy(to_int, row, (size_t)n * 4); break;
    case SS_T_U32:
    case SS_T_I64:
    case SS_T_U64:
        for (int64_t e = 0; e < n; e++) {
            int64_t value;
            bool fits = true;
            if (a->type == SS_T_U32) value = ((const uint32_t *)row)[e];
            else if (a->type == SS_T_I64) value = ((const int64_t *)row)[e];
            else {
                uint64_t wide = ((const uint64_t *)row)[e];
                fits = wide <= INT32_MAX;
                value = fits ? (int64_t)wide : 0;
            }
            if (!fits || value < INT32_MIN || value > INT32_MAX)
                return SS_FAIL(err, SS_ERR_VALUE, "%s: a value in row %lld does not fit into 32 bits", a->name, (long long)at);
            to_int[e] = (int32_t)value;
        }
        break;
    case SS_T_F32:
    case SS_T_F64: return SS_FAIL(err, SS_ERR_DTYPE, "%s must hold integers, not floating-point numbers", a->name);
    }
    return SS_OK;
}

static void row_to_float(const ss_array *a, const char *row, int64_t channels, float *to_float) {
    int64_t n = a->count / channels;
    switch (a->type) {
    case SS_T_BOOL:
    case SS_T_U8: TO_FLOAT(uint8_t); break;
    case SS_T_I8: TO_FLOAT(int8_t); break;
    case SS_T_I16: TO_FLOAT(int16_t); break;
    case SS_T_U16: TO_FLOAT(uint16_t); break;
    case SS_T_I32: TO_FLOAT(int32_t); break;
    case SS_T_U32: TO_FLOAT(uint32_t); break;
    case SS_T_I64: TO_FLOAT(int64_t); break;
    case SS_T_U64: TO_FLOAT(uint64_t); break;
    case SS_T_F32:
        if (channels == 1) memcpy(to_float, row, (size_t)n * 4);
        else TO_FLOAT(float);
        break;
    case SS_T_F64: TO_FLOAT(double); break;
    }
}

ss_status ss_gather(const ss_array *a, const int64_t *index, int64_t first, int64_t rows, ss_dtype wanted, int64_t channels, void *out, ss_error *err) {
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = index ? index[r] : first + r;
        if (at < 0 || at >= a->rows)
            return SS_FAIL(err, SS_ERR_VALUE, "order: index %lld is outside the %lld rows of %s", (long long)at, (long long)a->rows, a->name);
        const char *row = a->data + at * a->row_stride;
        if (wanted == SS_I32) {
            ss_status status = row_to_int(a, row, at, (int32_t *)out + r * a->count, err);
            if (status != SS_OK) return status;
        } else {
            row_to_float(a, row, channels, (float *)out + r * a->count);
        }
    }
    return SS_OK;
}

ss_status ss_feed_load(const ss_feed *feed, ss_session *s, int set, int64_t step, int64_t *batch, ss_error *err) {
    int64_t first = step * feed->batch, size = ss_min(feed->batch, feed->count - first), begin, end;
    ss_session_rows(s, size, &begin, &end);
    *batch = size;
    for (int k = 0; k < feed->arrays; k++) {
        const int64_t *index = feed->order ? feed->order + first + begin : NULL;
        if (feed->mix && feed->mix->role[k] != SS_MIX_KEEP) {
            ss_status mixed = ss_mix_gather(feed->mix, feed, k, step, first, size, begin, end, s->input_channels[k], (float *)s->input[set][k], err);
            if (mixed != SS_OK) return mixed;
            continue;
        }
        ss_status status = ss_gather(&feed->array[k], index, first + begin, end - begin, feed->wanted[k], s->input_channels[k], s->input[set][k], err);
        if (status != SS_OK) return status;
    }
    return SS_OK;
}

typedef struct slot {
    bool full;
    int64_t batch;
    ss_status status;
    ss_error error;
} slot;

struct ss_loader {
    ss_session *session;
    pthread_t thread;
    pid_t process;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    const ss_feed *feed; /* NULL: idle */
    int64_t first, steps, loaded, taken;
    bool loading, quit;
    slot slots[2];
};

static void *load_ahead(void *argument) {
    ss_loader *l = argument;
    pthread_mutex_lock(&l->mutex);
    for (;;) {
        /* Set number k is filled again once step k + 1 has been asked for, which says that step k is over. */
        while (!l->quit && !(l->feed && l->loaded < l->steps && l->loaded < l->taken + 1 && !l->slots[l->loaded % 2].full))
            pthread_cond_wait(&l->changed, &l->mutex);
        if (l->quit) break;
        slot *slot = &l->slots[l->loaded % 2];
        int64_t step = l->first + l->loaded;
        const ss_feed *feed = l->feed;
        l->loading = true;
        pthread_mutex_unlock(&l->mutex);
        slot->status = ss_feed_load(feed, l->session, (int)((step - l->first) % 2), step, &slot->batch, &slot->error);
        pthread_mutex_lock(&l->mutex);
        l->loading = false;
        slot->full = true;
        l->loaded++;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

ss_status ss_loader_create(ss_session *s, ss_loader **out, ss_error *err) {
    ss_loader *l = ss_calloc(1, sizeof *l);
    if (!l) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for a loader");
    l->session = s;
    l->process = getpid();
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->changed, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* Ctrl-C belongs to the main thread */
    int failed = pthread_create(&l->thread, NULL, load_ahead, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        pthread_cond_destroy(&l->changed);
        pthread_mutex_destroy(&l->mutex);
        ss_free(l);
        return SS_FAIL(err, SS_ERR_MEMORY, "cannot start the loader thread: %s", strerror(failed));
    }
    *out = l;
    return SS_OK;
}

bool ss_loader_alive(const ss_loader *l) { return l->process == getpid(); }

void ss_loader_free(ss_loader *l) {
    if (!l) return;
    if (ss_loader_alive(l)) {
        pthread_mutex_lock(&l->mutex);
        l->quit = true;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->mutex);
        pthread_join(l->thread, NULL);
        pthread_cond_destroy(&l->changed);
        pthread_mutex_destroy(&l->mutex);
    }
    ss_free(l);
}

void ss_loader_start(ss_loader *l, const ss_feed *feed, int64_t first, int64_t steps) {
    pthread_mutex_lock(&l->mutex);
    l->feed = feed;
    l->first = first;
    l->steps = steps;
    l->loaded = l->taken = 0;
    l->slots[0].full = l->slots[1].full = false;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
}

ss_status ss_loader_next(ss_loader *l, int *set, int64_t *batch, ss_error *err) {
    pthread_mutex_lock(&l->mutex);
    if (l->taken > 0) l->slots[(l->taken - 1) % 2].full = false; /* the step before is over */
    l->taken++;
    pthread_cond_broadcast(&l->changed);
    slot *slot = &l->slots[(l->taken - 1) % 2];
    while (!(slot->full && l->loaded >= l->taken)) pthread_cond_wait(&l->changed, &l->mutex);
    ss_status status = slot->status;
    *set = (int)((l->taken - 1) % 2);
    *batch = slot->batch;
    if (status != SS_OK && err) *err = slot->error;
    pthread_mutex_unlock(&l->mutex);
    return status;
}

void ss_loader_stop(ss_loader *l) {
    pthread_mutex_lock(&l->mutex);
    l->feed = NULL;
    while (l->loading) pthread_cond_wait(&l->changed, &l->mutex);
    pthread_mutex_unlock(&l->mutex);
}
