/* Checks for the tests of comm/: a failed one prints its place and ends the program. A passed group prints one line. */
#ifndef SS_TESTS_COMM_TEST_H
#define SS_TESTS_COMM_TEST_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/status.h"

#define CHECK(condition, ...)                                                    \
    do {                                                                         \
        if (!(condition)) {                                                      \
            printf("%s:%d: %s is false", __FILE__, __LINE__, #condition);      \
            printf("  " __VA_ARGS__);                                              \
            printf("\n");                                                        \
            fflush(stdout);                                                      \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

/* Needs `ss_error err` in scope. */
#define CHECK_OK(call)                                                                          \
    do {                                                                                        \
        ss_status status_ = (call);                                                             \
        CHECK(status_ == SS_OK, "%s: %s", ss_status_text(status_), err.message);                \
    } while (0)

#define CHECK_FAILS(call, wanted)                                                                                     \
    do {                                                                                                              \
        ss_status status_ = (call);                                                                                   \
        CHECK(status_ == (wanted), "got \"%s\" (%s)", ss_status_text(status_), status_ == SS_OK ? "" : err.message);  \
        CHECK(err.code == (wanted), "the error object says %d", (int)err.code);                                       \
    } while (0)

static inline void group_passed(const char *name) {
    printf("%s\n", name);
    fflush(stdout);
}

static inline uint32_t mix(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)(x >> 32);
}

static inline uint32_t draw(uint64_t *state) { return mix((*state)++ * 0x2545f4914f6cdd1du + 11); }

#endif
