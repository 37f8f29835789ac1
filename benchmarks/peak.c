/* The machine's own fused-multiply-add peak in single precision: peak SECONDS THREADS...
 *
 * Prints {"isa": "avx512", "gflops": {"1": 115.2, "2": 222.0}}: for each number of threads the best burst of SECONDS of bursts, in GFLOP/s of all threads
 * together; one multiply-add is two operations. Registers only, so memory plays no part. Build: gcc -O2 -pthread peak.c -o peak */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHAINS = 12, ROUNDS = 100000, MOST_THREADS = 256 }; /* two pipes with a latency of four or five need ten chains; 16 registers hold twelve */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* x = x * a + b settles at 1: no overflow, no denormal number. The empty asm keeps the compiler from folding chains into one. All loops over the chains
 * are unrolled, or the chains would live in memory and the stores set the pace (a test looks at the assembly). */
#define KERNEL(name, features, vector, set, fma)                                          \
    __attribute__((target(features), noinline)) static void name(void) {                 \
        vector a = set(0.5f), b = set(0.5f), x[CHAINS];                                   \
        _Pragma("GCC unroll 12") for (int k = 0; k < CHAINS; k++) x[k] = set((float)k);   \
        for (int r = 0; r < ROUNDS; r++) {                                                \
            _Pragma("GCC unroll 12") for (int k = 0; k < CHAINS; k++) {                   \
                x[k] = fma(x[k], a, b);                                                   \
                __asm__ volatile("" : "+v"(x[k]));                                        \
            }                                                                             \
        }                                                                                 \
    }

#define SET1(v) (v)
#define MULTIPLY_ADD(x, a, b) ((x) * (a) + (b))
KERNEL(burst_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps)
KERNEL(burst_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps)
KERNEL(burst_scalar, "sse2", float, SET1, MULTIPLY_ADD)

static cpu_set_t allowed;
static void (*burst)(void);
static int lanes;
static int threads;
static double length; /* seconds */
static pthread_barrier_t barrier;
static struct { _Alignas(64) double begin, end; } span[MOST_THREADS];
static double best; /* seconds of the fastest burst of all threads together */
static int more;

/* Thread k keeps to the k-th processor that the process may use: on a busy machine the kernel likes to put two threads that wake each other on one. */
static void bind_to(int index) {
    cpu_set_t own;
    CPU_ZERO(&own);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && index-- == 0) CPU_SET(cpu, &own);
    if (CPU_COUNT(&own)) sched_setaffinity(0, sizeof own, &own);
}

static void *work(void *argument) {
    int self = (int)(long)argument;
    bind_to(self);
    double started = now();
    for (;;) {
        pthread_barrier_wait(&barrier);
        span[self].begin = now();
        burst();
        span[self].end = now();
        pthread_barrier_wait(&barrier);
        if (self == 0) { /* from the first to begin to the last to end */
            double begin = span[0].begin, end = span[0].end;
            for (int k = 1; k < threads; k++) {
                if (span[k].begin < begin) begin = span[k].begin;
                if (span[k].end > end) end = span[k].end;
            }
            if (best == 0 || end - begin < best) best = end - begin;
            more = now() - started < length;
        }
        pthread_barrier_wait(&barrier);
        if (!more) return NULL;
    }
}

static double measure(int count) {
    pthread_t handle[MOST_THREADS];
    threads = count;
    best = 0;
    if (pthread_barrier_init(&barrier, NULL, (unsigned)count)) exit(1);
    for (int k = 1; k < count; k++)
        if (pthread_create(&handle[k], NULL, work, (void *)(long)k)) exit(1);
    work(NULL);
    for (int k = 1; k < count; k++) pthread_join(handle[k], NULL);
    pthread_barrier_destroy(&barrier);
    return 2.0 * lanes * CHAINS * ROUNDS * count / best / 1e9;
}

int main(int argc, char **argv) {
    if (argc < 3 || (length = atof(argv[1])) <= 0) {
        fprintf(stderr, "usage: peak SECONDS THREADS...\n");
        return 2;
    }
    if (sched_getaffinity(0, sizeof allowed, &allowed)) CPU_ZERO(&allowed);
    const char *isa = "scalar";
    burst = burst_scalar;
    lanes = 1;
    if (__builtin_cpu_supports("avx512f")) {
        burst = burst_avx512, lanes = 16, isa = "avx512";
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        burst = burst_avx2, lanes = 8, isa = "avx2";
    }
    printf("{\"isa\": \"%s\", \"gflops\": {", isa);
    for (int k = 2; k < argc; k++) {
        int count = atoi(argv[k]);
        if (count < 1 || count > MOST_THREADS) return 2;
        printf("%s\"%d\": %.2f", k > 2 ? ", " : "", count, measure(count));
    }
    printf("}}\n");
    return 0;
}
