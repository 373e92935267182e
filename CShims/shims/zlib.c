#include "shim_zlib.h"

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

struct crfs_gunzip {
    z_stream stream;
    // Whether the last byte read ended a member, and whether any member ended yet.
    int at_boundary;
    int any_member;
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

enum crfs_stream_status crfs_gunzip_step(crfs_gunzip *gunzip, const uint8_t *in, size_t in_size, uint8_t *out,
                                         size_t out_size, size_t *consumed, size_t *produced) {
    *consumed = 0;
    *produced = 0;
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
    int result = inflate(&gunzip->stream, Z_NO_FLUSH);
    *consumed += avail_in - gunzip->stream.avail_in;
    *produced = avail_out - gunzip->stream.avail_out;
    gunzip->at_boundary = result == Z_STREAM_END;
    switch (result) {
    case Z_STREAM_END:
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
