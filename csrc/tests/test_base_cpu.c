#include "base/cpu.h"

#include "tests/test.h"

/* Is `word` in the flags that the kernel lists? It lists what it also saves. */
static bool kernel_lists(const char *flags, const char *word) {
    size_t length = strlen(word);
    for (const char *at = flags; (at = strstr(at, word)) != NULL; at += length)
        if (at > flags && (at[-1] == ' ' || at[-1] == '\t') && (at[length] == ' ' || at[length] == '\n' || at[length] == 0)) return true;
    return false;
}

static void check_against_kernel(const ss_cpu *cpu) {
    static char line[1 << 14];
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file == NULL) return;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "model name", 10) == 0) CHECK(strstr(line, cpu->model) != NULL);
        if (strncmp(line, "flags", 5) != 0) continue;
        CHECK(cpu->fma == kernel_lists(line, "fma"));
        CHECK(cpu->avx2 == kernel_lists(line, "avx2"));
        CHECK(cpu->avx512 == (kernel_lists(line, "avx512f") && kernel_lists(line, "avx512bw") && kernel_lists(line, "avx512dq") &&
                              kernel_lists(line, "avx512vl")));
        CHECK(cpu->avx512_bf16 == (cpu->avx512 && kernel_lists(line, "avx512_bf16")));
        break;
    }
    fclose(file);
}

int main(void) {
    ss_error err = {0};
    const ss_cpu *cpu = ss_cpu_features();
    CHECK(cpu == ss_cpu_features());
    CHECK(cpu->model[0] != 0 && cpu->model[0] != ' ' && strlen(cpu->model) < sizeof cpu->model);
    check_against_kernel(cpu);

    bool usable[SS_ISA_COUNT] = {true, cpu->avx2 && cpu->fma, cpu->avx512 && cpu->fma};
    int best = 0;
    for (int i = 0; i < SS_ISA_COUNT; i++) {
        ss_isa isa = SS_ISA_COUNT;
        ss_status status = ss_isa_parse(ss_isa_name((ss_isa)i), &isa, &err);
        CHECK(usable[i] ? status == SS_OK && isa == (ss_isa)i : status == SS_ERR_VALUE && isa == SS_ISA_COUNT);
        if (!usable[i]) CHECK(strstr(err.message, ss_isa_name((ss_isa)i)) && strstr(err.message, "lacks"));
        if (usable[i]) best = i;
    }
    ss_isa isa = SS_ISA_COUNT;
    CHECK(ss_isa_parse(NULL, &isa, &err) == SS_OK && isa == (ss_isa)best);
    isa = SS_ISA_COUNT;
    CHECK(ss_isa_parse("", &isa, NULL) == SS_OK && isa == (ss_isa)best);
    isa = SS_ISA_COUNT;
    static const char *const wrong[] = {"AVX2", "avx", "avx2 ", "sse", "avx512f", "unknown"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(ss_isa_parse(wrong[i], &isa, &err) == SS_ERR_VALUE && isa == SS_ISA_COUNT);
        CHECK(strstr(err.message, wrong[i]) && strstr(err.message, "scalar, avx2 or avx512"));
    }
    CHECK(strcmp(ss_isa_name(SS_ISA_SCALAR), "scalar") == 0 && strcmp(ss_isa_name(SS_ISA_COUNT), "unknown") == 0);
    return TEST_DONE();
}
