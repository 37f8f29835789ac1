/* The generic operator test. To add an operator: write csrc/ops/op_NAME.c with its cases, then
 *     make -C csrc OPS="NAME" TESTS=test_ops_generic check
 * That is all: the build finds the file. `build/.../test_ops_generic NAME ...` restricts a run to some operators.
 *
 * A case is {attrs, inputs, tolerance, expect, no_gradient_check, inference} (ops/op.h). What every case goes through:
 *   infer            answers `expect`; a refusal has a message. If infer accepts and `expect` is an error, prepare must answer it (labels out of range: I<n> with a large n).
 *   naive            the scalar variant's forward_ref and backward_ref (forward and backward where those are NULL) with c->kernels == NULL and one thread. So
 *                    scratch_bytes, saved_bytes, stat and the naive functions must not touch c->kernels when it is NULL.
 *   fast             every instruction set of this CPU with 1, 2 and 3 threads, emulated phase by phase, in both orders: outputs, gradients, saved bytes, buffers and loss equal naive's,
 *                    bit for bit or within the tolerance. any_layout operators run in both layouts, and these agree too.
 *   sweeps           the lanes cut into sweeps and joined by the tree give the bits of one sweep. Uneven lanes, one lane, empty lanes.
 *   memory           everything an operator writes is filled with a NaN of its own kind before and has guard zones; inputs must stay as they were. In backward, in[] of batched inputs
 *                    is NULL without SS_OP_NEEDS_IN and out[] without SS_OP_NEEDS_OUT. Nothing is allocated.
 *   gradients        in double, along a random direction for each float input and parameter; each gradient also alone (the others NULL).
 *   unused outputs   with several outputs, grad_out NULL for some of them gives what zeros give.
 *   special values   NaN, infinities and signed zeros strewn over the inputs: all paths still agree (tolerance 0 only).
 *   inference        forward alone with training = false, unless the operator is SS_OP_TRAINING_ONLY.
 * In the f64 variant `lane_stat`, `stat`, gradients and so on are doubles (real). A loss without prepare gets the batch size as c->denominator.
 */
#include "tests/op_harness.h"

typedef struct setting {
    int64_t batch;
    int32_t lanes;
} setting;

static const setting settings[] = {{13, 4}, {5, 1}, {6, 8}};

static ss_layout first_layout(const oh_case *oc) { return oc->q.any_layout ? SS_PLAIN : oc->q.layout; }

static bool differentiable(const oh_case *oc, int i) { return oc->kind[i] == OH_FLOAT || oc->kind[i] == OH_POSITIVE || oc->kind[i] == OH_PARAMETER; }

/* Whole numbers come out: no gradient, and nothing that doubles would show. */
static bool gives_integers(const oh_case *oc) { return oc->q.n_out > 0 && oc->q.out_dtype[0] == SS_I32; }

/* ---- finite differences ---- */

static double loss_of(const oh_case *oc, const oh_data *data, const oh_run *run) {
    oh_result r;
    double loss = 0;
    oh_execute(oc, data, run, &r, NULL);
    if (oc->op->flags & SS_OP_LOSS) loss = r.loss;
    else
        for (int o = 0; o < oc->q.n_out; o++)
            for (int64_t i = 0, n = ss_shape_count(&oc->q.out[o]) * data->batch; i < n; i++) loss += data->grad_out[o][i] * r.out[o][i];
    oh_result_free(&r);
    return loss;
}

