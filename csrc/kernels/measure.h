/* What this machine can do: the bounds beside which kernels are judged. */
#ifndef SS_KERNELS_MEASURE_H
#define SS_KERNELS_MEASURE_H
#include "kernels/kernels.h"

typedef struct ss_peak {
    double gflops; /* fused multiply-adds in registers, two operations each, all threads together, 1e9 a second */
    double gbytes; /* bytes read from memory, all threads together, 1e9 a second */
} ss_peak;

/* Runs each loop on `threads` threads for about half of `seconds`, again and again, and keeps the fastest. SS_ERR_VALUE, SS_ERR_MEMORY as ss_pool_create. */
ss_status ss_measure_peak(ss_isa isa, int threads, double seconds, ss_peak *out, ss_error *err);

#endif
