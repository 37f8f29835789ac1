#include "binding/binding.h"
#include <string.h>
#include "base/alloc.h"
#include "base/sha256.h"
#include "train/central.h"
#include "train/meeting.h"

/* Groups of parameters: [(names, hypers), ...]. The texts of the names belong to the caller's objects. */
typedef struct group_list {
    ss_group_options *group;
    int count;
} group_list;

static void free_groups(group_list *list) {
    for (int k = 0; k < list->count; k++) {
        ss_free((void *)list->group[k].parameter);
        ss_free((void *)list->group[k].hyper);
    }
    ss_free(list->group);
}

/* A list of names of parameters, whose texts belong to the list; *texts is freed by the caller, also after a failure. */
static int read_names(PyObject *names, const char *const **texts, int *count) {
    const Py_ssize_t size = PyList_GET_SIZE(names);
    const char **list = ss_calloc((size_t)size + 1, sizeof *list);
    if (!list) {
        PyErr_NoMemory();
        return -1;
    }
    *texts = list;
    for (Py_ssize_t k = 0; k < size && k < PyList_GET_SIZE(names); k++) {
        PyObject *name = PyList_GET_ITEM(names, k);
        list[k] = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
        if (!list[k]) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "names of parameters must be strings");
            return -1;
        }
        ++*count;
    }
    return 0;
}

static int read_groups(PyObject *groups, group_list *list) {
    if (!groups || groups == Py_None) return 0;
    if (!PyList_Check(groups)) {
        PyErr_SetString(PyExc_TypeError, "groups must be a list of (names, hypers)");
        return -1;
    }
    Py_ssize_t count = PyList_GET_SIZE(groups);
    list->group = ss_calloc((size_t)count + 1, sizeof *list->group);
    if (!list->group) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t k = 0; k < count && k < PyList_GET_SIZE(groups); k++) {
        ss_group_options *group = &list->group[list->count++];
        PyObject *names, *hypers;
        ss_attr *attrs = NULL;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(groups, k), "O!O;groups must be a list of (names, hypers)", &PyList_Type, &names, &hypers) ||
            binding_attrs(hypers, &attrs, &group->hypers))
            return -1;
        group->hyper = attrs;
        if (read_names(names, &group->parameter, &group->parameters)) return -1;
    }
    return 0;
}

/* None, ("ema", decay, warmup) or ("swa", start, every). */
static int read_average(PyObject *average, ss_model_options *o) {
    const char *kind;
    double first;
    long long second;
    if (!average || average == Py_None) return 0;
    if (!PyArg_ParseTuple(average, "sdL;average must be ('ema', decay, warmup) or ('swa', start, every)", &kind, &first, &second)) return -1;
    if (!strcmp(kind, "ema")) {
        o->average = SS_AVERAGE_EMA;
        o->decay = first;
        o->warmup = second != 0;
    } else if (!strcmp(kind, "swa") && first >= 0 && first <= 9e15) {
        o->average = SS_AVERAGE_SWA;
        o->start = (int64_t)first;
        o->every = second;
    } else {
        PyErr_Format(PyExc_ValueError, "average must be 'ema' or 'swa' with positive numbers, not '%s'", kind);
        return -1;
    }
    return 0;
}

