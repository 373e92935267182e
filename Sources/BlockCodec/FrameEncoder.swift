internal import CShims

/// Compresses whole zstd frames with libzstd. One thread at a time.
///
/// What comes out depends on the bytes, the level and libzstd's version alone.
@safe
public struct FrameEncoder: ~Copyable {
    private let context: OpaquePointer

    /// The levels that can be asked for: 1 is the fastest, 19 gives the smallest result.
    public static let levels = 1...19

    /// Allocates a compressor, whose memory grows with level and input (up to about 100 MiB at level 19); traps when memory
    /// is out.
    ///
    /// - Parameter level: one of `levels`, else a trap.
    public init(level: Int) {
        precondition(Self.levels.contains(level), "no such compression level: \(level)")
        guard let context = unsafe crfs_zstd_new(CInt(level)) else { fatalError("out of memory for a compressor") }
        unsafe self.context = context
    }

    deinit {
        unsafe crfs_zstd_free(context)
    }

    /// Compresses `bytes` into one frame (RFC 8878) with its size and a checksum of its content.
    public mutating func frame(_ bytes: borrowing RawSpan) -> [UInt8] {
        let bound = crfs_zstd_bound(bytes.byteCount)
        return unsafe [UInt8](unsafeUninitializedCapacity: bound) { output, count in
            // SAFETY: the output holds `bound` bytes, which libzstd promises to be enough.
            count = unsafe bytes.withUnsafeBytes { input in
                unsafe crfs_zstd_frame(context, input.baseAddress, input.count, output.baseAddress, output.count)
            }
            precondition(count > 0, "out of memory for a compressor")
        }
    }
}
