/* Compressors: equal bits on every instruction set, merging and subtracting agree, and what each promises about its error. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/philox.h"
#include "compress/compress.h"
#include "tests/test.h"

enum { MOST = 5000, RANKS = 3 };

static const int64_t sizes[] = {1, 3, 15, 16, 17, 127, 128, 129, 255, 256, 257, 1000, 1024, 4097};
enum { SIZES = sizeof sizes / sizeof *sizes };

typedef struct run {
    char payload[RANKS][MOST * 8 + 64];
    float sum[MOST], left[MOST], state[RANKS][2 * MOST];
} run;

static run runs[SS_ISA_COUNT];
static float input[RANKS][MOST];
static double hyper[SS_COMPRESS_HYPER];

static ss_compress_call call_for(int64_t rows, int64_t columns, ss_isa isa, int rank, float *state) {
    return (ss_compress_call){.n = rows * columns, .rows = rows, .columns = columns, .hyper = hyper, .kernels = ss_kernels_for(isa), .feedback = true, .seed = 7, .step = 3, .tensor = 2,
                              .stream = (uint32_t)rank, .ranks = RANKS, .state = state};
}

static void fill(int64_t n, int kind) {
    for (int r = 0; r < RANKS; r++) {
        ss_fill_normal(input[r], n, 11, (uint32_t)(100 * kind + r), 0, 1);
        for (int64_t i = 0; i < n; i++) {
            if (kind == 1) input[r][i] *= expf((float)(i % 40) - 20); /* many magnitudes */
            if (kind == 2) input[r][i] = 0;
            if (kind == 3 && i % 3) input[r][i] = 0;
            if (kind == 4) input[r][i] = i % 2 ? 2 : -2; /* equal magnitudes */
        }
    }
}

/* All rounds of all ranks on one instruction set. */
static void pass(const ss_compressor *k, int64_t rows, int64_t columns, ss_isa isa, run *out) {
    memset(out, 0, sizeof *out);
    const int64_t n = rows * columns;
    for (int r = 0; r < RANKS; r++) {
        for (int64_t i = 0; i < MOST; i++) out->sum[i] = NAN;
    }
    for (int round = 0; round < k->rounds; round++) {
        const void *payload[RANKS];
        for (int r = 0; r < RANKS; r++) {
            ss_compress_call c = call_for(rows, columns, isa, r, out->state[r]);
            CHECK(k->bytes(&c, round) <= (int64_t)sizeof out->payload[r]);
            memset(out->payload[r], 0x5a, sizeof out->payload[r]);
            k->pack(&c, round, input[r], out->payload[r]);
            for (size_t b = (size_t)k->bytes(&c, round); b < sizeof out->payload[r]; b++)
                if (out->payload[r][b] != 0x5a) {
                    CHECK(!"nothing is written behind the payload");
                    break;
                }
            payload[r] = out->payload[r];
        }
        for (int r = RANKS - 1; r >= 0; r--) { /* every rank merges for itself */
            ss_compress_call c = call_for(rows, columns, isa, r, out->state[r]);
            k->merge(&c, round, payload, out->sum);
        }
    }
    for (int r = 1; r < RANKS; r++) CHECK(!memcmp(out->state[r], out->state[0], sizeof out->state[0]));
    ss_compress_call c = call_for(rows, columns, isa, 0, out->state[0]);
    memcpy(out->left, input[0], (size_t)n * sizeof *out->left);
    if (!k->exact || !k->exact(&c)) k->subtract(&c, out->payload[0], out->sum, out->left);
    else memset(out->left, 0, (size_t)n * sizeof *out->left);
}

static double squares(int64_t n, const float *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

static void check_all(int index) {
    const char *name = ss_compressor_at(SS_ISA_SCALAR, index)->name;
    for (int kind = 0; kind < 5; kind++)
        for (int s = 0; s < SIZES + 3; s++) {
            const int64_t rows = s < SIZES ? 1 : s - SIZES + 5, columns = s < SIZES ? sizes[s] : 50 * (s - SIZES + 1), n = rows * columns;
            fill(n, kind);
            for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
                if (!ss_kernels_for(isa)) continue;
                pass(ss_compressor_at(isa, index), rows, columns, isa, &runs[isa]);
                CHECK(!memcmp(&runs[isa], &runs[SS_ISA_SCALAR], sizeof runs[isa]));
            }
            const run *a = &runs[SS_ISA_SCALAR];
            for (int64_t i = 0; i < n; i++) CHECK(isfinite(a->sum[i]) && isfinite(a->left[i]));
            /* Error feedback needs a contraction: less is left than there was. */
            if (strcmp(name, "int8") && strcmp(name, "powersgd")) CHECK(squares(n, a->left) <= squares(n, input[0]) * (1 + 1e-6));
            if (kind == 2) CHECK(squares(n, a->sum) == 0 && squares(n, a->left) == 0);
            for (int64_t i = 0; i < n; i++) {
                const double x = input[0][i], left = fabs((double)a->left[i]);
                double sum = 0;
                for (int r = 0; r < RANKS; r++) sum += (double)input[r][i];
                if (!strcmp(name, "none")) CHECK_NEAR(a->sum[i], sum, 1e-6 * (1 + fabs(sum)) + 1e-6 * fabs(x));
                if (!strcmp(name, "bf16")) CHECK(left <= fabs(x) / 256);
                if (!strcmp(name, "fp16")) CHECK(left <= fabs(x) / 2048 + 0x1p-25 || fabs(x) > 65504);
                if (!strcmp(name, "int8")) {
                    double most = 0;
                    for (int64_t j = i / 256 * 256; j < ss_min(n, i / 256 * 256 + 256); j++) most = fmax(most, fabs((double)input[0][j]));
                    CHECK(left <= most / 127 * 1.0001);
                }
                if (!strcmp(name, "topk") || !strcmp(name, "randomk")) CHECK(a->left[i] == 0 || a->left[i] == input[0][i]);
            }
            if (!strcmp(name, "topk") || !strcmp(name, "randomk")) {
                const int64_t k = (int64_t)ceil(hyper[0] * (double)n);
                double least_sent = INFINITY, most_left = 0;
                int64_t zeros = 0;
                for (int64_t i = 0; i < n; i++) {
                    const double x = fabs((double)input[0][i]);
                    zeros += a->left[i] == 0;
                    if (a->left[i] != 0) most_left = fmax(most_left, x);
                    else if (x > 0) least_sent = fmin(least_sent, x);
                }
                CHECK(kind == 2 || kind == 3 || zeros == k);
                if (!strcmp(name, "topk")) CHECK(most_left <= least_sent);
            }
        }
}

