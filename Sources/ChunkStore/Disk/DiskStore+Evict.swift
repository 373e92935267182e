internal import PosixIO
internal import Synchronization

extension DiskStore {
    /// Entries of the index that are looked at with the lock held once.
    private static let bucketsAtOnce = 4096
    /// Segments that go for one new one when the disk, not the store, is too full.
    private static let mostYielded = 2

    /// Evicts the oldest segments until one of `size` bytes can be made.
    ///
    /// - Parameter yielding: the disk's free space counts too. The store gives way slowly: it would not help anybody if
    ///   a disk that others fill took the whole cache with it at once.
    func makeRoom(for size: Int, yielding: Bool) {
        while isFull(for: size), evictOldest() {}
        guard yielding else { return }
        for _ in 0..<DiskStore.mostYielded {
            guard let space = files.space, space.free - size < DiskStore.floor(space.total), evictOldest() else {
                return
            }
        }
    }

    private func isFull(for size: Int) -> Bool {
        let taken = account.named.load(ordering: .relaxed) + account.files.load(ordering: .relaxed)
        if taken + size + DiskStore.metadata > options.capacity { return true }
        return index.withLock { index in
            index.count > options.mostRecords || index.segmentCount >= StoreIndex.mostSegments
        }
    }

    /// Removes the oldest segment; those of its records that were used move on into the present one, as far as it has room
    /// and at most half of the segment. False when there is none that could go.
    ///
    /// - Parameter keepsUsed: false: nothing moves on.
    func evictOldest(keepsUsed: Bool = true) -> Bool {
        let oldest = index.withLock { index in index.order.isEmpty ? nil : index.order.removeFirst() }
        guard let (segment, slot) = oldest else { return false }
        var moved = 0
        for bucket in keepsUsed ? used(in: slot) : [] {
            guard let header = segment.header(at: bucket.place.offset) else { continue }
            moved += header.recordSize
            guard moved <= segment.mappedCount / 2, move(bucket, header, from: segment) else { break }
        }
        let dropped = index.withLock { $0.drop(slot) }
        _ = consume dropped
        sweep()
        files.remove(SegmentLayout.name(segment.number))
        segment.loseName()
        return true
    }

    /// Writes a record into the present segment, straight from the mapping. False when there is no room.
    private func move(_ bucket: StoreIndex.Bucket, _ header: RecordHeader, from segment: Segment) -> Bool {
        guard let place = reserveInActive(header.recordSize) else { return false }
        var entry: SegmentEntry?
        do throws(SystemError) {
            try segment.withBytes(header, at: bucket.place.offset) { (bytes) throws(SystemError) in
                try files.write(place.tail.file, bytes, at: place.offset)
            }
            entry = SegmentEntry(fingerprint: bucket.fingerprint, offset: place.offset)
        } catch {
            // Lost: the page cannot be read, or the disk takes no more.
        }
        if entry != nil {
            let new = RecordPlace(place.tail.slot, offset: place.offset)
            _ = index.withLock { $0.move(bucket.fingerprint, from: bucket.place, to: new) }
        }
        finish(place, entry)
        return entry != nil
    }

    private func used(in slot: SlotID) -> [StoreIndex.Bucket] {
        var result: [StoreIndex.Bucket] = []
        var start = 0
        while start < index.withLock({ $0.bucketCount }) {
            let range = start..<start + DiskStore.bucketsAtOnce
            let found = index.withLock { index in
                var found: [StoreIndex.Bucket] = []
                index.used(in: slot, buckets: range, &found)
                return found
            }
            result += found
            start = range.upperBound
        }
        return result
    }

    private func sweep() {
        var start = 0
        while start < index.withLock({ $0.bucketCount }) {
            let range = start..<start + DiskStore.bucketsAtOnce
            index.withLock { $0.sweep(buckets: range) }
            start = range.upperBound
        }
    }
}
