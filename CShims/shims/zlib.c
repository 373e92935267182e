#include "shim_zlib.h"

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

struct crfs_gunzip {
    z_stream stream;
    // Whether the last byte read ended a member, and whether any member ended yet.
    int at_boundary;
    int any_member;
    // Taken up in the middle of a member: zlib sees bare deflate data, and the member's trailer is skipped here.
    int is_raw;
    size_t trailer_left;
};

crfs_gunzip *crfs_gunzip_new(void) {
    crfs_gunzip *gunzip = calloc(1, sizeof *gunzip);
    if (gunzip == NULL)
        return NULL;
    // The largest window, and 16 for gzip headers only.
    if (inflateInit2(&gunzip->stream, 15 + 16) != Z_OK) {
        free(gunzip);
        return NULL;
    }
    return gunzip;
}

void crfs_gunzip_free(crfs_gunzip *gunzip) {
    if (gunzip == NULL)
        return;
    inflateEnd(&gunzip->stream);
    free(gunzip);
}

static enum crfs_stream_status step(crfs_gunzip *gunzip, const uint8_t *in, size_t in_size, uint8_t *out,
                                    size_t out_size, int flush, size_t *consumed, size_t *produced) {
    *consumed = 0;
    *produced = 0;
    if (gunzip->trailer_left > 0) {
        size_t skipped = in_size < gunzip->trailer_left ? in_size : gunzip->trailer_left;
        gunzip->trailer_left -= skipped;
        *consumed = skipped;
        if (gunzip->trailer_left > 0)
            return CRFS_STREAM_MORE;
        if (inflateReset2(&gunzip->stream, 15 + 16) != Z_OK)
            return CRFS_STREAM_BAD;
        gunzip->at_boundary = gunzip->any_member = 1;
        return CRFS_STREAM_BOUNDARY;
    }
    if (gunzip->at_boundary && gunzip->any_member) {
        while (*consumed < in_size && in[*consumed] == 0)
            ++*consumed;
        if (*consumed == in_size)
            return CRFS_STREAM_BOUNDARY;
        if (inflateReset(&gunzip->stream) != Z_OK)
            return CRFS_STREAM_BAD;
    }

    // zlib counts in unsigned int: a larger piece takes several steps.
    size_t left = in_size - *consumed;
    uInt avail_in = left > UINT_MAX ? UINT_MAX : (uInt)left;
    uInt avail_out = out_size > UINT_MAX ? UINT_MAX : (uInt)out_size;
    gunzip->stream.next_in = (Bytef *)(in + *consumed);
    gunzip->stream.avail_in = avail_in;
    gunzip->stream.next_out = out;
    gunzip->stream.avail_out = avail_out;
    int result = inflate(&gunzip->stream, flush);
    *consumed += avail_in - gunzip->stream.avail_in;
    *produced = avail_out - gunzip->stream.avail_out;
    gunzip->at_boundary = result == Z_STREAM_END;
    switch (result) {
    case Z_STREAM_END:
        if (gunzip->is_raw) {
            gunzip->is_raw = gunzip->at_boundary = 0;
            gunzip->trailer_left = 8;
            return CRFS_STREAM_MORE;
        }
        gunzip->any_member = 1;
        return CRFS_STREAM_BOUNDARY;
    case Z_OK:
    case Z_BUF_ERROR: // No input or no room: not an error of the data.
        return CRFS_STREAM_MORE;
    case Z_MEM_ERROR:
        return CRFS_STREAM_MEMORY;
    default:
        return CRFS_STREAM_BAD;
    }
}

enum crfs_stream_status crfs_gunzip_step(crfs_gunzip *gunzip, const uint8_t *in, size_t in_size, uint8_t *out,
                                         size_t out_size, size_t *consumed, size_t *produced) {
    return step(gunzip, in, in_size, out, out_size, Z_NO_FLUSH, consumed, produced);
}

enum crfs_stream_status crfs_gunzip_step_block(crfs_gunzip *gunzip, const uint8_t *in, size_t in_size, uint8_t *out,
                                               size_t out_size, size_t *consumed, size_t *produced, int *bits) {
    *bits = -1;
    enum crfs_stream_status status = step(gunzip, in, in_size, out, out_size, Z_BLOCK, consumed, produced);
    // inflate(3), data_type: 128 behind a block or a header, 64 in the last block, below that the bits left over.
    if (status == CRFS_STREAM_MORE && gunzip->trailer_left == 0 && (gunzip->stream.data_type & 192) == 128)
        *bits = gunzip->stream.data_type & 7;
    return status;
}

size_t crfs_gunzip_window(crfs_gunzip *gunzip, uint8_t window[CRFS_GUNZIP_WINDOW]) {
    uInt size = 0;
    if (inflateGetDictionary(&gunzip->stream, window, &size) != Z_OK)
        return 0;
    return size;
}

int crfs_gunzip_resume(crfs_gunzip *gunzip, int bits, uint8_t byte, const uint8_t *window, size_t window_size) {
    gunzip->at_boundary = gunzip->any_member = 0;
    gunzip->trailer_left = 0;
    gunzip->is_raw = 1;
    if (bits < 0 || bits > 7 || window_size > CRFS_GUNZIP_WINDOW)
        return 0;
    if (inflateReset2(&gunzip->stream, -15) != Z_OK)
        return 0;
    if (bits > 0 && inflatePrime(&gunzip->stream, bits, byte >> (8 - bits)) != Z_OK)
        return 0;
    return window_size == 0 || inflateSetDictionary(&gunzip->stream, window, (uInt)window_size) == Z_OK;
}
