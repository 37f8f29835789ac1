/* A parameter server without rounds: the last ranks hold the parameters and the optimizer's state, the others compute gradients. A worker sends its gradient, and goes on with what it gets back;
 * servers apply gradients in the order in which they come. Nothing here repeats bit for bit: the order is that of time.
 *
 * Sources: Dean and others: "Large scale distributed deep networks", 2012 (asynchronous); Ho and others: "More effective distributed ML via a stale synchronous parallel parameter server", 2013
 * (bounded).
 */
#ifndef SS_TRAIN_CENTRAL_H
#define SS_TRAIN_CENTRAL_H
#include "train/model.h"

typedef struct ss_central ss_central;

typedef struct ss_central_options {
    int servers;       /* the last ranks of the transport; server k holds part k of the parameters, cut by size */
    int64_t staleness; /* so many steps a worker may be ahead of the slowest; negative: any number */
} ss_central_options;

/* m: of this rank alone, with an elementwise optimizer. Compression as given to m's options is not used here; `compression` (NULL: none) is what pushes are packed with. */
ss_status ss_central_create(const ss_model *m, ss_transport *t, const ss_central_options *o, const ss_compression_options *compression, ss_central **out, ss_error *err);
void ss_central_free(ss_central *c);

int ss_central_workers(const ss_central *c);
bool ss_central_serves(const ss_central *c);

/* Worker: sends the gradient ([m->trainable], changed by compression) with m's hyper-parameters, and receives the parameters. m->step grows by one. */
ss_status ss_central_push(ss_central *c, ss_model *m, float *gradient, ss_error *err);
/* Worker: no more pushes in this run. */
ss_status ss_central_leave(ss_central *c, ss_error *err);
/* Server: answers pushes, until `pushes` of them have been applied or, where that is negative, until every worker has left. A worker that has not come yet is not waited for by the others;
 * once it has, they let it catch up to the bound: all make the same number of steps. */
ss_status ss_central_serve(ss_central *c, ss_model *m, int64_t pushes, ss_error *err);
/* All ranks: the servers' parameters and optimizer state reach every rank, and the running statistics that came last. */
ss_status ss_central_gather(ss_central *c, ss_model *m, bool slots, ss_error *err);
/* All ranks: rank 0's parameters, running statistics and step. */
ss_status ss_central_begin(ss_central *c, ss_model *m, ss_error *err);

typedef struct ss_central_report {
    int64_t pushes, bytes;      /* of this rank: sent or applied; bytes a push */
    int64_t most_behind;        /* server: updates by others between a worker's pull and its push, at most */
    double mean_behind;
    int64_t waits;              /* server: answers that were held back */
} ss_central_report;
ss_central_report ss_central_tell(const ss_central *c);

#endif
