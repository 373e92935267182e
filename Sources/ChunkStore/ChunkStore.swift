internal import PosixIO
internal import Synchronization

/// Figures of a chunk store, at one moment.
public struct ChunkStoreStatistics: Sendable, Equatable {
    /// Look-ups that found a chunk.
    public var hits: UInt64 = 0
    /// Look-ups that did not.
    public var misses: UInt64 = 0
    /// Chunks that were taken in.
    public var insertions: UInt64 = 0
    /// Chunks that had to make room.
    public var evictions: UInt64 = 0
    /// Chunks whose checksum did not hold, or that could not be read; they count as not there.
    public var damaged: UInt64 = 0
    /// Chunks that are kept now.
    public var chunks: Int = 0
    /// Bytes that the chunks and materialised files take, on disk and in memory, with what surrounds them; never above the two bounds.
    public var bytes: Int = 0
    /// Bytes of these that are on disk, as allocated by the file system.
    public var diskBytes: Int = 0
    /// Segment files.
    public var segments: Int = 0
    /// Bytes of memory for the index of what is on disk.
    public var indexBytes: Int = 0
    /// Payload bytes of the chunks that are kept in memory.
    public var payloadBytes: Int = 0

    /// All zero.
    public init() {}
}

/// The chunk cache: on disk, and in memory what the disk does not take (all of it, where there is no directory). Chunks
/// are packed, kept below a bound, and those that are asked for again stay longest.
///
/// LOCK ORDER: its parts have leaf locks; nothing here is called with one held.
public final class ChunkStore: Sendable {
    let disk: DiskStore?
    private let memory: MemoryStore
    /// Files that are kept as a whole, where there is a directory for them. They count in the bound of the chunks.
    public let files: FileStore?
    /// Something went into `memory`, which is looked into only then.
    private let isMemoryUsed = Atomic(false)
    private let hits = Atomic<UInt64>(0)
    private let misses = Atomic<UInt64>(0)

    /// An empty store in memory.
    ///
    /// - Parameter capacity: the most that it may take, in bytes; 0 keeps nothing.
    public init(capacity: Int) {
        disk = nil
        files = nil
        memory = MemoryStore(capacity: capacity)
    }

    /// A store in a directory, with what is there already. The directory must exist, be nobody else's, and be used by no
    /// other process (ImageFS.StateDirectory sees to that). Opening reads the segments' indexes, not their data.
    ///
    /// - Parameters:
    ///   - directory: for the segments; other files in it are left alone.
    ///   - capacity: the most that the segments may take on disk, in bytes.
    ///   - fileDirectory: for materialised files, a quarter of `capacity` at most; nil: none are made.
    ///   - memory: the most that chunks may take in memory while the disk takes none, in bytes.
    ///   - report: told, in one sentence, when the disk takes nothing in.
    public convenience init(
        directory: String,
        fileDirectory: String? = nil,
        capacity: Int,
        memory: Int,
        report: @escaping @Sendable (String) -> Void
    ) {
        var options = DiskStoreOptions(capacity: capacity)
        options.report = report
        let disk = DiskStore(files: StoreFiles(directory: directory), options: options)
        let files = fileDirectory.map { directory in
            FileStore(directory: directory, capacity: capacity / 4, account: disk.account) { disk.takeRoomForFile($0) }
        }
        self.init(disk: disk, files: files, memory: memory)
    }

    init(disk: DiskStore, files: FileStore? = nil, memory: Int) {
        self.disk = disk
        self.files = files
        self.memory = MemoryStore(capacity: memory)
    }

    /// The chunk that is kept under `key`, and counts the look-up. No allocation; the record stays valid for as long as
    /// the caller holds it. The first look-up of a chunk on disk since the start reads all of it, to check it.
    public func find(_ key: ChunkKey) -> ChunkRecord? {
        let record = disk?.find(key) ?? (usesMemory ? memory.find(key) : nil)
        if record != nil {
            hits.add(1, ordering: .relaxed)
        } else {
            misses.add(1, ordering: .relaxed)
        }
        return record
    }

    private var usesMemory: Bool { isMemoryUsed.load(ordering: .relaxed) }

    /// Whether a chunk seems to be kept now, without counting. `find` can still find it damaged.
    public func contains(_ key: ChunkKey) -> Bool {
        if let disk, disk.contains(key) { return true }
        return usesMemory && memory.contains(key)
    }

    /// Packs a payload and keeps it, which may cost others their place. Takes about 2 ms a MiB on the calling thread, and
    /// writes to the disk. A chunk that is there already, or that is larger than a quarter of the bound, changes nothing.
    public func insert(_ key: ChunkKey, _ payload: borrowing RawSpan) {
        guard payload.byteCount == Int(key.length), !contains(key) else { return }
        guard let chunk = PackedChunk(key, packing: payload) else { return }
        if let disk, disk.insert(key, chunk) { return }
        isMemoryUsed.store(true, ordering: .relaxed)
        memory.insert(key, chunk)
    }

    /// Lets go of a chunk that proved damaged.
    public func remove(_ key: ChunkKey) {
        disk?.remove(key)
        if usesMemory { memory.remove(key) }
    }

    /// The store's figures now.
    public var statistics: ChunkStoreStatistics {
        var result = memory.statistics
        if let disk = disk?.statistics {
            result.insertions += disk.insertions
            result.evictions += disk.evictions
            result.damaged += disk.damaged
            result.chunks += disk.chunks
            result.bytes += disk.bytes
            result.diskBytes = disk.diskBytes
            result.segments = disk.segments
            result.indexBytes = disk.indexBytes
        }
        result.hits = hits.load(ordering: .relaxed)
        result.misses = misses.load(ordering: .relaxed)
        return result
    }
}
