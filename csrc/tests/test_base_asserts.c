/* Asserts are part of the contract (impossible states), and a build that defines NDEBUG loses them without a word. Each child breaks one
 * rule and must die by SIGABRT. */
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/lanes.h"
#include "base/philox.h"
#include "base/pool.h"
#include "base/shape.h"
#include "tests/test.h"

#ifdef NDEBUG
#error "tests are built with asserts"
#endif

static volatile int zero;

static void status_without_error(void) { ss_error_set(NULL, (ss_status)zero, "", 0, " "); }
static void permute_outside(void) { ss_permute(1, 1, 10, 10 + zero); }
static void permute_nothing(void) { ss_permute(1, 1, zero, 0); }
static void uniform_backwards(void) {
    float out[4];
    ss_fill_uniform(out, 4, 1, 1, 1.0f, (float)zero);
}
static void leaf_not_a_node(void) { ss_fold_plan(8, (ss_span){0, 8}, &(ss_span){1, 3 + zero}, 1, NULL, NULL, NULL); }
static void leaf_outside(void) { ss_fold_plan(8, (ss_span){0, 4}, &(ss_span){5, 6 + zero}, 1, NULL, NULL, NULL); }
static void leaves_out_of_order(void) {
    ss_span leaf[2] = {{2, 3}, {1, 2 + zero}};
    ss_fold_plan(8, (ss_span){0, 8}, leaf, 2, NULL, NULL, NULL);
}
static void range_outside(void) { ss_fold_plan(8, (ss_span){0, 9 + zero}, NULL, 0, NULL, NULL, NULL); }
static void shape_unchecked(void) {
    ss_shape shape = ss_shape_of(3, INT64_MAX, 3, 5 + zero, 0);
    if (ss_shape_count(&shape) == 1) zero = 1;
}
static void arena_outside(void) {
    ss_arena *arena = NULL;
    if (ss_arena_create(&(ss_arena_plan){.bytes = 64}, &arena, NULL) == SS_OK) ss_arena_at(arena, 128 + zero);
}

static void nested_run(void *argument, int thread, int threads) {
    (void)threads;
    if (thread == 0) ss_pool_run(argument, nested_run, argument, NULL);
}
static void pool_nested(void) {
    ss_pool *pool = NULL;
    if (ss_pool_create(2, false, &pool, NULL) == SS_OK) ss_pool_run(pool, nested_run, pool, NULL);
}
static void nothing_wrong(void) { ss_permute(1, 1, 10, 9); }

/* The signal that ended the child, 0 when it lived. */
static int signal_of(void (*body)(void)) {
    fflush(stdout), fflush(stderr);
    pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL); /* a sanitizer may have its own handler */
        if (freopen("/dev/null", "w", stderr) == NULL) _exit(1);
        body();
        _exit(0);
    }
    int state = 0;
    if (child < 0 || waitpid(child, &state, 0) != child) return -1;
    return WIFSIGNALED(state) ? WTERMSIG(state) : 0;
}

int main(void) {
    static const struct {
        const char *name;
        void (*body)(void);
    } cases[] = {
        {"status without error", status_without_error}, {"permute outside", permute_outside},
        {"permute nothing", permute_nothing},           {"uniform backwards", uniform_backwards},
        {"leaf not a node", leaf_not_a_node},           {"leaf outside", leaf_outside},
        {"leaves out of order", leaves_out_of_order},   {"range outside", range_outside},
        {"shape unchecked", shape_unchecked},           {"arena outside", arena_outside},
        {"pool nested", pool_nested},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!CHECK(signal_of(cases[i].body) == SIGABRT)) fprintf(stderr, "    case: %s\n", cases[i].name);
    CHECK(signal_of(nothing_wrong) == 0);
    return TEST_DONE();
}
