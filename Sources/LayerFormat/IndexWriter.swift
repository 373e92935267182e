internal import CShims
internal import OCIModel
internal import PosixIO

/// Lays an index file out in memory: sections of known sizes, then header and checksums.
struct IndexWriter: ~Copyable {
    private var bytes: UniqueBytes
    private let kind: IndexLayout.Kind
    private let sections: [Range<Int>]

    /// - Parameter sizes: bytes of each section that there is, without the checksums.
    init(_ kind: IndexLayout.Kind, sizes: [IndexLayout.Section: Int]) throws(LayerFormatError) {
        var sections: [Range<Int>] = []
        var end = IndexLayout.headerBytes
        for section in IndexLayout.Section.allCases {
            let start = (end + IndexLayout.sectionAlignment - 1) & ~(IndexLayout.sectionAlignment - 1)
            let blocks = (start + IndexLayout.blockBytes - 1) / IndexLayout.blockBytes
            let size = section == .checksums ? blocks * 4 : sizes[section] ?? 0
            sections.append(start..<start + size)
            end = start + size
        }
        guard let bytes = UniqueBytes(trying: end) else {
            throw LayerFormatError(.system, "no memory for an index of \(end) bytes")
        }
        self.bytes = bytes
        self.kind = kind
        self.sections = sections
        // Sections are written whole by whoever fills them; the header and what lies between sections is zero.
        unsafe self.bytes.withUnsafeMutableBytes { buffer in
            var gap = 0
            for section in sections {
                for index in gap..<section.lowerBound { unsafe buffer[index] = 0 }
                gap = section.upperBound
            }
        }
    }

    /// Calls `body` with the bytes of a section, for writing.
    mutating func withSection(_ section: IndexLayout.Section, _ body: (UnsafeMutableRawBufferPointer) -> Void) {
        let range = sections[section.rawValue]
        unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe body(UnsafeMutableRawBufferPointer(rebasing: buffer[range]))
        }
    }

    /// Writes header and checksums.
    consuming func finish(_ header: IndexHeader) -> UniqueBytes {
        let table = sections[IndexLayout.Section.checksums.rawValue]
        let sections = sections
        let kind = kind
        unsafe bytes.withUnsafeMutableBytes { buffer in
            for block in 0..<table.count / 4 {
                let range = IndexBlocks.range(block, endingBefore: table.lowerBound)
                let checksum = unsafe IndexBlocks.checksum(UnsafeRawBufferPointer(rebasing: buffer[range]))
                unsafe buffer.storeBytes(of: checksum, toByteOffset: table.lowerBound + block * 4, as: UInt32.self)
            }
            unsafe IndexWriter.store(header, kind, sections, in: buffer)
            let tableChecksum = unsafe IndexBlocks.checksum(UnsafeRawBufferPointer(rebasing: buffer[table]))
            unsafe buffer.storeBytes(of: tableChecksum, toByteOffset: IndexLayout.tableChecksumAt, as: UInt32.self)
            let head = unsafe UnsafeRawBufferPointer(rebasing: buffer[..<IndexLayout.headerChecksumAt])
            let headChecksum = unsafe IndexBlocks.checksum(head)
            unsafe buffer.storeBytes(of: headChecksum, toByteOffset: IndexLayout.headerChecksumAt, as: UInt32.self)
        }
        return bytes
    }

    private static func store(
        _ header: IndexHeader,
        _ kind: IndexLayout.Kind,
        _ sections: [Range<Int>],
        in buffer: UnsafeMutableRawBufferPointer
    ) {
        func put<T: BitwiseCopyable>(_ value: T, _ at: Int) {
            // SAFETY: every position of the layout lies inside of the header.
            unsafe buffer.storeBytes(of: value, toByteOffset: at, as: T.self)
        }
        put(IndexLayout.magic, 0)
        put(IndexLayout.version, IndexLayout.versionAt)
        put(kind.rawValue, IndexLayout.kindAt)
        put(UInt64(buffer.count), IndexLayout.fileBytesAt)
        put(header.recordCount, IndexLayout.recordCountAt)
        put(header.chunkCount, IndexLayout.chunkCountAt)
        put(header.externalLinkCount, IndexLayout.externalLinkCountAt)
        put(header.layerCount, IndexLayout.layerCountAt)
        put(header.layerDigest.words, IndexLayout.layerDigestAt)
        put(header.tocDigest.words, IndexLayout.tocDigestAt)
        put(header.blobSize, IndexLayout.blobSizeAt)
        put(header.tocOffset, IndexLayout.tocOffsetAt)
        put(header.prefetchEnd, IndexLayout.prefetchEndAt)
        put(header.tocFrameDigest.words, IndexLayout.tocFrameDigestAt)
        put(header.format, IndexLayout.formatAt)
        put(header.flags, IndexLayout.flagsAt)
        for section in IndexLayout.Section.allCases {
            let at = IndexLayout.sectionsAt + section.rawValue * 16
            put(UInt64(sections[section.rawValue].lowerBound), at)
            put(UInt64(sections[section.rawValue].count), at + 8)
        }
    }
}

/// The blocks that have a checksum each: 64 KiB of the file, the first without the header, the last up to the table.
enum IndexBlocks {
    /// The bytes of the file that a block's checksum covers.
    static func range(_ block: Int, endingBefore end: Int) -> Range<Int> {
        let start = block * IndexLayout.blockBytes
        return max(
            start,
            IndexLayout.headerBytes
        )..<max(IndexLayout.headerBytes, min(start + IndexLayout.blockBytes, end))
    }

    /// CRC-32 of RFC 1952.
    static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        unsafe libdeflate_crc32(0, bytes.baseAddress, bytes.count)
    }
}
