// Decompression of zstd frames with libzstd: of streams, and of frames that are in memory whole.
#ifndef CRFS_SHIM_ZSTD_H
#define CRFS_SHIM_ZSTD_H

#include "shim_deflate.h"
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

// Decompresses the zstd frames that stand one after another in `in`, until at least `wanted` bytes have come out or the
// input is used up; skippable frames are skipped. Each frame is decompressed whole and its content checksum checked
// where it has one. `out` must hold what the frames hold, which is often more than `wanted`. On CRFS_INFLATE_OK
// `*produced` (>= wanted) is what came out and `*consumed` what was read. The window that a frame asks for costs no memory
// here. Not for a context in the middle of a stream.
enum crfs_inflate_status crfs_unzstd_frames(crfs_unzstd *unzstd, const uint8_t *in, size_t in_size, size_t wanted,
                                            uint8_t *out, size_t out_size, size_t *produced, size_t *consumed);

#endif
