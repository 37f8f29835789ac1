#include "binding/binding.h"
#include <string.h>
#include <time.h>
#include "base/alloc.h"
#include "train/central.h"
#include "train/mix.h"

enum {
    SMALL_BATCH = 1 << 20, /* bytes below which handing a batch to the loader thread costs more than copying it */
    SIGNAL_NANOSECONDS = 20000000
};

static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"model", "graph", "batch", "training", "lanes", "lanes_at_once", "gradients", "results", "functions", NULL};
    model_object *model;
    graph_object *graph;
    PyObject *lanes = Py_None, *at_once = Py_None, *functions = NULL;
    long long batch;
    int training, gradients = 0, results = 1;
    ss_error err;
    binding_state *state = PyType_GetModuleState(type);
    if (!state) return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!|$LpOOppO:Plan", names, state->model, &model, state->graph, &graph, &batch, &training, &lanes,
                                     &at_once, &gradients, &results, &functions))
        return NULL;
    ss_options o = {.batch = batch, .training = training, .with_results = results, .gradients = gradients};
    if (lanes != Py_None) {
        if (binding_int(lanes, "lanes", 1, SS_MAX_LANES, &o.lanes)) return NULL;
    }
    if (at_once != Py_None) {
        if (binding_int(at_once, "lanes_at_once", 1, 1 << 30, &o.lanes_at_once)) return NULL;
    }
    plan_object *self = (plan_object *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->model = (model_object *)Py_NewRef((PyObject *)model);
    self->graph = (graph_object *)Py_NewRef((PyObject *)graph);
    const ss_graph *g = graph->graph;
    self->wanted = ss_calloc((size_t)g->inputs + 1, sizeof *self->wanted);
    if (!self->wanted) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (int v = 0; v < g->values; v++)
        if (g->value[v].kind == SS_VALUE_INPUT) self->wanted[g->value[v].index] = g->value[v].dtype;
    /* With the GIL held: another thread could change the graph, which is frozen only by success. */
    if (ss_session_create(model->model, g, &o, &self->session, &err) != SS_OK) {
        binding_raise(state, &err);
        Py_DECREF(self);
        return NULL;
    }
    if (functions && functions != Py_None) {
        self->host = binding_host_create(functions);
        if (!self->host) {
            Py_DECREF(self);
            return NULL;
        }
        self->session->host = binding_host_of(self->host, self->session);
    }
    graph->frozen = true;
    return (PyObject *)self;
}

