internal import ChunkStore
internal import Glibc
public import PosixIO

/// Filled by a read: segments to reply with, kept valid until `reset`. One per answering thread, reused.
///
/// A segment is scratch memory of the buffer itself (unpacked blocks), or memory of an owner that the buffer retains
/// (raw blocks, decoded members), or a static area of zeros. Once scratch memory and lists have grown to what requests
/// need, filling allocates nothing.
@safe
public struct ReadBuffer: ~Copyable, @unchecked Sendable {
    // SAFETY: scratch memory and the list of segments belong to this value alone; a segment points into the scratch
    // memory, which moves only while there are no segments, or into memory that an entry of `owners` keeps.
    private var scratch: UnsafeMutableRawBufferPointer
    private var scratchUsed = 0
    private var segments: UnsafeMutableBufferPointer<UnsafeRawBufferPointer>
    private var segmentCount = 0
    private var owners: ContiguousArray<AnyObject> = []

    /// Total bytes of all segments.
    public private(set) var byteCount = 0

    /// Raw pieces below this are copied: a segment of its own costs more, and writev(2) takes 1024 of them.
    private static let leastSegment = 4096

    /// 64 KiB of zeros.
    // SAFETY: never written.
    nonisolated(unsafe) private static let zeros: UnsafeRawBufferPointer = {
        guard let base = unsafe calloc(1, ChunkRecord.blockSize) else { fatalError("out of memory for 64 KiB") }
        return unsafe UnsafeRawBufferPointer(start: base, count: ChunkRecord.blockSize)
    }()

    /// An empty buffer, which holds no memory yet.
    public init() {
        unsafe scratch = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        unsafe segments = UnsafeMutableBufferPointer(start: nil, count: 0)
    }

    deinit {
        unsafe free(scratch.baseAddress)
        unsafe free(segments.baseAddress)
    }

    /// Lets go of all segments; the memory stays for the next read.
    public mutating func reset() {
        scratchUsed = 0
        segmentCount = 0
        byteCount = 0
        owners.removeAll(keepingCapacity: true)
    }

    /// The segments, for fuse_reply_iov: address and length pairs in order. Valid inside of `body` only. At most 600
    /// for a read of 1 MiB.
    public func withSegments<R, E: Error>(
        _ body: (UnsafeBufferPointer<UnsafeRawBufferPointer>) throws(E) -> R
    ) throws(E) -> R {
        try unsafe body(UnsafeBufferPointer(rebasing: segments[..<segmentCount]))
    }