static void check_gradients(const oh_case *oc, uint64_t seed) {
    enum { BATCH = 5, LANES = 2 };
    const double step = 1e-6, tolerance = 1e-6;
    oh_run run = {.f64 = true, .training = true, .backward = true, .threads = 1, .layout = first_layout(oc), .lanes = LANES};
    oh_data data;
    oh_result base;
    oh_data_make(oc, BATCH, seed, false, &data);
    oh_execute(oc, &data, &run, &base, NULL);
    run.backward = false;
    for (int i = 0; i < oc->q.n_in; i++) {
        if (!differentiable(oc, i)) continue;
        int64_t n = value_count(oc, i, BATCH);
        double *x = data.in[i], *origin = doubles(n), *direction = doubles(n);
        double inner = 0, square = 0;
        for (int64_t j = 0; j < n; j++) {
            origin[j] = x[j];
            direction[j] = uniform(&seed);
            inner += base.grad[i][j] * direction[j];
            square += base.grad[i][j] * base.grad[i][j];
        }
        for (int64_t j = 0; j < n; j++) x[j] = origin[j] + step * direction[j];
        double high = loss_of(oc, &data, &run);
        for (int64_t j = 0; j < n; j++) x[j] = origin[j] - step * direction[j];
        double low = loss_of(oc, &data, &run);
        for (int64_t j = 0; j < n; j++) x[j] = origin[j];
        double difference = (high - low) / (2 * step), scale = fmax(fmax(fabs(inner), fabs(difference)), 0.05 * sqrt(square));
        /* Rounding of the two losses is about 1e-16 * |loss| / step. */
        double allowed = tolerance * scale + 1e-9 * (fabs(high) > 1 ? fabs(high) : 1);
        OH_CHECK(fabs(inner - difference) <= allowed, "%s: gradient of input %d along a random direction is %.12g, the central difference %.12g", oc->name, i, inner, difference);
        ss_free(origin);
        ss_free(direction);
    }
    oh_result_free(&base);
    oh_data_free(&data);
}

/* ---- naive against fast ---- */

static void compare_run(const oh_case *oc, const oh_data *data, const oh_run *run, const oh_result *want, double tolerance, bool saved, const char *what) {
    oh_result have;
    char text[200];
    snprintf(text, sizeof text, "%s (%s, %d thread(s)%s, %s, B=%lld V=%d sweeps=%d%s)", what, run->f64 ? "f64" : ss_isa_name(run->isa), run->threads, run->reverse ? " reversed" : "",
             run->layout == SS_PLAIN ? "plain" : "channels last", (long long)data->batch, run->lanes, run->n_spans ? run->n_spans : 1, run->training ? "" : ", inference");
    if (oh_execute(oc, data, run, &have, NULL)) oh_compare(oc, want, &have, tolerance, saved, text);
    oh_result_free(&have);
}

/* Cuts [0, lanes) into sweeps of at most `most` lanes. */
static void cut_sweeps(oh_run *run, int32_t most) {
    run->n_spans = 0;
    for (int32_t l = 0; l < run->lanes; l += most) run->span[run->n_spans++] = (ss_span){l, (int32_t)ss_min(l + most, run->lanes)};
}

static bool isa_usable(ss_isa isa) {
    const ss_cpu *cpu = ss_cpu_features();
    return isa == SS_ISA_SCALAR || (isa == SS_ISA_AVX2 ? cpu->avx2 && cpu->fma : cpu->avx512);
}

/* All paths of one setting in one layout, against naive. */
static void check_paths(const oh_case *oc, const oh_data *data, oh_run base, const oh_result *want, bool thorough) {
    double tolerance = oc->tc->tolerance;
    oh_run run;
    for (int32_t most = 1; thorough && most <= 3; most++) {
        run = base;
        run.naive = true;
        run.threads = 1;
        cut_sweeps(&run, most);
        compare_run(oc, data, &run, want, tolerance, true, "naive cut in sweeps");
    }
    for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
        if (!isa_usable((ss_isa)isa)) continue;
        for (int threads = 1; threads <= 3; threads++) {
            run = base;
            run.isa = (ss_isa)isa;
            run.threads = threads;
            run.reverse = threads == 3;
            compare_run(oc, data, &run, want, tolerance, true, "fast against naive");
        }
        run = base;
        run.isa = (ss_isa)isa;
        run.threads = 2;
        cut_sweeps(&run, thorough ? 3 : 1);
        compare_run(oc, data, &run, want, tolerance, true, "fast cut in sweeps against naive");
    }
}

