internal import BlockCodec

/// One chunk as the store keeps it: the payload in blocks of 64 KiB, each packed with LZ4, or raw where that saves too
/// little, or nothing at all where it is zeros. A view of memory of the process or of a mapped segment, which stays
/// valid for as long as the view or its `owner` is held, also when the store has let the chunk go.
///
/// The memory can be a file's. So nothing of it is read but by the functions here, which give up where a page cannot be
/// read; and every number in it is checked, since the checksum was of what the file held then.
@safe
public struct ChunkRecord: @unchecked Sendable {
    // SAFETY: `body` is the start of `bodyCount` bytes that `owner` keeps and nobody writes: a table of `blockCount + 1`
    // ends of blocks (UInt32, counted from the first block's start), then the blocks.

    /// How one block is kept. A raw block's bytes are valid only for as long as the record's owner.
    @unsafe
    public enum Block {
        /// Only zeros: nothing is kept.
        case zeros
        /// As it is. Call `isReadable` before the kernel is pointed at it, `copy` to read it.
        case raw(UnsafeRawBufferPointer)
        /// Packed: `unpack` gives it.
        case packed
        /// Not readable, or not what it must be.
        case damaged
    }

    /// Payload bytes in a block; the last one may have fewer.
    public static let blockSize = 65536

    /// What keeps the bytes of raw blocks.
    public let owner: AnyObject
    /// The payload's length in bytes.
    public let count: Int
    /// The owner, where it is a file's mapping.
    private let segment: Segment?
    private let body: UnsafeRawPointer
    private let bodyCount: Int

    /// - Parameters:
    ///   - count: the payload's length, above 0.
    ///   - body: `bodyCount` bytes that `owner` keeps; at least the table of blocks.
    init(owner: AnyObject, segment: Segment? = nil, count: Int, body: UnsafeRawPointer, bodyCount: Int) {
        precondition(count > 0 && bodyCount >= RecordLayout.tableSize(count))
        self.owner = owner
        self.count = count
        self.segment = segment
        unsafe self.body = body
        self.bodyCount = bodyCount
    }

    /// How many blocks there are.
    public var blockCount: Int { RecordLayout.blockCount(count) }

    /// How many payload bytes a block has.
    public func payloadSize(_ block: Int) -> Int {
        min(ChunkRecord.blockSize, count - block * ChunkRecord.blockSize)
    }

    /// The bytes that a block takes; nil when they cannot be found.
    private func stored(_ block: Int) -> UnsafeRawBufferPointer? {
        precondition(block >= 0 && block < blockCount)
        var ends: (UInt32, UInt32) = (0, 0)
        let isRead = unsafe withUnsafeMutableBytes(of: &ends) { output in
            unsafe MappedMemory.copy(UnsafeRawBufferPointer(start: body + block * 4, count: 8), into: output)
        }
        guard isRead else { return nil }
        let start = Int(UInt32(littleEndian: ends.0))
        let end = Int(UInt32(littleEndian: ends.1))
        let table = RecordLayout.tableSize(count)
        guard start <= end, end <= bodyCount - table, end - start <= payloadSize(block) else { return nil }
        return unsafe UnsafeRawBufferPointer(start: body + table + start, count: end - start)
    }

    /// Says that payload bytes are about to be read: what of them is on the disk only is fetched at once, and not a page at
    /// a time.
    ///
    /// - Parameters:
    ///   - offset: of the first byte; the range must be the payload's.
    ///   - count: above 0.
    public func expect(from offset: Int, count: Int) {
        guard let segment, count > 0, let first = unsafe stored(offset / ChunkRecord.blockSize),
            let last = unsafe stored((offset + count - 1) / ChunkRecord.blockSize),
            let start = first.baseAddress, let lastStart = last.baseAddress
        else { return }
        let end = unsafe lastStart + last.count
        guard unsafe end > start else { return }
        unsafe segment.expect(UnsafeRawBufferPointer(start: start, count: end - start))
    }

    /// How a block is kept.
    public func block(_ block: Int) -> Block {
        guard let stored = unsafe stored(block) else { return unsafe .damaged }
        if stored.count == 0 { return unsafe .zeros }
        return stored.count == payloadSize(block) ? unsafe .raw(stored) : unsafe .packed
    }

    /// Unpacks a packed block into `output`, which must have room for exactly the block's payload.
    ///
    /// - Returns: false when the block is damaged or cannot be read; the caller takes the chunk for missing.
    public func unpack(_ block: Int, into output: UnsafeMutableRawBufferPointer) -> Bool {
        precondition(output.count == payloadSize(block))
        guard let stored = unsafe stored(block) else { return false }
        return unsafe MappedMemory.unpack(stored, into: output)
    }

    /// Whether a piece of a raw block can be read now; brings it into memory.
    public static func isReadable(_ bytes: UnsafeRawBufferPointer) -> Bool {
        unsafe MappedMemory.touch(bytes)
    }

    /// Copies a piece of a raw block into `output`, which is as long. False when it cannot be read.
    public static func copy(_ bytes: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Bool {
        unsafe MappedMemory.copy(bytes, into: output)
    }
}
