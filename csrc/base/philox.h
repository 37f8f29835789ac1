/* Philox4x32-10: counter-based random numbers (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011).
 *
 * key = the 64-bit seed; counter = (element/4, position in the global batch, step, op), 32 bits each.
 */
#ifndef SS_BASE_PHILOX_H
#define SS_BASE_PHILOX_H
#include <stdint.h>

typedef struct ss_random4 {
    uint32_t word[4];
} ss_random4;

static inline ss_random4 ss_philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (ss_random4){{c0, c1, c2, c3}};
}

/* word[k][j] = word k of ss_philox(seed, counter + j, c1, c2, c3) for SS_RANDOM_BLOCK counters side by side: rounds outside, so that each round is one vector loop. */
enum { SS_RANDOM_BLOCK = 32 };
static inline void ss_philox_block(uint64_t seed, uint32_t counter, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t word[4][SS_RANDOM_BLOCK]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t *restrict a = word[0], *restrict b = word[1], *restrict d = word[2], *restrict e = word[3];
    for (uint32_t j = 0; j < SS_RANDOM_BLOCK; j++) {
        a[j] = counter + j;
        b[j] = c1;
        d[j] = c2;
        e[j] = c3;
    }
    for (int round = 0; round < 10; round++) {
        for (int j = 0; j < SS_RANDOM_BLOCK; j++) {
            const uint64_t p = (uint64_t)0xD2511F53u * a[j], q = (uint64_t)0xCD9E8D57u * d[j];
            const uint32_t first = (uint32_t)(q >> 32) ^ b[j] ^ k0, third = (uint32_t)(p >> 32) ^ e[j] ^ k1;
            b[j] = (uint32_t)q;
            e[j] = (uint32_t)p;
            a[j] = first;
            d[j] = third;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* [0, 1) with 24 random bits. */
static inline float ss_uniform(uint32_t word) { return (float)(word >> 8) * 0x1p-24f; }

/* Streams: the op number (fourth counter word) of uses outside a graph. */
enum { SS_STREAM_INIT = 0x80000000u, SS_STREAM_SHUFFLE = 0x80000001u, SS_STREAM_MIX = 0x80000002u };

/* A permutation of [0, count) by a function of (seed, epoch) alone, without memory: a Feistel network over the next even power of two whose
 * round function is Philox, walked until the image falls inside (Black, Rogaway: "Ciphers with arbitrary finite domains", 2002). */
int64_t ss_permute(uint64_t seed, uint32_t epoch, int64_t count, int64_t index);

/* n draws, uniform in [low, high) or normal(mean, std): the initial values of parameter `stream`. */
void ss_fill_uniform(float *out, int64_t n, uint64_t seed, uint32_t stream, float low, float high);
void ss_fill_normal(float *out, int64_t n, uint64_t seed, uint32_t stream, float mean, float std);

#endif
