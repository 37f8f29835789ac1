#include "base/cpu.h"

#include <cpuid.h>
#include <pthread.h>
#include <string.h>

static ss_cpu features;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The processor's name stands in three leaves of 16 bytes, padded with blanks. */
static void read_model(char *model) {
    unsigned words[12] = {0}, *at = words;
    if (__get_cpuid_max(0x80000000u, NULL) < 0x80000004u) {
        strcpy(model, "unknown x86-64");
        return;
    }
    for (unsigned leaf = 0x80000002u; leaf <= 0x80000004u; leaf++, at += 4) __get_cpuid(leaf, at, at + 1, at + 2, at + 3);
    char text[sizeof words + 1] = {0};
    memcpy(text, words, sizeof words);
    size_t begin = strspn(text, " "), end = strlen(text);
    while (end > begin && text[end - 1] == ' ') end--;
    memcpy(model, text + begin, end - begin);
    model[end - begin] = 0;
}

/* The compiler's own test reads cpuid and, by xgetbv, whether the operating system saves the wide registers. */
static void detect(void) {
    __builtin_cpu_init();
    features.fma = __builtin_cpu_supports("fma");
    features.avx2 = __builtin_cpu_supports("avx2");
    features.avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    features.avx512_bf16 = features.avx512 && __builtin_cpu_supports("avx512bf16");
    read_model(features.model);
}

const ss_cpu *ss_cpu_features(void) {
    pthread_once(&once, detect);
    return &features;
}

const char *ss_isa_name(ss_isa isa) {
    static const char *const names[SS_ISA_COUNT] = {"scalar", "avx2", "avx512"};
    return (unsigned)isa < SS_ISA_COUNT ? names[isa] : "unknown";
}

static bool usable(ss_isa isa) {
    const ss_cpu *cpu = ss_cpu_features();
    switch (isa) {
    case SS_ISA_SCALAR: return true;
    case SS_ISA_AVX2: return cpu->avx2 && cpu->fma;
    case SS_ISA_AVX512: return cpu->avx512 && cpu->fma;
    case SS_ISA_COUNT: break;
    }
    return false;
}

ss_status ss_isa_parse(const char *name, ss_isa *isa, ss_error *err) {
    if (name == NULL || name[0] == 0) {
        int best = SS_ISA_COUNT - 1;
        while (!usable((ss_isa)best)) best--;
        *isa = (ss_isa)best;
        return SS_OK;
    }
    for (int i = 0; i < SS_ISA_COUNT; i++) {
        if (strcmp(name, ss_isa_name((ss_isa)i)) != 0) continue;
        if (!usable((ss_isa)i))
            return SS_FAIL(err, SS_ERR_VALUE, "instruction set '%s': this processor (%s) or its operating system lacks it", name,
                           ss_cpu_features()->model);
        *isa = (ss_isa)i;
        return SS_OK;
    }
    return SS_FAIL(err, SS_ERR_VALUE, "instruction set '%s': expected scalar, avx2 or avx512", name);
}
