internal import PosixIO

/// A source that recognises by its first bytes how another one is compressed, and gives what it decompresses to.
/// Memory: 128 KiB and what the decoder needs.
public struct DecodedSource<Upstream: ByteSource & ~Copyable>: ~Copyable, ByteSource {
    /// Where the compressed bytes come from.
    public private(set) var upstream: Upstream
    /// How the upstream is compressed.
    public let format: CompressionFormat
    private var decoder: StreamDecoder?
    private var buffer: UniqueBytes
    // What the buffer holds and nobody has used yet.
    private var start = 0
    private var end: Int
    private var outputPending = false

    /// Reads the first bytes of `upstream` and recognises its format.
    public init(_ upstream: consuming Upstream) throws(ByteSourceError) {
        var buffer = UniqueBytes(capacity: 128 * 1024)
        var end = 0
        while end < CompressionFormat.magicByteCount {
            let count = try Self.fill(&buffer, from: end, &upstream)
            if count == 0 { break }
            end += count
        }
        format = CompressionFormat.detect(buffer.span.extracting(0..<end))
        decoder = format == .none ? nil : StreamDecoder(format)
        self.upstream = upstream
        self.buffer = buffer
        self.end = end
    }

    /// Reads the next decompressed bytes.
    public mutating func read(into output: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int {
        guard format != .none else { return try unsafe readPlain(into: output) }
        while true {
            if start == end && !outputPending {
                start = 0
                end = try Self.fill(&buffer, from: 0, &upstream)
                if end == 0 {
                    try decoder?.finish()
                    return 0
                }
            }
            let step = try unsafe Self.decode(&decoder, &buffer, start..<end, into: output)
            start += step.consumed
            outputPending = step.produced == output.count
            if step.produced > 0 { return step.produced }
        }
    }

    private mutating func readPlain(into output: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int {
        guard start < end else { return try unsafe upstream.read(into: output) }
        let count = min(output.count, end - start)
        // SAFETY: `count` is bounded by both sides.
        unsafe buffer.span.extracting(start..<start + count).withUnsafeBytes { bytes in
            unsafe output.copyMemory(from: bytes)
        }
        start += count
        return count
    }

    private static func fill(
        _ buffer: inout UniqueBytes,
        from offset: Int,
        _ upstream: inout Upstream
    ) throws(ByteSourceError) -> Int {
        try unsafe buffer.withUnsafeMutableBytes { (bytes) throws(ByteSourceError) in
            try unsafe upstream.read(into: UnsafeMutableRawBufferPointer(rebasing: bytes[offset...]))
        }
    }

    private static func decode(
        _ decoder: inout StreamDecoder?,
        _ buffer: inout UniqueBytes,
        _ range: Range<Int>,
        into output: UnsafeMutableRawBufferPointer
    ) throws(ByteSourceError) -> StreamDecoder.Step {
        let step = try unsafe buffer.withUnsafeMutableBytes { (bytes) throws(ByteSourceError) in
            try unsafe decoder?.step(UnsafeRawBufferPointer(rebasing: bytes[range]), into: output)
        }
        guard let step else { preconditionFailure("a compressed source has a decoder") }
        return step
    }
}
