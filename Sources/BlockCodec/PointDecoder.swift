internal import CShims

/// Where the inflation of a gzip stream can be taken up again, without what stands before.
public struct GzipPoint: Sendable, Equatable {
    /// How many bits of the byte in front of the point belong to what follows: 0 to 7.
    public var bits: UInt8
    /// The byte in front of the point.
    public var byte: UInt8
    /// The last bytes that came out before it, which what follows can refer to: at most 32 KiB.
    public var window: [UInt8]

    /// Makes a point from its parts.
    public init(bits: UInt8, byte: UInt8, window: [UInt8]) {
        self.bits = bits
        self.byte = byte
        self.window = window
    }
}

/// Inflates a gzip stream (any number of members) piece by piece, and stands still wherever it could be taken up again;
/// or takes one up there. One thread at a time.
@safe
public struct PointDecoder: ~Copyable {
    /// What one step did.
    public struct Step: Sendable, Equatable {
        /// How many bytes of the input were used.
        public var consumed: Int
        /// How many bytes were written.
        public var produced: Int
        /// Set where the stream can be taken up behind what was consumed: how many bits of the last byte belong to what
        /// follows.
        public var bits: UInt8?
    }

    /// Whether the last step ended a member: the stream may end here, and nowhere else.
    public private(set) var isAtBoundary = false
    private var totalConsumed: UInt64 = 0
    // SAFETY: owned by this value alone, made in `init`, freed in `deinit`.
    private let context: OpaquePointer

    /// For a stream from its start; traps when memory is out.
    public init() {
        guard let context = unsafe crfs_gunzip_new() else { fatalError("out of memory for a decoder") }
        unsafe self.context = context
    }

    /// For a stream from a point on: the input begins with the byte behind it. What the member in which the point is ends
    /// with (CRC-32, size) is not checked. Nil for a point that cannot be.
    public init?(from point: GzipPoint) {
        self.init()
        let resumed = unsafe point.window.withUnsafeBufferPointer { window in
            unsafe crfs_gunzip_resume(context, CInt(point.bits), point.byte, window.baseAddress, window.count)
        }
        guard resumed == 1 else { return nil }
    }

    deinit {
        unsafe crfs_gunzip_free(context)
    }

    /// Inflates up to the next point, or as much as input and room allow. Output can be pending when the room was used up:
    /// call again, with no input if there is none.
    public mutating func step(
        _ input: UnsafeRawBufferPointer,
        into output: UnsafeMutableRawBufferPointer
    ) throws(ByteSourceError) -> Step {
        var consumed = 0
        var produced = 0
        var bits: CInt = -1
        let from = unsafe input.baseAddress?.assumingMemoryBound(to: UInt8.self)
        let to = unsafe output.baseAddress?.assumingMemoryBound(to: UInt8.self)
        // SAFETY: the shim stays inside the two counts.
        let status = unsafe crfs_gunzip_step_block(
            context,
            from,
            input.count,
            to,
            output.count,
            &consumed,
            &produced,
            &bits
        )
        totalConsumed += UInt64(consumed)
        switch status {
        case CRFS_STREAM_MORE: isAtBoundary = false
        case CRFS_STREAM_BOUNDARY: isAtBoundary = true
        case CRFS_STREAM_MEMORY: throw .codec(.outOfMemory(bytes: output.count), format: .gzip, offset: totalConsumed)
        default: throw .codec(.corrupt, format: .gzip, offset: totalConsumed)
        }
        return Step(consumed: consumed, produced: produced, bits: bits < 0 ? nil : UInt8(bits))
    }

    /// What came out last of the present member, as far as later bytes can refer to it: at most 32 KiB.
    public func window() -> [UInt8] {
        let most = Int(CRFS_GUNZIP_WINDOW)
        return unsafe [UInt8](unsafeUninitializedCapacity: most) { buffer, count in
            // SAFETY: the buffer has the size that the shim fills at most.
            count = unsafe crfs_gunzip_window(context, buffer.baseAddress)
        }
    }

    /// Says that no input is left: an error unless the stream may end here.
    public func finish() throws(ByteSourceError) {
        if !isAtBoundary { throw .codec(.truncated, format: .gzip, offset: totalConsumed) }
    }
}
