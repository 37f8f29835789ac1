#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* processor masks, thread names */
#endif

#include "base/pool.h"

#include <assert.h>
#include <linux/futex.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "base/alloc.h"

/* How threads wait. Every word that a thread waits for is a counter in steps of 2 that only grows (modulo 2^32); its lowest bit says
 * that a waiter sleeps.
 *
 *   waiter                                            signaller
 *   poll, then yield, until the target is reached     old = exchange(word, new counter), or fetch_add(word, 2)
 *   compare-exchange: set the sleep bit               old has the sleep bit: futex wake
 *   futex wait while the word is unchanged; poll again
 *
 * Both sides change the same word, so one comes first: either the waiter's compare-exchange fails and it sees the new counter, or the
 * signaller sees the bit; and the kernel compares the word once more before it sleeps. No wake-up is lost.
 *
 * The barrier is the dissemination barrier of Hensgen, Finkel and Manber ("Two algorithms for barrier synchronization", 1988): in round r
 * thread t signals t + 2^r and waits for t - 2^r. For two threads that is one cache line each way, at the same time. */

enum { LINE = 64, MAX_THREADS = 1024, MAX_ROUNDS = 10, MASK_SETS = 8, DEFAULT_SPIN = 200, DEFAULT_YIELDS = 500 };

/* Round to nearest, exceptions masked, flush-to-zero, denormals-are-zero. The whole register is set, not only the two bits: a caller
 * with another rounding mode would get other bits. */
enum { MXCSR_MODE = 0x1F80 | 0x8000 | 0x0040 };

typedef struct word {
    _Alignas(LINE) atomic_uint value;
} word;

/* What one thread owns; neighbours never share a line. */
typedef struct worker {
    _Alignas(LINE) ss_pool *pool;
    int index;
    unsigned barriers; /* target of the last barrier */
    pthread_t handle;
    word arrived[]; /* [rounds] written by the thread that signals this one in round r */
} worker;

struct ss_pool {
    word start;    /* runs begun, times 2: workers wait for it */
    word finished; /* workers done, summed over runs, times 2: the caller waits for it */
    _Alignas(LINE) atomic_uint_fast64_t sleeps;
    _Alignas(LINE) ss_pool_function function; /* NULL: end. Written before start is raised, read after */
    void *argument;
    int threads, rounds;
    bool pin;
    unsigned spin, yields;
    size_t stride; /* bytes from worker to worker */
    char *workers;
    unsigned runs; /* what start was raised to */
    pid_t owner;   /* process in which the workers live; 0: none live */
    atomic_bool running;
    cpu_set_t allowed[MASK_SETS]; /* at creation */
};

static worker *worker_at(const ss_pool *pool, int thread) {
    return (worker *)(void *)(pool->workers + (size_t)thread * pool->stride);
}

static bool reached(unsigned value, unsigned target) { return (int)((value & ~1u) - target) >= 0; }

static void wake(word *w, int waiters) {
    syscall(SYS_futex, (unsigned *)&w->value, FUTEX_WAKE_PRIVATE, waiters, NULL, NULL, 0);
}

static void sleep_until(ss_pool *pool, word *w, unsigned target) {
    unsigned seen = atomic_load_explicit(&w->value, memory_order_acquire);
    while (!reached(seen, target)) {
        if (!(seen & 1u) && !atomic_compare_exchange_weak_explicit(&w->value, &seen, seen | 1u, memory_order_acquire,
                                                                   memory_order_acquire))
            continue;
        atomic_fetch_add_explicit(&pool->sleeps, 1, memory_order_relaxed);
        syscall(SYS_futex, (unsigned *)&w->value, FUTEX_WAIT_PRIVATE, seen | 1u, NULL, NULL, 0);
        seen = atomic_load_explicit(&w->value, memory_order_acquire);
    }
}

static inline void wait_until(ss_pool *pool, word *w, unsigned target) {
    for (unsigned i = 0;; i++) {
        if (reached(atomic_load_explicit(&w->value, memory_order_acquire), target)) return;
        if (i == pool->spin) break;
        _mm_pause();
    }
    for (unsigned i = 0; i < pool->yields; i++) {
        sched_yield();
        if (reached(atomic_load_explicit(&w->value, memory_order_acquire), target)) return;
    }
    sleep_until(pool, w, target);
}

static inline void signal_counter(word *w, unsigned value, int waiters) {
    unsigned old = atomic_exchange_explicit(&w->value, value, memory_order_acq_rel);
    if (old & 1u) wake(w, waiters);
}

