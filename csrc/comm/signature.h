/* What a rank is about to do with all the others. Every entry point at which ranks come together compares it first, so that ranks whose programs have parted say so at once, instead of waiting for each
 * other's messages or taking one kind for another. */
#ifndef SS_COMM_SIGNATURE_H
#define SS_COMM_SIGNATURE_H
#include "comm/transport.h"

/* doing: "a training step", "a broadcast"; at most 31 characters. count: what must be equal on all ranks (elements, bytes), or -1; root: or -1. Collective; small messages to all other ranks, or above 8 ranks to ceil(log2 ranks) of them.
 * SS_ERR_COMM on every rank when two of them differ; it names two that do. Nothing is under way then, and the transport stays usable. */
ss_status ss_signature_check(ss_transport *t, const char *doing, int64_t count, int root, ss_error *err);

#endif