    /// Appends a run of shared bytes, without a copy.
    public mutating func append(_ bytes: SharedBytes, _ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count)
        unsafe append(UnsafeRawBufferPointer(start: bytes.base + range.lowerBound, count: range.count), owner: bytes)
    }

    /// Appends what `bytes` has of `count` bytes from `offset`, without a copy: how a file in memory is read.
    public mutating func append(_ bytes: SharedBytes, offset: UInt64, count: Int) {
        guard count > 0, offset < UInt64(bytes.count) else { return }
        let start = Int(offset)
        append(bytes, start..<start + min(count, bytes.count - start))
    }

    /// Appends a copy of bytes.
    public mutating func append(copying bytes: borrowing RawSpan) {
        guard bytes.byteCount > 0 else { return }
        if scratchLeft >= bytes.byteCount {
            let room = unsafe take(bytes.byteCount)
            unsafe bytes.withUnsafeBytes { unsafe room.copyMemory(from: $0) }
            unsafe addSegment(UnsafeRawBufferPointer(room))
        } else {
            let copy = UniqueBytes(copying: bytes).share()
            append(copy, 0..<copy.count)
        }
    }

    /// Appends zeros.
    mutating func appendZeros(_ count: Int) {
        var rest = count
        while rest > 0 {
            let size = min(rest, ChunkRecord.blockSize)
            unsafe addSegment(UnsafeRawBufferPointer(rebasing: ReadBuffer.zeros[..<size]))
            rest -= size
        }
    }

    /// Makes room for a read of `count` bytes; the buffer must be empty. Whole blocks are unpacked, so the first and
    /// the last one may take more than is asked of them.
    mutating func prepare(_ count: Int) {
        precondition(segmentCount == 0)
        let needed = count + 2 * ChunkRecord.blockSize
        guard unsafe scratch.count < needed else { return }
        unsafe free(scratch.baseAddress)
        guard let base = unsafe malloc(needed) else { fatalError("out of memory: \(needed) bytes") }
        unsafe scratch = UnsafeMutableRawBufferPointer(start: base, count: needed)
    }

    /// Appends `count` payload bytes of a record from `offset`; `prepare` made room for them.
    ///
    /// - Returns: false when a block is damaged or cannot be read. What was appended before it stays: start again with
    ///   `reset`.
    mutating func append(_ record: ChunkRecord, from offset: Int, count: Int) -> Bool {
        precondition(offset >= 0 && count >= 0 && offset + count <= record.count)
        record.expect(from: offset, count: count)
        var position = offset
        let end = offset + count
        while position < end {
            let block = position / ChunkRecord.blockSize
            let within = position % ChunkRecord.blockSize
            let payload = record.payloadSize(block)
            let size = min(end - position, payload - within)
            switch unsafe record.block(block) {
            case .zeros: appendZeros(size)
            case .raw(let bytes):
                let piece = unsafe UnsafeRawBufferPointer(rebasing: bytes[within..<within + size])
                guard unsafe appendRaw(piece, of: record) else { return false }
            case .packed:
                let room = unsafe take(payload)
                guard unsafe record.unpack(block, into: room) else { return false }
                unsafe addSegment(UnsafeRawBufferPointer(rebasing: room[within..<within + size]))
            case .damaged: return false
            }
            position += size
        }
        return true
    }

    /// Appends a piece of a raw block; a small one is copied. The pages are there when this returns true. Should one be
    /// lost again before the kernel copies it, the write fails with EFAULT and the reader gets EIO (CShims/shims/fuse.c).
    private mutating func appendRaw(_ bytes: UnsafeRawBufferPointer, of record: ChunkRecord) -> Bool {
        if bytes.count < ReadBuffer.leastSegment, scratchLeft >= bytes.count {
            let room = unsafe take(bytes.count)
            guard unsafe ChunkRecord.copy(bytes, into: room) else { return false }
            unsafe addSegment(UnsafeRawBufferPointer(room))
            return true
        }
        guard unsafe ChunkRecord.isReadable(bytes) else { return false }
        unsafe append(bytes, owner: record.owner)
        return true
    }

    /// Appends memory that `owner` keeps; a small piece is copied where there is room.
    private mutating func append(_ bytes: UnsafeRawBufferPointer, owner: AnyObject) {
        if bytes.count == 0 { return }
        if bytes.count < ReadBuffer.leastSegment, scratchLeft >= bytes.count {
            let room = unsafe take(bytes.count)
            unsafe room.copyMemory(from: bytes)
            unsafe addSegment(UnsafeRawBufferPointer(room))
            return
        }
        if owners.last !== owner { owners.append(owner) }
        unsafe addSegment(bytes)
    }

    private var scratchLeft: Int { unsafe scratch.count - scratchUsed }

    /// The next `count` bytes of scratch memory.
    private mutating func take(_ count: Int) -> UnsafeMutableRawBufferPointer {
        precondition(count <= scratchLeft)
        let room = unsafe UnsafeMutableRawBufferPointer(rebasing: scratch[scratchUsed..<scratchUsed + count])
        scratchUsed += count
        return unsafe room
    }

    /// Adds a segment, or lengthens the last one where this one follows it in memory.
    private mutating func addSegment(_ bytes: UnsafeRawBufferPointer) {
        byteCount += bytes.count
        if segmentCount > 0 {
            let last = unsafe segments[segmentCount - 1]
            if let start = last.baseAddress, unsafe start + last.count == bytes.baseAddress {
                let count = last.count + bytes.count
                unsafe segments[segmentCount - 1] = UnsafeRawBufferPointer(start: start, count: count)
                return
            }
        }
        if unsafe segmentCount == segments.count { growSegments() }
        unsafe segments[segmentCount] = unsafe bytes
        segmentCount += 1
    }

    private mutating func growSegments() {
        let capacity = unsafe max(64, segments.count * 2)
        let size = unsafe capacity * MemoryLayout<UnsafeRawBufferPointer>.stride
        guard let memory = unsafe realloc(segments.baseAddress, size) else {
            fatalError("out of memory: \(size) bytes")
        }
        let base = unsafe memory.assumingMemoryBound(to: UnsafeRawBufferPointer.self)
        unsafe segments = UnsafeMutableBufferPointer(start: base, count: capacity)
    }
}
