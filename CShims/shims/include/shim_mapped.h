// Reading memory that is a mapping of a file. A page of it that cannot be read (the file was cut, the disk fails) raises
// SIGBUS; the functions here catch that and return 0 instead. Only C frames are inside of the guard.
//
// The first call in a process installs the handler of SIGBUS, the first on a thread lets that signal through (a blocked
// one would end the process). A SIGBUS from anywhere else goes to the handler that was there before. All functions are
// safe on any number of threads, and cost about 8 ns more than without the guard.
#ifndef CRFS_SHIM_MAPPED_H
#define CRFS_SHIM_MAPPED_H

#include <stddef.h>
#include <stdint.h>

// memcpy(3). Returns 1, or 0 when a page could not be read; then `out` is partly written.
int crfs_mapped_copy(void *out, const void *in, size_t size);

// Reads one byte of every page, so that the pages are in memory afterwards, most likely. Returns 1, or 0 when a page
// could not be read.
int crfs_mapped_touch(const void *in, size_t size);

// CRC-32 (of gzip) in the low half of `checksum`, Adler-32 (of zlib) in the high half. Returns 1, or 0 when a page could
// not be read.
int crfs_mapped_checksum(const void *in, size_t size, uint64_t *checksum);

// CRC-32 (of gzip) of ordinary memory: no guard.
uint32_t crfs_crc32(const void *in, size_t size);

// Decompresses an LZ4 block of exactly `out_size` bytes, as crfs_lz4_decompress does. Returns 1, or 0 when the block is
// damaged or a page could not be read; then the content of `out` is undefined.
int crfs_mapped_lz4_decompress(const void *in, size_t in_size, void *out, size_t out_size);

#endif