void ss_pool_barrier(ss_pool *pool, int thread) {
    if (pool->threads == 1) return;
    worker *self = worker_at(pool, thread);
    unsigned target = self->barriers += 2;
    for (int round = 0, distance = 1; round < pool->rounds; round++, distance *= 2) {
        int next = thread + distance;
        if (next >= pool->threads) next -= pool->threads;
        signal_counter(&worker_at(pool, next)->arrived[round], target, 1);
        wait_until(pool, &self->arrived[round], target);
    }
}

/* Binds the calling thread to the index-th allowed processor, round and round when there are fewer. Best effort: a container may forbid it. */
static void pin_thread(const ss_pool *pool, int index) {
    int count = CPU_COUNT_S(sizeof pool->allowed, pool->allowed);
    if (count == 0) return;
    index %= count;
    for (int cpu = 0; cpu < MASK_SETS * CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET_S(cpu, sizeof pool->allowed, pool->allowed) || index-- > 0) continue;
        cpu_set_t one[MASK_SETS];
        CPU_ZERO_S(sizeof one, one);
        CPU_SET_S(cpu, sizeof one, one);
        sched_setaffinity(0, sizeof one, one);
        return;
    }
}

static void *work(void *argument) {
    worker *self = argument;
    ss_pool *pool = self->pool;
    char name[16];
    snprintf(name, sizeof name, "samestep-%d", self->index);
    pthread_setname_np(pthread_self(), name);
    if (pool->pin) pin_thread(pool, self->index);
    _mm_setcsr(MXCSR_MODE);
    for (unsigned run = 2;; run += 2) {
        wait_until(pool, &pool->start, run);
        if (pool->function == NULL) return NULL;
        pool->function(pool->argument, self->index, pool->threads);
        unsigned all = run * (unsigned)(pool->threads - 1);
        unsigned old = atomic_fetch_add_explicit(&pool->finished.value, 2, memory_order_acq_rel);
        if ((old & 1u) && (old & ~1u) + 2 == all) wake(&pool->finished, 1);
    }
}

/* Ends and joins workers 1 .. count-1. */
static void stop_workers(ss_pool *pool, int count) {
    pool->function = NULL;
    pool->runs += 2;
    signal_counter(&pool->start, pool->runs, INT_MAX);
    for (int i = 1; i < count; i++) pthread_join(worker_at(pool, i)->handle, NULL);
    pool->owner = 0;
}

/* Signals go to the program's own threads, so that Ctrl-C reaches the one that handles it. Faults stay open: they belong to the thread that
 * made them, and a blocked one would kill the process before a handler could report it. */
static void block_signals(sigset_t *before) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t blocked;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, before);
}

/* Starts the workers on fresh counters: at creation, and in the child of a fork, where memory is as the parent left it. */
static ss_status start_workers(ss_pool *pool, ss_error *err) {
    int started = 1, failure = 0;
    sigset_t before;
    atomic_store(&pool->start.value, 0);
    atomic_store(&pool->finished.value, 0);
    atomic_store(&pool->running, false);
    pool->runs = 0;
    for (int i = 0; i < pool->threads; i++) {
        worker *self = worker_at(pool, i);
        self->pool = pool;
        self->index = i;
        self->barriers = 0;
        for (int round = 0; round < pool->rounds; round++) atomic_store(&self->arrived[round].value, 0);
    }
    block_signals(&before);
    while (started < pool->threads && failure == 0) {
        worker *self = worker_at(pool, started);
        failure = pthread_create(&self->handle, NULL, work, self);
        if (failure == 0) started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure) {
        stop_workers(pool, started);
        return SS_FAIL(err, SS_ERR_STATE, "thread pool: cannot start thread %d of %d: %s", started + 1, pool->threads, strerror(failure));
    }
    pool->owner = getpid();
    return SS_OK;
}

/* SAMESTEP_SPIN: how often a waiting thread looks before it gives its processor away: first to whoever else wants it, a few times, then by
 * sleeping. 0: it sleeps at once. With more threads than processors looking only keeps the processor from the thread that is waited for,
 * and sleeping costs thirty times what yielding does (60 against 2 microseconds for 3 threads on 2 processors). */
