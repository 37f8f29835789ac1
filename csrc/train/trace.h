/* SAMESTEP_TRACE: a text line for each instruction and lane with a hash of what it wrote, so that two runs can be compared (`samestep diff`).
 * Rank r writes to the file (r = 0) or to file.r; the lines of all ranks together do not depend on ranks, threads or sweeps. */
#ifndef SS_TRAIN_TRACE_H
#define SS_TRAIN_TRACE_H
#include <stdint.h>
#include "base/status.h"

typedef struct ss_trace ss_trace;
/* *out is NULL when the environment variable is not set. */
ss_status ss_trace_open(int rank, ss_trace **out, ss_error *err);
void ss_trace_close(ss_trace *t);
/* pass: "forward", "backward", "update". lane -1: not cut by lanes. */
void ss_trace_line(ss_trace *t, int64_t step, int index, const char *pass, const char *op, const char *layer, int lane, uint64_t hash);
/* 64-bit FNV-1a over 32-bit words; goes on from `hash` (start with SS_HASH_START). */
#define SS_HASH_START 0xcbf29ce484222325u
uint64_t ss_hash(uint64_t hash, const void *data, int64_t bytes);

#endif
