/// Names a segment in the index: the number of its slot, and how often the slot had been used before.
struct SlotID: Hashable, Sendable {
    var number: UInt16
    var generation: UInt16
}

/// Where a record is, in 64 bits: offset / 8 (24), slot (16), generation (16), trusted (1), used (1).
struct RecordPlace: Equatable, Sendable {
    private(set) var bits: UInt64

    static let none = RecordPlace(bits: 0)
    private static let trusted: UInt64 = 1 << 56
    private static let used: UInt64 = 1 << 57

    init(_ slot: SlotID, offset: Int) {
        bits = UInt64(offset / RecordLayout.alignment) | UInt64(slot.number) << 24 | UInt64(slot.generation) << 40
    }

    private init(bits: UInt64) { self.bits = bits }

    var offset: Int { Int(bits & 0xff_ffff) * RecordLayout.alignment }
    var slot: SlotID {
        SlotID(number: UInt16(truncatingIfNeeded: bits >> 24), generation: UInt16(truncatingIfNeeded: bits >> 40))
    }

    var isTrusted: Bool {
        get { bits & RecordPlace.trusted != 0 }
        set { bits = newValue ? bits | RecordPlace.trusted : bits & ~RecordPlace.trusted }
    }

    var isUsed: Bool {
        get { bits & RecordPlace.used != 0 }
        set { bits = newValue ? bits | RecordPlace.used : bits & ~RecordPlace.used }
    }

    /// Whether both stand for the same record; marks do not count.
    func isSameRecord(_ other: RecordPlace) -> Bool { (bits ^ other.bits) << 8 == 0 }
}

/// Finds records by their keys' fingerprints: open addressing in a flat array of 16 bytes a bucket, at most three
/// quarters of it used; and the segments that they stand in.
///
/// An entry is good only while its slot's generation is what it says, so a segment goes by one increment; the entries
/// that are left over are cleared away afterwards, a piece at a time.
struct StoreIndex: ~Copyable {
    struct Bucket {
        var fingerprint: UInt64
        var place: RecordPlace
    }

    private struct Slot {
        var generation: UInt16
        var segment: Segment?
        /// `bytesTakenIn` when the segment was made.
        var bornAt: UInt64
    }

    struct Found {
        let segment: Segment
        let place: RecordPlace
    }

    /// Never more segments than this: each is a mapping, and the kernel allows a process 65,530 of these.
    static let mostSegments = 1 << 14

    private let capacity: Int
    private let seed: UInt64
    private var buckets: ContiguousArray<Bucket>
    private var slots: ContiguousArray<Slot> = []
    private var freeSlots: ContiguousArray<UInt16> = []
    private var bytesTakenIn: UInt64 = 0
    /// Buckets in use.
    private(set) var count = 0
    /// Sealed segments, the oldest first: those that can go.
    var order: [(segment: Segment, slot: SlotID)] = []
    var counts = ChunkStoreStatistics()

    init(capacity: Int, expecting records: Int) {
        self.capacity = capacity
        seed = UInt64.random(in: .min ... .max)
        var size = 64
        while size / 2 < records { size *= 2 }
        buckets = StoreIndex.empty(size)
    }

    private static func empty(_ size: Int) -> ContiguousArray<Bucket> {
        ContiguousArray(repeating: Bucket(fingerprint: 0, place: .none), count: size)
    }

    /// Bytes that the table takes.
    var tableBytes: Int { buckets.count * 16 }
    var bucketCount: Int { buckets.count }
    var segmentCount: Int { slots.count - freeSlots.count }

    // MARK: Segments

    /// Gives a segment a slot; nil when there is none left.
    mutating func add(_ segment: Segment) -> SlotID? {
        if let number = freeSlots.popLast() {
            slots[Int(number)].segment = segment
            slots[Int(number)].bornAt = bytesTakenIn
            return SlotID(number: number, generation: slots[Int(number)].generation)
        }
        guard slots.count < 2 * StoreIndex.mostSegments else { return nil }
        slots.append(Slot(generation: 0, segment: segment, bornAt: bytesTakenIn))
        return SlotID(number: UInt16(slots.count - 1), generation: 0)
    }

    /// Lets go of a segment, and so of everything in it; returns it for the caller to release.
    mutating func drop(_ slot: SlotID) -> Segment? {
        guard let segment = segment(slot) else { return nil }
        slots[Int(slot.number)].segment = nil
        slots[Int(slot.number)].generation &+= 1
        freeSlots.append(slot.number)
        return segment
    }

    func segment(_ slot: SlotID) -> Segment? {
        guard Int(slot.number) < slots.count, slots[Int(slot.number)].generation == slot.generation else { return nil }
        return slots[Int(slot.number)].segment
    }

    // MARK: Records

