/* memfd_create */
#define _GNU_SOURCE
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, bytes) ((void)(begin), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(begin, bytes) ((void)(begin), (void)(bytes))
#endif

/*  | slack | header | memory ........ | slack |
 *  ^ raw            ^ multiple of 64
 * calloc rather than aligned_alloc and memset: large blocks then come as untouched zero pages, which stay with the thread (and the
 * memory node) that writes them first. Slack and header are out of bounds for the address sanitizer. */
typedef struct header {
    void *raw;
    size_t bytes;
} header;

enum { ALIGN = 64, OVERHEAD = ALIGN + sizeof(header) };

/* From this size on large pages are asked for: matrices are read down columns too, a page for every row. Where the system grants none nothing changes. */
enum { LARGE = 4 << 20, PAGE = 4096 };

static atomic_uint_fast64_t allocations, bytes_held;
static atomic_uint_fast64_t until_failure; /* 0: off; 1: this allocation and all after it fail */

static int must_fail(void) {
    uint_fast64_t left = atomic_load(&until_failure);
    while (left > 1)
        if (atomic_compare_exchange_weak(&until_failure, &left, left - 1)) return 0;
    return left == 1;
}

void *ss_calloc(size_t count, size_t size) {
    size_t bytes, total;
    if (must_fail()) return NULL;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    if (bytes == 0) bytes = 1; /* a pointer of its own, so that NULL always means failure */
    if (__builtin_add_overflow(bytes, (size_t)OVERHEAD, &total) || total > (size_t)PTRDIFF_MAX) return NULL;
    char *raw = calloc(1, total);
    if (raw == NULL) return NULL;
#ifdef MADV_HUGEPAGE
    if (total >= LARGE) {
        char *page = (char *)(((uintptr_t)raw + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
        (void)madvise(page, (size_t)(raw + total - page) & ~(size_t)(PAGE - 1), MADV_HUGEPAGE);
    }
#endif
    char *memory = (char *)(((uintptr_t)raw + OVERHEAD - 1) & ~(uintptr_t)(ALIGN - 1));
    ((header *)(void *)memory)[-1] = (header){raw, bytes};
    ASAN_POISON_MEMORY_REGION(raw, (size_t)(memory - raw));
    ASAN_POISON_MEMORY_REGION(memory + bytes, (size_t)(raw + total - memory) - bytes);
    atomic_fetch_add(&allocations, 1);
    atomic_fetch_add(&bytes_held, bytes);
    return memory;
}

void ss_free(void *pointer) {
    if (pointer == NULL) return;
    header *info = (header *)pointer - 1;
    ASAN_UNPOISON_MEMORY_REGION(info, sizeof *info);
    header copy = *info;
    ASAN_UNPOISON_MEMORY_REGION(copy.raw, copy.bytes + OVERHEAD);
    atomic_fetch_sub(&bytes_held, copy.bytes);
    free(copy.raw);
}

void *ss_calloc_shared(size_t bytes, int *file) {
    *file = -1;
    if (must_fail() || bytes > (size_t)PTRDIFF_MAX) return NULL;
    if (bytes == 0) bytes = 1;
    void *memory = MAP_FAILED;
    int made = memfd_create("samestep", MFD_CLOEXEC);
    if (made >= 0 && ftruncate(made, (off_t)bytes) == 0) memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, made, 0);
    if (memory == MAP_FAILED) {
        if (made >= 0) close(made);
        return NULL;
    }
    *file = made;
    atomic_fetch_add(&allocations, 1);
    atomic_fetch_add(&bytes_held, bytes);
    return memory;
}

void ss_free_shared(void *pointer, size_t bytes, int file) {
    if (pointer == NULL) return;
    if (bytes == 0) bytes = 1;
    ASAN_UNPOISON_MEMORY_REGION(pointer, bytes);
    munmap(pointer, bytes);
    close(file);
    atomic_fetch_sub(&bytes_held, bytes);
}

uint64_t ss_alloc_count(void) { return atomic_load(&allocations); }
void ss_alloc_fail_after(uint64_t n) { atomic_store(&until_failure, n); }
uint64_t ss_alloc_bytes(void) { return atomic_load(&bytes_held); }
