internal import CShims
internal import Glibc
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// An index file in memory or mapped: header and bounds checked when it is opened, its blocks then or at first touch.
///
/// Accessors of a damaged index never fail: they give a value that is safe and mark the index damaged.
@safe
struct IndexFile: ~Copyable, @unchecked Sendable {
    // SAFETY: `base` points to `count` immutable bytes that `mapping` or `memory` keeps alive; the bitmap is atomic.
    private let base: UnsafeRawPointer
    let count: Int
    private let mapping: Mapping?
    private let memory: SharedBytes?
    let header: IndexHeader
    private let offsets: InlineArray<8, Int>
    private let sizes: InlineArray<8, Int>
    /// One bit for each block whose checksum held; nil when all did at the start.
    private let verified: UnsafeMutablePointer<Atomic<UInt64>>?
    private let wordCount: Int
    private let damaged = Atomic<Bool>(false)

    /// Files up to this size are checked whole when they are opened: CRC-32 runs at more than 10 GB/s.
    static let eagerLimit = 16 << 20

    init(path: String, kind: IndexLayout.Kind, eagerLimit: Int = IndexFile.eagerLimit) throws(LayerFormatError) {
        let mapping = try IndexFile.map(path)
        let base = unsafe mapping.base
        try unsafe self.init(base, mapping.count, mapping, nil, kind, eagerLimit)
    }

    init(bytes: SharedBytes, kind: IndexLayout.Kind, eagerLimit: Int = IndexFile.eagerLimit) throws(LayerFormatError) {
        try unsafe self.init(bytes.base, bytes.count, nil, bytes, kind, eagerLimit)
    }

    private init(
        _ base: UnsafeRawPointer,
        _ count: Int,
        _ mapping: consuming Mapping?,
        _ memory: SharedBytes?,
        _ kind: IndexLayout.Kind,
        _ eagerLimit: Int
    ) throws(LayerFormatError) {
        let bytes = unsafe UnsafeRawBufferPointer(start: base, count: count)
        var offsets = InlineArray<8, Int>(repeating: 0)
        var sizes = InlineArray<8, Int>(repeating: 0)
        let header = try unsafe IndexFile.readHeader(bytes, kind, &offsets, &sizes)
        let table = IndexLayout.Section.checksums.rawValue
        let blocks = sizes[table] / 4
        let isEager = count <= eagerLimit
        if isEager {
            for block in 0..<blocks {
                guard unsafe IndexFile.holds(block, bytes, offsets[table]) else {
                    throw IndexFile.stale("the checksum of block \(block) does not hold")
                }
            }
        }
        unsafe self.base = base
        self.count = count
        self.mapping = mapping
        self.memory = memory
        self.header = header
        self.offsets = offsets
        self.sizes = sizes
        wordCount = isEager ? 0 : (blocks + 63) / 64
        unsafe verified = IndexFile.bitmap(words: wordCount)
    }

    private static func map(_ path: String) throws(LayerFormatError) -> Mapping {
        do throws(SystemError) {
            return try Mapping(try Descriptor.open(path))
        } catch {
            // An empty file cannot be mapped.
            if error.code == EINVAL { throw stale("it is empty") }
            throw LayerFormatError(.system, "the index cannot be opened: \(error)")
        }
    }