static void plan_dealloc(PyObject *object) {
    plan_object *self = (plan_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    ss_loader_free(self->loader);
    ss_session_free(self->session);
    binding_host_free(self->host);
    ss_free(self->wanted);
    Py_XDECREF((PyObject *)self->graph);
    Py_XDECREF((PyObject *)self->model);
    type->tp_free(object);
    Py_DECREF(type);
}

static ss_session *session_of(PyObject *self) { return ((plan_object *)self)->session; }

/* The arrays a call was given, as the loader reads them. */
typedef struct arrays {
    ss_array array[SS_MAX_RESULTS];
    PyObject *keep[SS_MAX_RESULTS];
    int count;
    int64_t rows;
} arrays;

static void release(arrays *a) {
    for (int k = 0; k < a->count; k++) Py_XDECREF(a->keep[k]);
    a->count = 0;
}

/* After a step on arrays that load_one lent. */
static void take_back(plan_object *self, arrays *a) {
    for (int k = 0; k < self->session->inputs; k++) ss_session_lend(self->session, k, NULL);
    release(a);
}

/* empty: arrays without rows are allowed. role: of mixing, or NULL. */
static ss_status take_arrays(plan_object *self, PyObject *sequence, bool empty, const ss_mix_role *role, arrays *a, ss_error *err) {
    const ss_graph *g = self->graph->graph;
    ss_status status = SS_OK;
    a->count = 0, a->rows = 0;
    PyObject *fast = PySequence_Tuple(sequence); /* a copy: reading an array may run code that changes a list */
    if (!fast) {
        PyErr_Clear();
        return SS_FAIL(err, SS_ERR_DTYPE, "arrays must be a sequence of arrays");
    }
    if (PyTuple_GET_SIZE(fast) != g->inputs || g->inputs > SS_MAX_RESULTS) {
        status = SS_FAIL(err, SS_ERR_VALUE, "%lld arrays were given, but the graph has %d inputs (at most %d)", (long long)PyTuple_GET_SIZE(fast), g->inputs, SS_MAX_RESULTS);
        goto done;
    }
    for (int v = 0; v < g->values && status == SS_OK; v++) {
        const ss_value *value = &g->value[v];
        if (value->kind != SS_VALUE_INPUT) continue;
        int k = a->count;
        static const ss_shape label = {.rank = 0};
        bool hot = role && role[value->index] == SS_MIX_ONE_HOT;
        status = binding_array(PyTuple_GET_ITEM(fast, value->index), value->name, hot ? &label : &value->shape, hot ? SS_I32 : value->dtype, &a->array[k], &a->keep[k], err);
        if (status != SS_OK) break;
        a->count++;
        if (k == 0) a->rows = a->array[0].rows;
        else if (a->array[k].rows != a->rows)
            status = SS_FAIL(err, SS_ERR_SHAPE, "%s has %lld rows, but %s has %lld", a->array[k].name, (long long)a->array[k].rows, a->array[0].name,
                             (long long)a->rows);
    }
    if (status == SS_OK && a->rows == 0 && !(empty && a->count))
        status = SS_FAIL(err, SS_ERR_VALUE, "%s is empty: a batch needs at least one row", a->count ? a->array[0].name : "the list of arrays");
done:
    Py_DECREF(fast);
    return status;
}

static ss_status check_batch(const ss_session *s, int64_t batch, const char *what, ss_error *err) {
    if (batch > s->schedule->most_batch)
        return SS_FAIL(err, SS_ERR_VALUE, "%s: a batch of %lld is larger than the %lld the plan was compiled for (batch_size)", what, (long long)batch,
                       (long long)s->schedule->most_batch);
    return SS_OK;
}

/* Whether rows lie as a step reads them. */
static bool as_read(const ss_array *a, ss_dtype wanted, int64_t channels) {
    return a->type == (wanted == SS_I32 ? SS_T_I32 : SS_T_F32) && channels == 1 && a->row_stride == 4 * a->count;
}

/* Loads one batch into input set 0, or lends the arrays; the caller takes them back, whatever the outcome. A failure is returned, not raised: the other ranks must hear of it. */
static ss_status load_one(plan_object *self, PyObject *sequence, bool local, long long given, arrays *a, int64_t *batch, ss_error *err) {
    ss_session *s = self->session;
    int64_t begin = 0, end = 0;
    *batch = 1;
    ss_status status = take_arrays(self, sequence, local, NULL, a, err); /* a small batch may leave this rank no rows */
    if (status != SS_OK) return status;
    if (local && given < 1) return SS_FAIL(err, SS_ERR_VALUE, "local=True needs batch=, the size of the global batch");
    int64_t size = local ? given : a->rows;
    if ((status = check_batch(s, size, a->array[0].name, err)) != SS_OK) return status;
    ss_session_rows(s, size, &begin, &end);
    if (local && a->rows != end - begin)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s has %lld rows, but this rank's part of a batch of %lld is %lld rows: [%lld, %lld)", a->array[0].name,
                       (long long)a->rows, (long long)size, (long long)(end - begin), (long long)begin, (long long)end);
    *batch = size;
    const int64_t first = local ? 0 : begin;
    Py_BEGIN_ALLOW_THREADS
    for (int k = 0; k < a->count && status == SS_OK; k++) {
        const ss_array *array = &a->array[k];
        if (as_read(array, self->wanted[k], s->input_channels[k])) ss_session_lend(s, k, array->data + first * array->row_stride);
        else status = ss_gather(array, NULL, first, end - begin, self->wanted[k], s->input_channels[k], s->input[0][k], err);
    }
    Py_END_ALLOW_THREADS
    return status;
}

static PyObject *new_results(const ss_session *s, int64_t steps) {
    npy_intp dims[3] = {steps, s->result_elements, 2};
    return steps < 0 ? PyArray_SimpleNew(2, dims + 1, NPY_DOUBLE) : PyArray_SimpleNew(3, dims, NPY_DOUBLE);
}

/* What a function in Python raised is raised itself; any other failure, and that of another rank, by its status. */
static PyObject *raise_step(plan_object *self, const ss_error *err) {
    if (self->host && binding_host_raise(self->host)) return NULL;
    return binding_raise(binding_state_of((PyObject *)self), err);
}

static PyObject *plan_step(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"arrays", "local", "batch", "update", NULL};
    plan_object *self = (plan_object *)object;
    PyObject *sequence, *given = Py_None;
    int local = 0, update = 1;
    int64_t batch;
    arrays a;
    ss_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$pOp", names, &sequence, &local, &given, &update)) return NULL;
    long long wanted = given == Py_None ? 0 : PyLong_AsLongLong(given);
    if (PyErr_Occurred()) return NULL;
    PyObject *results = new_results(self->session, -1);
    if (!results) return NULL;
    ss_model *m = self->model->model;
    if (ss_model_enter(m, &err) != SS_OK) goto fail;
    ss_status status = load_one(self, sequence, local, wanted, &a, &batch, &err);
    if (status == SS_OK || m->transport->size > 1) {
        double *out = PyArray_DATA((PyArrayObject *)results);
        Py_BEGIN_ALLOW_THREADS
        status = ss_session_step(self->session, 0, batch, update, status, out, NULL, &err);
        Py_END_ALLOW_THREADS
    }
    take_back(self, &a);
    ss_model_leave(m);
    if (status == SS_OK) return results;
