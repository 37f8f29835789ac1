#include "binding/binding.h"
#include "base/alloc.h"

static PyObject *graph_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {NULL};
    ss_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Graph", names)) return NULL;
    graph_object *self = (graph_object *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    if (ss_graph_create(&self->graph, &err) != SS_OK) {
        binding_raise(binding_state_of((PyObject *)self), &err);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void graph_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    ss_graph_free(((graph_object *)object)->graph);
    type->tp_free(object);
    Py_DECREF(type);
}

/* A graph that a plan was made of must not change: the plan shares its names. */
static ss_graph *open_graph(PyObject *object) {
    graph_object *self = (graph_object *)object;
    if (!self->frozen) return self->graph;
    PyErr_SetString(PyExc_RuntimeError, "this graph has been compiled and cannot be changed any more");
    return NULL;
}

static PyObject *answer(PyObject *self, ss_status status, const int *value, const ss_error *err) {
    return status == SS_OK ? PyLong_FromLong(*value) : binding_raise(binding_state_of(self), err);
}

static PyObject *graph_input(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "shape", "dtype", NULL};
    const char *name, *dtype = "float32";
    PyObject *sequence;
    ss_shape shape;
    ss_error err;
    int value = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO|s", names, &name, &sequence, &dtype)) return NULL;
    ss_graph *g = open_graph(self);
    if (!g || binding_shape(sequence, &shape)) return NULL;
    bool is_int = !strcmp(dtype, "int32");
    if (!is_int && strcmp(dtype, "float32")) return PyErr_Format(PyExc_ValueError, "dtype must be 'float32' or 'int32', not '%s'", dtype);
    return answer(self, ss_graph_input(g, name, &shape, is_int ? SS_I32 : SS_F32, &value, &err), &value, &err);
}

static PyObject *graph_parameter(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "shape", "trainable", NULL};
    const char *name;
    PyObject *sequence;
    ss_shape shape;
    ss_error err;
    int value = -1, trainable = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO|p", names, &name, &sequence, &trainable)) return NULL;
    ss_graph *g = open_graph(self);
    if (!g || binding_shape(sequence, &shape)) return NULL;
    return answer(self, ss_graph_parameter(g, name, &shape, trainable, &value, &err), &value, &err);
}

static PyObject *graph_buffer(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "shape", NULL};
    const char *name;
    PyObject *sequence;
    ss_shape shape;
    ss_error err;
    int value = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO", names, &name, &sequence)) return NULL;
    ss_graph *g = open_graph(self);
    if (!g || binding_shape(sequence, &shape)) return NULL;
    return answer(self, ss_graph_buffer(g, name, &shape, &value, &err), &value, &err);
}

static PyObject *graph_node(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"op", "inputs", "attrs", "layer", NULL};
    const char *op, *layer = "";
    PyObject *sequence, *mapping = NULL, *fast = NULL, *result = NULL;
    ss_attr *attrs = NULL;
    int in[SS_MAX_IN], count, value = -1;
    ss_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO|Os", names, &op, &sequence, &mapping, &layer)) return NULL;
    ss_graph *g = open_graph(self);
    if (!g || !(fast = PySequence_Tuple(sequence))) return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(fast);
    if (n > SS_MAX_IN) {
        PyErr_Format(PyExc_ValueError, "%s: %zd inputs, but at most %d are supported", op, n, SS_MAX_IN);
        goto done;
    }
    for (Py_ssize_t k = 0; k < n; k++) {
        PyObject *item = PyTuple_GET_ITEM(fast, k);
        in[k] = -1;
        if (item != Py_None && binding_int(item, "value", 0, g->values - 1, &in[k])) goto done;
    }
    if (binding_attrs(mapping, &attrs, &count)) goto done;
    if (ss_graph_node(g, op, in, (int)n, attrs, count, layer, &value, &err) != SS_OK) {
        binding_raise(binding_state_of(self), &err);
        goto done;
    }
    const ss_node *made = &g->node[g->nodes - 1];
    result = made->n_out == 1 ? PyLong_FromLong(value) : PyTuple_New(made->n_out);
    for (int k = 0; result && made->n_out > 1 && k < made->n_out; k++) {
        PyObject *number = PyLong_FromLong(value + k);
        if (!number) Py_CLEAR(result);
        else PyTuple_SET_ITEM(result, k, number);
    }
done:
    ss_free(attrs);
    Py_DECREF(fast);
    return result;
}

static const ss_value *value_at(PyObject *self, PyObject *number) {
    const ss_graph *g = ((graph_object *)self)->graph;
    long value = PyLong_AsLong(number);
    if (value == -1 && PyErr_Occurred()) return NULL;
    if (value < 0 || value >= g->values) {
        PyErr_Format(PyExc_ValueError, "value %ld is not one of the graph's %d", value, g->values);
        return NULL;
    }
    return &g->value[value];
}

