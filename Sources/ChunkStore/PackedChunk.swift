internal import BlockCodec
internal import Glibc
internal import PosixIO

/// A chunk packed in memory, byte for byte the record that the store on disk writes: header, table, blocks.
@safe
final class PackedChunk: @unchecked Sendable {
    // SAFETY: `base` is one allocation of `byteCount` bytes, written only in `init` and freed in `deinit`.
    private let base: UnsafeMutableRawPointer
    /// Memory that it takes, in bytes.
    let byteCount: Int
    /// The payload's length in bytes.
    let count: Int

    /// Packs a payload; takes about 2 ms a MiB. Nil for an empty one, for one above 64 MiB, for one of another length
    /// than its key has, and when memory is out.
    init?(_ key: ChunkKey, packing payload: borrowing RawSpan) {
        let count = payload.byteCount
        guard count > 0, count <= RecordLayout.mostPayload, count == Int(key.length) else { return nil }
        let blocks = RecordLayout.blockCount(count)
        let first = RecordLayout.headerSize + RecordLayout.tableSize(count)
        guard let memory = unsafe malloc(first + count) else { return nil }
        var end = 0
        unsafe memory.storeBytes(of: 0, toByteOffset: RecordLayout.headerSize, as: UInt32.self)
        for block in 0..<blocks {
            let from = block * ChunkRecord.blockSize
            let size = min(ChunkRecord.blockSize, count - from)
            let bytes = payload.extracting(from..<from + size)
            // SAFETY: every block takes at most as many bytes as its payload, so the rest of the room suffices.
            let room = unsafe UnsafeMutableRawBufferPointer(start: memory + first + end, count: size)
            end += unsafe bytes.withUnsafeBytes { unsafe PackedChunk.pack($0, into: room) }
            let position = RecordLayout.headerSize + (block + 1) * 4
            unsafe memory.storeBytes(of: UInt32(end).littleEndian, toByteOffset: position, as: UInt32.self)
        }
        self.count = count
        byteCount = first + end
        unsafe base = unsafe realloc(memory, byteCount) ?? memory
        let bodyCount = byteCount - RecordLayout.headerSize
        let body = unsafe UnsafeRawBufferPointer(start: base + RecordLayout.headerSize, count: bodyCount)
        let header = RecordHeader(
            key: key,
            bodyCount: bodyCount,
            checksum: unsafe MappedMemory.checksum(body) ?? 0
        )
        unsafe header.write(to: base)
    }

    deinit {
        unsafe free(base)
    }

    /// Writes a block in the form that serves it best; returns how many bytes that took. A sixteenth must be saved:
    /// raw blocks are answered without a copy.
    private static func pack(_ bytes: UnsafeRawBufferPointer, into room: UnsafeMutableRawBufferPointer) -> Int {
        if unsafe isZero(bytes) { return 0 }
        let wanted = bytes.count - bytes.count / 16 - 1
        if wanted > 0,
            let size = unsafe LZ4.compress(bytes, into: UnsafeMutableRawBufferPointer(rebasing: room[..<wanted]))
        {
            return size
        }
        unsafe room.copyMemory(from: bytes)
        return bytes.count
    }

    /// Whether a run that is not empty holds only zeros: its first byte does, and each equals the one before.
    private static func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let start = bytes.baseAddress, unsafe bytes[0] == 0 else { return false }
        return unsafe memcmp(start, start + 1, bytes.count - 1) == 0
    }

    /// The chunk for a reader.
    var record: ChunkRecord {
        unsafe ChunkRecord(
            owner: self,
            count: count,
            body: base + RecordLayout.headerSize,
            bodyCount: byteCount - RecordLayout.headerSize
        )
    }

    /// The whole record.
    var bytes: RawSpan {
        @_lifetime(borrow self)
        get {
            // SAFETY: the memory lives as long as `self`, which the span borrows.
            let span = unsafe RawSpan(_unsafeStart: base, byteCount: byteCount)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }
}