fail:
    Py_DECREF(results);
    return raise_step(self, &err);
}

/* The gradient of the last step without an update goes to the parameter servers. */
static PyObject *plan_push(PyObject *object, PyObject *unused) {
    (void)unused;
    plan_object *self = (plan_object *)object;
    ss_model *m = self->model->model;
    ss_central *c = self->model->central;
    ss_error err;
    if (!c || ss_central_serves(c) || !self->session->training) {
        PyErr_SetString(PyExc_RuntimeError, "push is for the training plan of a worker of parameter servers");
        return NULL;
    }
    if (ss_model_enter(m, &err) != SS_OK) return binding_raise(binding_state_of(object), &err);
    ss_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ss_central_push(c, m, self->session->gradient, &err);
    Py_END_ALLOW_THREADS
    ss_model_leave(m);
    if (status != SS_OK) return binding_raise(binding_state_of(object), &err);
    Py_RETURN_NONE;
}

static int64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Settings of the optimizer that change from step to step: values[steps][groups] of each name. */
enum { MOST_NAMES = 16 };
typedef struct hyper_table {
    int names, groups;
    const char *name[MOST_NAMES];
    const double *value[MOST_NAMES];
    PyObject *keep[MOST_NAMES];
} hyper_table;

static void release_hypers(hyper_table *t) {
    for (int k = 0; k < t->names; k++) Py_XDECREF(t->keep[k]);
    t->names = 0;
}

/* A failure is returned, not raised: the other ranks must hear of it. */
static ss_status take_hypers(PyObject *mapping, int64_t steps, hyper_table *t, ss_error *err) {
    PyObject *name, *value;
    Py_ssize_t at = 0;
    if (!mapping || mapping == Py_None) return SS_OK;
    if (!PyDict_Check(mapping)) return SS_FAIL(err, SS_ERR_DTYPE, "hypers must be a dict of arrays");
    while (PyDict_Next(mapping, &at, &name, &value)) {
        const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
        if (!text || t->names == MOST_NAMES) return SS_FAIL(err, SS_ERR_VALUE, "hypers must be a dict of at most %d names", MOST_NAMES);
        PyArrayObject *array = (PyArrayObject *)PyArray_FROMANY(value, NPY_DOUBLE, 2, 2, NPY_ARRAY_CARRAY_RO);
        if (!array) {
            PyErr_Clear();
            return SS_FAIL(err, SS_ERR_DTYPE, "hypers['%s'] must be an array (steps, groups)", text);
        }
        t->keep[t->names] = (PyObject *)array;
        t->name[t->names] = text;
        t->value[t->names++] = PyArray_DATA(array);
        int groups = (int)PyArray_DIM(array, 1);
        if (PyArray_DIM(array, 0) != steps || groups < 1 || (t->groups && groups != t->groups))
            return SS_FAIL(err, SS_ERR_SHAPE, "hypers['%s'] must have the shape (%lld, groups)", text, (long long)steps);
        t->groups = groups;
    }
    return SS_OK;
}

static ss_status set_hypers(ss_model *m, const hyper_table *t, int64_t step, ss_error *err) {
    ss_status status = SS_OK;
    for (int k = 0; k < t->names && status == SS_OK; k++)
        for (int g = 0; g < t->groups && status == SS_OK; g++) status = ss_model_set_hyper(m, g, t->name[k], t->value[k][step * t->groups + g], err);
    return status;
}

