/* Between Python objects and the core: arrays, shapes, attributes, errors. */
#include "binding/binding.h"
#include <string.h>
#include "base/alloc.h"

PyObject *binding_raise(const binding_state *state, const ss_error *err) {
    PyObject *type = PyExc_RuntimeError;
    switch (err->code) {
    case SS_ERR_SHAPE:
    case SS_ERR_VALUE: type = PyExc_ValueError; break;
    case SS_ERR_DTYPE:
    case SS_ERR_LAYOUT: type = PyExc_TypeError; break;
    case SS_ERR_MEMORY: type = PyExc_MemoryError; break;
    case SS_ERR_COMM: type = state->comm_error; break;
    case SS_ERR_RANK_FAILED: type = state->rank_failed; break;
    case SS_ERR_CHECKPOINT: type = state->checkpoint_error; break;
    case SS_ERR_NUMERIC: type = state->numeric_error; break;
    case SS_ERR_INTERRUPT: type = PyExc_KeyboardInterrupt; break;
    case SS_ERR_STATE: type = PyExc_RuntimeError; break;
    case SS_OK:
    case SS_STATUS_COUNT: break;
    }
    if (!PyErr_Occurred()) PyErr_SetString(type, err->message);
    return NULL;
}

int binding_int(PyObject *number, const char *what, long least, long most, int *out) {
    int overflow;
    long value = PyLong_AsLongAndOverflow(number, &overflow);
    if (value == -1 && PyErr_Occurred()) return -1;
    if (overflow || value < least || value > most) {
        PyErr_Format(PyExc_ValueError, "%s=%S must be between %ld and %ld", what, number, least, most);
        return -1;
    }
    *out = (int)value;
    return 0;
}

int binding_shape(PyObject *sequence, ss_shape *shape) {
    PyObject *fast = PySequence_Tuple(sequence); /* a copy: converting an item may run code that changes a list */
    if (!fast) return -1;
    Py_ssize_t rank = PyTuple_GET_SIZE(fast);
    *shape = (ss_shape){0};
    if (rank > SS_MAX_RANK) {
        PyErr_Format(PyExc_ValueError, "shape has %zd axes, more than the %d that are supported", rank, SS_MAX_RANK);
        Py_DECREF(fast);
        return -1;
    }
    shape->rank = (int)rank;
    for (Py_ssize_t k = 0; k < rank; k++) {
        shape->dim[k] = PyLong_AsLongLong(PyTuple_GET_ITEM(fast, k));
        if (shape->dim[k] == -1 && PyErr_Occurred()) {
            Py_DECREF(fast);
            return -1;
        }
    }
    Py_DECREF(fast);
    return 0;
}

PyObject *binding_shape_tuple(const ss_shape *shape) {
    PyObject *tuple = PyTuple_New(shape->rank);
    for (int k = 0; tuple && k < shape->rank; k++) {
        PyObject *extent = PyLong_FromLongLong(shape->dim[k]);
        if (!extent) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, k, extent);
    }
    return tuple;
}

int binding_attrs(PyObject *mapping, ss_attr **attrs, int *count) {
    *attrs = NULL;
    *count = 0;
    if (!mapping || mapping == Py_None) return 0;
    if (!PyDict_Check(mapping)) {
        PyErr_SetString(PyExc_TypeError, "attributes must be a dict");
        return -1;
    }
    Py_ssize_t size = PyDict_GET_SIZE(mapping);
    *attrs = ss_calloc((size_t)size + 1, sizeof **attrs);
    if (!*attrs) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(mapping, &at, &key, &value)) {
        ss_attr *attr = &(*attrs)[*count];
        attr->name = PyUnicode_Check(key) ? PyUnicode_AsUTF8(key) : NULL;
        if (!attr->name && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "attribute names must be strings");
        if (attr->name) attr->value = PyFloat_AsDouble(value);
        if (PyDict_GET_SIZE(mapping) != size && !PyErr_Occurred()) /* by a value's __float__ */
            PyErr_SetString(PyExc_RuntimeError, "attributes changed while they were read");
        if (PyErr_Occurred()) {
            ss_free(*attrs);
            *attrs = NULL;
            return -1;
        }
        ++*count;
    }
    return 0;
}

/* The pending Python exception becomes an ss_error. */
static ss_status catch_exception(const char *name, ss_error *err) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    ss_status status = SS_ERR_VALUE;
    if (type && PyErr_GivenExceptionMatches(type, PyExc_MemoryError)) status = SS_ERR_MEMORY;
    else if (type && PyErr_GivenExceptionMatches(type, PyExc_TypeError)) status = SS_ERR_DTYPE;
    PyObject *text = value ? PyObject_Str(value) : NULL;
    const char *utf8 = text ? PyUnicode_AsUTF8(text) : NULL;
    status = SS_FAIL(err, status, "%s: %s", name, utf8 ? utf8 : "cannot be read as an array");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return status;
}

static bool type_of(int number, ss_type *type) {
    switch (number) {
    case NPY_BOOL: *type = SS_T_BOOL; return true;
    case NPY_FLOAT: *type = SS_T_F32; return true;
    case NPY_DOUBLE: *type = SS_T_F64; return true;
    default: break;
    }
    if (!PyTypeNum_ISINTEGER(number)) return false;
    bool with_sign = PyTypeNum_ISSIGNED(number);
    PyArray_Descr *descr = PyArray_DescrFromType(number);
    npy_intp size = PyDataType_ELSIZE(descr);
    Py_DECREF(descr);
    switch (size) {
    case 1: *type = with_sign ? SS_T_I8 : SS_T_U8; return true;
    case 2: *type = with_sign ? SS_T_I16 : SS_T_U16; return true;
    case 4: *type = with_sign ? SS_T_I32 : SS_T_U32; return true;
    case 8: *type = with_sign ? SS_T_I64 : SS_T_U64; return true;
    default: return false;
    }
}

