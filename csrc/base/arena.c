#include "base/arena.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"

struct ss_arena {
    unsigned char *memory;
    int64_t bytes;
    int file; /* of shared memory; -1: private */
#ifdef SS_DEBUG
    unsigned char *marks; /* one bit for every 64 bytes: a region begins here and its red zone is drawn */
#endif
};

ss_status ss_region_add(ss_arena_plan *plan, int64_t bytes, int64_t *offset, ss_error *err) {
    int64_t begin, end;
    if (bytes < 0 || __builtin_add_overflow(plan->bytes, (int64_t)SS_RED_ZONE, &begin) ||
        __builtin_add_overflow(begin, bytes, &end) || end > INT64_MAX - SS_RED_ZONE - SS_ALIGN)
        return SS_FAIL(err, SS_ERR_MEMORY, "arena: a region of %" PRId64 " bytes after %" PRId64 " bytes is too large", bytes,
                       plan->bytes);
    assert(begin % SS_ALIGN == 0);
    *offset = begin;
    plan->bytes = (end + SS_ALIGN - 1) / SS_ALIGN * SS_ALIGN;
    return SS_OK;
}

void *ss_arena_at(const ss_arena *arena, int64_t offset) {
    assert(offset >= 0 && offset <= arena->bytes);
    return arena->memory + offset;
}

int64_t ss_arena_bytes(const ss_arena *arena) { return arena->bytes; }

#ifdef SS_DEBUG

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, bytes) ((void)(begin), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(begin, bytes) ((void)(begin), (void)(bytes))
#endif

/* Odd, so that no shifted or repeated float looks like it, and different in neighbouring bytes. */
static unsigned char zone_byte(int i) { return (unsigned char)(0xA5 ^ (i * 29)); }

/* Under the address sanitizer zones are also out of bounds: the write itself is reported, not only found afterwards. */
static void draw_zone(unsigned char *zone) {
    for (int i = 0; i < SS_RED_ZONE; i++) zone[i] = zone_byte(i);
    ASAN_POISON_MEMORY_REGION(zone, SS_RED_ZONE);
}

/* Index of the first byte of the zone that was written, or -1. */
__attribute__((no_sanitize("address"))) static int find_damage(const unsigned char *zone) {
    for (int i = 0; i < SS_RED_ZONE; i++)
        if (zone[i] != zone_byte(i)) return i;
    return -1;
}

void ss_arena_mark(ss_arena *arena, int64_t offset) {
    assert(offset >= SS_RED_ZONE && offset <= arena->bytes && offset % SS_ALIGN == 0);
    int64_t unit = offset / SS_ALIGN;
    unsigned char bit = (unsigned char)(1 << unit % 8);
    assert(!(arena->marks[unit / 8] & bit) && "a region is marked once");
    arena->marks[unit / 8] |= bit;
    draw_zone(arena->memory + offset - SS_RED_ZONE);
}

bool ss_arena_intact(const ss_arena *arena, int64_t offset) {
    assert(offset >= SS_RED_ZONE && offset <= arena->bytes + SS_RED_ZONE && offset % SS_ALIGN == 0);
    return find_damage(arena->memory + offset - SS_RED_ZONE) < 0;
}

ss_status ss_arena_check(const ss_arena *arena, ss_error *err) {
    int64_t before = -1; /* the region that ends at the zone in hand */
    for (int64_t unit = 0; unit <= arena->bytes / SS_ALIGN + 1; unit++) {
        int64_t offset = unit * SS_ALIGN;
        bool last = offset == arena->bytes + SS_RED_ZONE;
        if (!last && !(arena->marks[unit / 8] >> unit % 8 & 1)) continue;
        int damage = find_damage(arena->memory + offset - SS_RED_ZONE);
        if (damage >= 0 && last)
            return SS_FAIL(err, SS_ERR_STATE, "arena: byte %d behind the region at offset %" PRId64 ", the last one, was written",
                           damage, before);
        if (damage >= 0)
            return SS_FAIL(err, SS_ERR_STATE,
                           "arena: byte %d of the red zone between the regions at offsets %" PRId64 " and %" PRId64 " was written",
                           damage, before, offset);
        before = offset;
    }
    return SS_OK;
}

void ss_arena_poison(void *pointer, int64_t bytes) { memset(pointer, 0xFF, (size_t)bytes); } /* as float or double: a quiet NaN */

#else

void ss_arena_mark(ss_arena *arena, int64_t offset) { (void)arena, (void)offset; }
bool ss_arena_intact(const ss_arena *arena, int64_t offset) { return (void)arena, (void)offset, true; }
ss_status ss_arena_check(const ss_arena *arena, ss_error *err) { return (void)arena, (void)err, SS_OK; }
void ss_arena_poison(void *pointer, int64_t bytes) { (void)pointer, (void)bytes; }

#endif

void ss_arena_free(ss_arena *arena) {
    if (arena == NULL) return;
#ifdef SS_DEBUG
    if (arena->memory) ASAN_UNPOISON_MEMORY_REGION(arena->memory, (size_t)arena->bytes + SS_RED_ZONE);
    ss_free(arena->marks);
#endif
    if (arena->file >= 0) ss_free_shared(arena->memory, (size_t)arena->bytes + SS_RED_ZONE, arena->file);
    else ss_free(arena->memory);
    ss_free(arena);
}

int ss_arena_file(const ss_arena *arena) { return arena->file; }

static ss_status create(const ss_arena_plan *plan, bool shared, ss_arena **out, ss_error *err) {
    ss_status status = SS_OK;
    ss_arena *arena = ss_calloc(1, sizeof *arena);
    if (arena == NULL) {
        status = SS_FAIL(err, SS_ERR_MEMORY, "arena: out of memory");
        goto done;
    }
    arena->bytes = plan->bytes;
    arena->file = -1;
    if (shared) arena->memory = ss_calloc_shared((size_t)plan->bytes + SS_RED_ZONE, &arena->file);
    if (!arena->memory) arena->memory = ss_calloc((size_t)plan->bytes + SS_RED_ZONE, 1);
    if (arena->memory == NULL) {
        status = SS_FAIL(err, SS_ERR_MEMORY, "arena: cannot allocate %" PRId64 " bytes", plan->bytes);
        goto done;
    }
#ifdef SS_DEBUG
    arena->marks = ss_calloc((size_t)(plan->bytes / SS_ALIGN / 8 + 1), 1);
    if (arena->marks == NULL) {
        status = SS_FAIL(err, SS_ERR_MEMORY, "arena: cannot allocate the list of regions");
        goto done;
    }
    draw_zone(arena->memory + arena->bytes);
#endif
    *out = arena;
    arena = NULL;
done:
    ss_arena_free(arena);
    return status;
}

ss_status ss_arena_create(const ss_arena_plan *plan, ss_arena **out, ss_error *err) { return create(plan, false, out, err); }
ss_status ss_arena_create_shared(const ss_arena_plan *plan, ss_arena **out, ss_error *err) { return create(plan, true, out, err); }
