// The functions of EVP that replace these hide the state, which a stream that is to survive its process has to keep. The
// structure is part of libcrypto's interface and the same since its version 0.9.8.
#define OPENSSL_SUPPRESS_DEPRECATED

#include "shim_sha256.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

crfs_sha256 *crfs_sha256_new(void) { return calloc(1, sizeof(SHA256_CTX)); }

void crfs_sha256_free(crfs_sha256 *hash) { free(hash); }

int crfs_sha256_begin(crfs_sha256 *hash) { return SHA256_Init(hash); }

int crfs_sha256_update(crfs_sha256 *hash, const void *bytes, size_t count) { return SHA256_Update(hash, bytes, count); }

int crfs_sha256_end(crfs_sha256 *hash, uint8_t digest[32]) { return SHA256_Final(digest, hash); }

static void put(uint8_t *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *from, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)from[i] << (8 * i);
    return value;
}

void crfs_sha256_save(const crfs_sha256 *hash, uint8_t state[CRFS_SHA256_STATE]) {
    memset(state, 0, CRFS_SHA256_STATE);
    for (int i = 0; i < 8; i++)
        put(state + 4 * i, hash->h[i], 4);
    // libcrypto counts bits.
    put(state + 32, ((uint64_t)hash->Nh << 32 | hash->Nl) / 8, 8);
    memcpy(state + 40, hash->data, hash->num);
}

void crfs_sha256_resume(crfs_sha256 *hash, const uint8_t state[CRFS_SHA256_STATE]) {
    SHA256_Init(hash);
    for (int i = 0; i < 8; i++)
        hash->h[i] = (SHA_LONG)get(state + 4 * i, 4);
    uint64_t count = get(state + 32, 8);
    hash->Nl = (SHA_LONG)(count << 3);
    hash->Nh = (SHA_LONG)(count >> 29);
    hash->num = (unsigned int)(count % SHA256_CBLOCK);
    memcpy(hash->data, state + 40, hash->num);
}
