/* Local training: ranks whose models train by themselves meet now and then, average their parameters and running statistics, and may take an outer step with momentum. */
#ifndef SS_TRAIN_MEETING_H
#define SS_TRAIN_MEETING_H
#include "train/model.h"

/* What the ranks keep from one meeting to the next. */
typedef struct ss_meeting ss_meeting;

/* outer: whether the mean is a step of an outer optimizer with this rate and momentum (Nesterov's); otherwise the mean itself. The parameters of m are the first start. */
ss_status ss_meeting_create(const ss_model *m, ss_transport *t, bool outer, double lr, double momentum, ss_meeting **out, ss_error *err);
void ss_meeting_free(ss_meeting *g);
/* The parameters of rank 0, its running statistics and its step reach every rank, and are the new start. Collective. */
ss_status ss_meeting_begin(ss_meeting *g, ss_model *m, ss_error *err);
/* Collective. Sums go by the ranks' tree; the bits depend on the number of ranks alone. */
ss_status ss_meeting_hold(ss_meeting *g, ss_model *m, ss_error *err);
/* [m->elements] the outer velocity; complete on every rank after ss_meeting_gather (collective); NULL without an outer optimizer. */
float *ss_meeting_velocity(ss_meeting *g);
ss_status ss_meeting_gather(ss_meeting *g, ss_error *err);
int64_t ss_meeting_bytes(const ss_meeting *g);

#endif
