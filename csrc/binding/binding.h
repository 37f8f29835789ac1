/* The extension module: the only files that see Python.h and NumPy. One file a type. */
#ifndef SS_BINDING_BINDING_H
#define SS_BINDING_BINDING_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define NPY_NO_DEPRECATED_API NPY_1_20_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL samestep_array_api
#ifndef SS_BINDING_MODULE
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>
#include "train/loader.h"

typedef struct binding_state {
    PyTypeObject *comm, *graph, *model, *plan;
    PyObject *comm_error, *rank_failed, *checkpoint_error, *numeric_error;
} binding_state;

typedef struct comm_object {
    PyObject_HEAD
    ss_transport *transport;
} comm_object;

typedef struct graph_object {
    PyObject_HEAD
    ss_graph *graph;
    bool frozen; /* a model or plan was made of it */
} graph_object;

typedef struct model_object {
    PyObject_HEAD
    ss_model *model;
    comm_object *comm;
    struct ss_meeting *meeting; /* of local training, or NULL */
    struct ss_central *central; /* of parameter servers, or NULL */
    comm_object *outer_comm;    /* of meetings or servers */
} model_object;

typedef struct plan_object {
    PyObject_HEAD
    ss_session *session;
    ss_loader *loader;
    model_object *model;
    graph_object *graph;
    ss_dtype *wanted; /* of each input */
    struct binding_host *host; /* functions of a user, or NULL */
    bool threads_used;
} plan_object;

/* binding/function.c: functions written in Python inside a plan. functions: a list of objects with forward(*arrays) and backward(grad, *arrays); NULL or None: none. */
struct binding_host *binding_host_create(PyObject *functions);
void binding_host_free(struct binding_host *host);
ss_host *binding_host_of(struct binding_host *host, ss_session *session);
/* Raises what a function raised in this process during the last step; false when nothing was. */
bool binding_host_raise(struct binding_host *host);

extern PyType_Spec comm_spec, graph_spec, model_spec, plan_spec;

binding_state *binding_state_of(PyObject *self);
/* Turns an error into a Python exception; returns NULL. */
PyObject *binding_raise(const binding_state *state, const ss_error *err);
/* A whole number within [least, most]; an exception that names `what` otherwise. */
int binding_int(PyObject *number, const char *what, long least, long most, int *out);
/* A shape from a sequence of ints. */
int binding_shape(PyObject *sequence, ss_shape *shape);
PyObject *binding_shape_tuple(const ss_shape *shape);
/* name -> value pairs of a mapping, as an array to be freed with ss_free; names live as long as the mapping. */
int binding_attrs(PyObject *mapping, ss_attr **attrs, int *count);

/* An array-like as rows that a loader can read. *keep receives a reference that must outlive the reads. Failures fill err and leave no Python exception. */
ss_status binding_array(PyObject *object, const char *name, const ss_shape *sample, ss_dtype wanted, ss_array *out, PyObject **keep, ss_error *err);
/* A float32 array of exactly this shape, C-contiguous; NULL with an exception that names `what`. */
PyArrayObject *binding_float_array(PyObject *object, const ss_shape *shape, const char *what);

#endif
