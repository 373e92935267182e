internal import CShims

/// How a stream is compressed.
public enum CompressionFormat: Sendable, Equatable, CustomStringConvertible {
    /// Not at all.
    case none
    /// gzip members (RFC 1952).
    case gzip
    /// zstd frames (RFC 8878).
    case zstd

    /// How many bytes `detect` looks at.
    public static let magicByteCount = 4

    /// Recognises a format by the first bytes of a stream (4 of them, or all there are).
    public static func detect(_ head: borrowing RawSpan) -> CompressionFormat {
        guard head.byteCount >= 2 else { return .none }
        let first = head.unsafeByte(0)
        let second = head.unsafeByte(1)
        if first == 0x1f && second == 0x8b { return .gzip }
        guard head.byteCount >= 4 else { return .none }
        let third = head.unsafeByte(2)
        let fourth = head.unsafeByte(3)
        if (first, second, third, fourth) == (0x28, 0xb5, 0x2f, 0xfd) { return .zstd }
        // A skippable frame may come first.
        if first & 0xf0 == 0x50 && (second, third, fourth) == (0x2a, 0x4d, 0x18) { return .zstd }
        return .none
    }

    /// The name of the format.
    public var description: String {
        switch self {
        case .none: "uncompressed"
        case .gzip: "gzip"
        case .zstd: "zstd"
        }
    }
}

extension RawSpan {
    fileprivate func unsafeByte(_ index: Int) -> UInt8 {
        // SAFETY: checked against the span's bounds.
        unsafe unsafeLoad(fromByteOffset: index, as: UInt8.self)
    }
}

/// Decompresses a stream that comes piece by piece: gzip (any number of members) or zstd (any number of frames).
/// Whoever has the bytes pushes them in, so that downloads and files use the same decoder. One thread at a time.
@safe
public struct StreamDecoder: ~Copyable {
    /// What one step did.
    public struct Step: Sendable, Equatable {
        /// How many bytes of the input were used.
        public var consumed: Int
        /// How many bytes were written.
        public var produced: Int
    }

    /// How the stream is compressed; never `.none`.
    public let format: CompressionFormat
    /// Whether the last step ended a member or frame: the stream may end here, and nowhere else.
    public private(set) var isAtBoundary = false
    private var totalConsumed: UInt64 = 0
    // SAFETY: owned by this value alone, made in `init`, freed in `deinit`; which of the two types it points to is
    // what `format` says.
    private let context: OpaquePointer

    /// Allocates a decoder for gzip or zstd; traps when memory is out or for `.none`.
    public init(_ format: CompressionFormat) {
        let made =
            switch format {
            case .gzip: unsafe crfs_gunzip_new()
            case .zstd: unsafe crfs_unzstd_new()
            case .none: preconditionFailure("an uncompressed stream has no decoder")
            }
        guard let context = unsafe made else { fatalError("out of memory for a decoder") }
        self.format = format
        unsafe self.context = context
    }

    deinit {
        if format == .gzip {
            unsafe crfs_gunzip_free(context)
        } else {
            unsafe crfs_unzstd_free(context)
        }
    }

    /// Decompresses as much as input and room allow. Output can be pending when the room was used up: call again, with
    /// no input if there is none.
    public mutating func step(
        _ input: UnsafeRawBufferPointer,
        into output: UnsafeMutableRawBufferPointer
    ) throws(ByteSourceError) -> Step {
        var consumed = 0
        var produced = 0
        let from = unsafe input.baseAddress?.assumingMemoryBound(to: UInt8.self)
        let to = unsafe output.baseAddress?.assumingMemoryBound(to: UInt8.self)
        // SAFETY: the shim stays inside the two counts.
        let status =
            format == .gzip
            ? unsafe crfs_gunzip_step(context, from, input.count, to, output.count, &consumed, &produced)
            : unsafe crfs_unzstd_step(context, from, input.count, to, output.count, &consumed, &produced)
        totalConsumed += UInt64(consumed)
        switch status {
        case CRFS_STREAM_MORE: isAtBoundary = false
        case CRFS_STREAM_BOUNDARY: isAtBoundary = true
        case CRFS_STREAM_MEMORY: throw .codec(.outOfMemory(bytes: output.count), format: format, offset: totalConsumed)
        case CRFS_STREAM_WINDOW: throw .windowTooLarge(offset: totalConsumed)
        default: throw .codec(.corrupt, format: format, offset: totalConsumed)
        }
        return Step(consumed: consumed, produced: produced)
    }

    /// Says that no input is left: an error unless the stream may end here.
    public func finish() throws(ByteSourceError) {
        if !isAtBoundary { throw .codec(.truncated, format: format, offset: totalConsumed) }
    }
}
