/* Column sums of every variant against a naive loop, bit for bit. Depends on base (lanes, alloc). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/lanes.h"
#include "kernels/kernels.h"

static uint64_t state = 88172645463325252u;
static uint64_t next(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}
static int64_t below(int64_t n) { return (int64_t)(next() % (uint64_t)n); }
static const float pattern = -12345.5f;

static float *array(int64_t count) {
    float *p = ss_calloc((size_t)count + 1, sizeof *p);
    if (!p) exit(2);
    for (int64_t i = 0; i < count; i++) p[i] = (float)((int64_t)(next() >> 40) - (1 << 23)) * 0x1p-23f;
    p[count] = pattern;
    return p;
}

static bool same(float a, float b) { return (a != a && b != b) || memcmp(&a, &b, sizeof a) == 0; }

static int check(const ss_kernels *kernels, int lanes, ss_span range, int64_t batch, int64_t positions, int64_t n, bool special) {
    int64_t row[SS_MAX_LANES + 1] = {0};
    int32_t adds[SS_MAX_LANES], lane[SS_MAX_LANES];
    ss_span leaf[SS_MAX_LANES];
    int count = 0, depth = 0, failures = 0;
    for (int32_t v = range.lo; v < range.hi; v++) {
        int64_t samples = ss_lane_begin(v + 1, lanes, batch) - ss_lane_begin(v, lanes, batch);
        if (samples == 0) continue;
        leaf[count] = (ss_span){v, v + 1};
        lane[count] = v;
        row[count + 1] = row[count] + samples;
        count++;
    }
    int blocks = ss_fold_plan(lanes, range, leaf, count, adds, NULL, &depth);
    ss_fold fold = {.lanes = count, .blocks = blocks, .depth = depth, .row = row, .adds = adds, .lane = lane};
    int64_t rows = row[count] * positions, x_row = n + below(3), stride = n + 5;
    float *x = array(rows * x_row), *out = array(blocks * stride), *stack = array(depth * n), *want = array(depth + 1);
    if (special && rows > 0) x[below(rows * x_row)] = NAN, x[below(rows * x_row)] = INFINITY;
    for (int64_t i = 0; i < blocks * stride; i++) out[i] = pattern;
    int64_t cut = below(n + 1); /* two calls share the columns */
    for (int part = 0; part < 2; part++) {
        int64_t begin = part ? cut : 0, end = part ? n : cut;
        float *own = array(depth * (end - begin));
        kernels->column_sum(&fold, positions, x, x_row, begin, end, out, stride, own);
        failures += own[depth * (end - begin)] != pattern;
        ss_free(own);
    }
    for (int64_t j = 0; j < stride; j++) {
        int height = 0;
        for (int l = 0; l < count && j < n; l++) {
            float sum = 0;
            for (int64_t r = row[l] * positions; r < row[l + 1] * positions; r++) sum += x[r * x_row + j];
            want[height++] = sum;
            for (int join = 0; join < adds[l]; join++) height--, want[height - 1] = want[height - 1] + want[height];
        }
        for (int block = 0; block < blocks; block++) {
            float got = out[block * stride + j], expected = j < n ? want[block] : pattern;
            if (!same(got, expected)) {
                if (failures++ < 3)
                    printf("%s: lanes %d of %d, n %lld: block %d column %lld is %.9g, not %.9g\n", kernels->name, count, lanes, (long long)n, block,
                           (long long)j, (double)got, (double)expected);
            }
        }
    }
    failures += out[blocks * stride] != pattern;
    ss_free(x), ss_free(out), ss_free(stack), ss_free(want);
    return failures;
}

int main(void) {
    int failures = 0, tables = 0;
    static const int64_t sizes[] = {1, 7, 15, 16, 17, 63, 64, 65, 97, 130};
    for (int isa = 0; isa < SS_ISA_COUNT; isa++) {
        const ss_kernels *kernels = ss_kernels_for((ss_isa)isa);
        if (!kernels) {
            printf("skipped: this CPU cannot run %s\n", ss_isa_name((ss_isa)isa));
            continue;
        }
        tables++;
        state = 88172645463325252u;
        for (int round = 0; round < 200; round++) {
            int lanes = 1 + (int)below(64);
            int32_t lo = round & 1 ? (int32_t)below(lanes) : 0, hi = round & 1 ? lo + 1 + (int32_t)below(lanes - lo) : lanes;
            failures += check(kernels, lanes, (ss_span){lo, hi}, lanes / 2 + 1 + below(3 * lanes), 1 + below(3), sizes[below(10)], round % 5 == 0);
        }
    }
    printf("%d variants, %d failures\n", tables, failures);
    return failures != 0 || tables == 0;
}
