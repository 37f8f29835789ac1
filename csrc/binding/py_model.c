#include "binding/binding.h"
#include <string.h>
#include "base/alloc.h"
#include "base/sha256.h"

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"graph", "comm", "optimizer", "hypers", "threads", "pin", "backend", "isa", "seed", "bf16", NULL};
    graph_object *graph;
    comm_object *comm;
    const char *optimizer = NULL, *backend = "native", *isa = NULL;
    PyObject *hypers = NULL;
    int threads = 1, pin = 0, bf16 = 0, count = 0;
    unsigned long long seed = 0;
    ss_attr *attrs = NULL;
    ss_error err;
    binding_state *state = PyType_GetModuleState(type);
    if (!state) return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!|$zOipszKp:Model", names, state->graph, &graph, state->comm, &comm, &optimizer, &hypers, &threads,
                                     &pin, &backend, &isa, &seed, &bf16))
        return NULL;
    ss_model_options o = {.optimizer = optimizer, .threads = threads, .pin = pin, .bf16 = bf16, .seed = seed};
    if (threads < 1 || threads > 1024) return PyErr_Format(PyExc_ValueError, "threads=%d must be between 1 and 1024", threads);
    if (!strcmp(backend, "openblas")) o.backend = SS_BACKEND_OPENBLAS;
    else if (strcmp(backend, "native")) return PyErr_Format(PyExc_ValueError, "backend must be 'native' or 'openblas', not '%s'", backend);
    if (ss_isa_parse(isa ? isa : getenv("SAMESTEP_ISA"), &o.isa, &err) != SS_OK) return binding_raise(state, &err);
    if (binding_attrs(hypers, &attrs, &count)) return NULL;
    o.hyper = attrs;
    o.hypers = count;
    model_object *self = (model_object *)type->tp_alloc(type, 0);
    if (self) {
        self->comm = (comm_object *)Py_NewRef((PyObject *)comm);
        if (ss_model_create(graph->graph, comm->transport, &o, &self->model, &err) != SS_OK) {
            binding_raise(state, &err);
            Py_CLEAR(self);
        } else {
            graph->frozen = true;
        }
    }
    ss_free(attrs);
    return (PyObject *)self;
}

