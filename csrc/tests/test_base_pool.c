#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "base/alloc.h"
#include "tests/test.h"

enum { MAX_T = 8, CELLS = 64 };

static ss_pool *make_pool(int threads, bool pin) {
    ss_error err = {0};
    ss_pool *pool = NULL;
    if (!CHECK(ss_pool_create(threads, pin, &pool, &err) == SS_OK)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return pool;
}

/* Data that is not atomic passes from thread to thread through barriers and runs alone: a lost or early barrier gives wrong numbers, and
 * the thread sanitizer sees a race. */
typedef struct job {
    ss_pool *pool;
    int rounds;
    long cell[2][MAX_T][CELLS / 8];
    long wrong[MAX_T][CELLS / 8];
    int uneven; /* threads work for different times */
} job;

static void work_for(int amount) {
    for (volatile int i = 0; i < amount; i = i + 1) continue;
}

static void pass_around(void *argument, int thread, int threads) {
    job *j = argument;
    for (int round = 0; round < j->rounds; round++) {
        if (j->uneven) work_for((thread * 7 + round * 3) % 11 * j->uneven);
        j->cell[round & 1][thread][0] += thread + 1;
        ss_pool_barrier(j->pool, thread);
        for (int other = 0; other < threads; other++) {
            long expected = (long)(round / 2 + 1) * (other + 1);
            if (j->cell[round & 1][other][0] != expected) j->wrong[thread][0]++;
        }
        /* One barrier a round is enough: the other half of the cells is written next. */
    }
}

static void count_calls(void *argument, int thread, int threads) { ((long (*)[CELLS / 8])argument)[thread][0] += threads; }

static void check_rounds(int threads, int rounds, int runs, int uneven, bool pin) {
    ss_error err = {0};
    ss_pool *pool = make_pool(threads, pin);
    CHECK(ss_pool_threads(pool) == threads);
    static job j;
    static long calls[MAX_T][CELLS / 8];
    memset(calls, 0, sizeof calls);
    uint64_t allocations = ss_alloc_count();
    for (int run = 0; run < runs; run++) CHECK(ss_pool_run(pool, count_calls, calls, &err) == SS_OK);
    for (int t = 0; t < threads; t++) CHECK(calls[t][0] == (long)runs * threads);
    for (int repeat = 0; repeat < 3; repeat++) {
        memset(&j, 0, sizeof j);
        j.pool = pool, j.rounds = rounds, j.uneven = uneven;
        CHECK(ss_pool_run(pool, pass_around, &j, &err) == SS_OK);
        for (int t = 0; t < threads; t++) CHECK(j.wrong[t][0] == 0 && j.cell[0][t][0] == (long)((rounds + 1) / 2) * (t + 1));
    }
    CHECK(ss_alloc_count() == allocations);
    ss_pool_free(pool);
}

/* Workers sleep while nothing happens, and wake. */
static void check_sleep(void) {
    ss_error err = {0};
    ss_pool *pool = make_pool(3, false);
    long calls[MAX_T][CELLS / 8] = {0};
    for (int i = 0; i < 5; i++) { /* after each run both workers go to sleep again, soon on a quiet machine */
        for (int wait = 0; wait < 10000 && ss_pool_sleeps(pool) < 2 * (uint64_t)(i + 1); wait++) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        CHECK(ss_pool_sleeps(pool) >= 2 * (uint64_t)(i + 1));
        CHECK(ss_pool_run(pool, count_calls, calls, &err) == SS_OK);
    }
    for (int t = 0; t < 3; t++) CHECK(calls[t][0] == 15);
    /* An idle pool costs no processor time. */
    struct timespec begin, end;
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    CHECK((double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec) < 0.03);
    ss_pool_free(pool);
}

typedef struct float_report {
    unsigned mode;
    float product, sum;
    char gap[52];
} float_report;

static volatile float denormal = 1e-40f, tiny = 1e-30f;

static void report_floats(void *argument, int thread, int threads) {
    (void)threads;
    float_report *r = (float_report *)argument + thread;
    r->mode = _mm_getcsr();
    r->product = tiny * tiny * 1e10f; /* 1e-60, then 1e-50: nothing either way */
    r->product += tiny * 1e-10f;      /* 1e-40 is flushed to zero */
    r->sum = denormal * 1e20f;        /* the operand is taken as zero: 1e-20 otherwise */
}

static void check_float_mode(int threads) {
    ss_error err = {0};
    unsigned original = _mm_getcsr();
    CHECK(denormal * 1e20f > 0); /* the caller's arithmetic sees denormals, before and after */
    static const unsigned modes[] = {0x1F80, 0x1F80 | 0x2000, 0x1F80 | 0x6000, 0x9FC0};
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        ss_pool *pool = make_pool(threads, false);
        float_report report[MAX_T] = {0};
        _mm_setcsr(modes[m]); /* rounding down, towards zero: the pool does not inherit it */
        ss_status status = ss_pool_run(pool, report_floats, report, &err);
        unsigned after = _mm_getcsr();
        _mm_setcsr(original);
        CHECK(status == SS_OK && after == modes[m]);
        for (int t = 0; t < threads; t++)
            CHECK((report[t].mode & ~0x3Fu) == 0x9FC0u && report[t].product == 0 && report[t].sum == 0); /* less the sticky flags */
        ss_pool_free(pool);
    }
    CHECK(denormal * 1e20f > 0);
}

