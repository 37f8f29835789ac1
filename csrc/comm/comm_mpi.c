/* The transport over MPI, and the life of MPI in this process.
 *
 * A request: word[0] kind, tag and peer; word[1] and word[2] the MPI requests of its two parts (null: complete); word[3] its bytes.
 * Counts in MPI are int, so a message above `largest` bytes travels as a whole number of 1 MiB blocks and a tail: two MPI messages with one tag, which stay in order.
 */
#include "comm/comm_mpi.h"
#include <assert.h>
#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/alloc.h"

_Static_assert(sizeof(MPI_Request) <= sizeof(uintptr_t), "an MPI request must fit into one word of ss_request");

enum { KIND_SEND = 1, KIND_RECEIVE = 2, HEAD = 1, TAIL = 2 };
#define BLOCK ((size_t)1 << 20)
#define SPIN_SECONDS 20e-6 /* about one small message; longer waits let others have the processor */
#define DEFAULT_TIMEOUT 600.0
/* Open MPI sends up to 64 KiB over TCP without asking the receiver first. Longer messages wait for an answer that queues behind the data of the other direction, and then go out in fragments that
 * wait for one another: 4 MiB between two hosts at 1 Gbit/s took 1.3 to 1.9 times what its bytes take, in parts 1.05 times (benchmarks/allreduce.py). */
#define PART ((size_t)60 << 10)

typedef struct mpi_transport {
    ss_transport base; /* first: the two are converted into each other */
    MPI_Comm comm;
    MPI_Datatype block;
    size_t largest;
    bool *apart;
} mpi_transport;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static ss_status fail(ss_error *err, int code, const char *doing) {
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) snprintf(text, sizeof text, "MPI error %d", code);
    return SS_FAIL(err, SS_ERR_COMM, "%s: %s", doing, text);
}

/* ---- requests ---- */

static MPI_Request part_of(const ss_request *request, int part) {
    MPI_Request handle;
    memcpy(&handle, &request->word[part], sizeof handle);
    return handle;
}

static void set_part(ss_request *request, int part, MPI_Request handle) {
    request->word[part] = 0;
    memcpy(&request->word[part], &handle, sizeof handle);
}

static int kind_of(const ss_request *request) { return (int)(request->word[0] & 3); }
static int tag_of(const ss_request *request) { return (int)((request->word[0] >> 2) & 0x3fffffff); }
static int peer_of(const ss_request *request) { return (int)(request->word[0] >> 32); }
_Static_assert(sizeof(uintptr_t) == 8, "a request packs its peer, tag and kind into 64 bits");

static ss_status fail_request(const mpi_transport *m, const ss_request *request, int code, ss_error *err) {
    char doing[160];
    snprintf(doing, sizeof doing, "rank %d: %s %llu bytes %s rank %d (tag %d)", m->base.rank, kind_of(request) == KIND_SEND ? "sending" : "receiving",
             (unsigned long long)request->word[3], kind_of(request) == KIND_SEND ? "to" : "from", peer_of(request), tag_of(request));
    return fail(err, code, doing);
}

static size_t head_bytes(const mpi_transport *m, size_t bytes) { return bytes > m->largest ? bytes / BLOCK * BLOCK : bytes; }

static int start_part(const mpi_transport *m, int kind, char *data, int count, MPI_Datatype type, int peer, int tag, MPI_Request *handle) {
    if (kind == KIND_SEND) return MPI_Isend(data, count, type, peer, tag, m->comm, handle);
    return MPI_Irecv(data, count, type, peer, tag, m->comm, handle);
}

static bool mpi_cancel(ss_transport *t, ss_request *request);

static ss_status start(ss_transport *t, int kind, char *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    mpi_transport *m = (mpi_transport *)t;
    assert(peer >= 0 && peer < t->size && peer != t->rank && tag >= 0);
    size_t head = head_bytes(m, bytes);
    bool blocks = bytes > m->largest;
    *request = (ss_request){{(uintptr_t)kind | (uintptr_t)tag << 2 | (uintptr_t)peer << 32, 0, 0, bytes}};
    set_part(request, HEAD, MPI_REQUEST_NULL);
    set_part(request, TAIL, MPI_REQUEST_NULL);
    MPI_Request handle = MPI_REQUEST_NULL;
    int code = start_part(m, kind, data, (int)(blocks ? head / BLOCK : head), blocks ? m->block : MPI_BYTE, peer, tag, &handle);
    set_part(request, HEAD, handle);
    if (code == MPI_SUCCESS && head < bytes) {
        handle = MPI_REQUEST_NULL;
        code = start_part(m, kind, data + head, (int)(bytes - head), MPI_BYTE, peer, tag, &handle);
        set_part(request, TAIL, handle);
    }
    if (code == MPI_SUCCESS) return SS_OK;
    ss_status status = fail_request(m, request, code, err);
    mpi_cancel(t, request);
    return status;
}

