#include "shim_sha256.h"

#include <openssl/evp.h>

crfs_sha256 *crfs_sha256_new(void) { return EVP_MD_CTX_new(); }

void crfs_sha256_free(crfs_sha256 *hash) { EVP_MD_CTX_free(hash); }

int crfs_sha256_begin(crfs_sha256 *hash) { return EVP_DigestInit_ex(hash, EVP_sha256(), NULL); }

int crfs_sha256_update(crfs_sha256 *hash, const void *bytes, size_t count) {
    return EVP_DigestUpdate(hash, bytes, count);
}

int crfs_sha256_end(crfs_sha256 *hash, uint8_t digest[32]) { return EVP_DigestFinal_ex(hash, digest, NULL); }
