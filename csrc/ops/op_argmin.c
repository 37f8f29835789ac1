/* argmin: y = the place of the least element over axes. */
#include "kernels/variant.h"
#include "ops/op.h"
#include "ops/reduction.h"

static const ss_attr_spec attrs[] = {
    REDUCTION_ATTRS,
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) {
    ss_status status = reduction_infer(q, "argmin", err);
    if (status == SS_OK) q->out_dtype[0] = SS_I32;
    return status;
}

static void forward(const ss_call *c) {
    REDUCTION_EACH {
        const real *restrict x = (const real *)c->in[0] + at;
        int32_t *restrict y = (int32_t *)c->out[0] + to;
        real best[REDUCTION_STRIP];
        for (int64_t j = 0; j < width; j++) {
            best[j] = x[j];
            y[j] = 0;
        }
        for (int64_t i = 1; i < r.n; i++)
            for (int64_t j = 0; j < width; j++) {
                const real v = x[i * r.inner + j];
                if (v < best[j] || (v != v && best[j] == best[j])) {
                    best[j] = v;
                    y[j] = (int32_t)i;
                }
            }
    }
}

static void backward(const ss_call *c) {
    (void)c; /* whole numbers have no gradient */
}

static const ss_op_case cases[] = {REDUCTION_CASES("B"), {0}};

const ss_op SS_FN(ss_op_argmin) = {
    .name = "argmin",
    .doc = "The place (int32) of the least element over `count` neighbouring axes from `first` on (the batch axis not counted), which disappear. The first of equal ones; NaN counts as the least. No gradient.",
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .cost = reduction_cost,
    .cases = cases,
};
