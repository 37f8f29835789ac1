/* max: y = the greatest of x over axes. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/reduction.h"

enum { SPREAD = REDUCTION_COUNT + 1 };

static const ss_attr_spec attrs[] = {
    REDUCTION_ATTRS,
    {"spread", SS_ATTR_BOOL, 0, 0, 1, "1: equal elements share the gradient (torch.amax), 0: the first takes it (torch.max)"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    return reduction_infer(q, "max", err);
}

/* NaN is the result where there is one, and equals itself here. */
static inline int is_best(real x, real y) { return x == y || (x != x && y != y); }

static void forward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict x = (const real *)c->in[0] + at;
        real *restrict y = (real *)c->out[0] + to;
        if (r.inner == 1) {
            y[0] = row_max(r.n, x);
            continue;
        }
        for (int64_t j = 0; j < width; j++) y[j] = x[j];
        for (int64_t i = 1; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) y[j] = max_r(y[j], x[i * r.inner + j]);
    }
}

static void backward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict x = (const real *)c->in[0] + at, *restrict y = (const real *)c->out[0] + to, *restrict g = (const real *)c->grad_out[0] + to;
        real *restrict gx = (real *)c->grad_in[0] + at;
        real share[REDUCTION_STRIP], left[REDUCTION_STRIP];
        for (int64_t j = 0; j < width; j++) share[j] = left[j] = 1;
        if (ss_attr_i(c->attr, SPREAD)) {
            for (int64_t j = 0; j < width; j++) share[j] = 0;
            for (int64_t i = 0; i < r.n; i++)
                for (int64_t j = 0; j < width; j++) share[j] += is_best(x[i * r.inner + j], y[j]);
            for (int64_t i = 0; i < r.n; i++)
                for (int64_t j = 0; j < width; j++) gx[i * r.inner + j] = is_best(x[i * r.inner + j], y[j]) ? g[j] / share[j] : 0;
        } else {
            for (int64_t i = 0; i < r.n; i++)
                for (int64_t j = 0; j < width; j++) {
                    const int hit = is_best(x[i * r.inner + j], y[j]);
                    gx[i * r.inner + j] = hit ? left[j] * g[j] : 0;
                    if (hit) left[j] = 0;
                }
        }
    }
}

static const ss_op_case cases[] = {REDUCTION_CASES("B"), {.attrs = "spread=1", .inputs = "B:7"}, {.attrs = "first=0 spread=1", .inputs = "B:5,70"}, {0}};

const ss_op SS_FN(ss_op_max) = {
    .name = "max",
    .doc = "The greatest element over `count` neighbouring axes from `first` on (the batch axis not counted), which disappear. NaN if there is one. The gradient goes to the first of equal elements, or with spread evenly to all of them.",
    .flags = SS_OP_NEEDS_IN | SS_OP_NEEDS_OUT,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = reduction_cost,
    .cases = cases,
};