/* (kind, alpha, epoch, roles) -> mix; the graph's shapes give the rest. mix->row and the arrays behind role are freed by release_mix. */
static ss_status take_mix(plan_object *self, PyObject *given, ss_mix *mix, ss_error *err) {
    const ss_graph *g = self->graph->graph;
    const char *kind;
    double alpha;
    unsigned long long epoch;
    PyObject *roles;
    *mix = (ss_mix){0};
    if (!given || given == Py_None) return SS_OK;
    if (!PyTuple_Check(given) || !PyArg_ParseTuple(given, "sdKO", &kind, &alpha, &epoch, &roles) || !PyTuple_Check(roles) || PyTuple_GET_SIZE(roles) != g->inputs) {
        PyErr_Clear();
        return SS_FAIL(err, SS_ERR_VALUE, "mix must be (kind, alpha, epoch, roles) with a role for each of the %d inputs", g->inputs);
    }
    bool cut = !strcmp(kind, "cutmix");
    if ((!cut && strcmp(kind, "mixup")) || !(alpha > 0 && alpha < 1e6)) return SS_FAIL(err, SS_ERR_VALUE, "mix: kind must be 'mixup' or 'cutmix', alpha positive");
    ss_mix_role *role = ss_calloc((size_t)g->inputs + 1, sizeof *role);
    int64_t *classes = ss_calloc((size_t)g->inputs + 1, sizeof *classes), longest = 1;
    *mix = (ss_mix){.kind = cut ? SS_MIX_CUT : SS_MIX_UP, .alpha = alpha, .seed = self->model->model->seed, .epoch = (uint32_t)epoch, .role = role, .classes = classes};
    if (!role || !classes) return SS_FAIL(err, SS_ERR_MEMORY, "no memory to mix samples");
    for (int v = 0; v < g->values; v++) {
        const ss_value *value = &g->value[v];
        if (value->kind != SS_VALUE_INPUT) continue;
        static const char *const names[] = {"keep", "input", "target", "one_hot"};
        PyObject *item = PyTuple_GET_ITEM(roles, value->index);
        int k = 0;
        while (k < 4 && !(PyUnicode_Check(item) && PyUnicode_CompareWithASCIIString(item, names[k]) == 0)) k++;
        if (k == 4) return SS_FAIL(err, SS_ERR_VALUE, "mix: a role is 'keep', 'input', 'target' or 'one_hot'");
        role[value->index] = (ss_mix_role)k;
        classes[value->index] = ss_shape_count(&value->shape);
        longest = ss_max(longest, ss_shape_count(&value->shape));
        if (k == SS_MIX_INPUT && cut && mix->height == 0) {
            if (value->shape.rank < 2) return SS_FAIL(err, SS_ERR_SHAPE, "cutmix needs images: the last two axes of input '%s' must be height and width", value->name);
            mix->height = value->shape.dim[value->shape.rank - 2];
            mix->width = value->shape.dim[value->shape.rank - 1];
        }
    }
    mix->row = ss_calloc((size_t)longest, sizeof *mix->row);
    return mix->row ? SS_OK : SS_FAIL(err, SS_ERR_MEMORY, "no memory to mix samples of %lld elements", (long long)longest);
}

static void release_mix(ss_mix *mix) {
    ss_free(mix->row);
    ss_free((void *)mix->role);
    ss_free((void *)mix->classes);
}

/* The loop of `run`, with the GIL released; it is taken back now and then to look for signals. */
static ss_status run_steps(plan_object *self, const ss_feed *feed, const hyper_table *hypers, int64_t first, int64_t steps, ss_status local, double *out, bool *interrupted,
                           ss_error *err) {
    ss_session *s = self->session;
    ss_status status = SS_OK;
    bool shared = self->model->model->transport->size > 1;
    int64_t bytes = 0, looked = nanoseconds();
    for (int k = 0; k < feed->arrays; k++) bytes += s->input_bytes[k] * s->schedule->most_rows;
    bool ahead = local == SS_OK && bytes >= SMALL_BATCH && steps > 1;
    if (self->loader && !ss_loader_alive(self->loader)) { /* after a fork */
        ss_loader_free(self->loader);
        self->loader = NULL;
    }
    if (ahead && !self->loader) status = ss_loader_create(s, &self->loader, err);
    if (status != SS_OK) return status;
    if (steps == 0) return local;
    PyThreadState *saved = PyEval_SaveThread();
    if (ahead) ss_loader_start(self->loader, feed, first, steps);
    for (int64_t k = 0; k < steps && status == SS_OK; k++) {
        int64_t batch = 1;
        int set = 0;
        ss_status loaded = local;
        if (local == SS_OK) loaded = ahead ? ss_loader_next(self->loader, &set, &batch, err) : ss_feed_load(feed, s, 0, first + k, &batch, err);
        if (loaded == SS_OK && hypers->names) loaded = set_hypers(s->model, hypers, k, err);
        if (loaded != SS_OK) batch = 1;
        status = loaded == SS_OK || shared ? ss_session_step(s, set, batch, s->training, loaded, out + k * 2 * s->result_elements, NULL, err) : loaded;
        if (status == SS_OK && nanoseconds() - looked > SIGNAL_NANOSECONDS) {
            PyEval_RestoreThread(saved);
            *interrupted = PyErr_CheckSignals() != 0;
            saved = PyEval_SaveThread();
            looked = nanoseconds();
            if (*interrupted) break;
        }
    }
    if (ahead) ss_loader_stop(self->loader);
    PyEval_RestoreThread(saved);
    return status;
}

