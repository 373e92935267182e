internal import Glibc
internal import PosixIO
internal import Synchronization

/// Where things stand in a segment file (docs/cache-format.md).
enum SegmentLayout {
    static let headerSize = 64
    static let entrySize = 12
    static let trailerSize = 32
    /// Offsets are kept in 24 bits, counted in units of 8 bytes.
    static let mostBytes = 1 << 27
    static let version: UInt32 = 1
    /// Numbers from here on are not the store's; it never gets there.
    private static let mostNumber: UInt64 = 1 << 62
    /// `crfsSEG1` in memory order.
    private static let headerMagic: UInt64 = 0x3147_4553_7366_7263
    /// `crfsIDX1` in memory order.
    private static let trailerMagic: UInt64 = 0x3158_4449_7366_7263

    /// Bytes that a segment needs whose records take `records` bytes, all aligned, and are `count`.
    static func size(records: Int, count: Int) -> Int {
        headerSize + records + count * entrySize + trailerSize
    }

    /// Sixteen hexadecimal digits and `.seg`.
    static func name(_ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits + ".seg"
    }

    /// The number in a name; nil for the names of other files.
    static func number(_ name: String) -> UInt64? {
        guard name.utf8.count == 20, name.hasSuffix(".seg") else { return nil }
        guard let number = UInt64(name.prefix(16), radix: 16), number > 0, number < mostNumber,
            SegmentLayout.name(number) == name
        else {
            return nil
        }
        return number
    }

    static func header(_ number: UInt64, size: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: headerSize)
        unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe buffer.storeBytes(of: headerMagic.littleEndian, as: UInt64.self)
            unsafe buffer.storeBytes(of: version.littleEndian, toByteOffset: 8, as: UInt32.self)
            unsafe buffer.storeBytes(of: number.littleEndian, toByteOffset: 16, as: UInt64.self)
            unsafe buffer.storeBytes(of: UInt64(size).littleEndian, toByteOffset: 24, as: UInt64.self)
            let crc = unsafe MappedMemory.crc32(UnsafeRawBufferPointer(rebasing: buffer[..<60]))
            unsafe buffer.storeBytes(of: crc.littleEndian, toByteOffset: 60, as: UInt32.self)
        }
        return bytes
    }

    static func isHeader(_ bytes: UnsafeRawBufferPointer, of number: UInt64) -> Bool {
        guard bytes.count == headerSize else { return false }
        let crc = unsafe MappedMemory.crc32(UnsafeRawBufferPointer(rebasing: bytes[..<60]))
        return unsafe UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self)) == headerMagic
            && UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self)) == version
            && UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self)) == number
            && UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 60, as: UInt32.self)) == crc
    }

    /// The index of a sealed segment: entries, then the trailer.
    static func index(_ entries: [SegmentEntry], number: UInt64) -> [UInt8] {
        let size = entries.count * entrySize + trailerSize
        var bytes = [UInt8](repeating: 0, count: size)
        unsafe bytes.withUnsafeMutableBytes { buffer in
            for (index, entry) in entries.enumerated() {
                let at = index * entrySize
                unsafe buffer.storeBytes(of: entry.fingerprint.littleEndian, toByteOffset: at, as: UInt64.self)
                let unit = UInt32(entry.offset / RecordLayout.alignment)
                unsafe buffer.storeBytes(of: unit.littleEndian, toByteOffset: at + 8, as: UInt32.self)
            }
            let at = entries.count * entrySize
            unsafe buffer.storeBytes(of: trailerMagic.littleEndian, toByteOffset: at, as: UInt64.self)
            unsafe buffer.storeBytes(of: number.littleEndian, toByteOffset: at + 8, as: UInt64.self)
            unsafe buffer.storeBytes(of: UInt32(entries.count).littleEndian, toByteOffset: at + 16, as: UInt32.self)
            let crc = unsafe MappedMemory.crc32(UnsafeRawBufferPointer(rebasing: buffer[..<(size - 4)]))
            unsafe buffer.storeBytes(of: crc.littleEndian, toByteOffset: size - 4, as: UInt32.self)
        }
        return bytes
    }

    /// How many entries a trailer announces; nil when it is none of this segment.
    static func entryCount(_ trailer: UnsafeRawBufferPointer, of number: UInt64, size: Int) -> Int? {
        guard trailer.count == trailerSize,
            unsafe UInt64(littleEndian: trailer.loadUnaligned(as: UInt64.self)) == trailerMagic,
            unsafe UInt64(littleEndian: trailer.loadUnaligned(fromByteOffset: 8, as: UInt64.self)) == number
        else { return nil }
        let count = Int(unsafe UInt32(littleEndian: trailer.loadUnaligned(fromByteOffset: 16, as: UInt32.self)))
        return SegmentLayout.size(records: 0, count: count) <= size ? count : nil
    }

    /// The entries of an index (with its trailer); nil when its checksum does not hold or an entry is out of bounds.
    static func entries(_ index: UnsafeRawBufferPointer, size: Int) -> [SegmentEntry]? {
        let end = index.count - trailerSize
        guard end >= 0, end % entrySize == 0 else { return nil }
        let crc = unsafe MappedMemory.crc32(UnsafeRawBufferPointer(rebasing: index[..<(index.count - 4)]))
        let stored = unsafe index.loadUnaligned(fromByteOffset: index.count - 4, as: UInt32.self)
        guard UInt32(littleEndian: stored) == crc else { return nil }
        var result: [SegmentEntry] = []
        result.reserveCapacity(end / entrySize)
        for at in stride(from: 0, to: end, by: entrySize) {
            let fingerprint = unsafe index.loadUnaligned(fromByteOffset: at, as: UInt64.self)
            let unit = unsafe index.loadUnaligned(fromByteOffset: at + 8, as: UInt32.self)
            let offset = Int(UInt32(littleEndian: unit)) * RecordLayout.alignment
            guard offset >= headerSize, offset <= size - index.count else { return nil }
            result.append(SegmentEntry(fingerprint: UInt64(littleEndian: fingerprint), offset: offset))
        }
        return result
    }
}

