#include "base/philox.h"

#include <math.h>
#include <stdlib.h>

#include "tests/test.h"

/* The known answers published with the generator (Random123, kat_vectors, philox4x32 10). */
static void check_known(void) {
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const uint32_t *c = known[i].counter;
        ss_random4 r = ss_philox((uint64_t)known[i].key[1] << 32 | known[i].key[0], c[0], c[1], c[2], c[3]);
        CHECK(memcmp(r.word, known[i].answer, sizeof r.word) == 0);
    }
    CHECK(ss_uniform(0) == 0.0f && ss_uniform(0xFFFFFFFFu) < 1.0f && ss_uniform(0x80000000u) == 0.5f);
}

static bool is_permutation(uint64_t seed, uint32_t epoch, int64_t count) {
    unsigned char *seen = calloc((size_t)count, 1);
    bool good = seen != NULL;
    for (int64_t i = 0; good && i < count; i++) {
        int64_t image = ss_permute(seed, epoch, count, i);
        good = image >= 0 && image < count && !seen[image];
        if (good) seen[image] = 1;
    }
    free(seen);
    return good;
}

static void check_permutation(void) {
    for (int64_t count = 1; count <= 300; count++)
        for (uint32_t epoch = 0; epoch < 3; epoch++) CHECK(is_permutation(12345, epoch, count));
    static const int64_t large[] = {1023, 1024, 1025, 4097, 50000, 65536, 65537, 262145};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) CHECK(is_permutation(7, 3, large[i]));
    /* Beyond what memory could list: the image lies inside, and neighbours go to different places. */
    static const int64_t huge[] = {INT64_C(1) << 40, (INT64_C(1) << 62) + 1, INT64_MAX};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        int64_t a = ss_permute(1, 0, huge[i], 0), b = ss_permute(1, 0, huge[i], 1), c = ss_permute(1, 0, huge[i], huge[i] - 1);
        CHECK(a >= 0 && a < huge[i] && b >= 0 && b < huge[i] && c >= 0 && c < huge[i] && a != b && b != c && a != c);
    }

    /* Every order of three and of four comes up equally often: chi-squared over seeds, against its 1 in 10,000 bound. */
    int orders[24] = {0}, three[6] = {0}, epochs = 24000;
    for (int epoch = 0; epoch < epochs; epoch++) {
        int p[4], q[3];
        for (int i = 0; i < 4; i++) p[i] = (int)ss_permute(99, (uint32_t)epoch, 4, i);
        for (int i = 0; i < 3; i++) q[i] = (int)ss_permute(98, (uint32_t)epoch, 3, i);
        int rank = p[0] * 6 + (p[1] - (p[1] > p[0])) * 2 + (p[2] > p[3]);
        orders[rank]++;
        three[q[0] * 2 + (q[1] > q[2])]++;
    }
    double chi = 0, chi3 = 0;
    for (int i = 0; i < 24; i++) chi += (orders[i] - epochs / 24.0) * (orders[i] - epochs / 24.0) / (epochs / 24.0);
    for (int i = 0; i < 6; i++) chi3 += (three[i] - epochs / 6.0) * (three[i] - epochs / 6.0) / (epochs / 6.0);
    CHECK(chi < 57.1);  /* 23 degrees of freedom */
    CHECK(chi3 < 25.8); /* 5 degrees of freedom */

    /* No trace of the old order: correlation of place and image, and images of neighbours, over 10,000 items. */
    enum { N = 10000 };
    double with_place = 0, with_next = 0, variance = ((double)N * N - 1) / 12, mean = (N - 1) / 2.0;
    int kept = 0;
    for (int i = 0; i < N; i++) {
        double image = (double)ss_permute(5, 1, N, i) - mean, next = (double)ss_permute(5, 1, N, (i + 1) % N) - mean;
        with_place += (i - mean) * image / variance / N;
        with_next += image * next / variance / N;
        kept += ss_permute(5, 1, N, i) == ss_permute(5, 2, N, i);
    }
    CHECK_NEAR(with_place, 0, 4.5 / sqrt(N));
    CHECK_NEAR(with_next, 0, 4.5 / sqrt(N));
    CHECK(kept < 10); /* epochs differ: one fixed point is expected */

    static const int64_t golden[8] = {439, 420, 868, 298, 228, 425, 634, 300};
    for (int i = 0; i < 8; i++) CHECK(ss_permute(42, 1, 1000, i) == golden[i]);
}

enum { DRAWS = 1 << 20 };
static float draws[DRAWS];

static double moment(int power, double centre) {
    double sum = 0;
    for (int i = 0; i < DRAWS; i++) sum += pow(draws[i] - centre, power);
    return sum / DRAWS;
}

static uint64_t hash_draws(void) { /* FNV-1a over the bytes */
    uint64_t hash = 0xCBF29CE484222325u;
    const unsigned char *byte = (const unsigned char *)draws;
    for (size_t i = 0; i < sizeof draws; i++) hash = (hash ^ byte[i]) * 0x100000001B3u;
    return hash;
}

