internal import OCIModel

/// Where things stand in a record (docs/cache-format.md).
enum RecordLayout {
    static let headerSize = 80
    /// Records start at multiples of this.
    static let alignment = 8
    /// Chunks above this are not kept; twice what a layer may hold (spec section 3).
    static let mostPayload = 64 << 20

    static func blockCount(_ payload: Int) -> Int { (payload - 1) / ChunkRecord.blockSize + 1 }

    /// Bytes of the table of blocks.
    static func tableSize(_ payload: Int) -> Int { (blockCount(payload) + 1) * 4 }

    static func aligned(_ size: Int) -> Int { (size + alignment - 1) / alignment * alignment }
}

/// The header of a record, in the form that programs use.
struct RecordHeader {
    /// `crfR` in memory order.
    private static let magic: UInt32 = 0x5266_7263

    let key: ChunkKey
    /// Bytes of table and blocks.
    let bodyCount: Int
    /// Of table and blocks.
    let checksum: UInt64

    init(key: ChunkKey, bodyCount: Int, checksum: UInt64) {
        self.key = key
        self.bodyCount = bodyCount
        self.checksum = checksum
    }

    /// Bytes of the whole record.
    var recordSize: Int { RecordLayout.headerSize + bodyCount }

    /// Writes the header's 80 bytes.
    func write(to base: UnsafeMutableRawPointer) {
        // SAFETY: all offsets are below the 80 bytes that the caller has at `base`.
        unsafe base.storeBytes(of: RecordHeader.magic.littleEndian, as: UInt32.self)
        unsafe base.storeBytes(of: checksum.littleEndian, toByteOffset: 8, as: UInt64.self)
        unsafe base.storeBytes(of: key.length.littleEndian, toByteOffset: 16, as: UInt32.self)
        unsafe base.storeBytes(of: UInt32(bodyCount).littleEndian, toByteOffset: 20, as: UInt32.self)
        unsafe base.storeBytes(of: UInt64(key.isContent ? 1 : 2).littleEndian, toByteOffset: 24, as: UInt64.self)
        // A digest's words are in memory order already.
        unsafe base.storeBytes(of: key.digest.words.0, toByteOffset: 32, as: UInt64.self)
        unsafe base.storeBytes(of: key.digest.words.1, toByteOffset: 40, as: UInt64.self)
        unsafe base.storeBytes(of: key.digest.words.2, toByteOffset: 48, as: UInt64.self)
        unsafe base.storeBytes(of: key.digest.words.3, toByteOffset: 56, as: UInt64.self)
        unsafe base.storeBytes(of: key.offset.littleEndian, toByteOffset: 64, as: UInt64.self)
        unsafe base.storeBytes(of: key.innerOffset.littleEndian, toByteOffset: 72, as: UInt64.self)
        let checked = unsafe UnsafeRawBufferPointer(start: base + 8, count: RecordLayout.headerSize - 8)
        unsafe base.storeBytes(of: MappedMemory.crc32(checked).littleEndian, toByteOffset: 4, as: UInt32.self)
    }

    /// Reads 80 bytes that are the process's own; nil when they are no header.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == RecordLayout.headerSize, let base = bytes.baseAddress else { return nil }
        // SAFETY: all offsets are below the 80 bytes.
        guard unsafe UInt32(littleEndian: base.loadUnaligned(as: UInt32.self)) == RecordHeader.magic else { return nil }
        let crc = unsafe UInt32(littleEndian: base.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        guard unsafe MappedMemory.crc32(UnsafeRawBufferPointer(rebasing: bytes[8...])) == crc else { return nil }
        func word(_ offset: Int) -> UInt64 { unsafe base.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }
        let digest = Digest(words: (word(32), word(40), word(48), word(56)))
        let length = unsafe UInt32(littleEndian: base.loadUnaligned(fromByteOffset: 16, as: UInt32.self))
        bodyCount = Int(unsafe UInt32(littleEndian: base.loadUnaligned(fromByteOffset: 20, as: UInt32.self)))
        checksum = UInt64(littleEndian: word(8))
        let payload = Int(length)
        guard payload > 0, payload <= RecordLayout.mostPayload else { return nil }
        let table = RecordLayout.tableSize(payload)
        guard bodyCount >= table, bodyCount <= table + payload else { return nil }
        switch UInt64(littleEndian: word(24)) {
        case 1:
            guard word(64) == 0, word(72) == 0 else { return nil }
            key = ChunkKey(content: digest, length: length)
        case 2:
            key = ChunkKey(
                layer: digest,
                offset: UInt64(littleEndian: word(64)),
                innerOffset: UInt64(littleEndian: word(72)),
                length: length
            )
        default: return nil
        }
    }
}