static void shape_text(PyArrayObject *a, char *text, int size) {
    int at = snprintf(text, (size_t)size, "(");
    for (int k = 0; k < PyArray_NDIM(a) && at < size - 24; k++)
        at += snprintf(text + at, (size_t)(size - at), "%s%lld", k ? ", " : "", (long long)PyArray_DIM(a, k));
    snprintf(text + at, (size_t)(size - at), PyArray_NDIM(a) == 1 ? ",)" : ")");
}

ss_status binding_array(PyObject *object, const char *name, const ss_shape *sample, ss_dtype wanted, ss_array *out, PyObject **keep, ss_error *err) {
    ss_status status = SS_OK;
    char got[256], expected[256];
    ss_type type;
    PyArrayObject *a = (PyArrayObject *)PyArray_FromAny(object, NULL, 0, 0, 0, NULL);
    if (!a) return catch_exception(name, err);
    int number = PyArray_TYPE(a);
    if (number == NPY_HALF || number == NPY_LONGDOUBLE) {
        PyArrayObject *cast = (PyArrayObject *)PyArray_Cast(a, NPY_FLOAT);
        Py_DECREF(a);
        if (!cast) return catch_exception(name, err);
        a = cast;
        number = NPY_FLOAT;
    }
    if (!type_of(number, &type)) {
        PyObject *descr = PyObject_Str((PyObject *)PyArray_DESCR(a));
        const char *text = descr ? PyUnicode_AsUTF8(descr) : NULL;
        PyErr_Clear();
        status = SS_FAIL(err, SS_ERR_DTYPE, "%s: arrays of dtype %s are not supported; convert to %s", name, text ? text : "?",
                         wanted == SS_I32 ? "an integer dtype" : "float32");
        Py_XDECREF(descr);
        goto done;
    }
    if (wanted == SS_I32 && (type == SS_T_F32 || type == SS_T_F64)) {
        status = SS_FAIL(err, SS_ERR_DTYPE, "%s must hold integers, but its dtype is %s; convert with .astype('int64')", name,
                         type == SS_T_F32 ? "float32" : "float64");
        goto done;
    }
    bool fits = PyArray_NDIM(a) == sample->rank + 1;
    for (int k = 0; fits && k < sample->rank; k++) fits = PyArray_DIM(a, k + 1) == sample->dim[k];
    if (!fits) {
        shape_text(a, got, sizeof got);
        status = SS_FAIL(err, SS_ERR_SHAPE, "%s: expected an array of shape %s, got %s", name, ss_shape_text(sample, true, expected, sizeof expected), got);
        goto done;
    }
    /* Samples must be dense, aligned and in native byte order; rows may lie any distance apart. */
    bool dense = PyArray_ISBEHAVED_RO(a);
    npy_intp size = PyArray_ITEMSIZE(a);
    for (int k = PyArray_NDIM(a) - 1; k >= 1 && dense; k--) {
        dense = PyArray_DIM(a, k) == 1 || PyArray_STRIDE(a, k) == size;
        size *= PyArray_DIM(a, k);
    }
    if (!dense) {
        PyArrayObject *copy = (PyArrayObject *)PyArray_FromAny((PyObject *)a, PyArray_DescrFromType(number), 0, 0,
                                                               NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | NPY_ARRAY_NOTSWAPPED, NULL);
        Py_DECREF(a);
        if (!copy) return catch_exception(name, err);
        a = copy;
    }
    *out = (ss_array){.data = PyArray_BYTES(a), .type = type, .rows = PyArray_DIM(a, 0), .row_stride = PyArray_STRIDE(a, 0),
                      .count = ss_shape_count(sample), .name = name};
    *keep = (PyObject *)a;
    return SS_OK;
done:
    Py_DECREF(a);
    return status;
}

PyArrayObject *binding_float_array(PyObject *object, const ss_shape *shape, const char *what) {
    char got[256], expected[256];
    PyArrayObject *any = (PyArrayObject *)PyArray_FromAny(object, NULL, 0, 0, 0, NULL);
    if (!any) return NULL;
    int number = PyArray_TYPE(any);
    if (!PyTypeNum_ISNUMBER(number) || PyTypeNum_ISCOMPLEX(number)) {
        PyErr_Format(PyExc_TypeError, "%s: arrays of dtype %S are not supported; convert to float32", what, (PyObject *)PyArray_DESCR(any));
        Py_DECREF(any);
        return NULL;
    }
    bool fits = PyArray_NDIM(any) == shape->rank;
    for (int k = 0; fits && k < shape->rank; k++) fits = PyArray_DIM(any, k) == shape->dim[k];
    if (!fits) {
        shape_text(any, got, sizeof got);
        PyErr_Format(PyExc_ValueError, "%s: expected an array of shape %s, got %s", what, ss_shape_text(shape, false, expected, sizeof expected), got);
        Py_DECREF(any);
        return NULL;
    }
    PyArrayObject *a = (PyArrayObject *)PyArray_FromAny((PyObject *)any, PyArray_DescrFromType(NPY_FLOAT), 0, 0, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST, NULL);
    Py_DECREF(any);
    return a;
}
