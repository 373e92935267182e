internal import Glibc
internal import PosixIO
internal import Synchronization

/// What the store on disk is to keep to; tests change more of it than a user can.
struct DiskStoreOptions: Sendable {
    /// The most that segments may take on disk, in bytes.
    var capacity: Int
    /// How long nothing is taken in after the disk refused something, in nanoseconds.
    var retryAfter: UInt64 = 30_000_000_000
    /// Told what a user should know, at most once for each time that the disk goes bad.
    var report: @Sendable (String) -> Void = { _ in }

    /// Bytes of a segment: a sixteenth of the bound, at most 64 MiB.
    var segmentSize: Int
    /// The most that one record may take: it must leave room for others.
    var mostRecord: Int { capacity / 4 }
    /// The most records that are kept. The index in memory takes 22 to 43 bytes for each.
    var mostRecords: Int { max(4096, capacity / 4096) }

    init(capacity: Int) {
        self.capacity = capacity
        segmentSize = max(64 << 10, min(64 << 20, capacity / 16)) / 4096 * 4096
    }
}

/// The chunk store on disk: append-only segments (docs/cache-format.md), read through mappings, found by an index in
/// memory. One process owns the directory.
///
/// LOCK ORDER: `index` and `appending` are leaves, never held together, and never across a system call.
final class DiskStore: Sendable {
    struct Appending {
        var active: Tail?
        /// A thread makes a segment, or makes room.
        var isOpening = false
        var nextNumber: UInt64 = 1
        /// Nothing is taken in before (CLOCK_MONOTONIC, nanoseconds).
        var suspendedUntil: UInt64 = 0
        /// The present trouble was reported.
        var isReported = false
    }

    /// Room in a segment, to be given back with `finish`.
    struct Reservation {
        let tail: Tail
        let offset: Int
        /// The segment was made for it, and no further one is made before `makeRoomForNext`.
        var isFirst = false
    }

    let files: StoreFiles
    let options: DiskStoreOptions
    let account = DiskAccount()
    let index: Mutex<StoreIndex>
    let appending = Monitor(Appending())

    /// Opens the store in a directory that exists and that nobody else uses. Reads what tells where records are, not the
    /// records. Whatever cannot be used is removed or, if it is none of the store's files, left alone.
    init(files: StoreFiles, options: DiskStoreOptions) {
        self.files = files
        self.options = options
        let (segments, next) = DiskStore.read(files, options, account)
        let records = segments.reduce(0) { $0 + $1.entries.count }
        index = Mutex(StoreIndex(capacity: options.capacity, expecting: records))
        appending.withLock { $0.nextNumber = next }
        for (position, segment) in segments.enumerated() {
            adopt(segment, mayGoOn: position == segments.count - 1)
        }
    }

    // MARK: Reading

    /// The chunk that is kept under a key. Its checksum has held since the start.
    func find(_ key: ChunkKey) -> ChunkRecord? {
        let fingerprint = key.fingerprint
        guard let found = index.withLock({ $0.find(fingerprint) }) else { return nil }
        let offset = found.place.offset
        found.segment.expectRecord(at: offset)
        guard let header = found.segment.header(at: offset) else {
            forget(fingerprint, found.place)
            return nil
        }
        // Another key with the same fingerprint.
        guard header.key == key else { return nil }
        if !found.place.isTrusted {
            guard found.segment.holds(header, at: offset) else {
                forget(fingerprint, found.place)
                return nil
            }
            index.withLock { $0.trust(fingerprint, found.place) }
        }
        return found.segment.record(header, at: offset)
    }

    /// Whether a chunk seems to be there.
    func contains(_ key: ChunkKey) -> Bool {
        let fingerprint = key.fingerprint
        return index.withLock { $0.contains(fingerprint) }
    }

    /// Lets go of a chunk that proved damaged.
    func remove(_ key: ChunkKey) {
        let fingerprint = key.fingerprint
        guard let found = index.withLock({ $0.find(fingerprint) }) else { return }
        forget(fingerprint, found.place)
    }

