/* What every C test uses: CHECK counts and reports, TEST_DONE ends main.
 *
 *   int main(void) {
 *       CHECK(1 + 1 == 2);
 *       CHECK_NEAR(0.1 + 0.2, 0.3, 1e-15);
 *       return TEST_DONE();
 *   }
 *
 * The program's status is 1 when a check failed, and also when none ran. Checks may run on any thread.
 */
#ifndef SS_TESTS_TEST_H
#define SS_TESTS_TEST_H
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { TEST_MAX_REPORTS = 50 }; /* a failing loop must not fill the disk */

static atomic_long test_checks, test_failures;

static inline bool test_check(bool condition, const char *text, const char *file, int line) {
    atomic_fetch_add_explicit(&test_checks, 1, memory_order_relaxed);
    if (!condition && atomic_fetch_add_explicit(&test_failures, 1, memory_order_relaxed) < TEST_MAX_REPORTS)
        fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
    return condition;
}

static inline bool test_near(double a, double b, double tolerance, const char *text, const char *file, int line) {
    bool near = fabs(a - b) <= tolerance; /* false for NaN */
    if (!test_check(near, text, file, line)) fprintf(stderr, "    %.9g against %.9g, tolerance %.3g\n", a, b, tolerance);
    return near;
}

__attribute__((warn_unused_result)) static inline int test_done(const char *file) {
    const char *name = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    long checks = atomic_load(&test_checks), failures = atomic_load(&test_failures);
    printf("%.*s: %ld checks", (int)strcspn(name, "."), name, checks);
    if (failures) printf(", %ld FAILED", failures);
    if (checks == 0) printf(": nothing was checked, which is a failure");
    printf("\n");
    return failures != 0 || checks == 0;
}

/* Both give the condition's value, so that a test can leave a loop. */
#define CHECK(condition) test_check((condition), #condition, __FILE__, __LINE__)
#define CHECK_NEAR(a, b, tolerance) test_near((a), (b), (tolerance), #a " near " #b, __FILE__, __LINE__)
/* Prints "name: N checks"; the value is main's result. */
#define TEST_DONE() test_done(__FILE__)

#endif
