/* An arena: one 64-byte-aligned allocation cut by offsets that were planned beforehand.
 *
 *   offset 0                                                     bytes
 *   | red | region 0 | pad | red | region 1 | pad | red | ...      |
 *
 * Regions begin at multiples of 64 bytes. In debug builds (SS_DEBUG) a red zone of 64 bytes with a fixed pattern stands before every region and at the end, and scratch
 * is filled with NaN before each use; ss_arena_check names the region whose zone was written. In release builds red zones have no size.
 *
 * Phases: first ss_region_add for every region (pure arithmetic), then ss_arena_create once, then pointers by offset. Activations share
 * space when their lifetimes are disjoint: that planner (plan/memory.h) hands the arena one region per group.
 */
#ifndef SS_BASE_ARENA_H
#define SS_BASE_ARENA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

enum { SS_ALIGN = 64 };
#ifdef SS_DEBUG
enum { SS_RED_ZONE = 64 };
#else
enum { SS_RED_ZONE = 0 };
#endif

typedef struct ss_arena_plan {
    int64_t bytes;
} ss_arena_plan;

/* Adds a region and writes its offset. SS_ERR_MEMORY when sizes overflow. */
ss_status ss_region_add(ss_arena_plan *plan, int64_t bytes, int64_t *offset, ss_error *err);

typedef struct ss_arena ss_arena;
/* Zeroed memory of plan->bytes. The arena keeps the list of region offsets for its checks in debug builds. */
ss_status ss_arena_create(const ss_arena_plan *plan, ss_arena **out, ss_error *err);
/* The same in memory that other processes of this machine may map (base/alloc.h); in private memory where the system has no such files. */
ss_status ss_arena_create_shared(const ss_arena_plan *plan, ss_arena **out, ss_error *err);
/* The descriptor of shared memory, or -1. */
int ss_arena_file(const ss_arena *arena);
void ss_arena_free(ss_arena *arena);
void *ss_arena_at(const ss_arena *arena, int64_t offset);
int64_t ss_arena_bytes(const ss_arena *arena);
/* Debug builds: draws the red zone that ends at `offset` (called once per region, after create), and verifies one. True when intact; always
 * true in release builds. The zone at the end, behind ss_arena_bytes, is drawn by create and verified by ss_arena_check. Under the address
 * sanitizer drawn zones are also out of bounds, so a write there is reported where it happens. */
void ss_arena_mark(ss_arena *arena, int64_t offset);
bool ss_arena_intact(const ss_arena *arena, int64_t offset);
/* Verifies every zone that was drawn and the one at the end. SS_ERR_STATE with the offsets of the regions on both sides of the first damaged
 * zone; always SS_OK in release builds. */
ss_status ss_arena_check(const ss_arena *arena, ss_error *err);
/* Fills a range with NaN in debug builds; does nothing otherwise. */
void ss_arena_poison(void *pointer, int64_t bytes);

#endif
