#include "binding/binding.h"
#include <string.h>
#include <unistd.h>
#include "base/alloc.h"
#include "comm/collective.h"
#include "comm/comm_mpi.h"
#include "comm/signature.h"

static long environment(const char *name) {
    const char *text = getenv(name);
    return text && *text ? strtol(text, NULL, 10) : -1;
}

/* The world: MPI when a launcher started this process (or MPI already runs, for example through mpi4py), else one rank.
 * MPI_Init outside a launcher would leave a file in /dev/shm each time. */
static ss_status world(ss_transport **out, ss_error *err) {
    long launched = environment("OMPI_COMM_WORLD_SIZE");
    long owner = environment("SAMESTEP_MPI_PID");
    bool child = owner > 0 && owner != (long)getpid(); /* started by a rank: its place in the job is taken by its parent */
    bool ours = !child && (launched > 0 || environment("PMIX_RANK") >= 0);
    long foreign = environment("PMI_SIZE") > 1 ? environment("PMI_SIZE") : environment("MPI_LOCALNRANKS");
    if (!ours && !child && foreign > 1)
        return SS_FAIL(err, SS_ERR_VALUE,
                       "this process was started by the launcher of another MPI (%ld ranks by PMI_SIZE or MPI_LOCALNRANKS), which samestep's Open MPI cannot join: "
                       "every process would believe to be rank 0 of 1. Start with 'samestep run -n %ld script.py'", foreign, foreign);
    if (child || (!ours && !ss_mpi_initialized())) return ss_transport_self(out, err);
    ss_status status = ss_mpi_init(err);
    if (status != SS_OK) return status;
    int rank, size;
    ss_mpi_world(&rank, &size);
    if (launched > 0 && launched != size)
        return SS_FAIL(err, SS_ERR_VALUE,
                       "the launcher says %ld ranks (OMPI_COMM_WORLD_SIZE), but MPI sees %d: mpiexec and the library belong to different MPI installations. "
                       "Start with 'samestep run -n %ld script.py', and see 'samestep doctor'", launched, size, launched);
    status = ss_transport_mpi(NULL, out, err);
    if (status == SS_OK) {
        char pid[32];
        snprintf(pid, sizeof pid, "%ld", (long)getpid());
        setenv("SAMESTEP_MPI_PID", pid, 1);
    }
    return status;
}

static PyObject *comm_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"handle", "single", NULL};
    PyObject *handle = Py_None;
    int single = 0;
    ss_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$p:Comm", names, &handle, &single)) return NULL;
    void *address = NULL;
    if (handle != Py_None && !(address = PyLong_AsVoidPtr(handle))) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "handle: the address of a communicator cannot be 0");
        return NULL;
    }
    comm_object *self = (comm_object *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    ss_status status;
    if (single) {
        status = ss_transport_self(&self->transport, &err);
    } else if (address) {
        status = ss_mpi_initialized() ? ss_transport_mpi(address, &self->transport, &err)
                                      : SS_FAIL(&err, SS_ERR_VALUE, "handle: MPI has not been initialised");
    } else {
        status = world(&self->transport, &err);
    }
    const char *seconds = getenv("SAMESTEP_TIMEOUT");
    if (status == SS_OK && seconds && *seconds) {
        self->transport->timeout = strtod(seconds, NULL);
        if (!(self->transport->timeout > 0)) status = SS_FAIL(&err, SS_ERR_VALUE, "SAMESTEP_TIMEOUT='%s' must be a number of seconds above 0", seconds);
    }
    if (status != SS_OK) {
        binding_raise(binding_state_of((PyObject *)self), &err);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void comm_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    ss_transport_free(((comm_object *)object)->transport);
    type->tp_free(object);
    Py_DECREF(type);
}

static ss_transport *transport_of(PyObject *self) { return ((comm_object *)self)->transport; }

static PyObject *comm_barrier(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_error err;
    ss_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ss_signature_check(transport_of(self), "a barrier", -1, -1, &err);
    if (status == SS_OK) status = ss_barrier(transport_of(self), &err);
    Py_END_ALLOW_THREADS
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *comm_broadcast(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"data", "root", NULL};
    PyObject *data;
    int root = 0;
    ss_error err;
    ss_status status;
    ss_transport *t = transport_of(self);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|i", names, &data, &root)) return NULL;
    if (root < 0 || root >= t->size) return PyErr_Format(PyExc_ValueError, "root=%d is not one of the %d ranks", root, t->size);
    /* -1 tells the other ranks, which are waiting, that the root has nothing to send. */
    int64_t size = t->rank == root ? (PyBytes_Check(data) ? PyBytes_GET_SIZE(data) : -1) : 0;
    Py_BEGIN_ALLOW_THREADS
    status = ss_signature_check(t, "a broadcast", -1, root, &err);
    if (status == SS_OK) status = ss_broadcast(t, &size, sizeof size, root, &err);
    Py_END_ALLOW_THREADS
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    if (size < 0) return PyErr_Format(PyExc_TypeError, "data must be bytes on the root");
    PyObject *bytes = t->rank == root ? Py_NewRef(data) : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!bytes) return NULL;
    char *buffer = PyBytes_AS_STRING(bytes);
    Py_BEGIN_ALLOW_THREADS
    status = ss_broadcast(t, buffer, (size_t)size, root, &err);
    Py_END_ALLOW_THREADS
    if (status == SS_OK) return bytes;
    Py_DECREF(bytes);
    return binding_raise(binding_state_of(self), &err);
}