/* Operators that say so have the same bits when the output lies over an input, or the gradient of an input over that of the output. */
static void check_in_place(const oh_case *oc, const oh_data *data, oh_run base, const oh_result *want) {
    const unsigned flags = oc->op->flags;
    if (!(flags & (SS_OP_IN_PLACE | SS_OP_GRAD_IN_PLACE))) return;
    oh_run forward = base;
    oh_result alone;
    forward.backward = false;
    forward.naive = true;
    forward.threads = 1;
    bool good = oh_execute(oc, data, &forward, &alone, NULL);
    for (int i = 0; good && i < oc->q.n_in; i++) {
        if (oc->q.role[i] != SS_ROLE_BATCHED || oc->kind[i] == OH_ABSENT || oc->q.dtype[i] != SS_F32 || !ss_shape_equal(&oc->q.in[i], &oc->q.out[0])) continue;
        for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
            if (!isa_usable((ss_isa)isa)) continue;
            oh_run run = base;
            run.isa = (ss_isa)isa;
            run.threads = 2;
            if (flags & SS_OP_IN_PLACE) {
                run.backward = false;
                run.over = i + 1;
                compare_run(oc, data, &run, &alone, oc->tc->tolerance, false, "over an input");
                run.over = 0;
            }
            if (flags & SS_OP_GRAD_IN_PLACE && base.backward && wants_gradient(oc, &run, i)) {
                run.backward = true;
                run.grad_over = i + 1;
                compare_run(oc, data, &run, want, oc->tc->tolerance, false, "gradient over the output's");
            }
        }
    }
    oh_result_free(&alone);
}

/* Precision bf16: products against naive. (Where the plan rounds inputs beforehand, they need not be round here.) */
static void check_bf16(const oh_case *oc, const oh_data *data, oh_run base) {
    if (!(oc->op->flags & SS_OP_PRODUCT)) return;
    oh_run naive = base;
    oh_result want;
    naive.bf16 = base.bf16 = naive.naive = true;
    if (oh_execute(oc, data, &naive, &want, NULL)) check_paths(oc, data, base, &want, true);
    oh_result_free(&want);
}

/* Each gradient alone has the bits it has among the others. */
static void check_gradients_alone(const oh_case *oc, const oh_data *data, oh_run base, const oh_result *want) {
    int count = 0;
    for (int i = 0; i < oc->q.n_in; i++) count += differentiable(oc, i);
    if (count < 2) return;
    for (int i = 0; i < oc->q.n_in; i++) {
        if (!differentiable(oc, i)) continue;
        oh_result alone = *want;
        for (int j = 0; j < SS_MAX_IN; j++)
            if (j != i) alone.grad[j] = NULL;
        base.unwanted = ~(1u << i);
        for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
            if (!isa_usable((ss_isa)isa)) continue;
            base.isa = (ss_isa)isa;
            base.threads = 2;
            compare_run(oc, data, &base, &alone, oc->tc->tolerance, true, "one gradient alone");
        }
        base.isa = SS_ISA_SCALAR;
        base.threads = 1;
        base.naive = true;
        compare_run(oc, data, &base, &alone, oc->tc->tolerance, true, "one gradient alone, naive");
        base.naive = false;
    }
}

/* Several outputs: the gradient of an output that nobody asks for (NULL) counts as zeros. */
static void check_unused_outputs(const oh_case *oc, oh_data *data, oh_run base) {
    int n_out = oc->q.n_out;
    if (n_out < 2 || oc->op->flags & SS_OP_LOSS) return;
    for (unsigned unused = 1; unused + 1 < 1u << n_out; unused++) {
        double *kept[SS_MAX_OUT];
        oh_result zeros, naive;
        base.unused = 0;
        base.naive = true;
        memcpy(kept, data->grad_out, sizeof kept);
        for (int o = 0; o < n_out; o++)
            if (unused >> o & 1) data->grad_out[o] = doubles(ss_shape_count(&oc->q.out[o]) * data->batch);
        bool good = oh_execute(oc, data, &base, &zeros, NULL);
        for (int o = 0; o < n_out; o++) {
            if (data->grad_out[o] != kept[o]) ss_free(data->grad_out[o]);
            data->grad_out[o] = kept[o];
        }
        base.unused = unused;
        if (oh_execute(oc, data, &base, &naive, NULL) && good) {
            /* The tolerance lets zeros of either sign pass for each other. */
            oh_compare(oc, &zeros, &naive, oc->tc->tolerance > 0 ? oc->tc->tolerance : 1e-30, false, "no gradient of an output against zeros");
            base.naive = false;
            for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
                if (!isa_usable((ss_isa)isa)) continue;
                base.isa = (ss_isa)isa;
                base.threads = 2;
                compare_run(oc, data, &base, &naive, oc->tc->tolerance, true, "no gradient of an output");
            }
            base.isa = SS_ISA_SCALAR;
            base.threads = 1;
        }
        oh_result_free(&zeros);
        oh_result_free(&naive);
    }
}

