internal import BlockCodec
internal import PosixIO

/// Reads a byte source in 512-byte blocks and pieces of any size, with a look ahead, and counts bytes.
struct BlockBuffer<Source: ByteSource & ~Copyable>: ~Copyable {
    var source: Source
    /// How many bytes have been taken out.
    private(set) var offset: UInt64 = 0
    private var buffer = UniqueBytes(capacity: 64 * 1024)
    private var start = 0
    private var end = 0
    private var ended = false
    /// What was taken out in blocks or skipped from a place on; nil where nobody keeps it, or it came to be too much.
    private var structure: [UInt8]?
    private var structureStart: UInt64 = 0
    private static var mostStructure: Int { 16 << 20 }

    init(_ source: consuming Source) {
        self.source = source
    }

    /// The next block without taking it out, shorter where the source ends.
    mutating func peekBlock() throws(ByteSourceError) -> [UInt8] {
        while end - start < TarHeader.blockSize, !ended { try fill() }
        let count = min(TarHeader.blockSize, end - start)
        return unsafe buffer.span.extracting(start..<start + count).withUnsafeBytes { unsafe Array($0) }
    }

    /// Takes the next block out, shorter where the source ends.
    mutating func takeBlock() throws(ByteSourceError) -> [UInt8] {
        let block = try peekBlock()
        keep(block.count)
        advance(block.count)
        return block
    }

    /// Takes up to `output.count` bytes out; 0 only where the source ends.
    mutating func take(into output: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int {
        if start == end {
            if ended || output.count == 0 { return 0 }
            if output.count >= buffer.capacity {
                // Large pieces go straight to where they belong.
                let count = try unsafe source.read(into: output)
                ended = count == 0
                offset += UInt64(count)
                return count
            }
            try fill()
        }
        let count = min(output.count, end - start)
        // SAFETY: `count` is bounded by both sides.
        unsafe buffer.span.extracting(start..<start + count).withUnsafeBytes { bytes in
            unsafe output.copyMemory(from: bytes)
        }
        advance(count)
        return count
    }

    /// Takes up to `count` bytes out and drops them. Returns how many there were.
    mutating func skip(_ count: UInt64) throws(ByteSourceError) -> UInt64 {
        var left = count
        while left > 0 {
            if start == end {
                if ended { break }
                try fill()
                continue
            }
            let step = Int(min(left, UInt64(end - start)))
            keep(step)
            advance(step)
            left -= UInt64(step)
        }
        return count - left
    }

    // MARK: Structure

    /// From here on keeps all that is not taken out by `take`.
    mutating func keepStructure(from offset: UInt64) {
        structure = []
        structureStart = offset
    }

    /// How many bytes of structure were kept since they were taken last; nil when they are kept no more.
    var structureCount: Int? { structure?.count }

    /// What was kept since the last call; nil when it is kept no more.
    mutating func takeStructure() -> [UInt8]? {
        guard let kept = structure else { return nil }
        structure = []
        return kept
    }

    /// Counts bytes that a source which gives structure only leaves out.
    mutating func leaveOut(_ count: UInt64) { offset += count }

    private mutating func keep(_ count: Int) {
        guard offset >= structureStart, var kept = structure.take() else { return }
        guard kept.count + count <= Self.mostStructure else { return }
        unsafe buffer.span.extracting(start..<start + count).withUnsafeBytes { unsafe kept.append(contentsOf: $0) }
        structure = kept
    }

    private mutating func advance(_ count: Int) {
        start += count
        offset += UInt64(count)
    }

    private mutating func fill() throws(ByteSourceError) {
        if start > 0 {
            let (from, count) = (start, end - start)
            unsafe buffer.withUnsafeMutableBytes { bytes in
                // SAFETY: both ranges lie inside the buffer; copyMemory allows them to overlap.
                let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[from..<from + count])
                unsafe bytes.copyMemory(from: rest)
            }
            (start, end) = (0, count)
        }
        let count = try Self.read(&source, into: &buffer, from: end)
        ended = count == 0
        end += count
    }

    private static func read(
        _ source: inout Source,
        into buffer: inout UniqueBytes,
        from offset: Int
    ) throws(ByteSourceError) -> Int {
        try unsafe buffer.withUnsafeMutableBytes { (bytes) throws(ByteSourceError) in
            try unsafe source.read(into: UnsafeMutableRawBufferPointer(rebasing: bytes[offset...]))
        }
    }
}