/* Runs `body` in a forked child; true when it exits with 0. A child that hangs is ended by its alarm. */
static bool in_child(int (*body)(ss_pool *), ss_pool *pool) {
    fflush(stdout), fflush(stderr);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(body(pool));
    }
    int state = -1;
    return child > 0 && waitpid(child, &state, 0) == child && WIFEXITED(state) && WEXITSTATUS(state) == 0;
}

static int run_in_child(ss_pool *pool) {
    ss_error err = {0};
    static job j;
    memset(&j, 0, sizeof j);
    j.pool = pool, j.rounds = 501;
    for (int i = 0; i < 3; i++) {
        memset(j.cell, 0, sizeof j.cell);
        if (ss_pool_run(pool, pass_around, &j, &err) != SS_OK) return 2;
    }
    for (int t = 0; t < ss_pool_threads(pool); t++)
        if (j.wrong[t][0] || j.cell[0][t][0] != 251 * (t + 1)) return 3;
    ss_pool_free(pool);
    return ss_alloc_bytes() == 0 ? 0 : 4;
}
static int grandchild(ss_pool *pool) { return in_child(run_in_child, pool) ? run_in_child(pool) : 1; }
static int free_in_child(ss_pool *pool) {
    ss_pool_free(pool);
    return ss_alloc_bytes() == 0 ? 0 : 4;
}
static int wrong_in_child(ss_pool *pool) {
    (void)pool;
    return 1;
}

static void check_fork(void) {
    ss_error err = {0};
#ifdef __SANITIZE_THREAD__
    int most = 1; /* the thread sanitizer cannot follow threads that start in a forked child */
#else
    int most = 4;
#endif
    for (int threads = 1; threads <= most; threads++) {
        ss_pool *pool = make_pool(threads, false);
        static job j;
        memset(&j, 0, sizeof j);
        j.pool = pool, j.rounds = 77;
        CHECK(ss_pool_run(pool, pass_around, &j, &err) == SS_OK);
        CHECK(in_child(run_in_child, pool));
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* the workers sleep: their bits are set in the child's copy */
        CHECK(in_child(run_in_child, pool));
        CHECK(in_child(grandchild, pool));
        CHECK(in_child(free_in_child, pool));
        CHECK(!in_child(wrong_in_child, pool));
        memset(&j, 0, sizeof j); /* the parent goes on as before */
        j.pool = pool, j.rounds = 77;
        CHECK(ss_pool_run(pool, pass_around, &j, &err) == SS_OK && j.wrong[0][0] == 0);
        ss_pool_free(pool);
    }
}

typedef struct place_report {
    pthread_t thread;
    sigset_t blocked;
    cpu_set_t allowed;
    size_t stack;
} place_report;

static void report_place(void *argument, int thread, int threads) {
    (void)threads;
    place_report *r = (place_report *)argument + thread;
    r->thread = pthread_self();
    pthread_sigmask(SIG_BLOCK, NULL, &r->blocked);
    sched_getaffinity(0, sizeof r->allowed, &r->allowed);
    pthread_attr_t attributes;
    if (pthread_getattr_np(r->thread, &attributes) == 0) {
        pthread_attr_getstacksize(&attributes, &r->stack);
        pthread_attr_destroy(&attributes);
    }
}