/* None, or (name, hypers, feedback, names of parameters). The texts belong to the caller's objects; hyper and tensor are freed by the caller. */
static int read_compression(PyObject *compression, ss_compression_options *o, ss_attr **attrs) {
    PyObject *hypers, *names;
    int feedback;
    if (!compression || compression == Py_None) return 0;
    if (!PyArg_ParseTuple(compression, "sO!pO!;compression must be (name, hypers, feedback, names)", &o->name, &PyDict_Type, &hypers, &feedback, &PyList_Type, &names)) return -1;
    if (binding_attrs(hypers, attrs, &o->hypers)) return -1;
    o->hyper = *attrs;
    o->feedback = feedback;
    if (read_names(names, &o->tensor, &o->tensors)) return -1;
    return 0;
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"graph", "comm", "optimizer", "hypers", "threads", "pin", "backend", "isa", "seed", "groups", "clip_norm", "clip_value", "lookahead", "average",
                            "bf16", "compression", "owners", NULL};
    graph_object *graph;
    comm_object *comm;
    const char *optimizer = NULL, *backend = "native", *isa = NULL;
    PyObject *hypers = NULL, *groups = NULL, *lookahead = NULL, *average = NULL, *compression = NULL;
    int threads = 1, pin = 0, bf16 = 0, count = 0, owners = 0;
    unsigned long long seed = 0;
    double clip_norm = 0, clip_value = 0;
    ss_attr *attrs = NULL, *of_compression = NULL;
    group_list list = {0};
    ss_error err;
    binding_state *state = PyType_GetModuleState(type);
    if (!state) return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!|$zOipszKOddOOpOi:Model", names, state->graph, &graph, state->comm, &comm, &optimizer, &hypers, &threads,
                                     &pin, &backend, &isa, &seed, &groups, &clip_norm, &clip_value, &lookahead, &average, &bf16, &compression, &owners))
        return NULL;
    ss_model_options o = {.optimizer = optimizer, .threads = threads, .pin = pin, .bf16 = bf16, .seed = seed, .clip_norm = clip_norm, .clip_value = clip_value,
                          .owners = owners};
    if (lookahead && lookahead != Py_None && !PyArg_ParseTuple(lookahead, "Ld;lookahead must be (k, alpha)", &o.lookahead, &o.lookahead_alpha)) return NULL;
    if (read_average(average, &o)) return NULL;
    if (threads < 1 || threads > 1024) return PyErr_Format(PyExc_ValueError, "threads=%d must be between 1 and 1024", threads);
    if (!strcmp(backend, "openblas")) o.backend = SS_BACKEND_OPENBLAS;
    else if (strcmp(backend, "native")) return PyErr_Format(PyExc_ValueError, "backend must be 'native' or 'openblas', not '%s'", backend);
    if (ss_isa_parse(isa ? isa : getenv("SAMESTEP_ISA"), &o.isa, &err) != SS_OK) return binding_raise(state, &err);
    if (binding_attrs(hypers, &attrs, &count)) return NULL;
    if (read_groups(groups, &list) || read_compression(compression, &o.compression, &of_compression)) {
        free_groups(&list);
        ss_free((void *)o.compression.tensor);
        ss_free(of_compression);
        ss_free(attrs);
        return NULL;
    }
    o.group = list.group;
    o.groups = list.count;
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
    free_groups(&list);
    ss_free((void *)o.compression.tensor);
    ss_free(of_compression);
    ss_free(attrs);
    return (PyObject *)self;
}