static void check_setting(const oh_case *oc, setting where, uint64_t seed, bool training, bool special, bool thorough) {
    ss_layout layouts[2] = {first_layout(oc), SS_CHANNELS_LAST};
    int n_layouts = oc->q.any_layout && strcmp(oc->op->name, "relayout") ? 2 : 1;
    oh_data data;
    oh_result want[2];
    memset(want, 0, sizeof want);
    oh_data_make(oc, where.batch, seed, special, &data);
    for (int l = 0; l < n_layouts; l++) {
        oh_run run = {.training = training, .backward = training && oc->op->backward != NULL && !gives_integers(oc), .threads = 1, .layout = layouts[l], .lanes = where.lanes};
        oh_run naive = run;
        naive.naive = true;
        if (!oh_execute(oc, &data, &naive, &want[l], NULL)) break;
        if (l == 1) oh_compare(oc, &want[0], &want[1], oc->tc->tolerance, false, "channels last against plain");
        check_paths(oc, &data, run, &want[l], thorough);
        if (special || !thorough || gives_integers(oc)) continue;
        check_in_place(oc, &data, run, &want[l]);
        check_bf16(oc, &data, run);
        if (run.backward) check_gradients_alone(oc, &data, run, &want[l]);
        if (run.backward) check_unused_outputs(oc, &data, run);
        run.f64 = true;
        compare_run(oc, &data, &run, &want[l], oc->tc->tolerance > 1e-4 ? oc->tc->tolerance : 1e-4, false, "double against float");
    }
    for (int l = 0; l < n_layouts; l++) oh_result_free(&want[l]);
    oh_data_free(&data);
}

/* ---- shape inference and declarations ---- */

/* infer answers SS_OK or a status with a message, whatever it is asked. */
static void ask(const oh_case *oc, const ss_infer *question, const char *what, bool must_fail) {
    oh_case copy = *oc;
    ss_error err = {0};
    copy.q = *question;
    copy.q.attr = copy.attr;
    ss_status status = oh_case_infer(&copy, &err);
    OH_CHECK(status == SS_OK || (err.code == status && err.message[0]), "%s: infer with %s fails without a message", oc->name, what);
    OH_CHECK(status != SS_OK || !must_fail, "%s: infer accepts %s", oc->name, what);
}

/* An operator that moves elements takes either dtype and passes it on; constant_index does not look at the elements of input 0. */
static bool passes_dtype(const oh_case *oc, const ss_infer *question, int i) {
    if (!strcmp(oc->op->name, "constant_index")) return i == 0;
    oh_case copy = *oc;
    ss_error err = {0};
    copy.q = *question;
    return oh_case_infer(&copy, &err) == SS_OK && copy.q.out_dtype[0] == question->dtype[i] && oc->q.out_dtype[0] == oc->q.dtype[i];
}

