/* ss.Function: forward and backward in Python, called from thread 0 of a step, one lane at a time. */
#include "binding/binding.h"
#include <string.h>
#include "base/alloc.h"

typedef struct binding_host {
    ss_host host; /* first: the core knows this part alone */
    ss_session *session;
    PyObject *functions;
    PyObject *raised; /* the exception of this step, or NULL */
} binding_host;

static void run(ss_host *host, const ss_call *c, int id, int64_t begin, int64_t end, bool backward, float *const *grad);

binding_host *binding_host_create(PyObject *functions) {
    binding_host *h = ss_calloc(1, sizeof *h);
    if (!h) {
        PyErr_NoMemory();
        return NULL;
    }
    h->host.run = run;
    h->functions = PySequence_Tuple(functions);
    if (h->functions) return h;
    ss_free(h);
    return NULL;
}

void binding_host_free(binding_host *h) {
    if (!h) return;
    Py_XDECREF(h->functions);
    Py_XDECREF(h->raised);
    ss_free(h);
}

ss_host *binding_host_of(binding_host *h, ss_session *session) {
    h->session = session;
    return &h->host;
}

bool binding_host_raise(binding_host *h) {
    PyObject *raised = h->raised;
    if (!raised) return false;
    h->raised = NULL;
    PyErr_SetObject((PyObject *)Py_TYPE(raised), raised); /* it carries its traceback */
    Py_DECREF(raised);
    return true;
}

