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
        let context = unsafe self.context
        return unsafe try decodeGrowing(bytes, wanted: wanted, expected: 0, limit: limit) { input, output, produced in
            var consumed = 0
            return unsafe crfs_unzstd_frames(
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
}
