internal import Synchronization

/// Chunks kept in memory, packed, below a bound in bytes. It prefers those that were asked for again (S3-FIFO, see
/// `CacheTable`).
///
/// LOCK ORDER: one lock, a leaf. Nothing is packed, unpacked, allocated or freed under it but the table itself.
final class MemoryStore: Sendable {
    private let table: Mutex<CacheTable>

    /// - Parameter capacity: the most that it may take, in bytes; 0 keeps nothing.
    init(capacity: Int) {
        table = Mutex(CacheTable(capacity: max(0, capacity)))
    }

    func find(_ key: ChunkKey) -> ChunkRecord? {
        table.withLock { $0.find(key) }?.record
    }

    func contains(_ key: ChunkKey) -> Bool {
        table.withLock { $0.contains(key) }
    }

    /// Takes a chunk in, which may cost others their place.
    func insert(_ key: ChunkKey, _ chunk: PackedChunk) {
        let evicted = table.withLock { $0.insert(key, chunk) }
        // Freed here, outside of the lock.
        _ = consume evicted
    }

    func remove(_ key: ChunkKey) {
        let removed = table.withLock { $0.remove(key) }
        _ = consume removed
    }

    var statistics: ChunkStoreStatistics { table.withLock { $0.statistics } }
}