static void check_place(void) {
    ss_error err = {0};
    static place_report report[4];
    sigset_t before, after;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    cpu_set_t mask, left;
    CHECK(sched_getaffinity(0, sizeof mask, &mask) == 0);
    CHECK(ss_cpu_count() == CPU_COUNT(&mask));
    for (int pin = 0; pin <= 1; pin++) {
        ss_pool *pool = make_pool(4, pin);
        CHECK(ss_pool_run(pool, report_place, report, &err) == SS_OK);
        CHECK(pthread_equal(report[0].thread, pthread_self())); /* the caller is thread 0 */
        for (int t = 0; t < 4; t++) {
            for (int other = 0; other < t; other++) CHECK(!pthread_equal(report[t].thread, report[other].thread));
            if (!pin) CHECK(CPU_EQUAL(&report[t].allowed, &mask));
            if (pin) {
                CHECK(CPU_COUNT(&report[t].allowed) == 1);
                int other = (t + 1) % 4;
                if (CPU_COUNT(&mask) > 1) CHECK(!CPU_EQUAL(&report[t].allowed, &report[other].allowed) || CPU_COUNT(&mask) == 3);
            }
            if (t == 0) continue;
            CHECK(sigismember(&report[t].blocked, SIGINT) && sigismember(&report[t].blocked, SIGTERM) && sigismember(&report[t].blocked, SIGCHLD));
            CHECK(!sigismember(&report[t].blocked, SIGSEGV) && !sigismember(&report[t].blocked, SIGFPE));
            CHECK(report[t].stack >= 1 << 20);
        }
        ss_pool_free(pool);
        /* The caller's own mask is as it was. */
        CHECK(sched_getaffinity(0, sizeof left, &left) == 0 && CPU_EQUAL(&left, &mask));
    }
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    for (int i = 1; i < NSIG; i++) CHECK(sigismember(&before, i) == sigismember(&after, i));
}

static void check_errors(void) {
    ss_error err = {0};
    ss_pool *pool = NULL;
    CHECK(ss_pool_create(0, false, &pool, &err) == SS_ERR_VALUE && pool == NULL && strstr(err.message, "0 threads"));
    CHECK(ss_pool_create(-3, false, &pool, NULL) == SS_ERR_VALUE && pool == NULL);
    CHECK(ss_pool_create(1 << 20, false, &pool, &err) == SS_ERR_VALUE && pool == NULL);
    static const char *const wrong[] = {"x", "-1", "12x", " 5", "99999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("SAMESTEP_SPIN", wrong[i], 1);
        CHECK(ss_pool_create(2, false, &pool, &err) == SS_ERR_VALUE && pool == NULL && strstr(err.message, "SAMESTEP_SPIN"));
    }
    setenv("SAMESTEP_SPIN", "", 1);
    ss_pool_free(make_pool(2, false));
    unsetenv("SAMESTEP_SPIN");
    int failures = 0;
    for (uint64_t n = 1; n < 100; n++) {
        ss_alloc_fail_after(n);
        ss_status status = ss_pool_create(3, false, &pool, &err);
        ss_alloc_fail_after(0);
        if (status == SS_OK) break;
        CHECK(status == SS_ERR_MEMORY && pool == NULL && ss_alloc_bytes() == 0);
        failures++;
    }
    CHECK(failures == 2 && pool != NULL);
    ss_pool_free(pool);
    ss_pool_free(NULL);
    CHECK(ss_alloc_bytes() == 0);
}

int main(void) {
    alarm(250); /* a lost wake-up ends the test instead of stopping it */
    static const char *const spins[] = {NULL, "0", "1", "100"};
    for (size_t i = 0; i < sizeof spins / sizeof *spins; i++) {
        if (spins[i]) setenv("SAMESTEP_SPIN", spins[i], 1);
        else unsetenv("SAMESTEP_SPIN");
        for (int threads = 1; threads <= 5; threads++) {
            check_rounds(threads, 2001, 1500, 0, false);
            check_rounds(threads, 501, 200, 100, threads == 4);
        }
        check_rounds(MAX_T, 200, 100, 10, false);
        check_fork();
    }
    unsetenv("SAMESTEP_SPIN");
    for (int i = 0; i < 100; i++) ss_pool_free(make_pool(1 + i % 4, false)); /* ended before it ran */
    check_sleep();
    check_float_mode(1);
    check_float_mode(3);
    check_place();
    check_errors();
    return TEST_DONE();
}