static void check_low_rank(void) {
    /* A matrix of rank 2 is found exactly after one more step on the same matrix. */
    int index = ss_compressor_find("powersgd");
    enum { ROWS = 30, COLUMNS = 40 };
    float u[ROWS * 2], v[COLUMNS * 2];
    hyper[0] = 2;
    ss_fill_normal(u, ROWS * 2, 5, 1, 0, 1);
    ss_fill_normal(v, COLUMNS * 2, 5, 2, 0, 1);
    for (int r = 0; r < RANKS; r++)
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t j = 0; j < COLUMNS; j++) input[r][i * COLUMNS + j] = (float)(r + 1) * (u[2 * i] * v[2 * j] + u[2 * i + 1] * v[2 * j + 1]);
    static run a;
    pass(ss_compressor_at(SS_ISA_SCALAR, index), ROWS, COLUMNS, SS_ISA_SCALAR, &a);
    for (int64_t i = 0; i < ROWS * COLUMNS; i++) CHECK_NEAR(a.sum[i], 6 * input[0][i], 1e-3);
    hyper[0] = 0.05;
}

/* Rounding at random and choosing at random are right on average. */
static void check_means(void) {
    enum { N = 64, STEPS = 4000 };
    const char *names[] = {"int8", "randomk"};
    for (int which = 0; which < 2; which++) {
        const ss_compressor *k = ss_compressor_at(SS_ISA_SCALAR, ss_compressor_find(names[which]));
        static double mean[N];
        float out[N];
        char payload[N * 8 + 8];
        memset(mean, 0, sizeof mean);
        fill(N, 0);
        for (int step = 0; step < STEPS; step++) {
            ss_compress_call c = call_for(1, N, SS_ISA_SCALAR, 0, NULL);
            const void *only = payload;
            c.step = (uint32_t)step;
            c.ranks = 1;
            c.feedback = false;
            k->pack(&c, 0, input[0], payload);
            k->merge(&c, 0, &only, out);
            for (int i = 0; i < N; i++) mean[i] += (double)out[i] / STEPS;
        }
        for (int i = 0; i < N; i++) CHECK_NEAR(mean[i], input[0][i], which ? 0.08 * N / 4 * fmax(1, fabs((double)input[0][i])) : 0.002);
    }
}

static void check_special_values(void) {
    const char *names[] = {"none", "fp16", "bf16", "int8", "onebit", "topk"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) { /* a NaN must not vanish: it says that something is wrong */
        fill(300, 0);
        input[1][7] = NAN;
        static run a;
        pass(ss_compressor_at(SS_ISA_SCALAR, ss_compressor_find(names[k])), 1, 300, SS_ISA_SCALAR, &a);
        bool found = false;
        for (int i = 0; i < 300; i++) found |= isnan(a.sum[i]);
        CHECK(found);
    }
    fill(4, 0);
    input[0][0] = 1e30f, input[0][1] = -1e30f, input[0][2] = 0x1p-24f, input[0][3] = 0x1p-26f;
    float out[4];
    char payload[16];
    const void *only = payload;
    const ss_compressor *half = ss_compressor_at(SS_ISA_SCALAR, ss_compressor_find("fp16"));
    ss_compress_call c = call_for(1, 4, SS_ISA_SCALAR, 0, NULL);
    c.ranks = 1;
    half->pack(&c, 0, input[0], payload);
    half->merge(&c, 0, &only, out);
    CHECK(out[0] == 65504 && out[1] == -65504 && out[2] == 0x1p-24f && out[3] == 0);
}

int main(void) {
    CHECK(ss_compressor_count == 8 && ss_compressor_find("none") >= 0 && ss_compressor_find("zip") < 0);
    for (int index = 0; index < ss_compressor_count; index++) {
        const bool matrix = !strcmp(ss_compressor_at(SS_ISA_SCALAR, index)->name, "powersgd");
        hyper[0] = matrix ? 2 : 0.05;
        check_all(index);
    }
    hyper[0] = 0.05;
    check_low_rank();
    check_means();
    check_special_values();
    return TEST_DONE();
}
