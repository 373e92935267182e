#include "shim_lz4.h"

#include <limits.h>
#include <lz4.h>

size_t crfs_lz4_compress(const void *in, size_t in_size, void *out, size_t out_size) {
    if (in_size > LZ4_MAX_INPUT_SIZE)
        return 0;
    int capacity = out_size > INT_MAX ? INT_MAX : (int)out_size;
    int size = LZ4_compress_default(in, out, (int)in_size, capacity);
    return size > 0 ? (size_t)size : 0;
}

int crfs_lz4_decompress(const void *in, size_t in_size, void *out, size_t out_size) {
    if (in_size > INT_MAX || out_size > INT_MAX)
        return 0;
    int size = LZ4_decompress_safe(in, out, (int)in_size, (int)out_size);
    return size >= 0 && (size_t)size == out_size;
}
