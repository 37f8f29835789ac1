#include "train/trace.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/lanes.h"

struct ss_trace {
    FILE *file;
};

ss_status ss_trace_open(int rank, ss_trace **out, ss_error *err) {
    const char *path = getenv("SAMESTEP_TRACE");
    char name[4096];
    *out = NULL;
    if (!path || !*path) return SS_OK;
    int length = rank ? snprintf(name, sizeof name, "%s.%d", path, rank) : snprintf(name, sizeof name, "%s", path);
    if (length >= (int)sizeof name) return SS_FAIL(err, SS_ERR_VALUE, "SAMESTEP_TRACE: the path is too long");
    ss_trace *t = ss_calloc(1, sizeof *t);
    if (!t) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for a trace");
    t->file = fopen(name, "a");
    if (!t->file) {
        ss_free(t);
        return SS_FAIL(err, SS_ERR_VALUE, "SAMESTEP_TRACE: cannot write '%s': %s", name, strerror(errno));
    }
    if (ftell(t->file) == 0) fprintf(t->file, "# samestep trace, order version %d: step index pass op layer lane hash\n", SS_ORDER_VERSION);
    *out = t;
    return SS_OK;
}

void ss_trace_close(ss_trace *t) {
    if (!t) return;
    fclose(t->file);
    ss_free(t);
}

void ss_trace_line(ss_trace *t, int64_t step, int index, const char *pass, const char *op, const char *layer, int lane, uint64_t hash) {
    fprintf(t->file, "%" PRId64 "\t%d\t%s\t%s\t%s\t%d\t%016" PRIx64 "\n", step, index, pass, op, layer && *layer ? layer : "-", lane, hash);
}

uint64_t ss_hash(uint64_t hash, const void *data, int64_t bytes) {
    const unsigned char *p = data;
    for (int64_t i = 0; i + 4 <= bytes; i += 4) {
        uint32_t word;
        memcpy(&word, p + i, 4);
        hash = (hash ^ word) * 0x100000001b3u;
    }
    return hash;
}
