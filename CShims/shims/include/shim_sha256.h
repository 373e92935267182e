// SHA-256 by libcrypto, which uses the processor's SHA instructions.
#ifndef CRFS_SHIM_SHA256_H
#define CRFS_SHIM_SHA256_H

#include <stddef.h>
#include <stdint.h>

// A running hash. NULL when memory is out.
typedef struct evp_md_ctx_st crfs_sha256;
crfs_sha256 *crfs_sha256_new(void);
void crfs_sha256_free(crfs_sha256 *hash);

// Each returns 1, or 0 when libcrypto failed.
int crfs_sha256_begin(crfs_sha256 *hash);
int crfs_sha256_update(crfs_sha256 *hash, const void *bytes, size_t count);
int crfs_sha256_end(crfs_sha256 *hash, uint8_t digest[32]);

#endif
