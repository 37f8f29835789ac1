/* multi_margin: hinge loss of several classes. */
#include "kernels/variant.h"
#include "ops/op.h"

enum { P = 3, MARGIN };

static inline real class_term(const ss_call *c, const real *x, int64_t classes, int32_t label) {
    const real margin = (real)c->attr[MARGIN];
    real sum = 0;
    for (int64_t j = 0; j < classes; j++) {
        real over = j == label ? 0 : max_r(margin - x[label] + x[j], 0);
        sum += c->attr[P] == 2 ? over * over : over;
    }
    return sum / (real)classes;
}

static inline void class_gradient(const ss_call *c, const real *x, int64_t classes, int32_t label, real scale, real *to) {
    const real margin = (real)c->attr[MARGIN];
    real sum = 0;
    for (int64_t j = 0; j < classes; j++) {
        const real over = margin - x[label] + x[j];
        if (j == label || !(over > 0)) continue;
        to[j] = scale / (real)classes * (c->attr[P] == 2 ? 2 * over : 1);
        sum += to[j];
    }
    to[label] = -sum;
}

#define CLASS_NAME "multi_margin"
#include "ops/class_loss.h"

static const ss_attr_spec attrs[] = {
    CLASS_ATTRS,
    {"p", SS_ATTR_INT, 1, 1, 2, "power of each term"},
    {"margin", SS_ATTR_FLOAT, 1, -1e30, 1e30, "by how much the label's score must exceed the others"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return class_infer(q, "multi_margin", err); }
static ss_status prepare(const ss_call *c, ss_error *err) { return class_prepare(c, "multi_margin", false, err); }

static const ss_op_case cases[] = {CLASS_CASES, {.attrs = "p=2 margin=0.7", .inputs = "B:5 I5:"}, {0}};

const ss_op SS_FN(ss_op_multi_margin) = {
    .name = "multi_margin",
    .doc = "Hinge loss of several classes: `weight_y / C sum_(j != y) max(0, margin - x_y + x_j)^p` for scores x and the label y.\n\n"
           "Inputs: scores `(B, C, ...)` or with the classes last, int32 labels, class weights `(C)` in a buffer or absent, sample weights `(B)` or absent. The mean is taken over positions. "
           "Crammer, Singer: \"On the algorithmic implementation of multiclass kernel-based vector machines\", 2001.",
    .flags = SS_OP_LOSS | SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .prepare = prepare,
    .stat_len = class_stat_len,
    .stat = stat,
    .cost = class_cost,
    .cases = cases,
};