    func forget(_ fingerprint: UInt64, _ place: RecordPlace) {
        index.withLock { index in
            index.remove(fingerprint, place)
            index.counts.damaged += 1
        }
    }

    /// Figures now; hits and misses are counted by the caller.
    var statistics: ChunkStoreStatistics {
        var result = index.withLock { index in
            var result = index.counts
            result.chunks = index.count
            result.segments = index.segmentCount
            result.indexBytes = index.tableBytes
            return result
        }
        result.bytes = account.total
        result.diskBytes = result.bytes
        return result
    }

    // MARK: Writing

    /// Appends a packed chunk. False when there is no room for it now.
    func insert(_ key: ChunkKey, _ chunk: PackedChunk) -> Bool {
        guard chunk.byteCount <= options.mostRecord, let place = reserve(chunk.byteCount) else { return false }
        var entry: SegmentEntry?
        do throws(SystemError) {
            try files.write(place.tail.file, chunk.bytes, at: place.offset)
            entry = SegmentEntry(fingerprint: key.fingerprint, offset: place.offset)
        } catch {
            suspend("cannot write to it: \(error)")
        }
        if let entry {
            let record = RecordPlace(place.tail.slot, offset: place.offset)
            index.withLock { index in
                if index.insert(entry.fingerprint, record, bytes: chunk.byteCount) { index.counts.insertions += 1 }
            }
        }
        finish(place, entry)
        if place.isFirst { makeRoomForNext() }
        return entry != nil
    }

    /// Evicts what must go so that the next segment can be made at once, while what is hot in the oldest one has somewhere
    /// to go. After the first record of a new segment was written, not before: what moves on would stand behind a gap, and
    /// be lost if the process were killed in between.
    private func makeRoomForNext() {
        makeRoom(for: options.segmentSize, yielding: false)
        appending.withLock { $0.isOpening = false }
    }

    private enum Step {
        case placed(Reservation)
        case open
        case refused
    }

    /// Finds room for a record, in a new segment where the present one is full. Waits while another thread makes one.
    private func reserve(_ count: Int) -> Reservation? {
        let exact = SegmentLayout.size(records: RecordLayout.aligned(count), count: 1)
        let isLarge = exact > options.segmentSize
        let step = appending.wait { state -> Step? in
            if monotonicNanoseconds() < state.suspendedUntil { return .refused }
            if !isLarge, let tail = state.active, let offset = tail.reserve(count) {
                return .placed(Reservation(tail: tail, offset: offset))
            }
            if state.isOpening { return nil }
            state.isOpening = true
            return .open
        }
        switch step {
        case .placed(let reservation): return reservation
        case .refused: return nil
        case .open:
            let reservation = reserveInNewSegment(count, size: isLarge ? exact : options.segmentSize, isLarge: isLarge)
            if reservation == nil { appending.withLock { $0.isOpening = false } }
            return reservation
        }
    }

    private func reserveInNewSegment(_ count: Int, size: Int, isLarge: Bool) -> Reservation? {
        account.areFilesKnown.wait { $0 ? () : nil }
        makeRoom(for: size, yielding: true)
        guard let tail = makeTail(size) else { return nil }
        var full: Tail?
        let reservation = appending.withLock { state -> Reservation? in
            state.isReported = false
            let offset = tail.reserve(count)
            if isLarge {
                _ = tail.retire()
            } else {
                if let active = state.active, active.retire() { full = active }
                state.active = tail
            }
            return offset.map { Reservation(tail: tail, offset: $0, isFirst: true) }
        }
        if let full { seal(full) }
        return reservation
    }

