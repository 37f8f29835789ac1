#include "kernels/measure.h"
#include <string.h>
#include <time.h>
#include "base/alloc.h"
#include "base/pool.h"
#include "base/shape.h"

enum { ROUNDS = 20000, MOST_THREADS = 256 };
#define READ_BYTES ((int64_t)256 << 20) /* all threads together: more than the last cache holds */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct measurement {
    const ss_kernels *kernels;
    ss_pool *pool;
    const float *memory; /* NULL: multiply-adds */
    double seconds, best;
    bool more;
    struct {
        _Alignas(64) double begin, end, work;
        float sink;
    } span[MOST_THREADS];
} measurement;

static void measure(void *argument, int thread, int threads) {
    measurement *m = argument;
    double started = now();
    int64_t begin, end;
    ss_split(READ_BYTES / 4, 16, thread, threads, &begin, &end);
    for (;;) {
        ss_pool_barrier(m->pool, thread);
        m->span[thread].begin = now();
        if (m->memory) {
            m->span[thread].sink = m->kernels->read_burst(end - begin, m->memory + begin);
            m->span[thread].work = 4.0 * (double)(end - begin);
        } else {
            m->span[thread].work = m->kernels->peak_burst(ROUNDS);
        }
        m->span[thread].end = now();
        ss_pool_barrier(m->pool, thread);
        if (thread == 0) { /* from the first to begin to the last to end */
            double first = m->span[0].begin, last = m->span[0].end, work = 0;
            for (int t = 0; t < threads; t++) {
                if (m->span[t].begin < first) first = m->span[t].begin;
                if (m->span[t].end > last) last = m->span[t].end;
                work += m->span[t].work;
            }
            if (work / (last - first) > m->best) m->best = work / (last - first);
            m->more = now() - started < m->seconds;
        }
        ss_pool_barrier(m->pool, thread);
        if (!m->more) return;
    }
}

ss_status ss_measure_peak(ss_isa isa, int threads, double seconds, ss_peak *out, ss_error *err) {
    ss_status status = SS_OK;
    ss_pool *pool = NULL;
    float *memory = NULL;
    measurement *m = ss_calloc(1, sizeof *m);
    if (threads < 1 || threads > MOST_THREADS || !(seconds > 0)) {
        status = SS_FAIL(err, SS_ERR_VALUE, "the peak is measured on 1 to %d threads for more than 0 seconds, not on %d for %g", MOST_THREADS, threads, seconds);
        goto done;
    }
    memory = ss_calloc((size_t)READ_BYTES, 1);
    if (!m || !memory) {
        status = SS_FAIL(err, SS_ERR_MEMORY, "no memory to measure how fast memory is read");
        goto done;
    }
    memset(memory, 0, (size_t)READ_BYTES);
    SS_TRY(ss_pool_create(threads, false, &pool, err));
    m->kernels = ss_kernels_for(isa);
    m->pool = pool;
    m->seconds = seconds / 2;
    SS_TRY(ss_pool_run(pool, measure, m, err));
    ss_peak found = {.gflops = m->best / 1e9};
    m->best = 0;
    m->memory = memory;
    SS_TRY(ss_pool_run(pool, measure, m, err));
    found.gbytes = m->best / 1e9;
    *out = found;
done:
    ss_pool_free(pool);
    ss_free(memory);
    ss_free(m);
    return status;
}
