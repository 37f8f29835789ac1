#include "base/alloc.h"

#include <pthread.h>

#include "tests/test.h"

static void *churn(void *argument) {
    (void)argument;
    for (int i = 0; i < 2000; i++) {
        void *memory = ss_calloc((size_t)i + 1, 3);
        if (memory == NULL) return argument;
        ss_free(memory);
    }
    return NULL;
}

int main(void) {
    uint64_t count = ss_alloc_count();
    CHECK(ss_alloc_bytes() == 0);
    for (size_t size = 0; size < 300; size++) {
        unsigned char *memory = ss_calloc(size, 1);
        if (!CHECK(memory != NULL)) break;
        CHECK((uintptr_t)memory % 64 == 0);
        unsigned char sum = 0;
        for (size_t i = 0; i < size; i++) sum |= memory[i];
        CHECK(sum == 0);
        memset(memory, 0xEE, size); /* so that memory that is handed out again would show itself */
        CHECK(ss_alloc_bytes() == (size ? size : 1));
        ss_free(memory);
        CHECK(ss_alloc_bytes() == 0);
    }
    CHECK(ss_alloc_count() == count + 300);
    ss_free(NULL);

    /* Impossible sizes fail and count nothing. */
    count = ss_alloc_count();
    volatile size_t huge = SIZE_MAX;
    CHECK(ss_calloc(huge, 1) == NULL);
    CHECK(ss_calloc(huge / 2, 1) == NULL);
    CHECK(ss_calloc(huge - 40, 1) == NULL);
    CHECK(ss_calloc(huge / 4 + 1, 8) == NULL);
    CHECK(ss_calloc((size_t)1 << 33, (size_t)1 << 31) == NULL);
    CHECK(ss_alloc_count() == count && ss_alloc_bytes() == 0);

    for (uint64_t n = 1; n <= 5; n++) {
        void *kept[8];
        ss_alloc_fail_after(n);
        for (uint64_t i = 1; i <= 8; i++) {
            kept[i - 1] = ss_calloc(1, 10);
            CHECK((kept[i - 1] != NULL) == (i < n));
        }
        CHECK(ss_alloc_bytes() == 10 * (n - 1));
        ss_alloc_fail_after(0);
        void *after = ss_calloc(1, 1);
        CHECK(after != NULL);
        ss_free(after);
        for (int i = 0; i < 8; i++) ss_free(kept[i]);
    }

    pthread_t threads[4];
    count = ss_alloc_count();
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, churn, &count) == 0);
    for (int i = 0; i < 4; i++) {
        void *failed = &count;
        CHECK(pthread_join(threads[i], &failed) == 0 && failed == NULL);
    }
    CHECK(ss_alloc_count() == count + 8000 && ss_alloc_bytes() == 0);
    return TEST_DONE();
}
