// Streaming inflation of gzip data with zlib: for inputs that come piece by piece and may hold members of any size.
// (Members that are in memory as a whole go to libdeflate, which is twice as fast.)
#ifndef CRFS_SHIM_ZLIB_H
#define CRFS_SHIM_ZLIB_H

#include <stddef.h>
#include <stdint.h>

// A running inflation of any number of gzip members (RFC 1952) that stand one after another. NULL when memory is out.
// One context belongs to one thread at a time. Memory: about 45 KiB, whatever the data says.
typedef struct crfs_gunzip crfs_gunzip;
crfs_gunzip *crfs_gunzip_new(void);
void crfs_gunzip_free(crfs_gunzip *gunzip);

enum crfs_stream_status {
    // Went on; the data does not end here.
    CRFS_STREAM_MORE = 0,
    // Went on, and a member or frame has just ended: the data may end here.
    CRFS_STREAM_BOUNDARY = 1,
    // Bad header, bad code, wrong checksum or wrong size field. The context is of no use any more.
    CRFS_STREAM_BAD = 2,
    // The system has no memory for it.
    CRFS_STREAM_MEMORY = 3,
    // The data needs a larger window than crfs allows (zstd only).
    CRFS_STREAM_WINDOW = 4,
};

// Reads at most `in_size` bytes, writes at most `out_size`, and says how many of each in `*consumed` and `*produced`.
// Makes progress whenever there is input and room. At a boundary it goes on with the next member; zero bytes between
// and after members (padding of tapes and block devices) are skipped, anything else there is CRFS_STREAM_BAD.
enum crfs_stream_status crfs_gunzip_step(crfs_gunzip *gunzip, const uint8_t *in, size_t in_size, uint8_t *out,
                                         size_t out_size, size_t *consumed, size_t *produced);

// The same, but it also ends at the end of each deflate block. Where inflation can be taken up again behind what was
// consumed (after a member's header, between two blocks), `*bits` says how many bits of the last byte consumed belong
// to what follows (0 to 7); else it is -1.
enum crfs_stream_status crfs_gunzip_step_block(crfs_gunzip *gunzip, const uint8_t *in, size_t in_size, uint8_t *out,
                                               size_t out_size, size_t *consumed, size_t *produced, int *bits);

// The most that a match of deflate reaches back (RFC 1951), in bytes.
#define CRFS_GUNZIP_WINDOW 32768

// Copies the last bytes that came out of the present member, as far as later matches can reach, and returns how many.
size_t crfs_gunzip_window(crfs_gunzip *gunzip, uint8_t window[CRFS_GUNZIP_WINDOW]);

// Makes the context go on where another one found `bits` >= 0: `byte` is the last byte that it had consumed, `window`
// what crfs_gunzip_window gave there. The input goes on behind that byte. Of the member in which that is, the trailer's
// CRC-32 and size are not checked; members that follow are checked. 0 when zlib refuses.
int crfs_gunzip_resume(crfs_gunzip *gunzip, int bits, uint8_t byte, const uint8_t *window, size_t window_size);

#endif