static void model_dealloc(PyObject *object) {
    model_object *self = (model_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    ss_model_free(self->model);
    Py_XDECREF((PyObject *)self->comm);
    type->tp_free(object);
    Py_DECREF(type);
}

static ss_model *model_of(PyObject *self) { return ((model_object *)self)->model; }

static PyObject *model_names(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_model *m = model_of(self);
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < m->parameters + m->states; k++) {
        PyObject *name = PyUnicode_FromString(k < m->parameters ? m->parameter[k].name : m->state[k - m->parameters].name);
        if (!name || PyList_Append(list, name)) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

/* A parameter or buffer and where it lies. */
static const ss_parameter *find(PyObject *self, const char *name, float **at) {
    ss_model *m = model_of(self);
    int k = ss_model_find(m, name);
    if (k >= 0) {
        *at = m->values + m->parameter[k].offset;
        return &m->parameter[k];
    }
    if ((k = ss_model_find_state(m, name)) >= 0) {
        *at = m->states_at + m->state[k].offset;
        return &m->state[k];
    }
    PyErr_Format(PyExc_KeyError, "the model has no parameter or buffer '%s'", name);
    return NULL;
}

static PyObject *view(PyObject *owner, const ss_shape *shape, float *data) {
    npy_intp dims[SS_MAX_RANK];
    for (int k = 0; k < shape->rank; k++) dims[k] = shape->dim[k];
    PyObject *array = PyArray_SimpleNewFromData(shape->rank, dims, NPY_FLOAT, data);
    if (!array) return NULL;
    PyArray_CLEARFLAGS((PyArrayObject *)array, NPY_ARRAY_WRITEABLE);
    if (PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(owner)) < 0) Py_CLEAR(array);
    return array;
}

static PyObject *model_get(PyObject *self, PyObject *name) {
    float *at;
    const char *text = PyUnicode_AsUTF8(name);
    const ss_parameter *p = text ? find(self, text, &at) : NULL;
    return p ? view(self, &p->shape, at) : NULL;
}

static PyObject *model_set(PyObject *self, PyObject *args) {
    const char *name;
    PyObject *value;
    float *at;
    ss_error err;
    if (!PyArg_ParseTuple(args, "sO", &name, &value)) return NULL;
    const ss_parameter *p = find(self, name, &at);
    PyArrayObject *a = p ? binding_float_array(value, &p->shape, name) : NULL;
    if (!a) return NULL;
    if (ss_model_enter(model_of(self), &err) != SS_OK) {
        Py_DECREF(a);
        return binding_raise(binding_state_of(self), &err);
    }
    memmove(at, PyArray_DATA(a), (size_t)p->count * 4);
    ss_model_leave(model_of(self));
    Py_DECREF(a);
    Py_RETURN_NONE;
}

static PyObject *model_broadcast(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_error err;
    ss_status status;
    ss_model *m = model_of(self);
    if (ss_model_enter(m, &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_BEGIN_ALLOW_THREADS
    status = ss_model_broadcast(m, &err);
    Py_END_ALLOW_THREADS
    ss_model_leave(m);
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static void hash_parameter(ss_sha256 *h, const ss_parameter *p, const float *at) {
    ss_sha256_add(h, p->name, strlen(p->name) + 1);
    for (int k = 0; k < p->shape.rank; k++) ss_sha256_add(h, &p->shape.dim[k], sizeof p->shape.dim[k]);
    ss_sha256_add(h, at + p->offset, (size_t)p->count * 4);
}

static PyObject *model_fingerprint(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_model *m = model_of(self);
    ss_sha256 h;
    char text[65];
    int32_t version = SS_ORDER_VERSION;
    ss_sha256_start(&h);
    ss_sha256_add(&h, &version, sizeof version);
    for (int k = 0; k < m->parameters; k++) hash_parameter(&h, &m->parameter[k], m->values);
    for (int k = 0; k < m->states; k++) hash_parameter(&h, &m->state[k], m->states_at);
    ss_sha256_hex(&h, text);
    return PyUnicode_FromString(text);
}

static PyObject *model_hyper(PyObject *self, PyObject *name) {
    const char *text = PyUnicode_AsUTF8(name);
    if (!text) return NULL;
    int at = ss_model_find_hyper(model_of(self), text);
    if (at < 0) return PyErr_Format(PyExc_KeyError, "the optimizer has no argument '%s'", text);
    return PyFloat_FromDouble(model_of(self)->hyper[at]);
}

static PyObject *model_set_hyper(PyObject *self, PyObject *args) {
    const char *name;
    double value;
    ss_error err;
    if (!PyArg_ParseTuple(args, "sd", &name, &value)) return NULL;
    ss_model *m = model_of(self);
    if (ss_model_enter(m, &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    ss_status status = ss_model_set_hyper(m, name, value, &err);
    ss_model_leave(m);
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *model_slots(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_model *m = model_of(self);
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < m->slots; k++) {
        PyObject *name = PyUnicode_FromString(m->optim->slot_names[k]);
        if (!name || PyList_Append(list, name)) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static const ss_parameter *find_slot(PyObject *self, const char *slot, const char *name, float **at) {
    ss_model *m = model_of(self);
    int k = 0, p = ss_model_find(m, name);
    while (k < m->slots && strcmp(m->optim->slot_names[k], slot)) k++;
    if (k == m->slots) {
        PyErr_Format(PyExc_KeyError, "the optimizer keeps no '%s'", slot);
        return NULL;
    }
    if (p < 0 || !m->parameter[p].trainable) {
        PyErr_Format(PyExc_KeyError, "the model has no trainable parameter '%s'", name);
        return NULL;
    }
    *at = m->slot[k] + m->parameter[p].offset;
    return &m->parameter[p];
}

static PyObject *model_get_slot(PyObject *self, PyObject *args) {
    const char *slot, *name;
    float *at;
    npy_intp dims[SS_MAX_RANK];
    if (!PyArg_ParseTuple(args, "ss", &slot, &name)) return NULL;
    const ss_parameter *p = find_slot(self, slot, name, &at);
    if (!p) return NULL;
    for (int k = 0; k < p->shape.rank; k++) dims[k] = p->shape.dim[k];
    PyObject *copy = PyArray_SimpleNew(p->shape.rank, dims, NPY_FLOAT);
    if (copy) memcpy(PyArray_DATA((PyArrayObject *)copy), at, (size_t)p->count * 4);
    return copy;
}

static PyObject *model_set_slot(PyObject *self, PyObject *args) {
    const char *slot, *name;
    PyObject *value;
    float *at;
    ss_error err;
    if (!PyArg_ParseTuple(args, "ssO", &slot, &name, &value)) return NULL;
    const ss_parameter *p = find_slot(self, slot, name, &at);
    PyArrayObject *a = p ? binding_float_array(value, &p->shape, name) : NULL;
    if (!a) return NULL;
    if (ss_model_enter(model_of(self), &err) != SS_OK) {
        Py_DECREF(a);
        return binding_raise(binding_state_of(self), &err);
    }
    memmove(at, PyArray_DATA(a), (size_t)p->count * 4);
    ss_model_leave(model_of(self));
    Py_DECREF(a);
    Py_RETURN_NONE;
}

static PyObject *model_bytes(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_model *m = model_of(self);
    return Py_BuildValue("{s:L,s:L,s:L,s:L}", "parameters", (long long)(4 * m->elements), "buffers", (long long)(4 * m->state_elements), "optimizer",
                         (long long)(4 * m->slots * m->trainable), "total", (long long)ss_arena_bytes(m->arena));
}

static PyObject *model_step(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(model_of(self)->step);
}

static int set_whole(PyObject *value, const char *name, unsigned long long *out) {
    if (!value) {
        PyErr_Format(PyExc_AttributeError, "%s cannot be deleted", name);
        return -1;
    }
    *out = PyLong_AsUnsignedLongLong(value);
    return PyErr_Occurred() ? -1 : 0;
}

static int model_set_step(PyObject *self, PyObject *value, void *unused) {
    (void)unused;
    unsigned long long step;
    if (set_whole(value, "step", &step)) return -1;
    if (step > INT64_MAX / 2) {
        PyErr_Format(PyExc_ValueError, "step=%llu is too large", step);
        return -1;
    }
    model_of(self)->step = (int64_t)step;
    return 0;
}

static PyObject *model_seed(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(model_of(self)->seed);
}

static int model_set_seed(PyObject *self, PyObject *value, void *unused) {
    (void)unused;
    unsigned long long seed;
    if (set_whole(value, "seed", &seed)) return -1;
    model_of(self)->seed = seed;
    return 0;
}

static PyObject *model_threads(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(model_of(self)->threads);
}

static PyObject *model_backend(PyObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(model_of(self)->backend == SS_BACKEND_OPENBLAS ? "openblas" : "native");
}

static PyObject *model_isa(PyObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(ss_isa_name(model_of(self)->isa));
}

static PyObject *model_comm(PyObject *self, void *unused) {
    (void)unused;
    return Py_NewRef((PyObject *)((model_object *)self)->comm);
}

static PyGetSetDef getset[] = {
    {"step", model_step, model_set_step, "Updates made so far.", NULL},
    {"seed", model_seed, model_set_seed, "Seed of the random numbers of steps.", NULL},
    {"threads", model_threads, NULL, "Threads of this rank.", NULL},
    {"backend", model_backend, NULL, "'native' or 'openblas'.", NULL},
    {"isa", model_isa, NULL, "'scalar', 'avx2' or 'avx512'.", NULL},
    {"comm", model_comm, NULL, "The ranks that train together.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"names", model_names, METH_NOARGS, "names($self, /)\n--\n\nNames of parameters and buffers."},
    {"get", model_get, METH_O, "get($self, name, /)\n--\n\nA read-only view of a parameter or buffer."},
    {"set", model_set, METH_VARARGS, "set($self, name, value, /)\n--\n\nCopies values into a parameter or buffer."},
    {"broadcast", model_broadcast, METH_NOARGS,
     "broadcast($self, /)\n--\n\nRank 0's state reaches every rank (collective)."},
    {"fingerprint", model_fingerprint, METH_NOARGS,
     "fingerprint($self, /)\n--\n\nSHA-256 over names, shapes, bits and the version of the order of sums."},
    {"hyper", model_hyper, METH_O, "hyper($self, name, /)\n--\n\nAn argument of the optimizer."},
    {"set_hyper", model_set_hyper, METH_VARARGS,
     "set_hyper($self, name, value, /)\n--\n\nChanges an argument of the optimizer from the next step on."},
    {"slots", model_slots, METH_NOARGS, "slots($self, /)\n--\n\nNames of the optimizer's state."},
    {"get_slot", model_get_slot, METH_VARARGS,
     "get_slot($self, slot, name, /)\n--\n\nA copy of the optimizer's state of a parameter."},
    {"set_slot", model_set_slot, METH_VARARGS,
     "set_slot($self, slot, name, value, /)\n--\n\nReplaces the optimizer's state of a parameter."},
    {"bytes", model_bytes, METH_NOARGS, "bytes($self, /)\n--\n\nMemory by use."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Model(graph, comm, *, optimizer=None, hypers=None, threads=1, pin=False, backend='native', isa=None, seed=0, bf16=False)\n--\n\n"
                "The arena of parameters, buffers and optimizer state of a network."},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};
PyType_Spec model_spec = {"samestep._core.Model", sizeof(model_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