/* The order of samples as int64, from integers of any kind; NULL for None. A failure is returned, not raised. */
static ss_status take_order(PyObject *order, PyArrayObject **indices, ss_error *err) {
    static const ss_shape scalar = {.rank = 0};
    ss_array rows;
    PyObject *any;
    if (order == Py_None) return SS_OK;
    ss_status status = binding_array(order, "order", &scalar, SS_I32, &rows, &any, err);
    if (status != SS_OK) return status;
    *indices = (PyArrayObject *)PyArray_FROMANY(any, NPY_INT64, 1, 1, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST);
    Py_DECREF(any);
    if (*indices) return SS_OK;
    PyErr_Clear();
    return SS_FAIL(err, SS_ERR_MEMORY, "no memory for an order of %lld rows", (long long)rows.rows);
}

static PyObject *plan_run(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"arrays", "order", "batch", "first", "steps", "hypers", "mix", NULL};
    plan_object *self = (plan_object *)object;
    PyObject *sequence, *order = Py_None, *results = NULL, *mapping = NULL, *mixing = NULL;
    PyArrayObject *indices = NULL;
    hyper_table hypers = {0};
    ss_mix mix = {0};
    long long batch, first = 0, steps = -1;
    bool interrupted = false;
    arrays a = {0}; /* released also where it was never filled */
    ss_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$LLLOO", names, &sequence, &order, &batch, &first, &steps, &mapping, &mixing)) return NULL;
    ss_model *m = self->model->model;
    ss_status status = ss_model_enter(m, &err);
    if (status != SS_OK) goto raise;
    ss_feed feed = {.array = a.array, .wanted = self->wanted, .batch = batch};
    ss_status local = take_mix(self, mixing, &mix, &err);
    if (local == SS_OK) local = take_arrays(self, sequence, false, mix.role, &a, &err);
    if (local == SS_OK) local = take_order(order, &indices, &err);
    if (local == SS_OK) local = take_hypers(mapping, steps, &hypers, &err);
    feed.arrays = a.count;
    feed.mix = mix.role ? &mix : NULL;
    feed.count = indices ? PyArray_DIM(indices, 0) : a.rows;
    feed.order = indices ? PyArray_DATA(indices) : NULL;
    if (local == SS_OK && batch < 1) local = SS_FAIL(&err, SS_ERR_VALUE, "batch=%lld must be at least 1", batch);
    if (local == SS_OK) local = check_batch(self->session, batch, "batch", &err);
    int64_t batches = local == SS_OK ? feed.count / batch + (feed.count % batch != 0) : 0;
    if (local == SS_OK && steps >= 0 && (first < 0 || first > batches || steps > batches - first))
        local = SS_FAIL(&err, SS_ERR_VALUE, "%lld steps of %lld from step %lld on reach beyond %lld samples", steps, batch, first, (long long)feed.count);
    status = local;
    /* On a failure the other ranks are told in the first step that they were going to make. */
    if (steps < 0 || (local != SS_OK && m->transport->size == 1)) {
        if (local == SS_OK) status = SS_FAIL(&err, SS_ERR_VALUE, "steps is needed");
    } else {
        results = new_results(self->session, steps);
        if (results) status = run_steps(self, &feed, &hypers, first, steps, local, PyArray_DATA((PyArrayObject *)results), &interrupted, &err);
    }
    release(&a);
    release_hypers(&hypers);
    release_mix(&mix);
    ss_model_leave(m);
raise:
    Py_XDECREF(indices);
    if (status == SS_OK && !interrupted) return results;
    Py_XDECREF(results);
    if (!interrupted) raise_step(self, &err);
    return NULL;
}

static PyObject *plan_forward(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"arrays", "local", "batch", NULL};
    plan_object *self = (plan_object *)object;
    ss_session *s = self->session;
    PyObject *sequence, *given = Py_None, *list = NULL;
    int local = 0;
    int64_t batch, begin, end;
    arrays a;
    ss_error err;
    float *outputs[SS_MAX_RESULTS];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$pO", names, &sequence, &local, &given)) return NULL;
    long long wanted = given == Py_None ? 0 : PyLong_AsLongLong(given);
    if (PyErr_Occurred()) return NULL;
    const ss_program *p = s->program;
    if (p->outputs == 0 || p->outputs > SS_MAX_RESULTS) return PyErr_Format(PyExc_ValueError, "this graph has %d outputs", p->outputs);
    ss_model *m = self->model->model;
    if (ss_model_enter(m, &err) != SS_OK) return binding_raise(binding_state_of(object), &err);
    ss_status status = load_one(self, sequence, local, wanted, &a, &batch, &err);
    ss_session_rows(s, batch, &begin, &end);
    if (status != SS_OK && m->transport->size == 1) goto done;
    list = PyList_New(p->outputs);
    for (int k = 0; list && k < p->outputs; k++) {
        const ss_shape *shape = &p->lowered->value[p->lowered->output[k]].shape;
        npy_intp dims[SS_MAX_RANK + 1] = {end - begin};
        for (int d = 0; d < shape->rank; d++) dims[d + 1] = shape->dim[d];
        bool whole = p->lowered->value[p->lowered->output[k]].dtype == SS_I32; /* an input that is handed through */
        PyObject *array = PyArray_SimpleNew(shape->rank + 1, dims, whole ? NPY_INT32 : NPY_FLOAT);
        if (!array) {
            Py_CLEAR(list);
            break;
        }
        outputs[k] = PyArray_DATA((PyArrayObject *)array);
        PyList_SET_ITEM(list, k, array);
    }
    if (!list && status == SS_OK) {
        PyErr_Clear();
        status = SS_FAIL(&err, SS_ERR_MEMORY, "no memory for the outputs of %lld rows", (long long)(end - begin));
        if (m->transport->size == 1) goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    status = ss_session_step(s, 0, batch, false, status, NULL, outputs, &err);
    Py_END_ALLOW_THREADS
done:
    take_back(self, &a);
    ss_model_leave(m);
    if (status == SS_OK) return list;
    Py_XDECREF(list);
    return raise_step((plan_object *)object, &err);
}

