@testable import ChunkStore

/// The same policy as `CacheTable`, written down as plainly as possible: three arrays, oldest first.
struct ReferenceCache {
    struct Entry {
        var key: ChunkKey
        var cost: Int
        var frequency = 0
        var countedAt: Int
    }

    let capacity: Int
    var small: [Entry] = []
    var main: [Entry] = []
    var ghosts: [ChunkKey] = []
    var takenIn = 0
    var hits: UInt64 = 0
    var misses: UInt64 = 0
    var evictions: UInt64 = 0

    init(capacity: Int) { self.capacity = capacity }

    var bytes: Int { (small + main).reduce(0) { $0 + $1.cost } }
    var keys: Set<ChunkKey> { Set((small + main).map(\.key)) }

    mutating func find(_ key: ChunkKey) -> Bool {
        if let index = small.firstIndex(where: { $0.key == key }) {
            use(&small[index])
        } else if let index = main.firstIndex(where: { $0.key == key }) {
            use(&main[index])
        } else {
            misses += 1
            return false
        }
        hits += 1
        return true
    }

    private func use(_ entry: inout Entry) {
        guard takenIn - entry.countedAt >= capacity / 16, entry.frequency < 3 else { return }
        entry.frequency += 1
        entry.countedAt = takenIn
    }

    mutating func insert(_ key: ChunkKey, cost: Int) {
        guard cost <= capacity, !keys.contains(key) else { return }
        while bytes + cost > capacity { evictOne() }
        takenIn += cost
        let entry = Entry(key: key, cost: cost, countedAt: takenIn)
        if let ghost = ghosts.firstIndex(of: key) {
            ghosts.remove(at: ghost)
            main.append(entry)
        } else {
            small.append(entry)
        }
        while ghosts.count > small.count + main.count { ghosts.removeFirst() }
    }

    mutating func remove(_ key: ChunkKey) {
        small.removeAll { $0.key == key }
        main.removeAll { $0.key == key }
    }

    private mutating func evictOne() {
        let smallBytes = small.reduce(0) { $0 + $1.cost }
        if !small.isEmpty && (smallBytes > capacity / 10 || main.isEmpty) {
            var entry = small.removeFirst()
            if entry.frequency > 0 {
                entry.frequency = 0
                main.append(entry)
            } else {
                ghosts.append(entry.key)
                evictions += 1
            }
        } else {
            var entry = main.removeFirst()
            if entry.frequency > 0 {
                entry.frequency -= 1
                main.append(entry)
            } else {
                evictions += 1
            }
        }
    }
}
