internal import BlockCodec
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// What a check of all contents found.
public struct ChunkVerification: Sendable, Equatable {
    /// Chunks that were looked at.
    public var checked = 0
    /// Their bytes on disk.
    public var bytes: UInt64 = 0
    /// Chunks that were wrong, or could not be read; they are gone.
    public var damaged = 0

    /// Nothing was looked at.
    public init() {}
}

// What a user asks for: making room, and looking whether all is well. Both go on beside readers and writers.

extension DiskStore {
    /// Removes the oldest segments until they take at most `bytes`. What readers hold goes when they are done.
    func prune(keeping bytes: Int) {
        if bytes < account.named.load(ordering: .relaxed) { retireActive(unless: bytes) }
        while account.named.load(ordering: .relaxed) > bytes, evictOldest(keepsUsed: false) {}
    }

    /// Ends the present segment, if it alone is more than what may stay: only a sealed one can go.
    private func retireActive(unless bytes: Int) {
        let full: Tail? = appending.withLock { state in
            guard let active = state.active, active.segment.allocatedBytes > bytes else { return nil }
            state.active = nil
            return active.retire() ? active : nil
        }
        if let full { seal(full) }
    }

    /// Checks every record: its checksum, and the digest of its content where it is kept under that. Wrong ones go.
    ///
    /// - Parameter progress: told how many of how many were looked at; false ends it.
    func verify(_ progress: (_ done: Int, _ total: Int) -> Bool) -> ChunkVerification {
        var records: [StoreIndex.Bucket] = []
        var start = 0
        while start < index.withLock({ $0.bucketCount }) {
            let range = start..<start + 4096
            index.withLock { $0.records(buckets: range, &records) }
            start = range.upperBound
        }
        var result = ChunkVerification()
        for (number, record) in records.enumerated() {
            if number % 64 == 0, !progress(number, records.count) { return result }
            // Moved or evicted meanwhile.
            guard let segment = index.withLock({ $0.segment(record.place.slot) }) else { continue }
            result.checked += 1
            if let size = DiskStore.soundSize(segment, at: record.place.offset, record.fingerprint) {
                result.bytes += UInt64(size)
            } else {
                result.damaged += 1
                forget(record.fingerprint, record.place)
            }
        }
        _ = progress(records.count, records.count)
        return result
    }

    /// The size of a record that is what it must be; nil for any other.
    private static func soundSize(_ segment: Segment, at offset: Int, _ fingerprint: UInt64) -> Int? {
        guard let header = segment.header(at: offset), header.key.fingerprint == fingerprint,
            segment.holds(header, at: offset)
        else { return nil }
        guard header.key.isContent else { return header.recordSize }
        let record = segment.record(header, at: offset)
        var hash = SHA256()
        var buffer = UniqueBytes(capacity: ChunkRecord.blockSize)
        for block in 0..<record.blockCount {
            let size = record.payloadSize(block)
            let isRead = unsafe buffer.withUnsafeMutableCapacity { room -> Bool in
                let output = unsafe UnsafeMutableRawBufferPointer(rebasing: room[..<size])
                switch unsafe record.block(block) {
                case .zeros:
                    unsafe output.initializeMemory(as: UInt8.self, repeating: 0)
                    return true
                case .raw(let bytes): return unsafe ChunkRecord.copy(bytes, into: output)
                case .packed: return unsafe record.unpack(block, into: output)
                case .damaged: return false
                }
            }
            guard isRead else { return nil }
            buffer.truncate(to: size)
            hash.update(buffer.span)
        }
        return hash.finish() == header.key.digest ? header.recordSize : nil
    }
}

extension ChunkStore {
    /// Removes contents on disk until they take at most so many bytes: materialised files first, since what they hold can
    /// be made again of chunks, then chunks; the oldest first.
    public func prune(keeping bytes: Int) {
        guard let disk else { return }
        let chunkBytes = disk.account.named.load(ordering: .relaxed)
        let left = files?.prune(keeping: max(0, bytes - chunkBytes)) ?? 0
        disk.prune(keeping: max(0, bytes - left))
    }

    /// Reads and checks all contents on disk; what is wrong goes, and is fetched again when it is needed.
    ///
    /// - Parameter progress: told, every now and then, how many of how many chunks were looked at; false ends it.
    public func verify(_ progress: (_ done: Int, _ total: Int) -> Bool) -> ChunkVerification {
        disk?.verify(progress) ?? ChunkVerification()
    }
}