/* Keeps the pending exception and tells the step: the other ranks hear the text. */
static void remember(binding_host *h, PyObject *function, bool backward) {
    PyObject *type, *value, *traceback, *text = NULL;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *layer = function ? PyObject_GetAttrString(function, "_layer") : NULL;
    const char *name = layer && PyUnicode_Check(layer) ? PyUnicode_AsUTF8(layer) : NULL;
    if (value && traceback) PyException_SetTraceback(value, traceback);
    PyObject *module = PyImport_ImportModule("traceback");
    PyObject *lines = module && value ? PyObject_CallMethod(module, "format_exception", "OOO", type, value, traceback ? traceback : Py_None) : NULL;
    PyObject *empty = PyUnicode_FromString("");
    if (lines && empty) text = PyUnicode_Join(empty, lines);
    const char *utf8 = text ? PyUnicode_AsUTF8(text) : NULL;
    if (h->session->host_status == SS_OK) {
        size_t length = utf8 ? strlen(utf8) : 0, room = SS_ERROR_TEXT - 160; /* the end of a traceback says most */
        h->session->host_status = SS_FAIL(&h->session->host_error, SS_ERR_STATE, "%s of the function in layer '%.60s' failed:\n%s", backward ? "backward" : "forward", name ? name : "",
                                          utf8 ? utf8 + (length > room ? length - room : 0) : "(no text)");
        Py_XSETREF(h->raised, Py_XNewRef(value));
    }
    PyErr_Clear();
    Py_XDECREF(layer);
    Py_XDECREF(text);
    Py_XDECREF(empty);
    Py_XDECREF(lines);
    Py_XDECREF(module);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/* A copy of rows [begin, end) of a batched value, or of a whole parameter: what a function keeps stays as it is. */
static PyObject *array_of(const ss_shape *shape, const void *data, bool batched, int64_t begin, int64_t end, int type) {
    npy_intp dims[SS_MAX_RANK + 1] = {end - begin};
    for (int k = 0; k < shape->rank; k++) dims[k + batched] = shape->dim[k];
    PyObject *array = PyArray_SimpleNew(shape->rank + batched, dims, type);
    int64_t count = ss_shape_count(shape);
    if (array) memcpy(PyArray_DATA((PyArrayObject *)array), (const char *)data + (batched ? begin * count * 4 : 0), (size_t)((batched ? end - begin : 1) * count) * 4);
    return array;
}

/* Copies an answer to where it belongs; -1 with an exception when it has another shape or is no array of numbers. */
static int take(PyObject *answer, const ss_shape *shape, bool batched, int64_t rows, float *to, const char *what) {
    PyArrayObject *array = (PyArrayObject *)PyArray_FROMANY(answer, NPY_FLOAT, 0, 0, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST);
    if (!array) return -1;
    bool fits = PyArray_NDIM(array) == shape->rank + batched && (!batched || PyArray_DIM(array, 0) == rows);
    for (int k = 0; fits && k < shape->rank; k++) fits = PyArray_DIM(array, k + batched) == shape->dim[k];
    if (fits) {
        memcpy(to, PyArray_DATA(array), (size_t)(ss_shape_count(shape) * (batched ? rows : 1)) * 4);
    } else {
        ss_shape got = {.rank = (int)ss_min(PyArray_NDIM(array), SS_MAX_RANK)};
        char a[128], b[128];
        for (int k = 0; k < got.rank; k++) got.dim[k] = PyArray_DIM(array, k);
        PyErr_Format(PyExc_ValueError, "%s returned an array of shape %s for %lld samples; it must have the shape %s", what, ss_shape_text(&got, false, a, sizeof a), (long long)rows,
                     ss_shape_text(shape, batched, b, sizeof b));
    }
    Py_DECREF(array);
    return fits ? 0 : -1;
}

static void zero_output(const ss_call *c, int64_t begin, int64_t end) {
    int64_t count = ss_shape_count(&c->out_shape[0]);
    memset((float *)c->out[0] + begin * count, 0, (size_t)((end - begin) * count) * 4);
}

static void call_forward(PyObject *function, const ss_call *c, PyObject *inputs, int64_t begin, int64_t end) {
    PyObject *method = PyObject_GetAttrString(function, "_forward"), *answer = method ? PyObject_CallObject(method, inputs) : NULL;
    if (answer) take(answer, &c->out_shape[0], true, end - begin, (float *)c->out[0] + begin * ss_shape_count(&c->out_shape[0]), "forward");
    Py_XDECREF(answer);
    Py_XDECREF(method);
    if (PyErr_Occurred()) zero_output(c, begin, end);
}

static void call_backward(PyObject *function, const ss_call *c, PyObject *inputs, int64_t begin, int64_t end, float *const *grad) {
    PyObject *gradient = array_of(&c->out_shape[0], c->grad_out[0], true, begin, end, NPY_FLOAT), *answer = NULL, *parts = NULL;
    PyObject *method = gradient ? PyObject_GetAttrString(function, "_backward") : NULL;
    if (method) answer = PyObject_CallFunctionObjArgs(method, gradient, inputs, NULL);
    if (answer) parts = PyTuple_Check(answer) || PyList_Check(answer) ? PySequence_Tuple(answer) : PyTuple_Pack(1, answer);
    if (parts && PyTuple_GET_SIZE(parts) != c->n_in)
        PyErr_Format(PyExc_ValueError, "backward returned %zd gradients for %d inputs", PyTuple_GET_SIZE(parts), c->n_in);
    for (int k = 0; parts && !PyErr_Occurred() && k < c->n_in; k++) {
        PyObject *part = PyTuple_GET_ITEM(parts, k);
        bool batched = c->role[k] == SS_ROLE_BATCHED;
        float *to = batched ? c->grad_in[k] : grad[k];
        if (!to || part == Py_None) continue; /* nobody asks, or it is 0 */
        take(part, &c->in_shape[k], batched, end - begin, batched ? to + begin * ss_shape_count(&c->in_shape[k]) : to, "backward");
    }
    Py_XDECREF(parts);
    Py_XDECREF(answer);
    Py_XDECREF(method);
    Py_XDECREF(gradient);
}

static void run(ss_host *host, const ss_call *c, int id, int64_t begin, int64_t end, bool backward, float *const *grad) {
    binding_host *h = (binding_host *)host;
    if (h->session->host_status != SS_OK) { /* the step is lost: nothing more is asked of the user's code */
        if (!backward) zero_output(c, begin, end);
        return;
    }
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *inputs = PyTuple_New(c->n_in), *function = id < PyTuple_GET_SIZE(h->functions) ? PyTuple_GET_ITEM(h->functions, id) : NULL;
    for (int k = 0; inputs && k < c->n_in; k++) {
        bool batched = c->role[k] == SS_ROLE_BATCHED;
        PyObject *array = array_of(&c->in_shape[k], c->in[k], batched, begin, end, NPY_FLOAT);
        if (!array) Py_CLEAR(inputs);
        else PyTuple_SET_ITEM(inputs, k, array);
    }
    if (!function && !PyErr_Occurred()) PyErr_Format(PyExc_RuntimeError, "there is no function number %d", id);
    if (inputs && function) {
        if (backward) call_backward(function, c, inputs, begin, end, grad);
        else call_forward(function, c, inputs, begin, end);
    }
    if (PyErr_Occurred()) remember(h, function, backward);
    Py_XDECREF(inputs);
    PyGILState_Release(state);
}
