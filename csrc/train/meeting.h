/* Local training: ranks whose models train by themselves meet now and then, average their parameters and running statistics, and may take an outer step with momentum. */
#ifndef SS_TRAIN_MEETING_H
#define SS_TRAIN_MEETING_H
#include "train/model.h"

/* What the ranks keep from one meeting to the next. */
typedef struct ss_meeting ss_meeting;

/* host_ranks: so many consecutive ranks meet among themselves in ss_meeting_hold_host; 0: those of a host (runs of consecutive ones). outer: whether the mean is a step of an outer optimizer with this rate and momentum (Nesterov's); otherwise the mean itself. The parameters of m are the first start. */
ss_status ss_meeting_create(const ss_model *m, ss_transport *t, bool outer, double lr, double momentum, int host_ranks, ss_meeting **out, ss_error *err);
void ss_meeting_free(ss_meeting *g);
/* The parameters of rank 0, its running statistics and its step reach every rank, and are the new start. Collective. */
ss_status ss_meeting_begin(ss_meeting *g, ss_model *m, ss_error *err);
/* Collective. Sums go by the ranks' tree; the bits depend on the number of ranks alone. */
ss_status ss_meeting_hold(ss_meeting *g, ss_model *m, ss_error *err);
/* The ranks of a host alone average their parameters and running statistics; the outer optimizer sees the next whole meeting. Collective on the host: others are not spoken to. */
ss_status ss_meeting_hold_host(ss_meeting *g, ss_model *m, ss_error *err);
/* [m->elements] the outer velocity; complete on every rank after ss_meeting_gather (collective); NULL without an outer optimizer. */
float *ss_meeting_velocity(ss_meeting *g);
ss_status ss_meeting_gather(ss_meeting *g, ss_error *err);
int64_t ss_meeting_bytes(const ss_meeting *g);

#endif
