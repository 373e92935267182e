#include "shim_deflate.h"

enum crfs_inflate_status crfs_inflate_members(struct libdeflate_decompressor *decompressor, const uint8_t *in,
                                              size_t in_size, size_t wanted, uint8_t *out, size_t out_size,
                                              size_t *produced, size_t *consumed) {
    size_t read = 0, written = 0;
    *produced = 0;
    *consumed = 0;
    do {
        if (read == in_size)
            return CRFS_INFLATE_SHORT;
        size_t member_in = 0, member_out = 0;
        enum libdeflate_result result = libdeflate_gzip_decompress_ex(
            decompressor, in + read, in_size - read, out + written, out_size - written, &member_in, &member_out);
        if (result == LIBDEFLATE_INSUFFICIENT_SPACE)
            return CRFS_INFLATE_SPACE;
        if (result != LIBDEFLATE_SUCCESS)
            return CRFS_INFLATE_BAD;
        read += member_in;
        written += member_out;
    } while (written < wanted);
    *produced = written;
    *consumed = read;
    return CRFS_INFLATE_OK;
}
