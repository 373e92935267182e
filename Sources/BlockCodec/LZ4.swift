internal import CShims

/// One LZ4 block (raw block format): fast enough to unpack on every read, about 3 GB/s a core.
public enum LZ4 {
    /// Compresses `input` into `output`.
    ///
    /// - Returns: the size of the block in bytes, or nil when it does not fit into `output`. Who wants a saving passes
    ///   less room than the input has.
    public static func compress(
        _ input: UnsafeRawBufferPointer,
        into output: UnsafeMutableRawBufferPointer
    ) -> Int? {
        let size = unsafe crfs_lz4_compress(input.baseAddress, input.count, output.baseAddress, output.count)
        return size == 0 ? nil : size
    }

    /// Unpacks the block `input` into `output`, which it must fill exactly. Whatever the block holds, nothing outside
    /// of the two regions is touched.
    ///
    /// - Returns: false when the block is damaged; the content of `output` is undefined then.
    public static func decompress(
        _ input: UnsafeRawBufferPointer,
        into output: UnsafeMutableRawBufferPointer
    ) -> Bool {
        let status = unsafe crfs_lz4_decompress(input.baseAddress, input.count, output.baseAddress, output.count)
        return status == 1
    }
}
