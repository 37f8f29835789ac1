#include "base/shape.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

static const int64_t MAX_COUNT = (int64_t)1 << 40;

bool ss_mul(int64_t a, int64_t b, int64_t *result) {
    int64_t product;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) return false;
    *result = product;
    return true;
}

bool ss_add(int64_t a, int64_t b, int64_t *result) {
    int64_t sum;
    if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &sum)) return false;
    *result = sum;
    return true;
}

bool ss_shape_equal(const ss_shape *a, const ss_shape *b) {
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

int64_t ss_shape_count(const ss_shape *shape) {
    assert(shape->rank >= 0 && shape->rank <= SS_MAX_RANK);
    int64_t count = 1;
    for (int i = 0; i < shape->rank; i++) {
        bool fits = ss_mul(count, shape->dim[i], &count);
        assert(fits && "shape was not checked");
        (void)fits;
    }
    return count;
}

ss_status ss_shape_check(const ss_shape *shape, const char *what, ss_error *err) {
    char text[160];
    int64_t count = 1;
    if (shape->rank < 0 || shape->rank > SS_MAX_RANK)
        return SS_FAIL(err, SS_ERR_SHAPE, "%s: has %d axes, at most %d are supported", what, shape->rank, SS_MAX_RANK);
    for (int i = 0; i < shape->rank; i++)
        if (shape->dim[i] < 1)
            return SS_FAIL(err, SS_ERR_SHAPE, "%s: shape %s has an extent below 1 on axis %d", what,
                           ss_shape_text(shape, false, text, sizeof text), i);
    for (int i = 0; i < shape->rank; i++)
        if (!ss_mul(count, shape->dim[i], &count) || count > MAX_COUNT)
            return SS_FAIL(err, SS_ERR_SHAPE, "%s: shape %s has more than 2^40 elements", what,
                           ss_shape_text(shape, false, text, sizeof text));
    return SS_OK;
}

const char *ss_shape_text(const ss_shape *shape, bool batched, char *text, int size) {
    /* Python's way of writing tuples: "()", "(3,)", "(3, 4)". */
    char whole[32 * (SS_MAX_RANK + 1)];
    int at = snprintf(whole, sizeof whole, batched ? "(B" : "("), axes = batched ? 1 : 0;
    for (int i = 0; i < shape->rank && i < SS_MAX_RANK; i++, axes++)
        at += snprintf(whole + at, sizeof whole - (size_t)at, "%s%" PRId64, axes ? ", " : "", shape->dim[i]);
    snprintf(whole + at, sizeof whole - (size_t)at, axes == 1 ? ",)" : ")");
    if (size > 0) snprintf(text, (size_t)size, "%s", whole);
    return text;
}
