/* What an optimizer is: one file opt_NAME.c, compiled for each instruction set, ending with `const ss_optim SS_FN(ss_optim_NAME) = {...};`.
 * The update is elementwise over a flat range, so any split over ranks and threads gives the same bits. */
#ifndef SS_OPTIM_OPTIM_H
#define SS_OPTIM_OPTIM_H
#include <stdint.h>
#include <string.h>
#include "base/shape.h"
#include "kernels/kernels.h"

enum { SS_MAX_HYPER = 20, SS_MAX_DERIVED = 8, SS_MAX_SLOTS = 3 };

/* base^n, n >= 0, by squaring: the same bits on every machine, which libm's pow does not promise. */
static inline double ss_power(double base, int64_t n) {
    double result = 1;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

/* exp(x) within a few units of the last place, likewise without libm. */
static inline double ss_exponential(double x) {
    if (!(x > -700)) return x != x ? x : 0;
    if (x > 700) x = 700;
    double n = (double)(int64_t)(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));
    double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10, sum = 1; /* log 2 in two parts: |r| <= 0.35 */
    for (int k = 17; k > 0; k--) sum = 1 + sum * r / k;
    uint64_t bits = (uint64_t)(1023 + (int64_t)n) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
}

/* log(x) for x > 0 that is normal and finite, likewise. */
static inline double ss_logarithm(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t n = (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffULL) | (uint64_t)1023 << 52;
    memcpy(&x, &bits, sizeof x);
    if (x > 1.4142135623730951) x *= 0.5, n++;
    double z = (x - 1) / (x + 1), z2 = z * z, sum = 0; /* log x = 2 artanh z, |z| <= 0.172 */
    for (int k = 23; k > 0; k -= 2) sum = sum * z2 + 1.0 / k;
    return (double)n * 0.6931471805599453 + 2 * z * sum;
}

typedef struct ss_hyper_spec {
    const char *name; /* "lr", "momentum", ... */
    double initial, least, most;
    const char *doc;
} ss_hyper_spec;

/* One parameter, seen whole. SPMD: every thread of the rank calls `whole` for phase 0, 1, ... with barriers between; work is split by outputs, so that the number of threads changes no bit. */
typedef struct ss_whole {
    const ss_shape *shape;
    int64_t count;
    float *param;
    const float *grad;
    float *const *slot;
    float *extra;   /* `extra` floats of further state, 0 before the first step */
    float *scratch; /* `scratch` floats, shared by threads and phases of one parameter; contents undefined before phase 0 */
    const double *hyper, *derived;
    int64_t step;   /* from 1 */
    const ss_kernels *kernels;
    ss_backend backend;
    int thread, threads, phase;
} ss_whole;

typedef struct ss_optim {
    const char *name, *doc;
    const ss_hyper_spec *hypers; /* ends with a NULL name */
    int derived;                 /* numbers that prepare() computes from the hypers and the step count */
    /* Values per element that are kept, for example Adam's two moments, and their names in checkpoints. Depends on the hypers (SGD without momentum keeps none);
     * slot k has the same meaning whatever the number, because groups of parameters with other hypers share the slots. They are 0 before the first step. */
    int (*slots)(const double *hyper);
    const char *slot_names[SS_MAX_SLOTS];
    /* In double: bias corrections and the like. step counts from 1. Every rank runs it for itself, so it may call nothing of libm but sqrt: machines differ in the rest. */
    void (*prepare)(const double *hyper, int64_t step, double *derived);
    /* param[i] and slot[k][i] from grad[i]. step counts from 1. */
    void (*update)(int64_t n, float *param, const float *grad, float *const *slot, const double *hyper, const double *derived, int64_t step);
    /* Instead of update; `phases` and the rest belong to it. NULL everywhere for elementwise optimizers. */
    void (*whole)(const ss_whole *w);
    int (*phases)(const double *hyper, const ss_shape *shape);
    int64_t (*scratch)(const double *hyper, const ss_shape *shape, const ss_kernels *kernels, ss_backend backend, int threads);
    int64_t (*extra)(const double *hyper, const ss_shape *shape); /* NULL: none */
} ss_optim;


extern const int ss_optim_count;
const ss_optim *ss_optim_at(ss_isa isa, int index);
int ss_optim_find(const char *name);

#endif