static ss_status read_spin(ss_pool *pool, ss_error *err) {
    const char *text = getenv("SAMESTEP_SPIN");
    if (text == NULL || text[0] == 0) {
        pool->spin = pool->threads > ss_cpu_count() ? 0 : DEFAULT_SPIN;
        pool->yields = DEFAULT_YIELDS;
        return SS_OK;
    }
    char *end = NULL;
    long value = text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : -1;
    if (value < 0 || *end != 0 || value > 1000000000)
        return SS_FAIL(err, SS_ERR_VALUE, "SAMESTEP_SPIN: '%s' is not a number from 0 to 1000000000", text);
    pool->spin = (unsigned)value;
    pool->yields = value == 0 ? 0 : DEFAULT_YIELDS;
    return SS_OK;
}

ss_status ss_pool_create(int threads, bool pin, ss_pool **out, ss_error *err) {
    ss_status status = SS_OK;
    ss_pool *pool = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return SS_FAIL(err, SS_ERR_VALUE, "thread pool: %d threads; expected 1 to %d", threads, MAX_THREADS);
    pool = ss_calloc(1, sizeof *pool);
    if (pool == NULL) {
        status = SS_FAIL(err, SS_ERR_MEMORY, "thread pool: out of memory");
        goto done;
    }
    pool->threads = threads;
    pool->pin = pin;
    SS_TRY(read_spin(pool, err));
    while (1 << pool->rounds < threads) pool->rounds++;
    pool->stride = sizeof(worker) + (size_t)pool->rounds * sizeof(word);
    pool->workers = ss_calloc((size_t)threads, pool->stride);
    if (pool->workers == NULL) {
        status = SS_FAIL(err, SS_ERR_MEMORY, "thread pool: out of memory for %d threads", threads);
        goto done;
    }
    if (sched_getaffinity(0, sizeof pool->allowed, pool->allowed) != 0) pool->pin = false;
    SS_TRY(start_workers(pool, err));
    *out = pool;
    pool = NULL;
done:
    ss_pool_free(pool);
    return status;
}

void ss_pool_free(ss_pool *pool) {
    if (pool == NULL) return;
    if (pool->owner != 0 && pool->owner == getpid()) stop_workers(pool, pool->threads);
    ss_free(pool->workers);
    ss_free(pool);
}

int ss_pool_threads(const ss_pool *pool) { return pool->threads; }

uint64_t ss_pool_sleeps(const ss_pool *pool) { return atomic_load_explicit(&pool->sleeps, memory_order_relaxed); }

static void run_alone(ss_pool *pool, ss_pool_function function, void *argument) {
    function(argument, 0, pool->threads);
}

static void run_together(ss_pool *pool, ss_pool_function function, void *argument) {
    bool nested = atomic_exchange(&pool->running, true);
    assert(!nested && "ss_pool_run is not reentrant");
    (void)nested;
    pool->function = function;
    pool->argument = argument;
    pool->runs += 2;
    signal_counter(&pool->start, pool->runs, INT_MAX);
    function(argument, 0, pool->threads);
    wait_until(pool, &pool->finished, pool->runs * (unsigned)(pool->threads - 1));
    atomic_fetch_and_explicit(&pool->finished.value, ~1u, memory_order_relaxed);
    for (int i = 1; i < pool->threads; i++)
        assert(worker_at(pool, i)->barriers == worker_at(pool, 0)->barriers && "threads met at different numbers of barriers");
    atomic_store(&pool->running, false);
}

ss_status ss_pool_run(ss_pool *pool, ss_pool_function function, void *argument, ss_error *err) {
    assert(function != NULL);
    if (pool->threads > 1 && pool->owner != getpid()) {
        ss_status status = start_workers(pool, err);
        if (status != SS_OK) return status;
    }
    /* The caller is pinned for the run alone: a lasting mask would be inherited by every thread and process it starts later. */
    cpu_set_t mask[MASK_SETS];
    bool bound = pool->pin && sched_getaffinity(0, sizeof mask, mask) == 0;
    if (bound) pin_thread(pool, 0);
    unsigned mode = _mm_getcsr();
    _mm_setcsr(MXCSR_MODE);
    if (pool->threads == 1)
        run_alone(pool, function, argument);
    else
        run_together(pool, function, argument);
    _mm_setcsr(mode);
    if (bound) sched_setaffinity(0, sizeof mask, mask);
    return SS_OK;
}

int ss_cpu_count(void) {
    cpu_set_t mask[MASK_SETS];
    if (sched_getaffinity(0, sizeof mask, mask) == 0) {
        int count = CPU_COUNT_S(sizeof mask, mask);
        if (count > 0) return count;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}