static void model_dealloc(PyObject *object) {
    model_object *self = (model_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    ss_meeting_free(self->meeting);
    ss_central_free(self->central);
    ss_model_free(self->model);
    Py_XDECREF((PyObject *)self->outer_comm);
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

static PyObject *model_hyper(PyObject *self, PyObject *args) {
    const char *text;
    int group = 0;
    if (!PyArg_ParseTuple(args, "s|i", &text, &group)) return NULL;
    int at = ss_model_find_hyper(model_of(self), text);
    if (at < 0) return PyErr_Format(PyExc_KeyError, "the optimizer has no argument '%s'", text);
    if (group < 0 || group >= model_of(self)->groups) return PyErr_Format(PyExc_IndexError, "there is no group %d of parameters", group);
    return PyFloat_FromDouble(model_of(self)->hyper[group * SS_MAX_HYPER + at]);
}

static PyObject *model_set_hyper(PyObject *self, PyObject *args) {
    const char *name;
    double value;
    int group = 0;
    ss_error err;
    if (!PyArg_ParseTuple(args, "sd|i", &name, &value, &group)) return NULL;
    ss_model *m = model_of(self);
    if (ss_model_enter(m, &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    ss_status status = ss_model_set_hyper(m, group, name, value, &err);
    ss_model_leave(m);
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *model_set_clip(PyObject *self, PyObject *args) {
    double norm, value;
    ss_error err;
    if (!PyArg_ParseTuple(args, "dd", &norm, &value)) return NULL;
    ss_model *m = model_of(self);
    if (ss_model_enter(m, &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    ss_status status = ss_model_set_clip(m, norm, value, &err);
    ss_model_leave(m);
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *model_swap_average(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_error err;
    ss_model *m = model_of(self);
    if (ss_model_enter(m, &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    ss_status status = ss_model_swap_average(m, &err);
    ss_model_leave(m);
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

/* The name of state k: a slot, or what the optimizer keeps beside the slots. */
static const char *state_name(const ss_model *m, int k) { return k < m->slots ? ss_model_slot_name(m, k) : "extra"; }

static PyObject *model_slots(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_model *m = model_of(self);
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < m->slots + (m->extra_elements > 0); k++) {
        PyObject *name = PyUnicode_FromString(state_name(m, k));
        if (!name || PyList_Append(list, name)) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static bool find_slot(PyObject *self, const char *slot, const char *name, float **at, ss_shape *shape) {
    ss_model *m = model_of(self);
    int k = 0, p = ss_model_find(m, name), most = m->slots + (m->extra_elements > 0);
    while (k < most && strcmp(state_name(m, k), slot)) k++;
    if (k == most) {
        PyErr_Format(PyExc_KeyError, "the optimizer keeps no '%s'", slot);
        return false;
    }
    if (p < 0 || !m->parameter[p].trainable) {
        PyErr_Format(PyExc_KeyError, "the model has no trainable parameter '%s'", name);
        return false;
    }
    *at = k < m->slots ? m->slot[k] + m->parameter[p].offset : m->extra + m->parameter[p].extra_offset;
    *shape = k < m->slots ? m->parameter[p].shape : (ss_shape){.rank = 1, .dim = {m->parameter[p].extra_count}};
    return true;
}

static PyObject *model_get_slot(PyObject *self, PyObject *args) {
    const char *slot, *name;
    float *at;
    npy_intp dims[SS_MAX_RANK];
    if (!PyArg_ParseTuple(args, "ss", &slot, &name)) return NULL;
    ss_shape shape;
    if (!find_slot(self, slot, name, &at, &shape)) return NULL;
    for (int k = 0; k < shape.rank; k++) dims[k] = shape.dim[k];
    PyObject *copy = PyArray_SimpleNew(shape.rank, dims, NPY_FLOAT);
    if (copy) memcpy(PyArray_DATA((PyArrayObject *)copy), at, (size_t)PyArray_NBYTES((PyArrayObject *)copy));
    return copy;
}

static PyObject *model_set_slot(PyObject *self, PyObject *args) {
    const char *slot, *name;
    PyObject *value;
    float *at;
    ss_error err;
    if (!PyArg_ParseTuple(args, "ssO", &slot, &name, &value)) return NULL;
    ss_shape shape;
    PyArrayObject *a = find_slot(self, slot, name, &at, &shape) ? binding_float_array(value, &shape, name) : NULL;
    if (!a) return NULL;
    if (ss_model_enter(model_of(self), &err) != SS_OK) {
        Py_DECREF(a);
        return binding_raise(binding_state_of(self), &err);
    }
    memmove(at, PyArray_DATA(a), (size_t)PyArray_NBYTES(a));
    ss_model_leave(model_of(self));
    Py_DECREF(a);
    Py_RETURN_NONE;
}

/* ---- compression ---- */

static PyObject *model_compression(PyObject *self, PyObject *unused) {
    (void)unused;
    const ss_compression *c = model_of(self)->compression;
    if (!c) Py_RETURN_NONE;
    return Py_BuildValue("{s:s,s:L,s:L,s:d}", "name", c->compressor->name, "bytes", (long long)c->bytes, "plain_bytes", (long long)c->plain_bytes, "error", c->error);
}

/* What this rank alone keeps of one parameter: "residual", "owed" or "compressor". */
static bool find_kept(PyObject *self, const char *kind, const char *name, float **at, ss_shape *shape) {
    const ss_model *m = model_of(self);
    const ss_compression *c = m->compression;
    for (int k = 0; c && k < c->count; k++) {
        const ss_compression_tensor *t = &c->tensor[k];
        if (strcmp(t->name, name)) continue;
        *shape = m->parameter[ss_model_find(m, name)].shape;
        *at = !strcmp(kind, "residual") ? c->residual : !strcmp(kind, "owed") ? c->owed : NULL;
        if (*at) *at += t->offset;
        if (!strcmp(kind, "compressor") && t->state_count) {
            *at = c->state + t->state_offset;
            *shape = (ss_shape){.rank = 1, .dim = {t->state_count}};
        }
        if (!*at) break;
        return true;
    }
    PyErr_Format(PyExc_KeyError, "the compression keeps no '%s' of '%s'", kind, name);
    return false;
}

static PyObject *model_get_kept(PyObject *self, PyObject *args) {
    const char *kind, *name;
    float *at;
    ss_shape shape;
    npy_intp dims[SS_MAX_RANK];
    if (!PyArg_ParseTuple(args, "ss", &kind, &name) || !find_kept(self, kind, name, &at, &shape)) return NULL;
    for (int k = 0; k < shape.rank; k++) dims[k] = shape.dim[k];
    PyObject *copy = PyArray_SimpleNew(shape.rank, dims, NPY_FLOAT);
    if (copy) memcpy(PyArray_DATA((PyArrayObject *)copy), at, (size_t)PyArray_NBYTES((PyArrayObject *)copy));
    return copy;
}

static PyObject *model_set_kept(PyObject *self, PyObject *args) {
    const char *kind, *name;
    PyObject *value;
    float *at;
    ss_shape shape;
    ss_error err;
    if (!PyArg_ParseTuple(args, "ssO", &kind, &name, &value) || !find_kept(self, kind, name, &at, &shape)) return NULL;
    PyArrayObject *a = binding_float_array(value, &shape, name);
    if (!a) return NULL;
    if (ss_model_enter(model_of(self), &err) != SS_OK) {
        Py_DECREF(a);
        return binding_raise(binding_state_of(self), &err);
    }
    memmove(at, PyArray_DATA(a), (size_t)PyArray_NBYTES(a));
    if (!strcmp(kind, "owed")) ss_compression_keep_own(model_of(self)->compression, name);
    ss_model_leave(model_of(self));
    Py_DECREF(a);
    Py_RETURN_NONE;
}

/* ---- meetings of local training ---- */

/* Runs a collective function of the meeting, without the GIL. */
static PyObject *at_meeting(PyObject *object, ss_status (*function)(ss_meeting *, ss_model *, ss_error *)) {
    model_object *self = (model_object *)object;
    ss_error err;
    if (!self->meeting) {
        PyErr_SetString(PyExc_RuntimeError, "this model trains without meetings");
        return NULL;
    }
    if (ss_model_enter(self->model, &err) != SS_OK) return binding_raise(binding_state_of(object), &err);
    ss_status status;
    Py_BEGIN_ALLOW_THREADS
    status = function(self->meeting, self->model, &err);
    Py_END_ALLOW_THREADS
    ss_model_leave(self->model);
    if (status != SS_OK) return binding_raise(binding_state_of(object), &err);
    Py_RETURN_NONE;
}

static PyObject *model_meetings(PyObject *object, PyObject *args) {
    model_object *self = (model_object *)object;
    comm_object *comm;
    PyObject *outer = Py_None;
    double lr = 0, momentum = 0;
    int host_ranks = 0;
    ss_error err;
    binding_state *state = binding_state_of(object);
    if (!PyArg_ParseTuple(args, "O!|Oi", state->comm, &comm, &outer, &host_ranks)) return NULL;
    if (outer != Py_None && !PyArg_ParseTuple(outer, "dd;outer must be (lr, momentum)", &lr, &momentum)) return NULL;
    if (self->meeting) {
        PyErr_SetString(PyExc_RuntimeError, "the meetings of this model have been set up before");
        return NULL;
    }
    if (ss_meeting_create(self->model, comm->transport, outer != Py_None, lr, momentum, host_ranks, &self->meeting, &err) != SS_OK) return binding_raise(state, &err);
    self->outer_comm = (comm_object *)Py_NewRef((PyObject *)comm);
    Py_RETURN_NONE;
}

static PyObject *model_meeting_begin(PyObject *self, PyObject *unused) {
    (void)unused;
    return at_meeting(self, ss_meeting_begin);
}

static PyObject *model_meet(PyObject *self, PyObject *unused) {
    (void)unused;
    return at_meeting(self, ss_meeting_hold);
}

static PyObject *model_meet_host(PyObject *self, PyObject *unused) {
    (void)unused;
    return at_meeting(self, ss_meeting_hold_host);
}

static ss_status gather_velocity(ss_meeting *g, ss_model *m, ss_error *err) {
    (void)m;
    return ss_meeting_gather(g, err);
}

static PyObject *model_meeting_gather(PyObject *self, PyObject *unused) {
    (void)unused;
    return at_meeting(self, gather_velocity);
}

static PyObject *model_velocity(PyObject *object, PyObject *args) {
    model_object *self = (model_object *)object;
    const char *name;
    PyObject *value = NULL;
    if (!PyArg_ParseTuple(args, "s|O", &name, &value)) return NULL;
    float *velocity = self->meeting ? ss_meeting_velocity(self->meeting) : NULL;
    int at = velocity ? ss_model_find(self->model, name) : -1;
    if (at < 0) return PyErr_Format(PyExc_KeyError, "there is no velocity of '%s'", name);
    const ss_parameter *p = &self->model->parameter[at];
    if (value) {
        PyArrayObject *a = binding_float_array(value, &p->shape, name);
        if (!a) return NULL;
        memmove(velocity + p->offset, PyArray_DATA(a), (size_t)p->count * 4);
        Py_DECREF(a);
        Py_RETURN_NONE;
    }
    npy_intp dims[SS_MAX_RANK];
    for (int k = 0; k < p->shape.rank; k++) dims[k] = p->shape.dim[k];
    PyObject *copy = PyArray_SimpleNew(p->shape.rank, dims, NPY_FLOAT);
    if (copy) memcpy(PyArray_DATA((PyArrayObject *)copy), velocity + p->offset, (size_t)p->count * 4);
    return copy;
}

/* ---- parameter servers ---- */

static ss_central *central_of(PyObject *self) {
    ss_central *c = ((model_object *)self)->central;
    if (!c) PyErr_SetString(PyExc_RuntimeError, "this model has no parameter servers");
    return c;
}

static PyObject *model_central(PyObject *object, PyObject *args) {
    model_object *self = (model_object *)object;
    comm_object *comm;
    PyObject *compression = Py_None;
    long long staleness;
    ss_central_options o = {0};
    ss_compression_options packing = {0};
    ss_attr *attrs = NULL;
    ss_error err;
    binding_state *state = binding_state_of(object);
    if (!PyArg_ParseTuple(args, "O!iL|O", state->comm, &comm, &o.servers, &staleness, &compression)) return NULL;
    if (self->central) {
        PyErr_SetString(PyExc_RuntimeError, "the parameter servers of this model have been set up before");
        return NULL;
    }
    o.staleness = staleness;
    ss_status status = SS_OK;
    const bool read = !read_compression(compression, &packing, &attrs);
    if (read) status = ss_central_create(self->model, comm->transport, &o, &packing, &self->central, &err);
    ss_free((void *)packing.tensor);
    ss_free(attrs);
    if (!read) return NULL;
    if (status != SS_OK) return binding_raise(state, &err);
    self->outer_comm = (comm_object *)Py_NewRef((PyObject *)comm);
    Py_RETURN_NONE;
}

static PyObject *model_central_begin(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_central *c = central_of(self);
    ss_error err;
    ss_status status;
    if (!c) return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = ss_central_begin(c, model_of(self), &err);
    Py_END_ALLOW_THREADS
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *model_serve(PyObject *self, PyObject *args) {
    long long pushes;
    ss_central *c = central_of(self);
    ss_error err;
    if (!c || !PyArg_ParseTuple(args, "L", &pushes)) return NULL;
    if (!ss_central_serves(c)) {
        PyErr_SetString(PyExc_RuntimeError, "this rank works and does not serve");
        return NULL;
    }
    if (ss_model_enter(model_of(self), &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    ss_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ss_central_serve(c, model_of(self), pushes, &err);
    Py_END_ALLOW_THREADS
    ss_model_leave(model_of(self));
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *model_leave(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_central *c = central_of(self);
    ss_error err;
    ss_status status;
    if (!c) return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = ss_central_leave(c, &err);
    Py_END_ALLOW_THREADS
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *model_central_gather(PyObject *self, PyObject *args) {
    int slots;
    ss_central *c = central_of(self);
    ss_error err;
    if (!c || !PyArg_ParseTuple(args, "p", &slots)) return NULL;
    if (ss_model_enter(model_of(self), &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    ss_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ss_central_gather(c, model_of(self), slots, &err);
    Py_END_ALLOW_THREADS
    ss_model_leave(model_of(self));
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *model_central_report(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_central *c = central_of(self);
    if (!c) return NULL;
    ss_central_report r = ss_central_tell(c);
    return Py_BuildValue("{s:O,s:L,s:L,s:L,s:d,s:L}", "serves", ss_central_serves(c) ? Py_True : Py_False, "pushes", (long long)r.pushes, "bytes", (long long)r.bytes, "most_behind",
                         (long long)r.most_behind, "mean_behind", r.mean_behind, "waits", (long long)r.waits);
}

static PyObject *model_bytes(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_model *m = model_of(self);
    const ss_meeting *meeting = ((model_object *)self)->meeting;
    const long long compression = (long long)(ss_compression_memory(m->compression) + (meeting ? ss_meeting_bytes(meeting) : 0));
    return Py_BuildValue("{s:L,s:L,s:L,s:L,s:L}", "parameters", (long long)(4 * m->elements), "buffers", (long long)(4 * m->state_elements), "optimizer",
                         (long long)(4 * (m->slots * m->trainable + m->extra_elements)), "exchange", compression, "total", (long long)ss_arena_bytes(m->arena) + compression);
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

static PyObject *model_gradient_norm(PyObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(model_of(self)->gradient_norm);
}

static PyGetSetDef getset[] = {
    {"gradient_norm", model_gradient_norm, NULL, "Norm of all gradients together in the last update with clip_norm, before clipping.", NULL},
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
    {"hyper", model_hyper, METH_VARARGS, "hyper($self, name, group=0, /)\n--\n\nAn argument of the optimizer, for a group of parameters."},
    {"set_clip", model_set_clip, METH_VARARGS,
     "set_clip($self, norm, value, /)\n--\n\nChanges the clipping of gradients; 0 switches it off. A norm needs a model made with one."},
    {"swap_average", model_swap_average, METH_NOARGS,
     "swap_average($self, /)\n--\n\nExchanges the parameters and their averages; call gather_slots of the plan before."},
    {"set_hyper", model_set_hyper, METH_VARARGS,
     "set_hyper($self, name, value, group=0, /)\n--\n\nChanges an argument of the optimizer from the next step on."},
    {"slots", model_slots, METH_NOARGS, "slots($self, /)\n--\n\nNames of the optimizer's state."},
    {"get_slot", model_get_slot, METH_VARARGS,
     "get_slot($self, slot, name, /)\n--\n\nA copy of the optimizer's state of a parameter."},
    {"central", model_central, METH_VARARGS, "central(comm, servers, staleness, compression=None): the last `servers` ranks of comm hold the parameters; staleness below 0: no bound."},
    {"central_begin", model_central_begin, METH_NOARGS, "Rank 0's parameters reach every rank (collective)."},
    {"serve", model_serve, METH_VARARGS, "serve(pushes): answers workers until so many pushes are applied; below 0: until all have left."},
    {"leave", model_leave, METH_NOARGS, "A worker has no more pushes in this run."},
    {"central_gather", model_central_gather, METH_VARARGS, "central_gather(slots): the servers' parameters reach every rank, and their optimizer state (collective)."},
    {"central_report", model_central_report, METH_NOARGS, "serves, pushes, bytes of a push, most_behind, mean_behind, waits."},
    {"meetings", model_meetings, METH_VARARGS, "meetings(comm, outer=None, host_ranks=0): sets up the meetings of local training; outer: (lr, momentum)."},
    {"meet_host", model_meet_host, METH_NOARGS, "The ranks of a host average their parameters."},
    {"begin_meetings", model_meeting_begin, METH_NOARGS, "Rank 0's parameters reach every rank (collective)."},
    {"meet", model_meet, METH_NOARGS, "The ranks average their parameters and running statistics (collective)."},
    {"gather_velocity", model_meeting_gather, METH_NOARGS, "Every rank gets the whole velocity of the outer optimizer (collective)."},
    {"velocity", model_velocity, METH_VARARGS, "velocity(name[, value]): of the outer optimizer, for one parameter; with a value sets it."},
    {"compression", model_compression, METH_NOARGS, "None, or {name, bytes, plain_bytes, error}: a rank sends so many bytes in a step; error: |left out| / |packed| of the last step."},
    {"get_kept", model_get_kept, METH_VARARGS, "get_kept(kind, name): what this rank's compression keeps of a parameter; kind: 'residual', 'owed' or 'compressor'."},
    {"set_kept", model_set_kept, METH_VARARGS, "set_kept(kind, name, value)."},
    {"set_slot", model_set_slot, METH_VARARGS,
     "set_slot($self, slot, name, value, /)\n--\n\nReplaces the optimizer's state of a parameter."},
    {"bytes", model_bytes, METH_NOARGS, "bytes($self, /)\n--\n\nMemory by use."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Model(graph, comm, *, optimizer=None, hypers=None, threads=1, pin=False, backend='native', isa=None, seed=0, groups=None, "
                "clip_norm=0.0, clip_value=0.0, lookahead=None, average=None, bf16=False, compression=None, owners=0)\n--\n\n"
                "The arena of parameters, buffers and optimizer state of a network."},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};
PyType_Spec model_spec = {"samestep._core.Model", sizeof(model_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
