/// Keys, records and queues of the chunk cache, in flat arrays: slots, linked by number into three queues, and a hash
/// table of slot numbers (open addressing).
///
/// Eviction is S3-FIFO (Yang et al., SOSP 2023), in bytes. A new chunk enters the small queue, a tenth of the bound.
/// At its end, a chunk that was asked for again moves to the main queue, any other leaves its key behind as a ghost; a
/// chunk that comes back while its ghost is there goes to the main queue at once. At the end of the main queue, a
/// chunk that was asked for since goes round again. So what is read once, however much it is, costs what is hot
/// nothing.
///
/// A chunk is read in several requests shortly one after another, which must count as one use: a hit counts only when
/// the table has taken in a sixteenth of its bound since the last one that counted.
struct CacheTable: ~Copyable {
    enum Queue: UInt8 {
        case free, small, main, ghost
    }

    /// What a record costs beyond its own memory: its slot, its place in the hash table, a ghost, and what malloc adds.
    static let overhead = 256
    static let highestFrequency: UInt8 = 3
    private static let none = UInt32.max

    private struct Slot {
        var key: ChunkKey
        var record: PackedChunk?
        var hash: UInt64
        /// `bytesTakenIn` when the last use was counted.
        var countedAt: UInt64
        /// Towards the front, where slots enter.
        var newer: UInt32
        /// Towards the back, where they leave; in the free list, the next one.
        var older: UInt32
        var queue: Queue
        var frequency: UInt8
    }

    private struct Ends {
        var newest = CacheTable.none
        var oldest = CacheTable.none
        var count = 0
        var bytes = 0
    }

    private let capacity: Int
    private let seed: UInt64
    private var slots: ContiguousArray<Slot> = []
    private var firstFree = CacheTable.none
    /// Slot numbers + 1; 0 is empty. The count is a power of two, at most half of it used.
    private var buckets = ContiguousArray<UInt32>(repeating: 0, count: 64)
    private var small = Ends()
    private var main = Ends()
    private var ghosts = Ends()
    private var bytesTakenIn: UInt64 = 0
    private var counts = ChunkStoreStatistics()

    init(capacity: Int) {
        self.capacity = capacity
        seed = UInt64.random(in: .min ... .max)
    }

    var statistics: ChunkStoreStatistics {
        var result = counts
        result.chunks = small.count + main.count
        result.bytes = small.bytes + main.bytes
        return result
    }

    mutating func find(_ key: ChunkKey) -> PackedChunk? {
        guard let number = slot(of: key), let record = slots[Int(number)].record else {
            counts.misses += 1
            return nil
        }
        counts.hits += 1
        let slot = Int(number)
        if bytesTakenIn - slots[slot].countedAt >= UInt64(capacity / 16),
            slots[slot].frequency < CacheTable.highestFrequency
        {
            slots[slot].frequency += 1
            slots[slot].countedAt = bytesTakenIn
        }
        return record
    }

    func contains(_ key: ChunkKey) -> Bool {
        slot(of: key).map { slots[Int($0)].record != nil } ?? false
    }

    /// Takes a record in; returns those that had to go, for the caller to free.
    mutating func insert(_ key: ChunkKey, _ record: PackedChunk) -> [PackedChunk] {
        let cost = record.byteCount + CacheTable.overhead
        guard cost <= capacity, !contains(key) else { return [] }
        var evicted: [PackedChunk] = []
        while small.bytes + main.bytes + cost > capacity { evictOne(&evicted) }
        var target = Queue.small
        let number: UInt32
        // Looked up only now: making room may have made its ghost go.
        if let ghost = slot(of: key) {
            unlink(ghost)
            number = ghost
            target = .main
        } else {
            number = newSlot(key)
        }
        bytesTakenIn += UInt64(cost)
        slots[Int(number)].record = record
        slots[Int(number)].frequency = 0
        slots[Int(number)].countedAt = bytesTakenIn
        link(number, target)
        counts.insertions += 1
        counts.payloadBytes += record.count
        while ghosts.count > small.count + main.count { forget(ghosts.oldest) }
        return evicted
    }

    mutating func remove(_ key: ChunkKey) -> PackedChunk? {
        guard let number = slot(of: key), let record = slots[Int(number)].record else { return nil }
        counts.payloadBytes -= record.count
        forget(number)
        return record
    }

    // MARK: Eviction

    /// Moves one chunk on, out of the table or from one queue to the next.
    private mutating func evictOne(_ evicted: inout [PackedChunk]) {
        if small.count > 0 && (small.bytes > capacity / 10 || main.count == 0) {
            let number = small.oldest
            if slots[Int(number)].frequency > 0 {
                unlink(number)
                slots[Int(number)].frequency = 0
                link(number, .main)
            } else {
                evicted.append(contentsOf: takeRecord(number))
                link(number, .ghost)
            }
        } else {
            let number = main.oldest
            if slots[Int(number)].frequency > 0 {
                unlink(number)
                slots[Int(number)].frequency -= 1
                link(number, .main)
            } else {
                evicted.append(contentsOf: takeRecord(number))
                free(number)
            }
        }
    }

