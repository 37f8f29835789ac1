/* The only door to the heap. Counts allocations, so tests can prove that a step makes none, and fails the n-th on demand. */
#ifndef SS_BASE_ALLOC_H
#define SS_BASE_ALLOC_H
#include <stddef.h>
#include <stdint.h>

/* Zeroed memory aligned to 64 bytes, or NULL. count * size is checked for overflow. ss_free takes NULL. */
void *ss_calloc(size_t count, size_t size);
void ss_free(void *pointer);

/* Zeroed memory, aligned to pages, in a file without a name that other processes of this machine may map (base/shared.h); *file is its descriptor, closed on exec.
 * NULL: no memory, or a system without such files. ss_free_shared takes NULL. Counted like all other memory. */
void *ss_calloc_shared(size_t bytes, int *file);
void ss_free_shared(void *pointer, size_t bytes, int file);

/* Allocations made since the program began. */
uint64_t ss_alloc_count(void);
/* The n-th allocation from now (1 = the next) and all after it fail; 0 switches this off. For tests. */
void ss_alloc_fail_after(uint64_t n);
/* Bytes held now. */
uint64_t ss_alloc_bytes(void);

#endif