    /// Makes a segment file; nil when there is no room for it.
    private func makeTail(_ size: Int) -> Tail? {
        // Readers may hold segments that have been removed; their space comes back when they are done.
        guard account.total + size + DiskStore.metadata <= options.capacity else { return nil }
        if let space = files.space, space.free - size < DiskStore.floor(space.total) {
            suspend("less than \(DiskStore.floor(space.total) >> 20) MiB would be left on the disk")
            return nil
        }
        let number = appending.withLock { state in
            defer { state.nextNumber += 1 }
            return state.nextNumber
        }
        let name = SegmentLayout.name(number)
        do throws(SystemError) {
            let file = try files.create(name, size: size)
            do throws(SystemError) {
                let header = SegmentLayout.header(number, size: size)
                try unsafe files.write(file, header.span.bytes, at: 0)
                let segment = try Segment(number, file, account: account)
                guard let slot = index.withLock({ $0.add(segment) }) else {
                    throw SystemError(code: 0, operation: "too many segments")
                }
                return Tail(
                    segment,
                    slot,
                    file,
                    size: size,
                    position: SegmentLayout.headerSize,
                    entries: []
                )
            } catch {
                files.remove(name)
                throw error
            }
        } catch {
            // Something of that name that could not be removed when the store was opened.
            if error.code == EEXIST { return makeTail(size) }
            suspend("\(error)")
            return nil
        }
    }

    /// Makes room for a materialised file of so many bytes and counts it as taken; false when there is none.
    func takeRoomForFile(_ bytes: Int) -> Bool {
        // Like a segment that is being made: nobody else takes the same room meanwhile.
        let isAllowed = appending.wait { state -> Bool? in
            if monotonicNanoseconds() < state.suspendedUntil { return false }
            if state.isOpening { return nil }
            state.isOpening = true
            return true
        }
        guard isAllowed else { return false }
        defer { appending.withLock { $0.isOpening = false } }
        makeRoom(for: bytes, yielding: false)
        guard account.total + bytes <= options.capacity else { return false }
        if let space = files.space, space.free - bytes < DiskStore.floor(space.total) { return false }
        account.files.add(bytes, ordering: .relaxed)
        return true
    }

    /// What a file system may take for a file beyond its bytes.
    static let metadata = 16 << 10

    /// What is left free on a disk of so many bytes: 5 %, at most 1 GiB.
    static func floor(_ total: Int) -> Int { min(1 << 30, total / 20) }

    /// Takes nothing in for a while, and says so once.
    private func suspend(_ reason: String) {
        let until = monotonicNanoseconds() &+ options.retryAfter
        let isNew = appending.withLock { state in
            state.suspendedUntil = until
            defer { state.isReported = true }
            return !state.isReported
        }
        if isNew {
            options.report(
                "the chunk cache \(files.directory) takes nothing in: \(reason); what is in it is served, further contents"
                    + " are kept in memory only, and it is tried again every \(options.retryAfter / 1_000_000_000) s"
            )
        }
    }

    /// Ends a reservation, with the entry of what was written.
    func finish(_ place: Reservation, _ entry: SegmentEntry?) {
        let isFull = appending.withLock { _ in place.tail.finish(entry) }
        if isFull { seal(place.tail) }
    }

    /// Room in the present segment, if it has any.
    func reserveInActive(_ count: Int) -> Reservation? {
        appending.withLock { state in
            guard let tail = state.active, let offset = tail.reserve(count) else { return nil }
            return Reservation(tail: tail, offset: offset)
        }
    }

    /// Writes a segment's index, so that its records need not be looked for when the store is opened, and gives back the
    /// space that it did not use. A segment whose sealing fails serves all the same.
    func seal(_ tail: Tail) {
        let (entries, position) = appending.withLock { _ in (tail.takeEntries(), tail.position) }
        do throws(SystemError) {
            let index = SegmentLayout.index(entries, number: tail.segment.number)
            try unsafe files.write(tail.file, index.span.bytes, at: position)
            try files.truncate(tail.file, to: position + index.count)
        } catch {
            suspend("cannot write to it: \(error)")
        }
        tail.segment.measure(tail.file)
        index.withLock { $0.order.append((tail.segment, tail.slot)) }
    }
}
