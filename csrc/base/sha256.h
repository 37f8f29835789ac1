/* SHA-256 (FIPS 180-4), for fingerprints of parameters. */
#ifndef SS_BASE_SHA256_H
#define SS_BASE_SHA256_H
#include <stddef.h>
#include <stdint.h>

typedef struct ss_sha256 {
    uint32_t state[8];
    uint64_t bytes;
    unsigned char block[64];
} ss_sha256;

void ss_sha256_start(ss_sha256 *h);
void ss_sha256_add(ss_sha256 *h, const void *data, size_t bytes);
/* Writes 64 hexadecimal digits and a terminating zero. */
void ss_sha256_hex(ss_sha256 *h, char text[65]);

#endif