    /// Where a fingerprint's record is, and marks it as used. A chunk is read in several requests shortly one after
    /// another, which must count as one use, and being brought in is none: so a hit counts only when the store has taken
    /// in a sixteenth of its bound since the record's segment was begun.
    mutating func find(_ fingerprint: UInt64) -> Found? {
        guard let bucket = bucket(of: fingerprint) else { return nil }
        let place = buckets[bucket].place
        guard let segment = segment(place.slot) else { return nil }
        if !place.isUsed, bytesTakenIn - slots[Int(place.slot.number)].bornAt >= UInt64(capacity / 16) {
            buckets[bucket].place.isUsed = true
        }
        return Found(segment: segment, place: place)
    }

    func contains(_ fingerprint: UInt64) -> Bool {
        guard let bucket = bucket(of: fingerprint) else { return false }
        return segment(buckets[bucket].place.slot) != nil
    }

    /// Takes a record in that takes `bytes` of its segment. False when there is one with that fingerprint already.
    mutating func insert(_ fingerprint: UInt64, _ place: RecordPlace, bytes: Int) -> Bool {
        bytesTakenIn += UInt64(bytes)
        if let bucket = bucket(of: fingerprint) {
            guard segment(buckets[bucket].place.slot) == nil else { return false }
            buckets[bucket].place = place
            return true
        }
        if (count + 1) * 4 > buckets.count * 3 { grow() }
        put(Bucket(fingerprint: fingerprint, place: place))
        count += 1
        return true
    }

    /// Notes that a record's checksum held.
    mutating func trust(_ fingerprint: UInt64, _ place: RecordPlace) {
        guard let bucket = bucket(of: fingerprint), buckets[bucket].place.isSameRecord(place) else { return }
        buckets[bucket].place.isTrusted = true
    }

    /// Forgets a record, if it is still there.
    mutating func remove(_ fingerprint: UInt64, _ place: RecordPlace) {
        guard let bucket = bucket(of: fingerprint), buckets[bucket].place.isSameRecord(place) else { return }
        clear(bucket)
    }

    /// Says that a record is somewhere else now, if it was still there. Its marks start anew.
    mutating func move(_ fingerprint: UInt64, from old: RecordPlace, to new: RecordPlace) -> Bool {
        guard let bucket = bucket(of: fingerprint), buckets[bucket].place.isSameRecord(old) else { return false }
        buckets[bucket].place = new
        return true
    }

    /// Adds the records of a segment that were used, as far as they stand in a range of buckets.
    func used(in slot: SlotID, buckets range: Range<Int>, _ result: inout [Bucket]) {
        for index in range.clamped(to: 0..<buckets.count)
        where buckets[index].place.isUsed && buckets[index].place.slot == slot {
            result.append(buckets[index])
        }
    }

    /// Adds all records that stand in a range of buckets.
    func records(buckets range: Range<Int>, _ result: inout [Bucket]) {
        for index in range.clamped(to: 0..<buckets.count) where buckets[index].place != .none {
            result.append(buckets[index])
        }
    }

    /// Clears entries away, in a range of buckets, whose segments are gone.
    mutating func sweep(buckets range: Range<Int>) {
        let range = range.clamped(to: 0..<buckets.count)
        var index = range.lowerBound
        while index < range.upperBound {
            if buckets[index].place != .none, segment(buckets[index].place.slot) == nil {
                // Another entry can have come here from behind.
                clear(index)
                counts.evictions += 1
            } else {
                index += 1
            }
        }
    }

    // MARK: Hash table

    /// The seed is the process's own, so nobody outside can make entries pile up.
    private func home(_ fingerprint: UInt64) -> Int {
        var hash = (fingerprint ^ seed) &* 0x9e37_79b9_7f4a_7c15
        hash ^= hash >> 32
        return Int(truncatingIfNeeded: hash) & (buckets.count - 1)
    }

    private func bucket(of fingerprint: UInt64) -> Int? {
        let mask = buckets.count - 1
        var index = home(fingerprint)
        while buckets[index].place != .none {
            if buckets[index].fingerprint == fingerprint { return index }
            index = (index + 1) & mask
        }
        return nil
    }

    private mutating func put(_ bucket: Bucket) {
        let mask = buckets.count - 1
        var index = home(bucket.fingerprint)
        while buckets[index].place != .none { index = (index + 1) & mask }
        buckets[index] = bucket
    }

    /// Empties a bucket and moves back those behind it that would not be found across the gap.
    private mutating func clear(_ bucket: Int) {
        let mask = buckets.count - 1
        var gap = bucket
        var next = (gap + 1) & mask
        while buckets[next].place != .none {
            let home = home(buckets[next].fingerprint)
            if (next - home) & mask >= (next - gap) & mask {
                buckets[gap] = buckets[next]
                gap = next
            }
            next = (next + 1) & mask
        }
        buckets[gap] = Bucket(fingerprint: 0, place: .none)
        count -= 1
    }

    private mutating func grow() {
        let old = buckets
        buckets = StoreIndex.empty(old.count * 2)
        for bucket in old where bucket.place != .none { put(bucket) }
    }
}
