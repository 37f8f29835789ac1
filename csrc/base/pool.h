/* The thread pool: T threads that enter one function together (the caller is thread 0) and meet at barriers.
 *
 * Waiting spins for a bounded time (SAMESTEP_SPIN looks; 0: not at all), yields a few times, then sleeps on a futex. Every thread runs with
 * round-to-nearest, flush-to-zero and denormals-are-zero; the caller's mode is restored on return. After fork the workers are gone: the pool notices the new process id and starts them again.
 */
#ifndef SS_BASE_POOL_H
#define SS_BASE_POOL_H
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

typedef struct ss_pool ss_pool;
typedef void (*ss_pool_function)(void *argument, int thread, int threads);

/* Starts threads - 1 workers; pin binds thread t to the t-th processor of the process's affinity mask, the caller for
 * the length of each run. On failure *out is untouched: SS_ERR_VALUE (threads outside 1..1024, SAMESTEP_SPIN), SS_ERR_MEMORY, SS_ERR_STATE. */
ss_status ss_pool_create(int threads, bool pin, ss_pool **out, ss_error *err);
/* Ends the workers. NULL is allowed. */
void ss_pool_free(ss_pool *pool);
int ss_pool_threads(const ss_pool *pool);

/* Runs function(argument, t, threads) on every thread and returns when all have returned. Not reentrant. The only failure is a
 * restart after fork that cannot start its workers. */
ss_status ss_pool_run(ss_pool *pool, ss_pool_function function, void *argument, ss_error *err);
/* Inside ss_pool_run: returns once every thread of the pool has called it. Full memory ordering. */
void ss_pool_barrier(ss_pool *pool, int thread);
/* Times a waiting thread went to sleep on the futex since creation. */
uint64_t ss_pool_sleeps(const ss_pool *pool);

/* Processors this process may run on. */
int ss_cpu_count(void);

#endif
