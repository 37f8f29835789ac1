/* Blocking collectives over a transport. Every rank calls them in the same order with the same sizes. */
#ifndef SS_COMM_COLLECTIVE_H
#define SS_COMM_COLLECTIVE_H
#include "comm/transport.h"

ss_status ss_barrier(ss_transport *t, ss_error *err);
/* data of `root` reaches all. Binomial tree. */
ss_status ss_broadcast(ss_transport *t, void *data, size_t bytes, int root, ss_error *err);
/* Rank r contributes bytes[r] bytes that already lie at data + offset[r]; afterwards every rank holds all parts. */
ss_status ss_allgather(ss_transport *t, void *data, const size_t *offset, const size_t *bytes, ss_error *err);

#endif
