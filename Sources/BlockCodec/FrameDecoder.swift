internal import CShims
public import PosixIO

/// Decompresses zstd frames that are in memory whole. One thread at a time.
@safe
public struct FrameDecoder: ~Copyable {
    // SAFETY: owned by this value alone, made in `init`, freed in `deinit`.
    private let context: OpaquePointer

    /// Allocates a context, which is worth keeping for many frames; traps when memory is out.
    public init() {
        guard let context = unsafe crfs_unzstd_new() else { fatalError("out of memory for a zstd decoder") }
        unsafe self.context = context
    }

    deinit {
        unsafe crfs_unzstd_free(context)
    }

    /// Decompresses the zstd frames (RFC 8878) at the start of `bytes` until at least `wanted` bytes have come out. A
    /// frame's content checksum is checked where it has one; skippable frames are skipped.
    ///
    /// - Parameters:
    ///   - bytes: one or more frames; what follows the last one needed is ignored.
    ///   - wanted: how many bytes must come out; more may (whole frames only).
    ///   - limit: the most that may come out, a bound on memory whatever the data says.
    /// - Returns: what came out, `wanted` bytes or more.
    public mutating func decode(
        _ bytes: borrowing RawSpan,
        wanted: Int,
        limit: Int
    ) throws(CodecError) -> UniqueBytes {
        guard wanted <= limit else { throw .tooLarge(limit: limit) }
        // A frame holds the padding and headers up to the next payload too, so leave room for some of them first.
        var capacity = min(limit, wanted + 16 * 1024)
        while true {
            guard var out = UniqueBytes(trying: capacity) else { throw .outOfMemory(bytes: capacity) }
            var produced = 0
            var consumed = 0
            let status = unsafe bytes.withUnsafeBytes { input in
                unsafe out.withUnsafeMutableCapacity { output in
                    unsafe crfs_unzstd_frames(
                        context,
                        input.baseAddress,
                        input.count,
                        wanted,
                        output.baseAddress,
                        output.count,
                        &produced,
                        &consumed
                    )
                }
            }
            switch status {
            case CRFS_INFLATE_OK:
                out.truncate(to: produced)
                return out
            case CRFS_INFLATE_SHORT: throw .truncated
            case CRFS_INFLATE_MEMORY: throw .outOfMemory(bytes: capacity)
            case CRFS_INFLATE_SPACE:
                guard capacity < limit else { throw .tooLarge(limit: limit) }
                capacity = min(limit, capacity * 4)
            default: throw .corrupt
            }
        }
    }
}