static PyObject *plan_rows(PyObject *self, PyObject *arg) {
    long long batch = PyLong_AsLongLong(arg);
    int64_t begin, end;
    if (batch == -1 && PyErr_Occurred()) return NULL;
    if (batch < 1 || batch > INT32_MAX) return PyErr_Format(PyExc_ValueError, "batch=%lld must be between 1 and %d", batch, INT32_MAX);
    ss_session_rows(session_of(self), batch, &begin, &end);
    return Py_BuildValue("(LL)", (long long)begin, (long long)end);
}

static PyObject *plan_gradient(PyObject *self, PyObject *name) {
    ss_session *s = session_of(self);
    const char *text = PyUnicode_AsUTF8(name);
    if (!text) return NULL;
    int k = ss_model_find(s->model, text);
    if (k < 0 || !s->model->parameter[k].trainable) return PyErr_Format(PyExc_KeyError, "there is no trainable parameter '%s'", text);
    const float *at = ss_session_gradient(s, k);
    if (!at)
        return PyErr_Format(PyExc_RuntimeError, s->training ? "under several ranks each keeps its share of the gradient: compile with gradients=True"
                                                            : "this plan does not train");
    npy_intp dims[SS_MAX_RANK];
    const ss_shape *shape = &s->model->parameter[k].shape;
    for (int d = 0; d < shape->rank; d++) dims[d] = shape->dim[d];
    PyObject *array = PyArray_SimpleNewFromData(shape->rank, dims, NPY_FLOAT, (void *)at);
    if (!array) return NULL;
    PyArray_CLEARFLAGS((PyArrayObject *)array, NPY_ARRAY_WRITEABLE);
    if (PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(self)) < 0) Py_CLEAR(array);
    return array;
}