static PyObject *graph_shape(PyObject *self, PyObject *number) {
    const ss_value *value = value_at(self, number);
    return value ? binding_shape_tuple(&value->shape) : NULL;
}

static PyObject *graph_batched(PyObject *self, PyObject *number) {
    const ss_value *value = value_at(self, number);
    return value ? PyBool_FromLong(value->batched) : NULL;
}

static PyObject *graph_dtype(PyObject *self, PyObject *number) {
    const ss_value *value = value_at(self, number);
    return value ? PyUnicode_FromString(value->dtype == SS_I32 ? "int32" : "float32") : NULL;
}

static PyObject *graph_output(PyObject *self, PyObject *number) {
    ss_error err;
    ss_graph *g = open_graph(self);
    const ss_value *value = g ? value_at(self, number) : NULL;
    if (!value) return NULL;
    if (ss_graph_output(g, (int)(value - g->value), &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *graph_result(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"value", "name", "weight", NULL};
    const char *name;
    double weight = 1;
    int value;
    ss_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "is|d", names, &value, &name, &weight)) return NULL;
    ss_graph *g = open_graph(self);
    if (!g) return NULL;
    if (ss_graph_result(g, value, name, weight, &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *graph_nodes(PyObject *self, PyObject *unused) {
    (void)unused;
    const ss_graph *g = ((graph_object *)self)->graph;
    PyObject *list = PyList_New(0);
    for (int n = 0; list && n < g->nodes; n++) {
        const ss_node *node = &g->node[n];
        const ss_op *op = ss_op_at(SS_ISA_SCALAR, node->op);
        PyObject *attrs = PyDict_New(), *inputs = PyTuple_New(node->n_in), *item = NULL;
        bool ok = attrs && inputs;
        for (int k = 0; ok && op->attrs && op->attrs[k].name; k++) {
            PyObject *number = PyFloat_FromDouble(node->attr[k]);
            ok = number && !PyDict_SetItemString(attrs, op->attrs[k].name, number);
            Py_XDECREF(number);
        }
        for (int k = 0; ok && k < node->n_in; k++) {
            PyObject *in = node->in[k] < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(node->in[k]);
            ok = in != NULL;
            if (ok) PyTuple_SET_ITEM(inputs, k, in);
        }
        if (ok)
            item = Py_BuildValue("{s:i,s:s,s:s,s:O,s:i,s:i,s:O}", "number", n, "op", op->name, "layer", node->layer, "inputs", inputs, "output", node->out,
                                 "outputs", node->n_out, "attrs", attrs);
        Py_XDECREF(attrs);
        Py_XDECREF(inputs);
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyMethodDef methods[] = {
    {"input", (PyCFunction)(void (*)(void))graph_input, METH_VARARGS | METH_KEYWORDS,
     "input($self, /, name, shape, dtype='float32')\n--\n\nA batched value that the caller feeds."},
    {"parameter", (PyCFunction)(void (*)(void))graph_parameter, METH_VARARGS | METH_KEYWORDS,
     "parameter($self, /, name, shape, trainable=True)\n--\n\nA parameter."},
    {"buffer", (PyCFunction)(void (*)(void))graph_buffer, METH_VARARGS | METH_KEYWORDS,
     "buffer($self, /, name, shape)\n--\n\nState that an operator updates."},
    {"node", (PyCFunction)(void (*)(void))graph_node, METH_VARARGS | METH_KEYWORDS,
     "node($self, /, op, inputs, attrs=None, layer='')\n--\n\nAdds a node; returns its output value, or a tuple of several."},
    {"shape", graph_shape, METH_O, "shape($self, value, /)\n--\n\nShape of a value, without the batch axis."},
    {"batched", graph_batched, METH_O, "batched($self, value, /)\n--\n\nWhether a value has a batch axis."},
    {"dtype", graph_dtype, METH_O, "dtype($self, value, /)\n--\n\n'float32' or 'int32'."},
    {"output", graph_output, METH_O, "output($self, value, /)\n--\n\nMarks a value that a forward pass returns."},
    {"result", (PyCFunction)(void (*)(void))graph_result, METH_VARARGS | METH_KEYWORDS,
     "result($self, /, value, name, weight=1.0)\n--\n\nMarks a loss or a metric as a result of a step."},
    {"nodes", graph_nodes, METH_NOARGS, "nodes($self, /)\n--\n\nThe nodes as dicts."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A traced network: values and the nodes that make them."},
    {Py_tp_new, graph_new},
    {Py_tp_dealloc, graph_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};
PyType_Spec graph_spec = {"samestep._core.Graph", sizeof(graph_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
