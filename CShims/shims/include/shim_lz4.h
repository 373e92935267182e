// LZ4 blocks (the raw block format, no frame): the unit in which the chunk store compresses.
#ifndef CRFS_SHIM_LZ4_H
#define CRFS_SHIM_LZ4_H

#include <stddef.h>

// Compresses `in_size` bytes into one block. Returns the block's size, or 0 when it does not fit into `out_size` bytes
// (so a caller that wants a saving passes less room than the input has) or when `in_size` is above what LZ4 takes
// (0x7E000000). Uses 16 KiB of stack. Safe on any number of threads.
size_t crfs_lz4_compress(const void *in, size_t in_size, void *out, size_t out_size);

// Decompresses one block that holds exactly `out_size` bytes. Returns 1, or 0 when the block is damaged or holds any
// other number of bytes; then the content of `out` is undefined. Never writes or reads outside of the two regions.
// Safe on any number of threads.
int crfs_lz4_decompress(const void *in, size_t in_size, void *out, size_t out_size);

#endif