static PyObject *plan_gather_slots(PyObject *self, PyObject *unused) {
    (void)unused;
    ss_session *s = session_of(self);
    ss_error err;
    ss_status status;
    if (ss_model_enter(s->model, &err) != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_BEGIN_ALLOW_THREADS
    status = ss_session_gather_slots(s, &err);
    Py_END_ALLOW_THREADS
    ss_model_leave(s->model);
    if (status != SS_OK) return binding_raise(binding_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *plan_profile(PyObject *self, PyObject *on) {
    int value = PyObject_IsTrue(on);
    if (value < 0) return NULL;
    ss_session *s = session_of(self);
    s->profiling = value;
    if (value) {
        memset(s->seconds, 0, (size_t)s->program->instructions * sizeof *s->seconds);
        memset(s->calls, 0, (size_t)s->program->instructions * sizeof *s->calls);
        s->finish_seconds = 0;
        s->finishes = 0;
        s->exchange_seconds = s->blocked_seconds = s->posted = 0;
        s->exchanges = 0;
    }
    Py_RETURN_NONE;
}

/* Appends `item` (a stolen reference) to the list; -1 on failure. */
static int append(PyObject *list, PyObject *item) {
    int failed = !item || PyList_Append(list, item);
    Py_XDECREF(item);
    return failed ? -1 : 0;
}

static PyObject *explain_instruction(const ss_session *s, int index) {
    const ss_program *p = s->program;
    const ss_instruction *i = &p->instruction[index];
    ss_cost cost = ss_instruction_cost(i);
    char text[256], kernel[64];
    cost.flops *= (double)i->call.rows; /* of one sweep, as the seconds are */
    cost.bytes *= (double)i->call.rows;
    for (int k = 0; k < i->call.n_in && i->stage == SS_STAGE_RUN; k++) { /* parameters are read, their gradients written */
        if (i->in[k].kind == SS_REF_PARAMETER || i->in[k].kind == SS_REF_ROUNDED) cost.bytes += 4.0 * (double)ss_shape_count(&i->call.in_shape[k]);
        if (i->grad_in[k].kind == SS_REF_GRADIENT) cost.bytes += 4.0 * (double)ss_shape_count(&i->call.in_shape[k]);
    }
    long long offset = i->out[0].kind == SS_REF_BUFFER ? (long long)p->buffer[i->out[0].index].offset : -1;
    for (int k = 0; i->backward && !i->sum && k < i->call.n_in; k++)
        if (i->grad_in[k].kind == SS_REF_BUFFER) offset = (long long)p->buffer[i->grad_in[k].index].offset;
    int bucket = -1;
    for (int k = 0; k < p->slots; k++)
        for (int b = 0; b < s->buckets; b++)
            if (p->slot[k].instruction == index && s->slot_offset[k] >= s->bucket[b].begin && s->slot_offset[k] < s->bucket[b].end) bucket = b;
    bool door = !i->sum && (!strcmp(i->op->name, "linear") || !strcmp(i->op->name, "conv2d") || !strcmp(i->op->name, "conv_transpose"));
    snprintf(kernel, sizeof kernel, "%s%s", door ? i->call.backend == SS_BACKEND_OPENBLAS ? "openblas " : "native " : "", ss_isa_name(s->model->isa));
    return Py_BuildValue("{s:s,s:i,s:s,s:s,s:s,s:s,s:s,s:d,s:d,s:L,s:i,s:i,s:d,s:K,s:i}", "kernel", kernel, "index", index, "pass", i->backward ? "backward" : "forward", "op",
                         i->sum ? "sum" : i->op->name, "stage", i->stage == SS_STAGE_STAT ? "statistic" : "run", "layer", i->layer, "shape",
                         ss_shape_text(&i->call.out_shape[0], true, text, sizeof text), "flops", cost.flops, "bytes", cost.bytes, "offset", offset, "bucket",
                         bucket, "segment", i->segment, "seconds", s->seconds[index], "calls", (unsigned long long)s->calls[index], "threads",
                         s->single || i->solo ? 1 : s->model->threads);
}

static PyObject *plan_bytes(PyObject *self, PyObject *unused) {
    (void)unused;
    const ss_session *s = session_of(self);
    long long inputs = 0;
    for (int k = 0; k < s->inputs; k++) inputs += 2 * s->input_bytes[k] * s->schedule->most_rows;
    return Py_BuildValue("{s:L,s:L,s:L,s:L,s:L,s:L}", "activations", (long long)s->program->activation_bytes, "scratch", (long long)s->program->scratch_bytes,
                         "gradients", (long long)(s->training ? 4 * s->gradient_elements * s->schedule->most_blocks : 0), "inputs", inputs, "exchange",
                         (long long)(s->exchange ? ss_exchange_bytes(s->exchange) : 0), "total",
                         (long long)(ss_arena_bytes(s->arena) + (s->training ? ss_arena_bytes(s->gradient_arena) : 0) + (s->exchange ? ss_exchange_bytes(s->exchange) : 0)));
}

static const char *way_of_exchange(const ss_session *s) {
    if (s->model->transport->size == 1) return "none (one rank)";
    if (!s->exchange) return s->model->compression ? "compressed" : "none (no training)";
    if (!s->introduced) return "direct reduce-scatter in lane order, sharded update, all-gather";
    const int near = ss_exchange_neighbours(s->exchange);
    if (near == s->model->transport->size - 1) return "direct reduce-scatter in lane order from shared memory, sharded update, all-gather";
    if (near) return "direct reduce-scatter in lane order, from shared memory inside a host and by messages between hosts, sharded update, all-gather";
    return "direct reduce-scatter in lane order by messages, sharded update, all-gather";
}

static PyObject *plan_explain(PyObject *self, PyObject *unused) {
    (void)unused;
    const ss_session *s = session_of(self);
    const ss_schedule *w = s->schedule;
    PyObject *instructions = PyList_New(0), *buckets = PyList_New(0), *seconds = PyList_New(0), *memory = plan_bytes(self, NULL), *answer = NULL;
    if (!instructions || !buckets || !seconds || !memory) goto done;
    for (int r = 0; s->rank_steps && r < s->model->transport->size; r++)
        if (append(seconds, PyFloat_FromDouble(s->rank_seconds[r] / (double)s->rank_steps))) goto done;
    for (int k = 0; k < s->program->instructions; k++)
        if (append(instructions, explain_instruction(s, k))) goto done;
    for (int b = 0; b < s->buckets; b++)
        if (append(buckets, Py_BuildValue("{s:L,s:L,s:i}", "begin", (long long)s->bucket[b].begin, "end", (long long)s->bucket[b].end, "ready",
                                          s->bucket[b].ready)))
            goto done;
    answer = Py_BuildValue("{s:O,s:d,s:d,s:K,s:d,s:K,s:O,s:O,s:O,s:i,s:i,s:i,s:i,s:i,s:i,s:L,s:s,s:s,s:s}", "rank_seconds", seconds, "exchange_seconds", s->exchange_seconds, "blocked_seconds", s->blocked_seconds, "exchanges", (unsigned long long)s->exchanges,
                           "finish_seconds", s->finish_seconds, "finishes", (unsigned long long)s->finishes,
                           "instructions", instructions, "buckets", buckets, "memory", memory,
                           "lanes", w->lanes, "ranks", w->ranks, "threads", s->model->threads, "lanes_at_once", w->lanes_at_once, "sweeps", w->sweeps,
                           "segments", s->program->segments, "batch", (long long)w->most_batch, "isa", ss_isa_name(s->model->isa), "backend",
                           s->model->backend == SS_BACKEND_OPENBLAS ? "openblas" : "native", "exchange",
                           way_of_exchange(s));
done:
    Py_XDECREF(instructions);
    Py_XDECREF(seconds);
    Py_XDECREF(buckets);
    Py_XDECREF(memory);
    return answer;
}

static PyObject *plan_results(PyObject *self, void *unused) {
    (void)unused;
    const ss_graph *g = ((plan_object *)self)->graph->graph;
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < session_of(self)->results; k++)
        if (append(list, PyUnicode_FromString(g->result[k].name))) Py_CLEAR(list);
    return list;
}

static PyObject *plan_result_lengths(PyObject *self, void *unused) {
    (void)unused;
    const ss_session *s = session_of(self);
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < s->results; k++)
        if (append(list, PyLong_FromLongLong(s->program->stat[s->program->result_stat[k]].length))) Py_CLEAR(list);
    return list;
}

static PyObject *plan_batch(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(session_of(self)->schedule->most_batch);
}

static PyObject *plan_lanes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(session_of(self)->schedule->lanes);
}

