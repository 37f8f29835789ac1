#include "base/arena.h"

#include <math.h>

#include "base/alloc.h"
#include "tests/test.h"

/* Writes behind the sanitizer's back: under it red zones are out of bounds. */
__attribute__((no_sanitize("address"), noinline)) static void write_byte(volatile unsigned char *at, int change) {
    *at = (unsigned char)(*at ^ change);
}

static void check_plan(void) {
    ss_error err = {0};
    ss_arena_plan plan = {0};
    int64_t sizes[] = {1, 64, 0, 65, 1000}, offset, last = 0;
    for (int i = 0; i < 5; i++) {
        CHECK(ss_region_add(&plan, sizes[i], &offset, &err) == SS_OK);
        CHECK(offset % SS_ALIGN == 0 && offset == last + SS_RED_ZONE);
        last = offset + (sizes[i] + 63) / 64 * 64;
        CHECK(plan.bytes == last);
    }
    ss_arena_plan before = plan;
    offset = 77;
    CHECK(ss_region_add(&plan, INT64_MAX, &offset, &err) == SS_ERR_MEMORY && strstr(err.message, "9223372036854775807"));
    CHECK(ss_region_add(&plan, INT64_MAX - plan.bytes, &offset, &err) == SS_ERR_MEMORY);
    CHECK(ss_region_add(&plan, -1, &offset, NULL) == SS_ERR_MEMORY);
    CHECK(offset == 77 && plan.bytes == before.bytes);

    ss_arena *arena = NULL;
    ss_arena_plan huge = {.bytes = INT64_MAX - 128};
    CHECK(ss_arena_create(&huge, &arena, &err) == SS_ERR_MEMORY && arena == NULL && err.message[0]);
    ss_arena_free(NULL);
}

static void check_memory(void) {
    ss_error err = {0};
    ss_arena_plan plan = {0};
    ss_arena *arena = NULL;
    enum { REGIONS = 20 };
    int64_t offset[REGIONS], size[REGIONS];
    for (int i = 0; i < REGIONS; i++) {
        size[i] = i * 37;
        CHECK(ss_region_add(&plan, size[i], &offset[i], &err) == SS_OK);
    }
    if (!CHECK(ss_arena_create(&plan, &arena, &err) == SS_OK)) return;
    CHECK(ss_arena_bytes(arena) == plan.bytes);
    for (int i = 0; i < REGIONS; i++) ss_arena_mark(arena, offset[i]);
    for (int i = 0; i < REGIONS; i++) {
        unsigned char *memory = ss_arena_at(arena, offset[i]), sum = 0;
        CHECK((uintptr_t)memory % 64 == 0);
        for (int64_t j = 0; j < size[i]; j++) sum |= memory[j];
        CHECK(sum == 0);
        memset(memory, i + 1, (size_t)size[i]);
    }
    for (int i = 0; i < REGIONS; i++) { /* regions do not overlap */
        unsigned char *memory = ss_arena_at(arena, offset[i]);
        int wrong = 0;
        for (int64_t j = 0; j < size[i]; j++) wrong += memory[j] != i + 1;
        CHECK(wrong == 0 && ss_arena_intact(arena, offset[i]));
    }
    CHECK(ss_arena_check(arena, &err) == SS_OK);

    float scratch[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    ss_arena_poison(scratch, 6 * sizeof(float));
    for (int i = 0; i < 6; i++) CHECK(SS_RED_ZONE ? isnan(scratch[i]) : scratch[i] == (float)(i + 1));
    CHECK(scratch[6] == 7 && scratch[7] == 8);

    if (SS_RED_ZONE) { /* any byte of any zone, changed in any way */
        for (int i = 0; i < REGIONS; i++)
            for (int byte = 0; byte < SS_RED_ZONE; byte++) {
                unsigned char *at = (unsigned char *)ss_arena_at(arena, offset[i] - SS_RED_ZONE) + byte;
                write_byte(at, 1 + byte);
                CHECK(!ss_arena_intact(arena, offset[i]));
                CHECK(i == 0 || ss_arena_intact(arena, offset[i - 1]));
                char number[40];
                snprintf(number, sizeof number, "byte %d of", byte);
                CHECK(ss_arena_check(arena, &err) == SS_ERR_STATE && strstr(err.message, number));
                snprintf(number, sizeof number, "%lld was written", (long long)offset[i]);
                CHECK(strstr(err.message, number) != NULL);
                write_byte(at, 1 + byte);
                CHECK(ss_arena_intact(arena, offset[i]));
            }
        for (int byte = 0; byte < SS_RED_ZONE; byte += 7) {
            unsigned char *at = (unsigned char *)ss_arena_at(arena, plan.bytes) + byte;
            write_byte(at, 0x80);
            CHECK(ss_arena_check(arena, &err) == SS_ERR_STATE && strstr(err.message, "the last one"));
            write_byte(at, 0x80);
        }
    }
    CHECK(ss_arena_check(arena, &err) == SS_OK);
    ss_arena_free(arena);
}

static void check_failures(void) {
    ss_error err = {0};
    ss_arena_plan plan = {0};
    int64_t offset;
    CHECK(ss_region_add(&plan, 100, &offset, &err) == SS_OK);
    uint64_t before = ss_alloc_count();
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        ss_arena *arena = NULL;
        ss_alloc_fail_after(n);
        ss_status status = ss_arena_create(&plan, &arena, &err);
        ss_alloc_fail_after(0);
        if (status == SS_OK) {
            ss_arena_free(arena);
            break;
        }
        CHECK(status == SS_ERR_MEMORY && arena == NULL && ss_alloc_bytes() == 0);
        failures++;
    }
    CHECK(failures == (SS_RED_ZONE ? 3 : 2) && ss_alloc_count() > before);
    CHECK(ss_alloc_bytes() == 0);

    ss_arena_plan nothing = {0};
    ss_arena *empty = NULL;
    CHECK(ss_arena_create(&nothing, &empty, &err) == SS_OK && ss_arena_bytes(empty) == 0);
    CHECK(ss_arena_check(empty, &err) == SS_OK);
    ss_arena_free(empty);
}

int main(void) {
    check_plan();
    check_memory();
    check_failures();
    CHECK(ss_alloc_bytes() == 0);
    return TEST_DONE();
}