static void check_infer_robust(const oh_case *oc) {
    char text[80];
    ss_infer q = oc->q;
    q.n_in = 0;
    ask(oc, &q, "no input at all", true);
    for (int n = 1; n <= SS_MAX_IN; n++) {
        q = oc->q;
        for (int i = q.n_in; i < n; i++) {
            q.in[i] = q.in[0];
            q.role[i] = q.role[0];
            q.dtype[i] = q.dtype[0];
        }
        q.n_in = n;
        ask(oc, &q, "another number of inputs", false);
    }
    for (int i = 0; i < oc->q.n_in; i++) {
        if (oc->kind[i] == OH_ABSENT) continue;
        q = oc->q;
        q.dtype[i] = q.dtype[i] == SS_F32 ? SS_I32 : SS_F32;
        snprintf(text, sizeof text, "input %d of the other dtype", i);
        ask(oc, &q, text, !(oc->op->flags & (SS_OP_ALIAS | SS_OP_ANY_DTYPE)) && !passes_dtype(oc, &q, i));
        q = oc->q;
        q.role[i] = (ss_role)((q.role[i] + 1) % 3);
        ask(oc, &q, "another role", false);
        for (int rank = 0; rank <= SS_MAX_RANK; rank++) {
            q = oc->q;
            q.in[i].rank = rank;
            for (int d = 0; d < rank; d++) q.in[i].dim[d] = oc->q.in[i].dim[d] > 0 ? oc->q.in[i].dim[d] : 1;
            ask(oc, &q, "another rank", false);
        }
    }
    const ss_attr_spec *spec = oc->op->attrs;
    for (int a = 0; spec && spec[a].name; a++) {
        oh_case copy = *oc;
        copy.attr[a] = spec[a].least;
        ask(&copy, &oc->q, "an attribute at its least value", false);
        copy.attr[a] = spec[a].most;
        ask(&copy, &oc->q, "an attribute at its greatest value", false);
    }
}

static void check_declaration(const ss_op *op) {
    OH_CHECK(op->doc && op->doc[0], "%s: no doc", op->name);
    OH_CHECK(op->infer != NULL, "%s: no infer", op->name);
    int count = 0;
    for (const ss_attr_spec *a = op->attrs; a && a->name; a++, count++) {
        OH_CHECK(a->least <= a->initial && a->initial <= a->most, "%s: default of %s out of its range", op->name, a->name);
        OH_CHECK(a->doc && a->doc[0], "%s: attribute %s has no doc", op->name, a->name);
        for (const ss_attr_spec *b = op->attrs; b < a; b++) OH_CHECK(strcmp(a->name, b->name), "%s: attribute %s twice", op->name, a->name);
    }
    OH_CHECK(count <= SS_MAX_ATTR, "%s: %d attributes", op->name, count);
    if (op->flags & SS_OP_ALIAS) return;
    bool judge = op->flags & (SS_OP_LOSS | SS_OP_METRIC);
    OH_CHECK(judge || op->forward, "%s: no forward", op->name);
    OH_CHECK(!judge || (op->stat && op->stat_len), "%s: a loss or metric needs stat and stat_len", op->name);
    OH_CHECK((op->flags & SS_OP_METRIC) || op->backward, "%s: no backward", op->name);
    OH_CHECK(!op->stat == !op->stat_len, "%s: stat and stat_len come together", op->name);
    OH_CHECK(op->cost != NULL, "%s: no cost", op->name);
}

static void check_cost(const oh_case *oc) {
    ss_call c = {.attr = oc->attr, .n_in = oc->q.n_in, .n_out = oc->q.n_out, .layout = first_layout(oc), .rows = 1, .batch = 1, .threads = 1, .training = true};
    for (int i = 0; i < c.n_in; i++) {
        c.in_shape[i] = oc->q.in[i];
        c.role[i] = oc->q.role[i];
        c.in[i] = oc->kind[i] == OH_ABSENT ? NULL : &c; /* present; not to be read */
    }
    for (int o = 0; o < c.n_out; o++) c.out_shape[o] = oc->q.out[o];
    ss_cost forward = {-1, -1}, both = {-1, -1};
    if (!oc->op->cost) return;
    oc->op->cost(&c, false, &forward);
    oc->op->cost(&c, true, &both);
    OH_CHECK(forward.flops >= 0 && forward.bytes > 0 && isfinite(forward.flops) && isfinite(forward.bytes), "%s: cost %g flops, %g bytes", oc->name, forward.flops, forward.bytes);
    OH_CHECK(both.flops >= forward.flops && both.bytes >= forward.bytes, "%s: forward and backward cost less than forward", oc->name);
}

