// Streaming decompression of zstd frames with libzstd.
#ifndef CRFS_SHIM_ZSTD_H
#define CRFS_SHIM_ZSTD_H

#include "shim_zlib.h"

#include <stddef.h>
#include <stdint.h>

// A running decompression of any number of zstd frames (RFC 8878) that stand one after another; skippable frames are
// skipped. NULL when memory is out. One context belongs to one thread at a time. Memory: the window that the frame asks
// for, at most 128 MiB (windowLog 27, the most that the zstd tools decode without being asked).
typedef struct ZSTD_DCtx_s crfs_unzstd;
crfs_unzstd *crfs_unzstd_new(void);
void crfs_unzstd_free(crfs_unzstd *unzstd);

// Reads at most `in_size` bytes, writes at most `out_size`, and says how many of each in `*consumed` and `*produced`.
// Makes progress whenever there is input and room.
enum crfs_stream_status crfs_unzstd_step(crfs_unzstd *unzstd, const uint8_t *in, size_t in_size, uint8_t *out,
                                         size_t out_size, size_t *consumed, size_t *produced);

#endif