/// Where a segment has a record.
struct SegmentEntry: Sendable, Equatable {
    var fingerprint: UInt64
    /// From the start of the file, in bytes.
    var offset: Int
}

/// What the store takes on disk.
final class DiskAccount: Sendable {
    /// Allocated bytes of all segments that still exist: also of those without a name that a reader holds.
    let held = Atomic(0)
    /// Allocated bytes of the segments that have a name.
    let named = Atomic(0)
    /// Bytes of materialised files, and of those that are being written.
    let files = Atomic(0)
    /// Whether `files` is complete: not while the directory is being read at the start.
    let areFilesKnown = Monitor(true)

    /// Segments and files together.
    var total: Int { held.load(ordering: .relaxed) + files.load(ordering: .relaxed) }
}

/// A segment file, mapped. Lives for as long as the store or a reader holds it; then the mapping goes, and with it the
/// space of a file that has been removed.
@safe
final class Segment: @unchecked Sendable {
    // SAFETY: a shared read-only mapping of `mappedCount` bytes, valid until `deinit`.
    let number: UInt64
    let mappedCount: Int
    private let base: UnsafeRawPointer
    private let account: DiskAccount
    private let allocated: Atomic<Int>
    private let hasName = Atomic(true)
    /// Where readers who found pages missing have got to, and up to where was asked for ahead of them.
    private let coldEnd = Atomic(-1)
    private let aheadEnd = Atomic(0)

