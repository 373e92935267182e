// Inflation of gzip members with libdeflate.
#ifndef CRFS_SHIM_DEFLATE_H
#define CRFS_SHIM_DEFLATE_H

#include <libdeflate.h>
#include <stddef.h>
#include <stdint.h>

enum crfs_inflate_status {
    CRFS_INFLATE_OK = 0,
    // Bad header, bad code, wrong CRC-32 or wrong size field.
    CRFS_INFLATE_BAD = 1,
    // The input ended before `wanted` bytes came out.
    CRFS_INFLATE_SHORT = 2,
    // The output does not fit; call again with a larger buffer.
    CRFS_INFLATE_SPACE = 3,
    // Memory is out (zstd only).
    CRFS_INFLATE_MEMORY = 4,
};

// Inflates the gzip members (RFC 1952) that stand one after another in `in`, until at least `wanted` bytes have come
// out or the input is used up. Each member is inflated whole and its CRC-32 checked. `out` must hold what the members
// inflate to, which is usually more than `wanted`. On CRFS_INFLATE_OK `*produced` (>= wanted) is what came out and
// `*consumed` what was read. Not safe for one decompressor on several threads at once.
enum crfs_inflate_status crfs_inflate_members(struct libdeflate_decompressor *decompressor, const uint8_t *in,
                                              size_t in_size, size_t wanted, uint8_t *out, size_t out_size,
                                              size_t *produced, size_t *consumed);

#endif
