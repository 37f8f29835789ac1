/* Comparisons: floats 1 and 0, element by element, of two batched inputs of one shape, both float or both int32. No gradient flows: it is 0. */
#ifndef SS_OPS_COMPARE_H
#define SS_OPS_COMPARE_H
#include <string.h>
#include "ops/binary.h"

/* Attribute 0 tells the element type at hand: the call does not carry it. */
static const ss_attr_spec compare_attrs[] = {
    {"whole", SS_ATTR_BOOL, 0, 0, 1, "1: both inputs are int32"},
    {0},
};

static inline ss_status compare_infer(ss_infer *q, const char *name, ss_error *err) {
    ss_status status = binary_infer(q, name, true, err);
    if (status == SS_OK && (q->dtype[0] == SS_I32) != (q->attr[0] != 0)) return SS_FAIL(err, SS_ERR_DTYPE, "%s: whole=%d, but the inputs are %s", name, (int)q->attr[0], q->dtype[0] == SS_I32 ? "int32" : "float");
    return status;
}

static inline void compare_backward(const ss_call *c) {
    int64_t begin, end;
    binary_range(c, &begin, &end);
    for (int k = 0; k < 2; k++) {
        real *to = c->grad_in[k];
        if (to && end > begin) memset(to + begin, 0, (size_t)(end - begin) * sizeof *to);
    }
}

static inline void compare_cost(const ss_call *c, bool both, ss_cost *out) { binary_cost(c, both, 1, 0, out); }

#define COMPARISON(NAME, OPERATOR)                                                                                                  \
    static ss_status infer(ss_infer *q, ss_error *err) { return compare_infer(q, #NAME, err); }                                           \
    static void forward(const ss_call *c) {                                                                                               \
        real *restrict out = c->out[0];                                                                                                   \
        int64_t begin, end;                                                                                                               \
        binary_range(c, &begin, &end);                                                                                                    \
        if (c->attr[0] != 0) {                                                                                                            \
            const int32_t *restrict a = c->in[0], *restrict b = c->in[1];                                                                 \
            for (int64_t i = begin; i < end; i++) out[i] = a[i] OPERATOR b[i];                                                            \
        } else {                                                                                                                          \
            const real *restrict a = c->in[0], *restrict b = c->in[1];                                                                    \
            for (int64_t i = begin; i < end; i++) out[i] = a[i] OPERATOR b[i];                                                            \
        }                                                                                                                                 \
    }                                                                                                                                     \
    static const ss_op_case cases[] = {                                                                                                   \
        {.inputs = "B:3,5,7 B:3,5,7"},                                                                                                    \
        {.attrs = "whole=1", .inputs = "I3:33 I3:33"},                                                                                    \
        {.inputs = "B: B:"},                                                                                                              \
        {.attrs = "whole=1", .inputs = "B:33 B:33", .expect = SS_ERR_DTYPE},                                                              \
        BINARY_BAD_CASES,                                                                                                                 \
        {0},                                                                                                                              \
    };

#endif