    init(_ number: UInt64, _ file: borrowing Descriptor, account: DiskAccount) throws(SystemError) {
        let status = try file.status()
        let size = Int(status.st_size)
        guard size >= SegmentLayout.headerSize, size <= SegmentLayout.mostBytes else {
            throw SystemError(code: EINVAL, operation: "mmap")
        }
        let address = unsafe mmap(nil, size, PROT_READ, MAP_SHARED, file.raw, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else { throw SystemError.last("mmap") }
        self.number = number
        mappedCount = size
        unsafe base = UnsafeRawPointer(address)
        self.account = account
        let bytes = Int(status.st_blocks) * 512
        allocated = Atomic(bytes)
        account.held.add(bytes, ordering: .relaxed)
        account.named.add(bytes, ordering: .relaxed)
    }

    deinit {
        _ = unsafe munmap(UnsafeMutableRawPointer(mutating: base), mappedCount)
        let bytes = allocated.load(ordering: .relaxed)
        account.held.subtract(bytes, ordering: .relaxed)
        if hasName.load(ordering: .relaxed) { account.named.subtract(bytes, ordering: .relaxed) }
    }

    /// What the file takes on disk, in bytes.
    var allocatedBytes: Int { allocated.load(ordering: .relaxed) }

    /// Notes what the file takes now.
    func measure(_ file: borrowing Descriptor) {
        guard let status = try? file.status() else { return }
        let bytes = Int(status.st_blocks) * 512
        let before = allocated.exchange(bytes, ordering: .relaxed)
        account.held.add(bytes - before, ordering: .relaxed)
        account.named.add(bytes - before, ordering: .relaxed)
    }

    /// Notes that the file was removed.
    func loseName() {
        guard hasName.exchange(false, ordering: .relaxed) else { return }
        account.named.subtract(allocated.load(ordering: .relaxed), ordering: .relaxed)
    }

    /// The header of the record at an offset; nil when there is none, or none that ends inside of the segment.
    func header(at offset: Int) -> RecordHeader? {
        guard offset >= SegmentLayout.headerSize, offset <= mappedCount - RecordLayout.headerSize else { return nil }
        let header = unsafe withUnsafeTemporaryAllocation(byteCount: RecordLayout.headerSize, alignment: 8) {
            room -> RecordHeader? in
            let source = unsafe UnsafeRawBufferPointer(start: base + offset, count: RecordLayout.headerSize)
            guard unsafe MappedMemory.copy(source, into: room) else { return nil }
            return unsafe RecordHeader(UnsafeRawBufferPointer(room))
        }
        guard let header, header.recordSize <= mappedCount - offset else { return nil }
        return header
    }

    /// The chunk whose header stands at an offset.
    func record(_ header: RecordHeader, at offset: Int) -> ChunkRecord {
        unsafe ChunkRecord(
            owner: self,
            segment: self,
            count: Int(header.key.length),
            body: base + offset + RecordLayout.headerSize,
            bodyCount: header.bodyCount
        )
    }

    /// Whether the checksum of a record holds. Reads the whole record; tells the kernel so before.
    func holds(_ header: RecordHeader, at offset: Int) -> Bool {
        let body = unsafe UnsafeRawBufferPointer(
            start: base + offset + RecordLayout.headerSize,
            count: header.bodyCount
        )
        ask(offset, offset + header.recordSize)
        return unsafe MappedMemory.checksum(body) == header.checksum
    }

    /// How far ahead of a reader the disk is asked.
    private static let window = 2 << 20
    private static let page = 4096

    /// Gets bytes from the disk that are about to be read, if they are not in memory: all at once, where faults would bring
    /// them a piece at a time while the reader waits. What follows the last such reader's bytes is a stream: it gets what
    /// comes next too, while this reader is still being answered.
    func expect(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress else { return }
        let offset = unsafe start - base
        expect(from: offset, to: offset + bytes.count)
    }

    /// The same for a record of which only the place is known.
    func expectRecord(at offset: Int) {
        guard offset >= 0, offset <= mappedCount - RecordLayout.headerSize else { return }
        expect(from: offset, to: offset + RecordLayout.headerSize)
    }

    private func expect(from offset: Int, to end: Int) {
        let ahead = aheadEnd.load(ordering: .relaxed)
        if offset < ahead && ahead - offset <= 2 * Segment.window {
            // Inside of what was asked for: goes on asking in time.
            if ahead - end < Segment.window / 2, ahead < mappedCount,
                aheadEnd.compareExchange(
                    expected: ahead,
                    desired: ahead + Segment.window,
                    ordering: .relaxed
                ).exchanged,
                !isInMemory(min(ahead, mappedCount - 1))
            {
                ask(ahead, ahead + Segment.window)
            }
            return
        }
        let isLong = end - offset > 16 * Segment.page
        guard !isInMemory(offset) || isLong && !isInMemory(end - 1) else { return }
        let before = coldEnd.exchange(end, ordering: .relaxed)
        let isStream = before >= 0 && offset >= before - Segment.page && offset - before <= Segment.window / 8
        ask(offset, isStream ? end + Segment.window : end)
        if isStream { aheadEnd.store(end + Segment.window, ordering: .relaxed) }
    }

    private func isInMemory(_ offset: Int) -> Bool {
        var state: UInt8 = 0
        // SAFETY: the page is the mapping's; mincore(2) writes one byte for it.
        let result = unsafe mincore(
            UnsafeMutableRawPointer(mutating: base + offset / Segment.page * Segment.page),
            1,
            &state
        )
        return result != 0 || state & 1 != 0
    }

    private func ask(_ start: Int, _ end: Int) {
        let first = start / Segment.page * Segment.page
        let last = min(end, mappedCount)
        guard last - first > 4 * Segment.page else { return }
        // SAFETY: the pages are the mapping's.
        _ = unsafe madvise(UnsafeMutableRawPointer(mutating: base + first), last - first, MADV_WILLNEED)
    }

    /// Hands the bytes of a record to a system call, which alone may read them.
    func withBytes(
        _ header: RecordHeader,
        at offset: Int,
        _ body: (borrowing RawSpan) throws(SystemError) -> Void
    ) throws(SystemError) {
        precondition(offset >= 0 && header.recordSize <= mappedCount - offset)
        let bytes = unsafe UnsafeRawBufferPointer(start: base + offset, count: header.recordSize)
        try body(unsafe bytes.bytes)
    }
}
