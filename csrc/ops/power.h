/* a^b from the core's own exp and log, with the special values of C's pow (-0 counts as 0). The error grows with |b log a|: about 1 + |b log a| / 2 ulp. */
#ifndef SS_OPS_POWER_H
#define SS_OPS_POWER_H
#include <math.h>
#include "kernels/variant.h"
#include "kernels/vmath.h"

#ifdef SS_F64
static inline real power_r(real a, real b) { return pow(a, b); }
#else
static inline real power_r(real a, real b) {
    const real size = exp_r(b * log_r(fabsf(a))), half = b * 0.5f;
    const int whole = floorf(b) == b, odd = whole & (floorf(half) != half);
    real y = if_r((a < 0) & odd, -size, size);
    y = if_r((a < 0) & (a > -INFINITY) & !whole & (b == b), NAN, y);
    y = if_r((a == 0) & (b > 0), 0.0f, y);
    y = if_r((a == 0) & (b < 0), INFINITY, y);
    y = if_r((a == -1) & ((b == INFINITY) | (b == -INFINITY)), 1.0f, y);
    return if_r((b == 0) | (a == 1), 1.0f, y);
}
#endif

/* a^n for a whole number n, by repeated squaring: exact where the products are. */
static inline real whole_power_r(real a, int n) {
    real y = 1, square = a;
    for (unsigned k = n < 0 ? 0u - (unsigned)n : (unsigned)n; k; k >>= 1, square *= square)
        if (k & 1) y *= square;
    return n < 0 ? 1 / y : y;
}

#endif
