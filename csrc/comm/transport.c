/* What all transports share. */
#include "comm/transport.h"

void ss_transport_free(ss_transport *t) {
    if (t && t->free) t->free(t);
}

static bool pending(const ss_request *request) {
    return request->word[0] || request->word[1] || request->word[2] || request->word[3];
}

bool ss_transport_cancel(ss_transport *t, ss_request *requests, int count) {
    bool released = true;
    for (int i = 0; i < count; i++)
        if (pending(&requests[i]) && !t->cancel(t, &requests[i])) released = false;
    return released;
}
