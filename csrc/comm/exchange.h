/* The exchange of gradients: reduce-scatter in lane order, and all-gather of what the owners made of it.
 *
 * The gradient arena is cut into buckets; each bucket is cut into one piece per rank, at multiples of 16 elements. The owner of a piece receives every rank's partials (blocks of the lane tree) and
 * folds them with the program of base/lanes.h, so the result has the bits of the lane tree at any rank count. The caller updates its pieces (optimizer) and ss_exchange_gather sends the parameters out.
 *
 * Consecutive ranks of one host are a group: between hosts it sends and receives as one. Its deputy for an owner elsewhere folds the group's partials as far as the tree allows and sends those, so a
 * byte leaves a host once, and the deputy's copy of that owner's result serves the group.
 *
 * Ranks of one host that have been introduced to each other send no messages: the owner of a piece reads the others' partials where they lie and folds them from there, and the others read
 * the owner's result. Flags in shared memory, a line for each bucket, tell how far a rank has come in its round.
 *
 * Written as a state machine without blocking calls: post -> ready? -> fold -> gather -> done?, so a simulator can interleave 1,000 ranks in one thread, and a plan can overlap it with compute.
 */
#ifndef SS_COMM_EXCHANGE_H
#define SS_COMM_EXCHANGE_H
#include "base/lanes.h"
#include "base/shared.h"
#include "comm/transport.h"

typedef struct ss_exchange ss_exchange;

/* elements: length of the gradient vector. bucket_begin[buckets + 1]: cuts of it from 0 to elements, multiples of 16 (the last may be any), in the order in which buckets
 * will be posted. lanes: V. owners: so many of the last ranks own pieces; 0: all. All ranks give equal arguments. Allocates all it will need, for every batch size: later calls allocate nothing.
 * Memory: staging for every other rank's blocks of this rank's piece of each bucket, the requests, and tables of V entries.
 * SS_ERR_VALUE: cuts that do not fit, more ranks than lanes, too many lanes or buckets. The transport must outlive the exchange. */
ss_status ss_exchange_create_on(ss_transport *t, int64_t elements, const int64_t *bucket_begin, int buckets, int32_t lanes, int owners, ss_exchange **out, ss_error *err);
/* All ranks own pieces. */
static inline ss_status ss_exchange_create(ss_transport *t, int64_t elements, const int64_t *bucket_begin, int buckets, int32_t lanes, ss_exchange **out, ss_error *err) {
    return ss_exchange_create_on(t, elements, bucket_begin, buckets, lanes, 0, out, err);
}
/* Requests that are still pending after a failure are given up. NULL is allowed. Free it before the partials and the data of the round. */
void ss_exchange_free(ss_exchange *x);
/* Bytes that create holds for staging and requests. */
int64_t ss_exchange_bytes(const ss_exchange *x);

/* Memory in which the partials and the data of all coming rounds lie (a shared arena or a part of it; file: its descriptor). At most SS_EXCHANGE_REGIONS, before the introduction. */
enum { SS_EXCHANGE_REGIONS = 3 };
void ss_exchange_share(ss_exchange *x, const void *memory, size_t bytes, int file);
/* What the neighbours need to know of this rank. */
typedef struct ss_exchange_card {
    int32_t host; /* equal on the ranks that can read one another; any rank's number */
    ss_card region[1 + SS_EXCHANGE_REGIONS];
} ss_exchange_card;
ss_exchange_card ss_exchange_card_of(const ss_exchange *x, int host);
/* Maps the memory of the ranks of this host; cards[r] is rank r's. SS_ERR_STATE: one of them cannot be mapped; also SS_ERR_MEMORY: nothing has changed then. Local: all ranks must succeed, or all
 * disconnect. */
ss_status ss_exchange_connect(ss_exchange *x, const ss_exchange_card *cards, ss_error *err);
/* From now on messages go from every rank to every other one again. */
ss_status ss_exchange_disconnect(ss_exchange *x, ss_error *err);
/* Collective, between rounds: all exchange cards and connect; where one cannot, all go on with messages. */
ss_status ss_exchange_introduce(ss_exchange *x, ss_error *err);
/* Other ranks whose memory this one reads directly. */
int ss_exchange_neighbours(const ss_exchange *x);

/* Tells which lanes hold samples in the coming round (batch decides): every rank derives all ranks' blocks from it. The round before must have ended. */
void ss_exchange_begin(ss_exchange *x, int64_t batch);
/* Blocks that this rank owes in this round; none when its lanes hold no samples. They are the blocks of ss_fold_plan over its lanes that hold samples, in order. */
int ss_exchange_blocks(const ss_exchange *x);
/* The piece of a bucket this rank owns: elements [*begin, *end). */
void ss_exchange_piece(const ss_exchange *x, int bucket, int rank, int64_t *begin, int64_t *end);

/* Bucket is complete on this rank. partials + j * block_stride is block j's whole gradient vector; it must stay untouched until the round ends (but for the
 * own piece, which is sent to nobody: a fold may overwrite it). Buckets are posted in any order, each once a round. After a failure only ss_exchange_free remains. */
ss_status ss_exchange_post(ss_exchange *x, int bucket, const float *partials, int64_t block_stride, ss_error *err);
/* *ready: all partials of this rank's piece have arrived. */
ss_status ss_exchange_poll(ss_exchange *x, int bucket, bool *ready, ss_error *err);
/* Lets messages move, without waiting: for the time between posts, when the rank computes. A failure is told by the next wait. */
void ss_exchange_progress(ss_exchange *x);
/* Blocks until then. */
ss_status ss_exchange_wait(ss_exchange *x, int bucket, ss_error *err);
/* Folds elements [begin, end) of the own piece into out[begin..end) (out is indexed like the gradient vector). Splits freely over threads.
 * out may be the vector of one of the own blocks. Folds run in the floating-point mode of the kernels (the pool's flush-to-zero): elsewhere denormals would differ. */
void ss_exchange_fold(const ss_exchange *x, int bucket, int64_t begin, int64_t end, float *out);
/* Starts the all-gather of bucket: own piece of vector `data` goes out, the other pieces come in. data must stay untouched until the
 * round ends and must not overlap the partials, which may still be on their way out. */
ss_status ss_exchange_gather(ss_exchange *x, int bucket, float *data, ss_error *err);
/* *done: all gathers posted so far and all sends have completed; the round has ended. */
ss_status ss_exchange_poll_end(ss_exchange *x, bool *done, ss_error *err);
ss_status ss_exchange_end(ss_exchange *x, ss_error *err);

#endif
