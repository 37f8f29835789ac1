/* From arrays in memory to the input buffers of a session: gathers rows by index and converts their type. */
#ifndef SS_TRAIN_LOADER_H
#define SS_TRAIN_LOADER_H
#include "train/session.h"

typedef enum ss_type { SS_T_BOOL, SS_T_I8, SS_T_U8, SS_T_I16, SS_T_U16, SS_T_I32, SS_T_U32, SS_T_I64, SS_T_U64, SS_T_F32, SS_T_F64 } ss_type;

/* Rows of an array: samples are contiguous, rows may be any stride apart. Native byte order, aligned. */
typedef struct ss_array {
    const char *data;
    ss_type type;
    int64_t rows, row_stride; /* bytes */
    int64_t count;            /* elements a row */
    const char *name;         /* for messages */
} ss_array;

/* Writes rows index[0..rows) (index NULL: first..first+rows) as float or int32 to out. Integers that do not fit and indices outside the array are SS_ERR_VALUE;
 * floats where integers are wanted are SS_ERR_DTYPE. channels C > 1: rows are (C, positions) and are written as (positions, C). */
ss_status ss_gather(const ss_array *a, const int64_t *index, int64_t first, int64_t rows, ss_dtype wanted, int64_t channels, void *out, ss_error *err);

/* One run over arrays in memory: batch number s holds the positions [s*batch, min((s+1)*batch, count)) of the order. */
typedef struct ss_feed {
    const ss_array *array; /* one per input of the graph */
    const ss_dtype *wanted;
    int arrays;
    const int64_t *order;  /* NULL: rows as they lie */
    int64_t count, batch;
    const struct ss_mix *mix; /* NULL: samples as they are */
} ss_feed;

/* Fills input set `set` with this rank's rows of batch number `step`; writes the size of the global batch. */
ss_status ss_feed_load(const ss_feed *feed, ss_session *s, int set, int64_t step, int64_t *batch, ss_error *err);

/* A thread that loads the batches of a feed ahead of their use, into the two input sets in turn. */
typedef struct ss_loader ss_loader;
ss_status ss_loader_create(ss_session *s, ss_loader **out, ss_error *err);
/* False in a process that was forked after creation: threads do not come along. Only ss_loader_free remains then. */
bool ss_loader_alive(const ss_loader *l);
/* Ends the thread. NULL is allowed. */
void ss_loader_free(ss_loader *l);
/* Begins steps [first, first + steps) of a feed that lives until ss_loader_stop. */
void ss_loader_start(ss_loader *l, const ss_feed *feed, int64_t first, int64_t steps);
/* Waits for the next batch; the set stays valid until the next call. */
ss_status ss_loader_next(ss_loader *l, int *set, int64_t *batch, ss_error *err);
/* Waits until the thread no longer touches the feed. */
void ss_loader_stop(ss_loader *l);

#endif