static ss_status mpi_send(ss_transport *t, const void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    return start(t, KIND_SEND, (char *)data, bytes, peer, tag, request, err); /* MPI_Isend takes it as const again */
}

static ss_status mpi_receive(ss_transport *t, void *data, size_t bytes, int peer, int tag, ss_request *request, ss_error *err) {
    return start(t, KIND_RECEIVE, data, bytes, peer, tag, request, err);
}

static ss_status mpi_test(ss_transport *t, ss_request *request, bool *done, ss_error *err) {
    const mpi_transport *m = (const mpi_transport *)t;
    *done = true;
    if (!request->word[0]) return SS_OK;
    for (int part = HEAD; part <= TAIL; part++) {
        MPI_Request handle = part_of(request, part);
        if (handle == MPI_REQUEST_NULL) continue;
        MPI_Status state;
        int complete = 0;
        int code = MPI_Test(&handle, &complete, &state);
        set_part(request, part, handle);
        if (code != MPI_SUCCESS) return fail_request(m, request, code, err);
        if (!complete) {
            *done = false;
            return SS_OK;
        }
        if (kind_of(request) != KIND_RECEIVE) continue;
        size_t bytes = request->word[3], head = head_bytes(m, bytes), expected = part == HEAD ? head : bytes - head;
        MPI_Count came = 0;
        code = MPI_Get_elements_x(&state, part == HEAD && bytes > m->largest ? m->block : MPI_BYTE, &came);
        if (code != MPI_SUCCESS) return fail_request(m, request, code, err);
        if (came < 0 || (size_t)came != expected)
            return SS_FAIL(err, SS_ERR_COMM, "rank %d waits for %zu bytes from rank %d (tag %d), which sent %lld: the two run different programs or sizes",
                           t->rank, expected, peer_of(request), tag_of(request), (long long)came);
    }
    *request = (ss_request){{0}};
    return SS_OK;
}