    /// Takes the record out of a slot, which is in no queue afterwards.
    private mutating func takeRecord(_ number: UInt32) -> CollectionOfOne<PackedChunk> {
        unlink(number)
        guard let record = slots[Int(number)].record.take() else { preconditionFailure("a queued slot has a record") }
        counts.evictions += 1
        counts.payloadBytes -= record.count
        return CollectionOfOne(record)
    }

    // MARK: Queues

    private func cost(_ number: UInt32) -> Int {
        slots[Int(number)].record.map { $0.byteCount + CacheTable.overhead } ?? 0
    }

    private mutating func link(_ number: UInt32, _ queue: Queue) {
        slots[Int(number)].queue = queue
        let bytes = cost(number)
        withEnds(queue) { slots, ends in
            slots[Int(number)].newer = CacheTable.none
            slots[Int(number)].older = ends.newest
            if ends.newest != CacheTable.none {
                slots[Int(ends.newest)].newer = number
            } else {
                ends.oldest = number
            }
            ends.newest = number
            ends.count += 1
            ends.bytes += bytes
        }
    }

    private mutating func unlink(_ number: UInt32) {
        let bytes = cost(number)
        let newer = slots[Int(number)].newer
        let older = slots[Int(number)].older
        withEnds(slots[Int(number)].queue) { slots, ends in
            if newer != CacheTable.none { slots[Int(newer)].older = older } else { ends.newest = older }
            if older != CacheTable.none { slots[Int(older)].newer = newer } else { ends.oldest = newer }
            ends.count -= 1
            ends.bytes -= bytes
        }
    }

    @inline(__always)
    private mutating func withEnds(_ queue: Queue, _ body: (inout ContiguousArray<Slot>, inout Ends) -> Void) {
        switch queue {
        case .small: body(&slots, &small)
        case .main: body(&slots, &main)
        case .ghost: body(&slots, &ghosts)
        case .free: preconditionFailure("a free slot is in no queue")
        }
    }

    // MARK: Slots

    private mutating func newSlot(_ key: ChunkKey) -> UInt32 {
        let slot = Slot(
            key: key,
            record: nil,
            hash: key.hash(seed: seed),
            countedAt: 0,
            newer: CacheTable.none,
            older: CacheTable.none,
            queue: .free,
            frequency: 0
        )
        let number = firstFree
        if number != CacheTable.none {
            firstFree = slots[Int(number)].older
            slots[Int(number)] = slot
            addToBuckets(number)
            return number
        }
        slots.append(slot)
        if slots.count * 2 > buckets.count { growBuckets() }
        addToBuckets(UInt32(slots.count - 1))
        return UInt32(slots.count - 1)
    }

    /// Unlinks a slot and frees it.
    private mutating func forget(_ number: UInt32) {
        unlink(number)
        slots[Int(number)].record = nil
        free(number)
    }

    /// Frees a slot that is in no queue.
    private mutating func free(_ number: UInt32) {
        removeFromBuckets(number)
        slots[Int(number)].queue = .free
        slots[Int(number)].older = firstFree
        firstFree = number
    }

    // MARK: Hash table

    private func slot(of key: ChunkKey) -> UInt32? {
        let mask = buckets.count - 1
        let hash = key.hash(seed: seed)
        var bucket = Int(truncatingIfNeeded: hash) & mask
        while buckets[bucket] != 0 {
            let number = buckets[bucket] - 1
            if slots[Int(number)].hash == hash && slots[Int(number)].key == key { return number }
            bucket = (bucket + 1) & mask
        }
        return nil
    }

    private mutating func addToBuckets(_ number: UInt32) {
        let mask = buckets.count - 1
        var bucket = Int(truncatingIfNeeded: slots[Int(number)].hash) & mask
        while buckets[bucket] != 0 { bucket = (bucket + 1) & mask }
        buckets[bucket] = number + 1
    }

    /// Empties a bucket and moves back those behind it that would not be found across the gap.
    private mutating func removeFromBuckets(_ number: UInt32) {
        let mask = buckets.count - 1
        var gap = Int(truncatingIfNeeded: slots[Int(number)].hash) & mask
        while buckets[gap] != number + 1 { gap = (gap + 1) & mask }
        var next = (gap + 1) & mask
        while buckets[next] != 0 {
            let home = Int(truncatingIfNeeded: slots[Int(buckets[next] - 1)].hash) & mask
            if (next - home) & mask >= (next - gap) & mask {
                buckets[gap] = buckets[next]
                gap = next
            }
            next = (next + 1) & mask
        }
        buckets[gap] = 0
    }

    private mutating func growBuckets() {
        buckets = ContiguousArray(repeating: 0, count: buckets.count * 2)
        // The newest slot is added by the caller.
        for number in 0..<slots.count - 1 where slots[number].queue != .free { addToBuckets(UInt32(number)) }
    }
}
