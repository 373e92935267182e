#include "shim_zstd.h"

#include <zstd.h>
#include <zstd_errors.h>

crfs_unzstd *crfs_unzstd_new(void) {
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (context == NULL)
        return NULL;
    if (ZSTD_isError(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, 27))) {
        ZSTD_freeDCtx(context);
        return NULL;
    }
    return context;
}

void crfs_unzstd_free(crfs_unzstd *unzstd) { ZSTD_freeDCtx(unzstd); }

enum crfs_stream_status crfs_unzstd_step(crfs_unzstd *unzstd, const uint8_t *in, size_t in_size, uint8_t *out,
                                         size_t out_size, size_t *consumed, size_t *produced) {
    ZSTD_inBuffer input = {in, in_size, 0};
    ZSTD_outBuffer output = {out, out_size, 0};
    size_t result = ZSTD_decompressStream(unzstd, &output, &input);
    *consumed = input.pos;
    *produced = output.pos;
    if (!ZSTD_isError(result))
        return result == 0 ? CRFS_STREAM_BOUNDARY : CRFS_STREAM_MORE;
    switch (ZSTD_getErrorCode(result)) {
    case ZSTD_error_memory_allocation:
        return CRFS_STREAM_MEMORY;
    case ZSTD_error_frameParameter_windowTooLarge:
        return CRFS_STREAM_WINDOW;
    default:
        return CRFS_STREAM_BAD;
    }
}

enum crfs_inflate_status crfs_unzstd_frames(crfs_unzstd *unzstd, const uint8_t *in, size_t in_size, size_t wanted,
                                            uint8_t *out, size_t out_size, size_t *produced, size_t *consumed) {
    size_t read = 0, written = 0;
    *produced = 0;
    *consumed = 0;
    do {
        if (read == in_size)
            return CRFS_INFLATE_SHORT;
        // A frame must be found whole before it is decoded: that needs no window, since the output is one piece.
        size_t frame = ZSTD_findFrameCompressedSize(in + read, in_size - read);
        if (ZSTD_isError(frame))
            return ZSTD_getErrorCode(frame) == ZSTD_error_srcSize_wrong ? CRFS_INFLATE_SHORT : CRFS_INFLATE_BAD;
        size_t result = ZSTD_decompressDCtx(unzstd, out + written, out_size - written, in + read, frame);
        if (ZSTD_isError(result)) {
            switch (ZSTD_getErrorCode(result)) {
            case ZSTD_error_dstSize_tooSmall:
                return CRFS_INFLATE_SPACE;
            case ZSTD_error_memory_allocation:
                return CRFS_INFLATE_MEMORY;
            default:
                return CRFS_INFLATE_BAD;
            }
        }
        read += frame;
        written += result;
    } while (written < wanted);
    *produced = written;
    *consumed = read;
    return CRFS_INFLATE_OK;
}