static bool mpi_cancel(ss_transport *t, ss_request *request) {
    (void)t;
    bool released = true, running = ss_mpi_initialized() && !ss_mpi_finalized();
    for (int part = HEAD; part <= TAIL && request->word[0]; part++) {
        MPI_Request handle = part_of(request, part);
        if (handle == MPI_REQUEST_NULL) continue;
        if (!running) {
            released = false;
            continue;
        }
        /* A receive that no message has met yet is withdrawn at once. One under way, and every send, gets a short time to end by itself. */
        if (kind_of(request) == KIND_RECEIVE) MPI_Cancel(&handle);
        int complete = 0;
        for (int i = 0; i < 1000 && !complete; i++)
            if (MPI_Test(&handle, &complete, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
        if (!complete && handle != MPI_REQUEST_NULL) {
            MPI_Request_free(&handle);
            released = false;
        }
    }
    *request = (ss_request){{0}};
    return released;
}

/* ---- waiting ---- */

/* Names the peers of what is still pending, each once, as far as they fit. */
static ss_status fail_unanswered(const mpi_transport *m, const ss_request *requests, const int *peers, int count, ss_error *err) {
    enum { NAMED = 16 };
    int named[NAMED], names = 0;
    bool more = false;
    char list[NAMED * 12 + 16] = "";
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        if (!requests[i].word[0]) continue;
        bool known = false;
        for (int k = 0; k < names && !known; k++) known = named[k] == peers[i];
        if (known) continue;
        if (names == NAMED) {
            more = true;
            break;
        }
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%d", names ? ", " : "", peers[i]);
        named[names++] = peers[i];
    }
    return SS_FAIL(err, SS_ERR_RANK_FAILED,
                   "rank %d of %d waited %g s, and rank%s %s%s did not answer: it died, it is stopped or very slow, or it runs a different sequence of calls",
                   m->base.rank, m->base.size, m->base.timeout, names == 1 ? "" : "s", list, more ? " and others" : "");
}

static ss_status mpi_wait(ss_transport *t, ss_request *requests, const int *peers, int count, ss_error *err) {
    const mpi_transport *m = (const mpi_transport *)t;
    double begin = 0;
    int first = 0; /* everything before it has completed */
    for (uint64_t turn = 0;; turn++) {
        while (first < count) {
            bool done;
            ss_status status = mpi_test(t, &requests[first], &done, err);
            if (status != SS_OK) return status;
            if (!done) break;
            first++;
        }
        if (first == count) return SS_OK;
        if (turn == 0) begin = seconds();
        if (!m->base.crowded && turn % 16 != 0) continue;
        double waited = seconds() - begin;
        if (!m->base.crowded && waited < SPIN_SECONDS) continue;
        bool late = t->timeout > 0 && waited > t->timeout;
        if (late || turn % 64 == 0) { /* an error behind the first pending request must not hide until the timeout */
            for (int i = first + 1; i < count; i++) {
                bool done;
                ss_status status = mpi_test(t, &requests[i], &done, err);
                if (status != SS_OK) return status;
            }
            bool done;
            ss_status status = mpi_test(t, &requests[first], &done, err);
            if (status != SS_OK) return status;
            bool pending = false;
            for (int i = first; i < count && !pending; i++) pending = requests[i].word[0] != 0;
            if (late && pending) return fail_unanswered(m, requests + first, peers + first, count - first, err);
        }
        sched_yield();
    }
}

/* ---- creation ---- */

static void mpi_free(ss_transport *t) {
    mpi_transport *m = (mpi_transport *)t;
    if (ss_mpi_initialized() && !ss_mpi_finalized()) {
        if (m->block != MPI_DATATYPE_NULL) MPI_Type_free(&m->block);
        if (m->comm != MPI_COMM_NULL) MPI_Comm_free(&m->comm);
    }
    ss_free(m->apart);
    ss_free(m);
}

/* Duplicates comm with its error handler set to return, and leaves the handler of comm as it was. */
static int duplicate(MPI_Comm comm, MPI_Comm *copy) {
    MPI_Errhandler handler;
    int code = MPI_Comm_get_errhandler(comm, &handler);
    if (code != MPI_SUCCESS) return code;
    code = MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    if (code == MPI_SUCCESS) code = MPI_Comm_dup(comm, copy);
    MPI_Comm_set_errhandler(comm, handler);
    MPI_Errhandler_free(&handler);
    if (code == MPI_SUCCESS) code = MPI_Comm_set_errhandler(*copy, MPI_ERRORS_RETURN);
    return code;
}

/* Which ranks are on this host, and whether they are more than its processors. */
static int look_around(mpi_transport *m) {
    MPI_Comm host;
    int code = MPI_Comm_split_type(m->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    if (code != MPI_SUCCESS) return code;
    int here = 1;
    code = MPI_Comm_size(host, &here);
    m->base.crowded = here > sysconf(_SC_NPROCESSORS_ONLN);
    MPI_Group all = MPI_GROUP_NULL, near = MPI_GROUP_NULL;
    if (code == MPI_SUCCESS) code = MPI_Comm_group(m->comm, &all);
    if (code == MPI_SUCCESS) code = MPI_Comm_group(host, &near);
    for (int r = 0; r < m->base.size && code == MPI_SUCCESS; r++) {
        int place = MPI_UNDEFINED;
        code = MPI_Group_translate_ranks(all, 1, &r, near, &place);
        m->apart[r] = place == MPI_UNDEFINED;
    }
    if (all != MPI_GROUP_NULL) MPI_Group_free(&all);
    if (near != MPI_GROUP_NULL) MPI_Group_free(&near);
    MPI_Comm_free(&host);
    return code;
}

ss_status ss_transport_mpi(const void *comm, ss_transport **out, ss_error *err) {
    if (!ss_mpi_initialized() || ss_mpi_finalized())
        return SS_FAIL(err, SS_ERR_STATE, "MPI is not running: it has %s", ss_mpi_finalized() ? "been finalised" : "not been initialised");
    MPI_Comm parent = MPI_COMM_WORLD;
    if (comm) memcpy(&parent, comm, sizeof parent);
    if (parent == MPI_COMM_NULL) return SS_FAIL(err, SS_ERR_VALUE, "the MPI communicator is MPI_COMM_NULL");
    mpi_transport *m = ss_calloc(1, sizeof *m);
    if (!m) return SS_FAIL(err, SS_ERR_MEMORY, "no memory for a transport");
    *m = (mpi_transport){.comm = MPI_COMM_NULL, .block = MPI_DATATYPE_NULL, .largest = INT_MAX};
    m->base = (ss_transport){.name = "mpi", .timeout = DEFAULT_TIMEOUT, .send = mpi_send, .receive = mpi_receive, .test = mpi_test,
                             .wait = mpi_wait, .cancel = mpi_cancel, .free = mpi_free};
    int code = duplicate(parent, &m->comm);
    if (code == MPI_SUCCESS) code = MPI_Comm_rank(m->comm, &m->base.rank);
    if (code == MPI_SUCCESS) code = MPI_Comm_size(m->comm, &m->base.size);
    if (code == MPI_SUCCESS) {
        m->apart = ss_calloc((size_t)m->base.size, sizeof *m->apart);
        if (!m->apart) {
            mpi_free(&m->base);
            return SS_FAIL(err, SS_ERR_MEMORY, "no memory for a transport");
        }
        m->base.apart = m->apart;
        m->base.part = PART;
        const char *shared = getenv("SAMESTEP_SHARED_MEMORY");
        m->base.shares = !shared || strcmp(shared, "0") != 0;
        code = look_around(m);
    }
    if (code == MPI_SUCCESS) code = MPI_Type_contiguous((int)BLOCK, MPI_BYTE, &m->block);
    if (code == MPI_SUCCESS) code = MPI_Type_commit(&m->block);
    if (code != MPI_SUCCESS) {
        ss_status status = fail(err, code, "duplicating an MPI communicator");
        mpi_free(&m->base);
        return status;
    }
    *out = &m->base;
    return SS_OK;
}

ss_status ss_transport_mpi_fortran(int handle, ss_transport **out, ss_error *err) {
    if (!ss_mpi_initialized() || ss_mpi_finalized()) return ss_transport_mpi(NULL, out, err); /* which says so */
    MPI_Comm comm = MPI_Comm_f2c((MPI_Fint)handle);
    return ss_transport_mpi(&comm, out, err);
}

ss_status ss_transport_mpi_value(uintptr_t value, ss_transport **out, ss_error *err) {
    MPI_Comm comm = (MPI_Comm)value;
    return ss_transport_mpi(&comm, out, err);
}

void ss_transport_mpi_split_above(ss_transport *t, size_t bytes) {
    assert(bytes >= BLOCK && bytes <= INT_MAX); /* the tail, and a message that is not split, must fit an int */
    ((mpi_transport *)t)->largest = bytes;
}

/* ---- the life of MPI ---- */

static pid_t initialised_by; /* the process that ss_mpi_init initialised MPI in; a fork of it must not finalise */

bool ss_mpi_initialized(void) {
    int flag = 0;
    return MPI_Initialized(&flag) == MPI_SUCCESS && flag;
}

bool ss_mpi_finalized(void) {
    int flag = 0;
    return MPI_Finalized(&flag) == MPI_SUCCESS && flag;
}

ss_status ss_mpi_init(ss_error *err) {
    if (ss_mpi_finalized()) return SS_FAIL(err, SS_ERR_STATE, "MPI has been finalised and cannot start again in this process");
    if (ss_mpi_initialized()) return SS_OK;
    int level = MPI_THREAD_SINGLE;
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    if (code != MPI_SUCCESS) return fail(err, code, "initialising MPI");
    initialised_by = getpid();
    if (level < MPI_THREAD_SERIALIZED) return SS_FAIL(err, SS_ERR_COMM, "this MPI does not let several threads take turns (MPI_THREAD_SERIALIZED): level %d", level);
    return SS_OK;
}

void ss_mpi_finalize(void) {
    if (initialised_by != getpid() || ss_mpi_finalized()) return;
    MPI_Finalize();
    initialised_by = 0;
}

void ss_mpi_abort(int code) {
    if (ss_mpi_initialized() && !ss_mpi_finalized()) MPI_Abort(MPI_COMM_WORLD, code);
}

void ss_mpi_world(int *rank, int *size) {
    *rank = 0;
    *size = 1;
    if (!ss_mpi_initialized() || ss_mpi_finalized()) return;
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, size);
}

void ss_mpi_version(char *text, int size) {
    char full[MPI_MAX_LIBRARY_VERSION_STRING + 1] = "";
    int length = 0;
    if (MPI_Get_library_version(full, &length) != MPI_SUCCESS) full[0] = '\0';
    full[strcspn(full, "\r\n")] = '\0';
    if (size > 0) snprintf(text, (size_t)size, "%s", full);
}
