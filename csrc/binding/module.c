#define SS_BINDING_MODULE
#include "binding/binding.h"
#include "base/alloc.h"
#include "base/philox.h"
#include "comm/comm_mpi.h"
#include "kernels/measure.h"

#ifndef SS_VERSION
#define SS_VERSION "unknown"
#endif

static PyModuleDef module;

binding_state *binding_state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

static PyObject *build_info(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    char mpi[512];
    ss_isa best;
    ss_error err;
    const ss_cpu *cpu = ss_cpu_features();
    if (ss_isa_parse(getenv("SAMESTEP_ISA"), &best, &err) != SS_OK) return PyErr_Format(PyExc_ValueError, "SAMESTEP_ISA: %s", err.message);
    ss_mpi_version(mpi, sizeof mpi);
    PyObject *available = PyList_New(0);
    for (int isa = 0; available && isa < SS_ISA_COUNT; isa++) {
        if (!ss_kernels_for(isa)) continue;
        PyObject *name = PyUnicode_FromString(ss_isa_name(isa));
        if (!name || PyList_Append(available, name)) Py_CLEAR(available);
        Py_XDECREF(name);
    }
    if (!available) return NULL;
#ifdef SS_DEBUG
    int debug = 1;
#else
    int debug = 0;
#endif
    return Py_BuildValue("{s:s,s:i,s:s,s:N,s:s,s:O,s:s,s:s,s:i}", "version", SS_VERSION, "order_version", SS_ORDER_VERSION, "isa", ss_isa_name(best),
                         "isas_available", available, "cpu", cpu->model, "avx512_bf16", cpu->avx512_bf16 ? Py_True : Py_False, "mpi_version", mpi, "blas",
                         ss_blas_description(), "debug", debug);
}

static const char *attr_kind(ss_attr_kind kind) { return kind == SS_ATTR_INT ? "int" : kind == SS_ATTR_FLOAT ? "float" : "bool"; }