/* ---- one case ---- */

static void check_case(int index, const ss_op_case *tc, int number) {
    oh_case oc;
    ss_error err = {0};
    uint64_t seed = 1000003u * (uint64_t)(index + 1) + (uint64_t)number;
    ss_status status = oh_case_parse(index, tc, &oc, &err);
    if (status == SS_ERR_STATE) return;
    if (status == SS_OK) status = oh_case_infer(&oc, &err);
    if (tc->expect != SS_OK && status == SS_OK && oc.op->prepare) {
        oh_run run = {.training = true, .threads = 1, .layout = first_layout(&oc), .lanes = 4, .naive = true};
        oh_data data;
        oh_result result;
        oh_data_make(&oc, 64, seed, false, &data);
        oh_execute(&oc, &data, &run, &result, &status);
        oh_result_free(&result);
        oh_data_free(&data);
        OH_CHECK(status == tc->expect, "%s: prepare answers \"%s\", the case expects \"%s\"", oc.name, ss_status_text(status), ss_status_text(tc->expect));
        return;
    }
    OH_CHECK(status == tc->expect, "%s: infer answers \"%s\" (%s), the case expects \"%s\"", oc.name, ss_status_text(status), err.message, ss_status_text(tc->expect));
    if (status != SS_OK) {
        OH_CHECK(err.message[0], "%s: failed without a message", oc.name);
        return;
    }
    if (tc->expect != SS_OK) return;
    const ss_op *op = oc.op;
    OH_CHECK(oc.q.n_out >= (op->flags & (SS_OP_LOSS | SS_OP_METRIC) ? 0 : 1) && oc.q.n_out <= SS_MAX_OUT, "%s: %d outputs", oc.name, oc.q.n_out);
    for (int o = 0; o < oc.q.n_out; o++) OH_CHECK(ss_shape_check(&oc.q.out[o], "output", &err) == SS_OK, "%s: output %d: %s", oc.name, o, err.message);
    check_infer_robust(&oc);
    if (op->flags & SS_OP_ALIAS) {
        OH_CHECK(ss_shape_count(&oc.q.out[0]) == ss_shape_count(&oc.q.in[0]), "%s: an alias changes the number of elements", oc.name);
        return;
    }
    check_cost(&oc);
    for (size_t s = 0; s < sizeof settings / sizeof settings[0]; s++) {
        if (!tc->inference) check_setting(&oc, settings[s], seed + s, true, false, s == 0);
        if (!(op->flags & SS_OP_TRAINING_ONLY) && (tc->inference || s == 0)) check_setting(&oc, settings[s], seed + s, false, false, s == 0);
    }
    if (tc->tolerance == 0) check_setting(&oc, settings[0], seed + 100, !tc->inference, true, false);
    if (!tc->inference && !tc->no_gradient_check && op->backward && !gives_integers(&oc)) check_gradients(&oc, seed + 200);
}

int main(int argc, char **argv) {
    oh_flush_denormals();
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int index = 0; index < ss_op_count; index++) {
        const ss_op *op = ss_op_at(SS_ISA_SCALAR, index);
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++) wanted = wanted || !strcmp(argv[a], op->name);
        if (!wanted) continue;
        int64_t checks = oh_checks, failures = oh_failures;
        int cases = 0, good = 0;
        printf("%-16s ", op->name);
        fflush(stdout); /* a crash shows whose it was */
        check_declaration(op);
        for (const ss_op_case *tc = op->cases; tc && tc->inputs; tc++) {
            check_case(index, tc, cases++);
            good += tc->expect == SS_OK;
        }
        OH_CHECK(good > 0, "%s: no case that succeeds", op->name);
        printf("%3d cases %7lld checks%s\n", cases, (long long)(oh_checks - checks), oh_failures > failures ? "  FAILED" : "");
    }
    for (int a = 1; a < argc; a++) OH_CHECK(ss_op_find(argv[a]) >= 0, "no operator \"%s\"", argv[a]);
    printf("%lld checks, %lld failures\n", (long long)oh_checks, (long long)oh_failures);
    return oh_failures != 0;
}
