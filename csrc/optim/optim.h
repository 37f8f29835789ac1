/* What an optimizer is: one file opt_NAME.c, compiled for each instruction set, ending with `const ss_optim SS_FN(ss_optim_NAME) = {...};`.
 * The update is elementwise over a flat range, so any split over ranks and threads gives the same bits. */
#ifndef SS_OPTIM_OPTIM_H
#define SS_OPTIM_OPTIM_H
#include <stdint.h>
#include "base/shape.h"
#include "kernels/kernels.h"

enum { SS_MAX_HYPER = 12, SS_MAX_SLOTS = 3 };

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
    /* Values per element that are kept, for example Adam's two moments, and their names in checkpoints. Depends on the hypers (SGD without momentum keeps none). */
    int (*slots)(const double *hyper);
    const char *slot_names[SS_MAX_SLOTS];
    /* In double: bias corrections and the like. step counts from 1. Runs on rank 0; the result is broadcast. */
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
