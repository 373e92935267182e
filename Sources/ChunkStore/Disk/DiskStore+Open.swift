internal import Glibc
internal import PosixIO
internal import Synchronization

extension DiskStore {
    /// A segment that was found in the directory.
    struct Discovered {
        let segment: Segment
        let entries: [SegmentEntry]
        /// Where the next record goes; nil when the segment is sealed.
        let position: Int?
    }

    /// Reads the directory: what there is, the oldest first, and the number of the next segment. The oldest beyond the
    /// bound are removed without being read.
    static func read(
        _ files: StoreFiles,
        _ options: DiskStoreOptions,
        _ account: DiskAccount
    ) -> (segments: [Discovered], next: UInt64) {
        // Sorted by name, which is by number.
        let numbers = namesInDirectory(files.directory).compactMap { SegmentLayout.number($0) }
        var left = options.capacity
        var records = 0
        var segments: [Discovered] = []
        for number in numbers.reversed() {
            let name = SegmentLayout.name(number)
            guard let found = read(files, number, account) else {
                files.remove(name)
                continue
            }
            left -= found.segment.allocatedBytes
            records += found.entries.count
            let isKept =
                left >= 0 && records <= options.mostRecords && segments.count < StoreIndex.mostSegments
                && !found.entries.isEmpty
            if isKept {
                segments.append(found)
            } else {
                files.remove(name)
            }
        }
        return (segments.reversed(), (segments.first?.segment.number ?? 0) + 1)
    }

    /// Reads what one segment file holds; nil when it cannot be used.
    private static func read(_ files: StoreFiles, _ number: UInt64, _ account: DiskAccount) -> Discovered? {
        do throws(SystemError) {
            let file = try files.open(SegmentLayout.name(number))
            let status = try file.status()
            let size = Int(status.st_size)
            guard status.st_mode & S_IFMT == S_IFREG, size >= SegmentLayout.headerSize, size <= SegmentLayout.mostBytes
            else { return nil }
            let isOurs = try unsafe read(files, file, SegmentLayout.headerSize, at: 0) { bytes in
                unsafe SegmentLayout.isHeader(bytes, of: number)
            }
            guard isOurs == true else { return nil }
            if let entries = try readIndex(files, file, number, size: size) {
                let segment = try Segment(number, file, account: account)
                return Discovered(segment: segment, entries: entries, position: nil)
            }
            let (entries, position) = try scan(files, file, size: size)
            let segment = try Segment(number, file, account: account)
            return Discovered(segment: segment, entries: entries, position: position)
        } catch {
            return nil
        }
    }

    private static func read<R>(
        _ files: StoreFiles,
        _ file: borrowing Descriptor,
        _ count: Int,
        at offset: Int,
        _ body: (UnsafeRawBufferPointer) -> R?
    ) throws(SystemError) -> R? {
        guard offset >= 0, var bytes = UniqueBytes(trying: count) else { return nil }
        let done = try unsafe bytes.withUnsafeMutableBytes { (buffer) throws(SystemError) in
            try unsafe files.read(file, into: buffer, at: offset)
        }
        guard done == count else { return nil }
        return unsafe bytes.span.withUnsafeBytes { unsafe body($0) }
    }

    /// The index at the end of a sealed segment; nil when there is none that can be used.
    private static func readIndex(
        _ files: StoreFiles,
        _ file: borrowing Descriptor,
        _ number: UInt64,
        size: Int
    ) throws(SystemError) -> [SegmentEntry]? {
        let trailer = SegmentLayout.trailerSize
        let count = try unsafe read(files, file, trailer, at: size - trailer) { bytes in
            unsafe SegmentLayout.entryCount(bytes, of: number, size: size)
        }
        guard let count else { return nil }
        let indexSize = count * SegmentLayout.entrySize + trailer
        return try unsafe read(files, file, indexSize, at: size - indexSize) { bytes in
            unsafe SegmentLayout.entries(bytes, size: size)
        }
    }

    /// Goes from record to record by their headers, up to the first that is none: how a segment is read whose writer was
    /// killed. The records themselves are checked when they are asked for.
    private static func scan(
        _ files: StoreFiles,
        _ file: borrowing Descriptor,
        size: Int
    ) throws(SystemError) -> (entries: [SegmentEntry], position: Int) {
        var entries: [SegmentEntry] = []
        var position = SegmentLayout.headerSize
        while true {
            let header = try unsafe read(files, file, RecordLayout.headerSize, at: position) { bytes in
                unsafe RecordHeader(bytes)
            }
            guard let header, header.recordSize <= size - position else { break }
            entries.append(SegmentEntry(fingerprint: header.key.fingerprint, offset: position))
            position += RecordLayout.aligned(header.recordSize)
        }
        return (entries, position)
    }

    /// Takes a segment in. The newest goes on where it ended, if it was not sealed; another that was not is sealed now.
    func adopt(_ found: Discovered, mayGoOn: Bool) {
        guard let slot = index.withLock({ $0.add(found.segment) }) else { return }
        index.withLock { index in
            for entry in found.entries {
                _ = index.insert(entry.fingerprint, RecordPlace(slot, offset: entry.offset), bytes: 0)
            }
        }
        guard let position = found.position else {
            index.withLock { $0.order.append((found.segment, slot)) }
            return
        }
        let size = found.segment.mappedCount
        guard let file = try? files.open(SegmentLayout.name(found.segment.number)) else {
            index.withLock { $0.order.append((found.segment, slot)) }
            return
        }
        let tail = Tail(
            found.segment,
            slot,
            file,
            size: size,
            position: position,
            entries: found.entries
        )
        // Space that a copy of the directory may have lost.
        let hasSpace = (try? files.allocate(tail.file, size: size)) != nil
        found.segment.measure(tail.file)
        if mayGoOn, hasSpace, position < size / 8 * 7 {
            appending.withLock { $0.active = tail }
        } else {
            _ = appending.withLock { _ in tail.retire() }
            seal(tail)
        }
    }
}