static PyObject *plan_at_once(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(session_of(self)->schedule->lanes_at_once);
}

static PyObject *plan_training(PyObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(session_of(self)->training);
}

static PyObject *plan_model(PyObject *self, void *unused) {
    (void)unused;
    return Py_NewRef((PyObject *)((plan_object *)self)->model);
}

static PyGetSetDef getset[] = {
    {"results", plan_results, NULL, "Names of losses and metrics, in order.", NULL},
    {"result_lengths", plan_result_lengths, NULL, "Pairs (sum, denominator) that each result has.", NULL},
    {"batch", plan_batch, NULL, "The largest global batch.", NULL},
    {"lanes", plan_lanes, NULL, "Lanes of the global batch.", NULL},
    {"lanes_at_once", plan_at_once, NULL, "Lanes of a sweep.", NULL},
    {"training", plan_training, NULL, "Whether it trains.", NULL},
    {"model", plan_model, NULL, "The model it works on.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"rows", plan_rows, METH_O, "rows($self, batch, /)\n--\n\nThe rows of a global batch that this rank works on."},
    {"push", plan_push, METH_NOARGS, "Sends the gradient of the last step(update=False) to the parameter servers and receives the parameters."},
    {"step", (PyCFunction)(void (*)(void))plan_step, METH_VARARGS | METH_KEYWORDS,
     "step($self, /, arrays, *, local=False, batch=None, update=True)\n--\n\nOne batch; sums and denominators of the results."},
    {"run", (PyCFunction)(void (*)(void))plan_run, METH_VARARGS | METH_KEYWORDS,
     "run($self, /, arrays, order, *, batch, first=0, steps, hypers=None, mix=None)\n--\n\nMany steps over arrays in memory."},
    {"forward", (PyCFunction)(void (*)(void))plan_forward, METH_VARARGS | METH_KEYWORDS,
     "forward($self, /, arrays, *, local=False, batch=None)\n--\n\nThe outputs of this rank's rows of a batch."},
    {"gradient", plan_gradient, METH_O, "gradient($self, name, /)\n--\n\nA read-only view of a gradient of the last step."},
    {"gather_slots", plan_gather_slots, METH_NOARGS,
     "gather_slots($self, /)\n--\n\nCompletes the optimizer's state on every rank (collective)."},
    {"explain", plan_explain, METH_NOARGS, "explain($self, /)\n--\n\nThe plan as a dict."},
    {"profile", plan_profile, METH_O, "profile($self, on, /)\n--\n\nMeasures instructions from now on."},
    {"bytes", plan_bytes, METH_NOARGS, "bytes($self, /)\n--\n\nMemory by use."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Plan(model, graph, *, batch, training, lanes=None, lanes_at_once=None, gradients=False, results=True, functions=None)\n--\n\n"
                "Memory, lanes and the order of work for one graph and a largest batch."},
    {Py_tp_new, plan_new},
    {Py_tp_dealloc, plan_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};
PyType_Spec plan_spec = {"samestep._core.Plan", sizeof(plan_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
