internal import CShims

/// Compresses whole gzip members with libdeflate. One thread at a time.
///
/// What comes out depends on the bytes, the level and libdeflate's version alone: the header has no time and no name.
@safe
public struct Deflater: ~Copyable {
    private let compressor: OpaquePointer

    /// The levels that libdeflate knows: 1 is the fastest, 12 gives the smallest result.
    public static let levels = 1...12

    /// Allocates a compressor (about 0.5 MiB, at level 10 and above 9 MiB); traps when memory is out.
    ///
    /// - Parameter level: one of `levels`, else a trap.
    public init(level: Int) {
        precondition(Self.levels.contains(level), "no such compression level: \(level)")
        guard let compressor = unsafe libdeflate_alloc_compressor(CInt(level)) else {
            fatalError("out of memory for a compressor")
        }
        unsafe self.compressor = compressor
    }

    deinit {
        unsafe libdeflate_free_compressor(compressor)
    }

    /// Compresses `bytes` into one gzip member (RFC 1952).
    ///
    /// - Returns: the member, header and trailer included; at most a few bytes in a thousand longer than `bytes`.
    public mutating func gzip(_ bytes: borrowing RawSpan) -> [UInt8] {
        let bound = unsafe libdeflate_gzip_compress_bound(compressor, bytes.byteCount)
        return unsafe [UInt8](unsafeUninitializedCapacity: bound) { output, count in
            // SAFETY: the output holds `bound` bytes, which libdeflate promises to be enough.
            count = unsafe bytes.withUnsafeBytes { input in
                unsafe libdeflate_gzip_compress(
                    compressor,
                    input.baseAddress,
                    input.count,
                    output.baseAddress,
                    output.count
                )
            }
            precondition(count > 0, "libdeflate needs more room than its own bound")
        }
    }
}