static PyObject *comm_allgather(PyObject *self, PyObject *data) {
    ss_transport *t = transport_of(self);
    ss_error err;
    ss_status status = SS_OK;
    PyObject *list = NULL;
    if (!PyBytes_Check(data)) return PyErr_Format(PyExc_TypeError, "data must be bytes");
    size_t ranks = (size_t)t->size, total = 0;
    uint64_t *length = ss_calloc(ranks, sizeof *length);
    size_t *offset = ss_calloc(2 * ranks, sizeof *offset), *size = offset ? offset + ranks : NULL;
    char *all = NULL;
    if (!length || !offset) {
        PyErr_NoMemory();
        goto done;
    }
    for (size_t r = 0; r < ranks; r++) {
        offset[r] = r * sizeof *length;
        size[r] = sizeof *length;
    }
    length[t->rank] = (uint64_t)PyBytes_GET_SIZE(data);
    Py_BEGIN_ALLOW_THREADS
    status = ss_signature_check(t, "an all-gather", -1, -1, &err);
    if (status == SS_OK) status = ss_allgather(t, length, offset, size, &err);
    Py_END_ALLOW_THREADS
    if (status != SS_OK) goto done;
    for (size_t r = 0; r < ranks; r++) {
        offset[r] = total;
        size[r] = (size_t)length[r];
        total += size[r];
    }
    all = ss_calloc(total + 1, 1);
    if (!all) {
        PyErr_NoMemory();
        goto done;
    }
    memcpy(all + offset[t->rank], PyBytes_AS_STRING(data), size[t->rank]);
    Py_BEGIN_ALLOW_THREADS
    status = ss_allgather(t, all, offset, size, &err);
    Py_END_ALLOW_THREADS
    if (status != SS_OK) goto done;
    list = PyList_New(0);
    for (size_t r = 0; list && r < ranks; r++) {
        PyObject *item = PyBytes_FromStringAndSize(all + offset[r], (Py_ssize_t)size[r]);
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
done:
    ss_free(all);
    ss_free(offset);
    ss_free(length);
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    return list;
}

static PyObject *comm_rank(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(transport_of(self)->rank);
}

static PyObject *comm_size(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(transport_of(self)->size);
}

static PyObject *comm_name(PyObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(transport_of(self)->name);
}

static PyObject *comm_timeout(PyObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(transport_of(self)->timeout);
}

static int comm_set_timeout(PyObject *self, PyObject *value, void *unused) {
    (void)unused;
    double seconds = value ? PyFloat_AsDouble(value) : -1;
    if (PyErr_Occurred()) return -1;
    if (!(seconds > 0)) {
        PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds above 0");
        return -1;
    }
    transport_of(self)->timeout = seconds;
    return 0;
}

static PyGetSetDef getset[] = {
    {"rank", comm_rank, NULL, "This process's rank, from 0.", NULL},
    {"size", comm_size, NULL, "Ranks.", NULL},
    {"name", comm_name, NULL, "The transport: 'self' or 'mpi'.", NULL},
    {"timeout", comm_timeout, comm_set_timeout, "Seconds that a wait for another rank may take.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"barrier", comm_barrier, METH_NOARGS, "barrier($self, /)\n--\n\nReturns when all ranks have called it."},
    {"broadcast", (PyCFunction)(void (*)(void))comm_broadcast, METH_VARARGS | METH_KEYWORDS,
     "broadcast($self, /, data, root=0)\n--\n\nThe root's bytes, on every rank."},
    {"allgather", comm_allgather, METH_O, "allgather($self, data, /)\n--\n\nThe bytes of all ranks, in their order."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Comm(handle=None, *, single=False)\n--\n\n"
                "A set of ranks: the world, an MPI communicator given by its address, or (single=True) this rank alone."},
    {Py_tp_new, comm_new},
    {Py_tp_dealloc, comm_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};
PyType_Spec comm_spec = {"samestep._core.Comm", sizeof(comm_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