/* A count of n draws leaves the rest alone, and a shorter fill is a prefix of a longer one. */
static void check_prefix(bool normal) {
    float whole[40], part[40];
    for (int n = 0; n <= 32; n++) {
        for (int i = 0; i < 40; i++) part[i] = 77;
        if (normal) ss_fill_normal(whole, 40, 3, 4, 0, 1), ss_fill_normal(part, n, 3, 4, 0, 1);
        else ss_fill_uniform(whole, 40, 3, 4, 0, 1), ss_fill_uniform(part, n, 3, 4, 0, 1);
        CHECK(memcmp(whole, part, (size_t)n * sizeof(float)) == 0);
        for (int i = n; i < 40; i++) CHECK(part[i] == 77);
    }
}

static void check_uniform(void) {
    double error = 4.5 / sqrt(DRAWS);
    ss_fill_uniform(draws, DRAWS, 2024, SS_STREAM_INIT, 0, 1);
    uint64_t hash = hash_draws();
    if (!CHECK(hash == 0xD77A1C7AC363DF3Eu)) fprintf(stderr, "    uniform 0x%016llx\n", (unsigned long long)hash);
    float low = 2, high = -2;
    int cells[16] = {0};
    for (int i = 0; i < DRAWS; i++) {
        low = fminf(low, draws[i]), high = fmaxf(high, draws[i]);
        cells[(int)(draws[i] * 16) & 15]++;
    }
    CHECK(low >= 0 && low < 1e-4 && high < 1 && high > 0.9999);
    CHECK_NEAR(moment(1, 0), 0.5, error * 0.289);
    CHECK_NEAR(moment(2, 0.5), 1 / 12.0, error * 0.0745);
    double chi = 0;
    for (int i = 0; i < 16; i++) chi += (cells[i] - DRAWS / 16.0) * (cells[i] - DRAWS / 16.0) / (DRAWS / 16.0);
    CHECK(chi < 44.3); /* 15 degrees of freedom, 1 in 10,000 */

    ss_fill_uniform(draws, 16, 1, 2, -0.25f, 0.25f);
    for (int i = 0; i < 16; i++) {
        float unit = ss_uniform(ss_philox(1, (uint32_t)i / 4, 0, 0, 2).word[i % 4]);
        CHECK(draws[i] == -0.25f + 0.5f * unit);
    }
    /* The upper end is excluded even where rounding would reach it. */
    float base = 1.0f, next = nextafterf(1.0f, 2.0f);
    ss_fill_uniform(draws, 1000, 1, 2, base, next);
    for (int i = 0; i < 1000; i++) CHECK(draws[i] == base);
    ss_fill_uniform(draws, 8, 1, 2, 3, 3);
    for (int i = 0; i < 8; i++) CHECK(draws[i] == 3);
    check_prefix(false);
}

static void check_normal(void) {
    double error = 4.5 / sqrt(DRAWS);
    ss_fill_normal(draws, DRAWS, 2024, SS_STREAM_INIT, 0, 1);
    uint64_t hash = hash_draws();
    if (!CHECK(hash == 0xFE70B8F961BB1D69u)) fprintf(stderr, "    normal 0x%016llx\n", (unsigned long long)hash);
    CHECK_NEAR(moment(1, 0), 0, error);
    CHECK_NEAR(moment(2, 0), 1, error * sqrt(2));
    CHECK_NEAR(moment(3, 0), 0, error * sqrt(15));
    CHECK_NEAR(moment(4, 0), 3, error * sqrt(96));
    /* Kolmogorov and Smirnov in 32 places, against libm's erf; 2.2 is the 1 in 10,000 bound. */
    for (int place = -16; place < 16; place++) {
        double at = place * 0.2, below = 0;
        for (int i = 0; i < DRAWS; i++) below += draws[i] < at;
        CHECK_NEAR(below / DRAWS, 0.5 * erfc(-at / sqrt(2)), 2.2 / sqrt(DRAWS));
    }
    /* The series against libm: equal but for the last rounding. */
    double worst = 0;
    for (int i = 0; i < DRAWS; i += 2) {
        ss_random4 r = ss_philox(2024, (uint32_t)i / 4, 0, 0, SS_STREAM_INIT);
        double radius = sqrt(-2 * log((r.word[i % 4] + 0.5) * 0x1p-32)), angle = 6.28318530717958647693 * 0x1p-32 * r.word[i % 4 + 1];
        worst = fmax(worst, fabs(draws[i] - radius * cos(angle)) / fmax(radius, 1e-3));
        worst = fmax(worst, fabs(draws[i + 1] - radius * sin(angle)) / fmax(radius, 1e-3));
    }
    CHECK(worst < 6.1e-8);

    float standard[16], scaled[16];
    ss_fill_normal(standard, 16, 8, 9, 0, 1);
    ss_fill_normal(scaled, 16, 8, 9, 5, 0.5f);
    for (int i = 0; i < 16; i++) CHECK_NEAR(scaled[i], 5 + 0.5 * standard[i], 1e-6);
    ss_fill_normal(scaled, 16, 8, 10, 0, 1);
    CHECK(memcmp(standard, scaled, sizeof standard) != 0);
    check_prefix(true);
}

int main(void) {
    check_known();
    check_permutation();
    check_uniform();
    check_normal();
    return TEST_DONE();
}