static PyObject *operators(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *list = PyList_New(0);
    for (int n = 0; list && n < ss_op_count; n++) {
        const ss_op *op = ss_op_at(SS_ISA_SCALAR, n);
        PyObject *attrs = PyList_New(0), *item = NULL;
        for (int k = 0; attrs && op->attrs && op->attrs[k].name; k++) {
            const ss_attr_spec *a = &op->attrs[k];
            PyObject *row = Py_BuildValue("(ssddds)", a->name, attr_kind(a->kind), a->initial, a->least, a->most, a->doc);
            if (!row || PyList_Append(attrs, row)) Py_CLEAR(attrs);
            Py_XDECREF(row);
        }
        if (attrs) item = Py_BuildValue("{s:s,s:s,s:I,s:N}", "name", op->name, "doc", op->doc, "flags", op->flags, "attrs", attrs);
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *optimizers(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *list = PyList_New(0);
    for (int n = 0; list && n < ss_optim_count; n++) {
        const ss_optim *o = ss_optim_at(SS_ISA_SCALAR, n);
        PyObject *hypers = PyList_New(0), *item = NULL;
        for (int k = 0; hypers && o->hypers[k].name; k++) {
            const ss_hyper_spec *h = &o->hypers[k];
            PyObject *row = Py_BuildValue("(sddds)", h->name, h->initial, h->least, h->most, h->doc);
            if (!row || PyList_Append(hypers, row)) Py_CLEAR(hypers);
            Py_XDECREF(row);
        }
        if (hypers) item = Py_BuildValue("{s:s,s:s,s:N}", "name", o->name, "doc", o->doc, "hypers", hypers);
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyArrayObject *writable(PyObject *object) {
    if (PyArray_Check(object) && PyArray_TYPE((PyArrayObject *)object) == NPY_FLOAT && PyArray_ISCARRAY((PyArrayObject *)object)) return (PyArrayObject *)object;
    PyErr_SetString(PyExc_TypeError, "out must be a writable C-contiguous float32 array");
    return NULL;
}

static PyObject *fill(PyObject *args, void (*draw)(float *, int64_t, uint64_t, uint32_t, float, float)) {
    PyObject *object;
    unsigned long long seed;
    unsigned int stream;
    double a, b;
    if (!PyArg_ParseTuple(args, "OKIdd", &object, &seed, &stream, &a, &b)) return NULL;
    PyArrayObject *out = writable(object);
    if (!out) return NULL;
    draw(PyArray_DATA(out), PyArray_SIZE(out), seed, stream, (float)a, (float)b);
    Py_RETURN_NONE;
}

static PyObject *fill_uniform(PyObject *self, PyObject *args) {
    (void)self;
    return fill(args, ss_fill_uniform);
}

static PyObject *fill_normal(PyObject *self, PyObject *args) {
    (void)self;
    return fill(args, ss_fill_normal);
}

static PyObject *permutation(PyObject *self, PyObject *args) {
    (void)self;
    long long count;
    unsigned long long seed;
    unsigned int epoch;
    if (!PyArg_ParseTuple(args, "LKI", &count, &seed, &epoch)) return NULL;
    if (count < 0) return PyErr_Format(PyExc_ValueError, "count=%lld must not be negative", count);
    npy_intp dims[1] = {count};
    PyObject *array = PyArray_SimpleNew(1, dims, NPY_INT64);
    if (!array) return NULL;
    int64_t *out = PyArray_DATA((PyArrayObject *)array);
    Py_BEGIN_ALLOW_THREADS
    for (int64_t k = 0; k < count; k++) out[k] = ss_permute(seed, epoch, count, k);
    Py_END_ALLOW_THREADS
    return array;
}

static PyObject *default_lanes(PyObject *self, PyObject *arg) {
    (void)self;
    long long batch = PyLong_AsLongLong(arg);
    if (batch == -1 && PyErr_Occurred()) return NULL;
    if (batch < 1) return PyErr_Format(PyExc_ValueError, "batch=%lld must be at least 1", batch);
    return PyLong_FromLong(ss_default_lanes(batch));
}

static PyObject *peak(PyObject *self, PyObject *args) {
    const char *name;
    int threads;
    double seconds;
    ss_isa isa;
    ss_error err;
    ss_peak found = {0};
    if (!PyArg_ParseTuple(args, "sid", &name, &threads, &seconds)) return NULL;
    ss_status status = ss_isa_parse(name, &isa, &err);
    if (status == SS_OK) {
        Py_BEGIN_ALLOW_THREADS
        status = ss_measure_peak(isa, threads, seconds, &found, &err);
        Py_END_ALLOW_THREADS
    }
    if (status != SS_OK) return binding_raise(PyModule_GetState(self), &err);
    return Py_BuildValue("(dd)", found.gflops, found.gbytes);
}

static PyObject *cpu_count(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyLong_FromLong(ss_cpu_count());
}

static PyObject *alloc_count(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyLong_FromUnsignedLongLong(ss_alloc_count());
}

static PyObject *alloc_fail_after(PyObject *self, PyObject *arg) {
    (void)self;
    unsigned long long n = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) return NULL;
    ss_alloc_fail_after(n);
    Py_RETURN_NONE;
}

static PyObject *mpi_abort(PyObject *self, PyObject *arg) {
    (void)self;
    long code = PyLong_AsLong(arg);
    if (PyErr_Occurred()) return NULL;
    ss_mpi_abort((int)code);
    Py_RETURN_NONE;
}

static PyObject *mpi_initialized(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyBool_FromLong(ss_mpi_initialized() && !ss_mpi_finalized());
}

static PyObject *mpi_finalize(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    Py_BEGIN_ALLOW_THREADS
    ss_mpi_finalize();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"build_info", build_info, METH_NOARGS, "build_info($module, /)\n--\n\nVersions, CPU, kernels."},
    {"operators", operators, METH_NOARGS, "operators($module, /)\n--\n\nOne dict an operator."},
    {"optimizers", optimizers, METH_NOARGS, "optimizers($module, /)\n--\n\nOne dict an optimizer."},
    {"fill_uniform", fill_uniform, METH_VARARGS,
     "fill_uniform($module, out, seed, stream, low, high, /)\n--\n\nFills an array with numbers uniform in [low, high)."},
    {"fill_normal", fill_normal, METH_VARARGS,
     "fill_normal($module, out, seed, stream, mean, std, /)\n--\n\nFills an array with normal numbers."},
    {"permutation", permutation, METH_VARARGS,
     "permutation($module, count, seed, epoch, /)\n--\n\nThe order of samples of an epoch."},
    {"default_lanes", default_lanes, METH_O, "default_lanes($module, batch, /)\n--\n\nLanes for a batch."},
    {"peak", peak, METH_VARARGS,
     "peak($module, isa, threads, seconds, /)\n--\n\nMeasures this machine: GFLOP/s of multiply-adds in registers and GB/s read from memory, all threads together."},
    {"cpu_count", cpu_count, METH_NOARGS, "cpu_count($module, /)\n--\n\nProcessors this process may use."},
    {"alloc_count", alloc_count, METH_NOARGS, "alloc_count($module, /)\n--\n\nAllocations made by the core."},
    {"alloc_fail_after", alloc_fail_after, METH_O,
     "alloc_fail_after($module, n, /)\n--\n\nMakes the n-th allocation from now fail (0: never)."},
    {"mpi_abort", mpi_abort, METH_O, "mpi_abort($module, code, /)\n--\n\nEnds all ranks."},
    {"mpi_initialized", mpi_initialized, METH_NOARGS, "mpi_initialized($module, /)\n--\n\nWhether MPI runs."},
    {"mpi_finalize", mpi_finalize, METH_NOARGS,
     "mpi_finalize($module, /)\n--\n\nEnds MPI in good order, if this library started it."},
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *self, PyType_Spec *spec, PyTypeObject **type) {
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(self, spec, NULL);
    return *type && !PyModule_AddType(self, *type) ? 0 : -1;
}

static int add_exception(PyObject *self, const char *name, const char *doc, PyObject *base, PyObject **exception) {
    char full[64];
    snprintf(full, sizeof full, "samestep.%s", name);
    *exception = PyErr_NewExceptionWithDoc(full, doc, base, NULL);
    return *exception && !PyModule_AddObjectRef(self, name, *exception) ? 0 : -1;
}

static int execute(PyObject *self) {
    binding_state *state = PyModule_GetState(self);
    import_array1(-1);
    if (add_exception(self, "CommError", "Ranks cannot work together: one has failed, or the transport has.", PyExc_RuntimeError,
                      &state->comm_error) ||
        add_exception(self, "RankFailed", "A rank did not answer within SAMESTEP_TIMEOUT seconds.", state->comm_error,
                      &state->rank_failed) ||
        add_exception(self, "CheckpointError", "A file of parameters or of a training run is damaged or does not fit.",
                      PyExc_RuntimeError, &state->checkpoint_error) ||
        add_exception(self, "NumericError", "The loss is no longer finite.", PyExc_ArithmeticError, &state->numeric_error))
        return -1;
    if (add_type(self, &comm_spec, &state->comm) || add_type(self, &graph_spec, &state->graph) || add_type(self, &model_spec, &state->model) ||
        add_type(self, &plan_spec, &state->plan))
        return -1;
    Py_AtExit(ss_mpi_finalize); /* for programs that end without the package's own hook; does nothing the second time */
    return PyModule_AddIntConstant(self, "ORDER_VERSION", SS_ORDER_VERSION);
}

static int traverse(PyObject *self, visitproc visit, void *arg) {
    binding_state *state = PyModule_GetState(self);
    Py_VISIT(state->comm);
    Py_VISIT(state->graph);
    Py_VISIT(state->model);
    Py_VISIT(state->plan);
    Py_VISIT(state->comm_error);
    Py_VISIT(state->rank_failed);
    Py_VISIT(state->checkpoint_error);
    Py_VISIT(state->numeric_error);
    return 0;
}

static int clear(PyObject *self) {
    binding_state *state = PyModule_GetState(self);
    Py_CLEAR(state->comm);
    Py_CLEAR(state->graph);
    Py_CLEAR(state->model);
    Py_CLEAR(state->plan);
    Py_CLEAR(state->comm_error);
    Py_CLEAR(state->rank_failed);
    Py_CLEAR(state->checkpoint_error);
    Py_CLEAR(state->numeric_error);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "samestep._core", .m_doc = "The C core of samestep.", .m_size = sizeof(binding_state), .m_methods = functions,
    .m_slots = slots, .m_traverse = traverse, .m_clear = clear,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module); }