    private static func bitmap(words: Int) -> UnsafeMutablePointer<Atomic<UInt64>>? {
        guard words > 0 else { return nil }
        let bitmap = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: words)
        for word in 0..<words { unsafe (bitmap + word).initialize(to: Atomic(0)) }
        return unsafe bitmap
    }

    deinit {
        if let verified = unsafe verified {
            unsafe verified.deinitialize(count: wordCount)
            unsafe verified.deallocate()
        }
    }

    // MARK: Header

    private static func stale(_ why: String) -> LayerFormatError {
        LayerFormatError(.staleIndex, "the index file must be built anew: \(why)")
    }

    private static func readHeader(
        _ bytes: UnsafeRawBufferPointer,
        _ kind: IndexLayout.Kind,
        _ offsets: inout InlineArray<8, Int>,
        _ sizes: inout InlineArray<8, Int>
    ) throws(LayerFormatError) -> IndexHeader {
        guard bytes.count >= IndexLayout.headerBytes else { throw stale("it is too short") }
        func get<T: BitwiseCopyable>(_ at: Int, _: T.Type) -> T {
            // SAFETY: every position of the layout lies inside of the header, which is there.
            unsafe bytes.loadUnaligned(fromByteOffset: at, as: T.self)
        }
        guard get(0, UInt64.self) == IndexLayout.magic else { throw stale("it is not an index") }
        guard get(IndexLayout.versionAt, UInt32.self) == IndexLayout.version else {
            throw stale("it is of another version of crfs")
        }
        let head = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<IndexLayout.headerChecksumAt])
        guard unsafe IndexBlocks.checksum(head) == get(IndexLayout.headerChecksumAt, UInt32.self) else {
            throw stale("the header's checksum does not hold")
        }
        guard get(IndexLayout.kindAt, UInt32.self) == kind.rawValue else { throw stale("it is of another kind") }
        guard get(IndexLayout.fileBytesAt, UInt64.self) == UInt64(bytes.count) else { throw stale("its size is wrong") }
        for section in 0..<8 {
            let offset = get(IndexLayout.sectionsAt + section * 16, UInt64.self)
            let size = get(IndexLayout.sectionsAt + section * 16 + 8, UInt64.self)
            guard offset % UInt64(IndexLayout.sectionAlignment) == 0, offset >= UInt64(IndexLayout.headerBytes),
                offset <= UInt64(bytes.count), size <= UInt64(bytes.count) - offset
            else { throw stale("a section lies outside of it") }
            offsets[section] = Int(offset)
            sizes[section] = Int(size)
        }
        let header = IndexHeader(
            recordCount: get(IndexLayout.recordCountAt, UInt32.self),
            chunkCount: get(IndexLayout.chunkCountAt, UInt32.self),
            externalLinkCount: get(IndexLayout.externalLinkCountAt, UInt32.self),
            layerCount: get(IndexLayout.layerCountAt, UInt32.self),
            layerDigest: Digest(words: get(IndexLayout.layerDigestAt, (UInt64, UInt64, UInt64, UInt64).self)),
            tocDigest: Digest(words: get(IndexLayout.tocDigestAt, (UInt64, UInt64, UInt64, UInt64).self)),
            blobSize: get(IndexLayout.blobSizeAt, UInt64.self),
            tocOffset: get(IndexLayout.tocOffsetAt, UInt64.self),
            prefetchEnd: get(IndexLayout.prefetchEndAt, UInt64.self),
            tocFrameDigest: Digest(words: get(IndexLayout.tocFrameDigestAt, (UInt64, UInt64, UInt64, UInt64).self)),
            format: get(IndexLayout.formatAt, UInt32.self),
            flags: get(IndexLayout.flagsAt, UInt32.self)
        )
        try check(header, kind, sizes)
        let table = IndexLayout.Section.checksums.rawValue
        let blocks = (offsets[table] + IndexLayout.blockBytes - 1) / IndexLayout.blockBytes
        guard sizes[table] == blocks * 4 else { throw stale("its checksums are incomplete") }
        for section in 0..<table where offsets[section] + sizes[section] > offsets[table] {
            throw stale("a section lies behind the checksums")
        }
        let tableBytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[offsets[table]..<offsets[table] + sizes[table]])
        guard unsafe IndexBlocks.checksum(tableBytes) == get(IndexLayout.tableChecksumAt, UInt32.self) else {
            throw stale("the checksum of its checksums does not hold")
        }
        return header
    }

    /// The counts must be what the sections hold, so that a record number below its count is inside of the file.
    private static func check(
        _ header: IndexHeader,
        _ kind: IndexLayout.Kind,
        _ sizes: InlineArray<8, Int>
    ) throws(LayerFormatError) {
        func holds(_ section: IndexLayout.Section, _ count: UInt32, _ byteCount: Int) -> Bool {
            sizes[section.rawValue] == Int(count) * byteCount
        }
        let node = kind == .layer ? NodeRecord.byteCount : ImageRecord.byteCount
        guard header.recordCount > 0, holds(.nodes, header.recordCount, node),
            holds(.chunks, header.chunkCount, ChunkRecord.byteCount), holds(.blobOrder, header.chunkCount, 4),
            holds(.externalLinks, header.externalLinkCount, ExternalLinkRecord.byteCount),
            holds(.layers, header.layerCount, LayerRecord.byteCount)
        else { throw stale("its counts contradict its sections") }
    }

    // MARK: Blocks

    private static func holds(_ block: Int, _ bytes: UnsafeRawBufferPointer, _ table: Int) -> Bool {
        let range = IndexBlocks.range(block, endingBefore: table)
        let expected = unsafe bytes.loadUnaligned(fromByteOffset: table + block * 4, as: UInt32.self)
        return unsafe IndexBlocks.checksum(UnsafeRawBufferPointer(rebasing: bytes[range])) == expected
    }

    /// Whether something in the file contradicted its checksums or its bounds.
    var isDamaged: Bool { damaged.load(ordering: .relaxed) }

    /// Marks the index damaged.
    func markDamaged() {
        damaged.store(true, ordering: .relaxed)
    }

    /// Checks all blocks anew.
    func verifyAllBlocks() throws(LayerFormatError) {
        let bytes = unsafe UnsafeRawBufferPointer(start: base, count: count)
        let table = IndexLayout.Section.checksums.rawValue
        for block in 0..<sizes[table] / 4 {
            guard unsafe IndexFile.holds(block, bytes, offsets[table]) else {
                markDamaged()
                throw IndexFile.stale("the checksum of block \(block) does not hold")
            }
        }
        if isDamaged { throw IndexFile.stale("it contradicts itself") }
    }

    /// Whether the blocks that hold these bytes of the file are good; checks those that were not touched yet.
    @inline(__always)
    private func isGood(_ offset: Int, _ byteCount: Int) -> Bool {
        guard let verified = unsafe verified else { return true }
        return unsafe checkBlocks(offset, byteCount, verified)
    }

    private func checkBlocks(_ offset: Int, _ byteCount: Int, _ verified: UnsafeMutablePointer<Atomic<UInt64>>) -> Bool
    {
        let first = offset / IndexLayout.blockBytes
        let last = (offset + max(byteCount, 1) - 1) / IndexLayout.blockBytes
        for block in first...last {
            // SAFETY: the caller's bytes lie inside of the sections, and each of those blocks has its bit.
            let word = unsafe verified + block / 64
            let bit: UInt64 = 1 << UInt64(block % 64)
            if unsafe word.pointee.load(ordering: .acquiring) & bit != 0 { continue }
            let bytes = unsafe UnsafeRawBufferPointer(start: base, count: count)
            guard unsafe IndexFile.holds(block, bytes, offsets[IndexLayout.Section.checksums.rawValue]) else {
                markDamaged()
                return false
            }
            _ = unsafe word.pointee.bitwiseOr(bit, ordering: .releasing)
        }
        return true
    }

    // MARK: Reading

    /// Bytes of a section.
    @inline(__always)
    func byteCount(of section: IndexLayout.Section) -> Int {
        sizes[section.rawValue]
    }

    /// The record at an index that the caller has checked against the section's count; nil when its block is damaged.
    @inline(__always)
    func record<T: BitwiseCopyable>(_ section: IndexLayout.Section, _ index: Int, _: T.Type) -> T? {
        let at = offsets[section.rawValue] + index * MemoryLayout<T>.stride
        guard isGood(at, MemoryLayout<T>.size) else { return nil }
        // SAFETY: section sizes are counts times strides (checked at open), and sections are aligned for every record.
        return unsafe base.load(fromByteOffset: at, as: T.self)
    }

    /// Some bytes of a section; nil when they are outside of it or their block is damaged.
    @inline(__always)
    func bytes(_ section: IndexLayout.Section, _ offset: Int, _ byteCount: Int) -> UnsafeRawBufferPointer? {
        let size = sizes[section.rawValue]
        guard offset >= 0, byteCount >= 0, offset <= size, byteCount <= size - offset else {
            markDamaged()
            return nil
        }
        let at = offsets[section.rawValue] + offset
        guard byteCount == 0 || isGood(at, byteCount) else { return nil }
        return unsafe UnsafeRawBufferPointer(start: base + at, count: byteCount)
    }

    /// Binary search for a name among `range` records of the nodes section, whose names are sorted bytewise.
    ///
    /// - Parameters:
    ///   - range: record numbers below the section's count.
    ///   - stride: the size of a record; its name's place and length stand at `nameAt` and `nameCountAt`.
    @inline(__always)
    func search(
        _ name: UnsafeRawBufferPointer,
        _ range: Range<UInt32>,
        stride: Int,
        nameAt: Int,
        nameCountAt: Int
    ) -> UInt32? {
        guard name.count > 0, name.count <= FormatLimit.nameBytes, let wanted = name.baseAddress else { return nil }
        var low = range.lowerBound
        var high = range.upperBound
        while low < high {
            let middle = low + (high - low) / 2
            let at = offsets[IndexLayout.Section.nodes.rawValue] + Int(middle) * stride
            guard isGood(at, stride) else { return nil }
            // SAFETY: the record number is below the count, so the record is inside of the section.
            let start = unsafe Int(base.load(fromByteOffset: at + nameAt, as: UInt32.self))
            let count = unsafe Int(base.load(fromByteOffset: at + nameCountAt, as: UInt8.self))
            guard let other = unsafe bytes(.names, start, count) else { return nil }
            var order = 0
            if let found = other.baseAddress {
                // SAFETY: both have at least the lesser of the two counts.
                order = unsafe Int(memcmp(found, wanted, min(count, name.count)))
            }
            if order == 0 { order = count - name.count }
            if order == 0 { return middle }
            if order < 0 { low = middle + 1 } else { high = middle }
        }
        return nil
    }
}
