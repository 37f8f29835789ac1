#include "base/philox.h"

#include <assert.h>
#include <math.h>

enum { FEISTEL_ROUNDS = 8 };

/* One pass of the Feistel network over 2 * half bits. */
static uint64_t feistel(uint64_t seed, uint32_t epoch, int half, uint64_t value) {
    uint32_t mask = (uint32_t)(((uint64_t)1 << half) - 1);
    uint32_t left = (uint32_t)(value >> half) & mask, right = (uint32_t)value & mask;
    for (uint32_t round = 0; round < FEISTEL_ROUNDS; round++) {
        uint32_t mixed = left ^ (ss_philox(seed, right, round, epoch, SS_STREAM_SHUFFLE).word[0] & mask);
        left = right;
        right = mixed;
    }
    return (uint64_t)left << half | right;
}

int64_t ss_permute(uint64_t seed, uint32_t epoch, int64_t count, int64_t index) {
    assert(count >= 1 && index >= 0 && index < count);
    int half = 1;
    while (half < 32 && ((uint64_t)1 << (2 * half)) < (uint64_t)count) half++;
    uint64_t value = (uint64_t)index;
    /* The domain is below 4 * count, so the walk takes fewer than four passes on average; it ends because it is a cycle
     * through an index that lies inside. */
    do value = feistel(seed, epoch, half, value);
    while (value >= (uint64_t)count);
    return (int64_t)value;
}

static ss_random4 draw(uint64_t seed, uint32_t stream, uint64_t group) {
    return ss_philox(seed, (uint32_t)group, (uint32_t)(group >> 32), 0, stream);
}

static float uniform_between(uint32_t word, float low, float high) {
    float value = (float)((double)low + ((double)high - (double)low) * (double)ss_uniform(word));
    if (value < high) return value;
    /* Rounding to float reached the excluded end. */
    return low < high ? nextafterf(high, low) : low;
}

void ss_fill_uniform(float *out, int64_t n, uint64_t seed, uint32_t stream, float low, float high) {
    assert(low <= high);
    for (int64_t i = 0; i < n; i += 4) {
        ss_random4 random = draw(seed, stream, (uint64_t)i / 4);
        for (int64_t j = 0; j < 4 && i + j < n; j++) out[i + j] = uniform_between(random.word[j], low, high);
    }
}

/* libm's log, sin and cos differ in the last bit between versions and processors. These series use +, -, * and / alone, so every
 * build gives the same bits; they are Taylor's, carried on until the next term is below half a unit of double precision. */

/* log(x / 2^32) for 1/2 <= x < 2^32: x = m * 2^k with sqrt(1/2) <= m < sqrt(2); log m = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...),
 * s = (m - 1)/(m + 1), |s| < 0.172. */
static double log_of_fraction(double x) {
    int k = 0;
    double m = x;
    while (m >= 65536.0) m *= 0x1p-16, k += 16;
    while (m >= 1.4142135623730951) m *= 0.5, k++;
    while (m < 0.70710678118654752) m *= 2.0, k--;
    double s = (m - 1.0) / (m + 1.0), square = s * s, sum = 0.0;
    for (int i = 23; i >= 1; i -= 2) sum = sum * square + 1.0 / (double)i;
    return 2.0 * s * sum + (double)(k - 32) * 0.69314718055994530942;
}

/* Sine and cosine of 2 pi * turn / 2^32. The quarter turn is taken off in integers, which is exact; |rest| <= pi/4. */
static void sine_cosine(uint32_t turn, double *sine, double *cosine) {
    uint32_t quarter = (turn + (UINT32_C(1) << 29)) >> 30; /* wraps: the last eighth of a turn belongs to quarter 0 */
    int32_t rest = (int32_t)(turn - (quarter << 30));
    double x = (double)rest * (6.28318530717958647693 * 0x1p-32), square = x * x, s = 1.0, c = 1.0;
    for (int i = 18; i >= 2; i -= 2) {
        s = 1.0 - s * square / (double)(i * (i + 1));
        c = 1.0 - c * square / (double)(i * (i - 1));
    }
    s *= x;
    *sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
    *cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
}

void ss_fill_normal(float *out, int64_t n, uint64_t seed, uint32_t stream, float mean, float std) {
    for (int64_t i = 0; i < n; i += 4) {
        ss_random4 random = draw(seed, stream, (uint64_t)i / 4);
        double normal[4];
        /* Box, Muller: "A note on the generation of random normal deviates", 1958. Two words give two draws. */
        for (int pair = 0; pair < 4; pair += 2) {
            double radius = sqrt(-2.0 * log_of_fraction((double)random.word[pair] + 0.5)), sine, cosine;
            sine_cosine(random.word[pair + 1], &sine, &cosine);
            normal[pair] = radius * cosine;
            normal[pair + 1] = radius * sine;
        }
        for (int64_t j = 0; j < 4 && i + j < n; j++) out[i + j] = (float)((double)mean + (double)std * normal[j]);
    }
}
