/* The table of kernels of each variant, and the choice among them. */
#include <stddef.h>
#include "base/cpu.h"
#include "kernels/internal.h"

/* The variant's name as text and as a member of ss_isa. */
#define TEXT2(name) #name
#define TEXT(name) TEXT2(name)
#define ISA_scalar SS_ISA_SCALAR
#define ISA_avx2 SS_ISA_AVX2
#define ISA_avx512 SS_ISA_AVX512

const ss_kernels SS_FN(ss_kernels) = {
    .name = TEXT(SS_VARIANT),
    .isa = SS_PASTE(ISA, SS_VARIANT),
    .matmul_packed = SS_FN(matmul_packed),
    .matmul_pack = SS_FN(matmul_pack),
    .matmul_run = SS_FN(matmul_run),
    .matmul_fold_scratch = SS_FN(matmul_fold_scratch),
    .matmul_fold = SS_FN(matmul_fold),
    .conv2d_scratch = SS_FN(conv2d_scratch),
    .conv2d_pack = SS_FN(conv2d_pack),
    .conv2d_forward = SS_FN(conv2d_forward),
    .conv2d_backward = SS_FN(conv2d_backward),
    .column_sum = SS_FN(column_sum),
    .dot = SS_FN(dot),
    .scale = SS_FN(scale),
    .clamp = SS_FN(clamp),
    .blend = SS_FN(blend),
    .eigh = SS_FN(eigh),
    .peak_burst = SS_FN(peak_burst),
    .read_burst = SS_FN(read_burst),
};

/* This file is compiled once a variant; the choice belongs to the scalar one alone, which every build has. */
#define CHOOSE_scalar 1
#define CHOOSE_avx2 0
#define CHOOSE_avx512 0
#if SS_PASTE(CHOOSE, SS_VARIANT)
const ss_kernels *ss_kernels_for(ss_isa isa) {
    const ss_cpu *cpu = ss_cpu_features();
    switch (isa) {
        case SS_ISA_SCALAR: return &ss_kernels_scalar;
        case SS_ISA_AVX2: return cpu->avx2 && cpu->fma ? &ss_kernels_avx2 : NULL;
        case SS_ISA_AVX512: return cpu->avx512 ? &ss_kernels_avx512 : NULL;
        default: return NULL;
    }
}
#endif
