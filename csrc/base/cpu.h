/* CPU features, and which of the instruction-set paths runs. All paths give the same bits. */
#ifndef SS_BASE_CPU_H
#define SS_BASE_CPU_H
#include <stdbool.h>
#include "base/status.h"

typedef enum ss_isa { SS_ISA_SCALAR, SS_ISA_AVX2, SS_ISA_AVX512, SS_ISA_COUNT } ss_isa;

typedef struct ss_cpu {
    bool fma, avx2, avx512, avx512_bf16; /* usable: the CPU has it and the operating system saves its registers */
    char model[64];
} ss_cpu;

const ss_cpu *ss_cpu_features(void);
const char *ss_isa_name(ss_isa isa);
/* "scalar", "avx2" or "avx512"; SS_ERR_VALUE for another word or an instruction set this CPU lacks. NULL or "" gives the best. */
ss_status ss_isa_parse(const char *name, ss_isa *isa, ss_error *err);

#endif
