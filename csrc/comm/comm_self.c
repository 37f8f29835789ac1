/* The transport of a single rank. There is nobody to talk to: a message is a mistake of the caller, and says so. */
#include "base/alloc.h"
#include "comm/transport.h"

static ss_status self_send(ss_transport *t, const void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    (void)t, (void)data, (void)request;
    return SS_FAIL(err, SS_ERR_COMM, "a single rank cannot send (%zu bytes to rank %d, tag %d)", bytes, peer, tag);
}

static ss_status self_receive(ss_transport *t, void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    (void)t, (void)data, (void)request;
    return SS_FAIL(err, SS_ERR_COMM, "a single rank cannot receive (%zu bytes from rank %d, tag %d)", bytes, peer, tag);
}

static ss_status self_test(ss_transport *t, ss_request *request, bool *done, ss_error *err) {
    (void)t, (void)request, (void)err;
    *done = true; /* only empty requests exist here */
    return SS_OK;
}

static ss_status self_wait(ss_transport *t, ss_request *requests, const int *peers, int count, ss_error *err) {
    (void)t, (void)requests, (void)peers, (void)count, (void)err;
    return SS_OK;
}

static bool self_cancel(ss_transport *t, ss_request *request) {
    (void)t;
    *request = (ss_request){{0}};
    return true;
}

static void self_free(ss_transport *t) { ss_free(t); }

ss_status ss_transport_self(ss_transport **out, ss_error *err) {
    ss_transport *t = ss_calloc(1, sizeof *t);
    if (!t) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for a transport");
    *t = (ss_transport){.name = "self", .rank = 0, .size = 1, .send = self_send, .receive = self_receive, .test = self_test,
                        .wait = self_wait, .cancel = self_cancel, .free = self_free};
    *out = t;
    return SS_OK;
}
