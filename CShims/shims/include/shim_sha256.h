// SHA-256 by libcrypto, which uses the processor's SHA instructions.
#ifndef CRFS_SHIM_SHA256_H
#define CRFS_SHIM_SHA256_H

#include <stddef.h>
#include <stdint.h>

// A running hash. NULL when memory is out.
typedef struct SHA256state_st crfs_sha256;
crfs_sha256 *crfs_sha256_new(void);
void crfs_sha256_free(crfs_sha256 *hash);

// Each returns 1, or 0 when libcrypto failed.
int crfs_sha256_begin(crfs_sha256 *hash);
int crfs_sha256_update(crfs_sha256 *hash, const void *bytes, size_t count);
int crfs_sha256_end(crfs_sha256 *hash, uint8_t digest[32]);

// What FIPS 180-4 has between two updates, little-endian: the eight words of the hash value (32 bytes), how many bytes
// were added (8), and of these the ones that do not fill a block yet, zeros behind them (64).
#define CRFS_SHA256_STATE 104
void crfs_sha256_save(const crfs_sha256 *hash, uint8_t state[CRFS_SHA256_STATE]);
void crfs_sha256_resume(crfs_sha256 *hash, const uint8_t state[CRFS_SHA256_STATE]);

#endif
