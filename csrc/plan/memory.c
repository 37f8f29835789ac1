/* Offsets by lifetimes: largest buffers first, each at the lowest offset where it overlaps no buffer alive at the same time
 * (greedy by size: Pisarchyk, Lee: "Efficient memory management for deep neural net inference", 2020). */
#include <stdlib.h>
#include "base/alloc.h"
#include "base/arena.h"
#include "plan/program.h"

typedef struct item {
    int index;
    int64_t bytes, first, last;
} item;

static int larger_first(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x->index - y->index;
}

/* With several sweeps a segment is run again for each of them: what lives across a segment's border must outlive the whole segment on both sides. */
static void extend_to_segments(const ss_program *p, item *i) {
    int n = p->instructions;
    while (i->first > 0 && p->instruction[i->first - 1].segment == p->instruction[i->first].segment) i->first--;
    while (i->last + 1 < n && p->instruction[i->last + 1].segment == p->instruction[ss_min(i->last, n - 1)].segment) i->last++;
}

ss_status ss_memory_plan(ss_program *p, const ss_schedule *s, ss_error *err) {
    ss_status status = SS_OK;
    item *items = ss_calloc((size_t)p->buffers + 1, sizeof *items);
    int *placed = ss_calloc((size_t)p->buffers + 1, sizeof *placed); /* indices into items, by offset */
    if (!items || !placed) {
        status = SS_FAIL(err, SS_ERR_MEMORY, "no memory to plan %d buffers", p->buffers);
        goto done;
    }
    for (int k = 0; k < p->buffers; k++) {
        ss_buffer *b = &p->buffer[k];
        item *i = &items[k];
        *i = (item){.index = k, .first = b->first, .last = b->last};
        int last = (int)ss_min(b->last, p->instructions - 1);
        b->full = s->sweeps > 1 && p->instruction[b->first].segment != p->instruction[last].segment;
        int64_t rows = b->full ? s->most_rows : s->most_sweep_rows, bytes;
        if (!ss_mul(b->sample_bytes, rows, &bytes) || !ss_add(bytes, 2 * SS_ALIGN, &bytes)) {
            status = SS_FAIL(err, SS_ERR_MEMORY, "a buffer of %lld bytes a sample for %lld samples is too large", (long long)b->sample_bytes, (long long)rows);
            goto done;
        }
        b->bytes = i->bytes = ss_round_up(bytes - 2 * SS_ALIGN, SS_ALIGN) + SS_RED_ZONE;
        if (b->full) extend_to_segments(p, i);
    }
    qsort(items, (size_t)p->buffers, sizeof *items, larger_first);
    int64_t total = 0;
    for (int k = 0; k < p->buffers; k++) {
        int64_t offset = 0;
        for (int j = 0; j < k; j++) { /* placed is sorted by offset */
            const item *other = &items[placed[j]];
            const ss_buffer *b = &p->buffer[other->index];
            if (other->last < items[k].first || other->first > items[k].last) continue;
            if (offset + items[k].bytes <= b->offset) break;
            offset = ss_max(offset, b->offset + other->bytes);
        }
        p->buffer[items[k].index].offset = offset;
        if (!ss_add(offset, items[k].bytes, &items[k].bytes)) {
            status = SS_FAIL(err, SS_ERR_MEMORY, "activations overflow the address space");
            goto done;
        }
        total = ss_max(total, items[k].bytes);
        items[k].bytes -= offset;
        int at = k;
        while (at > 0 && p->buffer[items[placed[at - 1]].index].offset > offset) {
            placed[at] = placed[at - 1];
            at--;
        }
        placed[at] = k;
    }
    p->activation_bytes = total;
done:
    ss_free(placed);
    ss_free(items);
    return status;
}
