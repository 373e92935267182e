public import OCIModel
public import PosixIO

/// A layer's index: nodes in directory order, names, chunks, xattrs in one read-only mapping. Record 0 is the root.
/// What the layer view shows is what is in it: whiteouts are character devices, landmarks and the TOC file are left out.
///
/// Every accessor traps on a record or chunk number that is out of range, and never on what the file holds. Files up to
/// 16 MiB are checked whole when they are opened; of larger ones each 64 KiB block is checked when it is first touched
/// (docs/layer-index.md). What comes from a block whose checksum does not hold, or lies outside of the file, is replaced
/// by a safe value (no name, no children, no chunks, a regular file of size 0), and `isDamaged` is true from then on:
/// whoever opened the index must look at it after a look-up that found nothing, and build the index anew.
///
/// Safe on any number of threads; no accessor allocates but `path`.
public final class LayerIndex: Sendable {
    let file: IndexFile
    let rootRecord: NodeRecord
    /// The format of the layer.
    public let format: IndexFormat

    /// Opens an index file: open, mmap, header check, and block checks for files up to 16 MiB. `.staleIndex` when it must
    /// be built anew, `.system` when it cannot be opened (there is none, …).
    public convenience init(path: String, layer: Digest) throws(LayerFormatError) {
        try self.init(IndexFile(path: path, kind: .layer), layer)
    }

    /// Takes an index that is in memory (as `LayerIndexBuilder` gives it).
    public convenience init(bytes: SharedBytes, layer: Digest) throws(LayerFormatError) {
        try self.init(IndexFile(bytes: bytes, kind: .layer), layer)
    }

    init(_ file: consuming IndexFile, _ layer: Digest) throws(LayerFormatError) {
        guard file.header.layerDigest == layer else {
            throw LayerFormatError(.staleIndex, "the index file must be built anew: it is of another layer")
        }
        guard let root = file.record(.nodes, 0, NodeRecord.self), root.isDirectory else {
            throw LayerFormatError(.staleIndex, "the index file must be built anew: its root is not a directory")
        }
        guard let format = IndexFormat(rawValue: file.header.format) else {
            throw LayerFormatError(.staleIndex, "the index file must be built anew: it is of an unknown layer format")
        }
        self.file = file
        self.format = format
        rootRecord = root
    }

    // MARK: Layer

    /// The layer's blob digest.
    public var layerDigest: Digest { file.header.layerDigest }
    /// The layer's blob size in bytes.
    public var blobSize: UInt64 { file.header.blobSize }
    /// Where the TOC's member or frame starts in the blob, or the footer where the TOC is elsewhere: payloads end before it.
    public var tocOffset: UInt64 { file.header.tocOffset }
    /// SHA-256 of the TOC JSON.
    public var tocDigest: Digest { file.header.tocDigest }
    /// SHA-256 of the compressed TOC; nil but for zstd:chunked.
    public var tocFrameDigest: Digest? { format == .zstdChunked ? file.header.tocFrameDigest : nil }
    /// Whether every chunk that is stored has a digest.
    public var hasAllDigests: Bool { file.header.flags & IndexHeader.hasAllDigests != 0 }
    /// Bytes of the blob before `.prefetch.landmark`; 0 with `.no.prefetch.landmark`; nil with neither.
    public var prefetchEnd: UInt64? {
        file.header.prefetchEnd == .max ? nil : file.header.prefetchEnd
    }
    /// Whether any record has xattrs.
    public var hasXattrs: Bool { file.byteCount(of: .xattrs) > 0 }
    /// How many node records there are; record numbers are below it.
    public var recordCount: Int { Int(file.header.recordCount) }
    /// How many chunks there are; chunk numbers are below it.
    public var chunkCount: Int { Int(file.header.chunkCount) }
    /// How large the index is, in bytes.
    public var byteCount: Int { file.count }
    /// Whether something in the index file contradicted its checksums or its bounds since it was opened.
    public var isDamaged: Bool { file.isDamaged }

    /// Makes the index count as damaged: what it says was proved wrong.
    public func refute() { file.markDamaged() }

    /// Calls `body` with all bytes of the index file.
    public func withBytes<R>(_ body: (borrowing RawSpan) -> R) -> R { file.withBytes(body) }

    /// Throws `.staleIndex` when a block's checksum does not hold, or something was found damaged before. Reads the whole
    /// file.
    public func verifyAllBlocks() throws(LayerFormatError) {
        try file.verifyAllBlocks()
    }

    // MARK: Nodes

    /// A record's own node, whatever inode it has; a regular file of size 0 stands in for a damaged one.
    @inline(__always)
    func node(_ record: UInt32) -> NodeRecord {
        precondition(record < file.header.recordCount, "record out of range")
        return file.record(.nodes, Int(record), NodeRecord.self) ?? .damaged(record)
    }

    /// The node of a record's inode.
    @inline(__always)
    func inodeNode(_ record: UInt32) -> NodeRecord {
        let node = node(record)
        if node.inode == record { return node }
        guard node.inode < file.header.recordCount else {
            file.markDamaged()
            return .damaged(record)
        }
        return self.node(node.inode)
    }

    /// The attributes of a record's inode.
    public func attributes(_ record: UInt32) -> NodeAttributes {
        let node = inodeNode(record)
        let mode = UInt32(node.mode)
        let type = mode & FileType.mask
        return NodeAttributes(
            mode: mode,
            uid: node.uid,
            gid: node.gid,
            linkCount: node.linkCount,
            size: node.size,
            mtimeSeconds: node.mtimeSeconds,
            mtimeNanoseconds: node.mtimeNanoseconds,
            device: type == FileType.character || type == FileType.block ? node.content : 0,
            flags: NodeFlags(rawValue: node.flags)
        )
    }

    /// The inode's record for a name's record: hard links have that of the inode's first name, all else its own.
    public func inode(_ record: UInt32) -> UInt32 {
        let inode = node(record).inode
        guard inode < file.header.recordCount else {
            file.markDamaged()
            return record
        }
        return inode
    }

    /// The record of the directory that holds the name; the root's own for the root.
    public func parent(_ record: UInt32) -> UInt32 {
        let parent = node(record).parent
        // Parents come before their children; so whoever walks up gets to the root.
        guard parent < record || record == 0 && parent == 0 else {
            file.markDamaged()
            return 0
        }
        return parent
    }

    /// The name's bytes, without terminator; empty for the root. Valid while the index lives.
    @_lifetime(borrow self)
    public func name(_ record: UInt32) -> RawSpan {
        let node = node(record)
        return span(.names, Int(node.name), Int(node.nameCount))
    }

    /// Records of a directory's names, contiguous and sorted bytewise; empty for anything else.
    public func children(_ directory: UInt32) -> Range<UInt32> {
        let node = directory == 0 ? rootRecord : node(directory)
        guard node.isDirectory else { return 0..<0 }
        let children = range(node.content, below: file.header.recordCount)
        // Children come after their parents; so whoever walks down gets to the leaves.
        guard children.isEmpty || children.lowerBound > directory else {
            file.markDamaged()
            return 0..<0
        }
        return children
    }

    /// The record of a name in a directory, by binary search; nil when the name is not there.
    public func lookup(_ name: borrowing RawSpan, in directory: UInt32) -> UInt32? {
        let children = children(directory)
        return unsafe name.withUnsafeBytes { bytes in
            unsafe file.search(
                bytes,
                children,
                stride: NodeRecord.byteCount,
                nameAt: NodeRecord.nameAt,
                nameCountAt: NodeRecord.nameCountAt
            )
        }
    }

    /// A symlink's target; empty for anything else.
    @_lifetime(borrow self)
    public func linkTarget(_ record: UInt32) -> RawSpan {
        let node = inodeNode(record)
        let isGood = node.isSymlink && node.size <= UInt64(FormatLimit.pathBytes) && node.content <= UInt64(UInt32.max)
        if node.isSymlink && !isGood { file.markDamaged() }
        return span(.names, isGood ? Int(node.content) : 0, isGood ? Int(node.size) : 0)
    }

    /// `/`-joined path of a record, for messages; control characters and what is not UTF-8 are replaced.
    public func path(_ record: UInt32) -> String {
        var parts: [String] = []
        var current = record
        while current != 0 {
            parts.append(unsafe name(current).withUnsafeBytes { unsafe String(decoding: $0, as: UTF8.self) })
            current = parent(current)
        }
        return parts.reversed().joined(separator: "/")
    }

    // MARK: Xattrs

    /// Calls `body` with the xattrs of a record's inode, in the order of the TOC, until it returns false.
    /// `trusted.overlay.*` and `user.overlay.*` are never among them.
    public func forEachXattr(
        _ record: UInt32,
        _ body: (_ name: borrowing RawSpan, _ value: borrowing RawSpan) -> Bool
    ) {
        let node = inodeNode(record)
        guard node.xattrs != .max else { return }
        var cursor = XattrCursor(at: Int(node.xattrs), in: file)
        while let xattr = cursor.next(in: file) {
            guard body(span(.xattrs, xattr.nameAt, xattr.nameCount), span(.xattrs, xattr.valueAt, xattr.valueCount))
            else { return }
        }
    }

    /// The value of one xattr of a record's inode; nil when it has none of that name.
    @_lifetime(borrow self)
    public func xattr(_ record: UInt32, _ name: borrowing RawSpan) -> RawSpan? {
        let node = inodeNode(record)
        guard node.xattrs != .max else { return nil }
        var cursor = XattrCursor(at: Int(node.xattrs), in: file)
        while let xattr = cursor.next(in: file) {
            guard xattr.nameCount == name.byteCount, isSame(span(.xattrs, xattr.nameAt, xattr.nameCount), name)
            else { continue }
            return span(.xattrs, xattr.valueAt, xattr.valueCount)
        }
        return nil
    }

    // MARK: Chunks

    /// Chunks of a record's regular file by file offset, gap-free from 0 to its size; empty for an empty file and for
    /// anything else.
    public func chunks(_ record: UInt32) -> Range<UInt32> {
        let node = inodeNode(record)
        guard node.isRegular else { return 0..<0 }
        return range(node.content, below: file.header.chunkCount)
    }

    /// One chunk. A damaged one has length 0.
    public func chunk(_ index: UInt32) -> Chunk {
        let stored = chunkRecord(index)
        var member = ByteRange(offset: 0, count: 0)
        if stored.memberOffset <= blobSize, UInt64(stored.memberCount) <= blobSize - stored.memberOffset {
            member = ByteRange(offset: stored.memberOffset, count: UInt64(stored.memberCount))
        } else {
            file.markDamaged()
        }
        return Chunk(
            member: member,
            innerOffset: UInt64(stored.innerOffset),
            fileOffset: stored.fileOffset,
            length: stored.lengthAndFlags & ChunkRecord.lengthMask,
            digest: stored.lengthAndFlags & ChunkRecord.hasDigest != 0 ? Digest(words: stored.digest) : nil,
            record: stored.record < file.header.recordCount ? stored.record : 0,
            isZeros: stored.lengthAndFlags & ChunkRecord.isZeros != 0
        )
    }

    /// The chunk of a file that holds the byte at `offset`, which must be below its size.
    public func chunkIndex(_ record: UInt32, at offset: UInt64) -> UInt32 {
        let range = chunks(record)
        precondition(!range.isEmpty || file.isDamaged, "the file has no chunks")
        // The last chunk that starts at or before the offset.
        var low = range.lowerBound
        var high = range.upperBound
        while high - low > 1 {
            let middle = low + (high - low) / 2
            if chunkRecord(middle).fileOffset <= offset { low = middle } else { high = middle }
        }
        return low
    }

    /// Chunks in blob order: position -> chunk, for neighbours of a member and for prefetch.
    public func chunkInBlobOrder(_ position: Int) -> UInt32 {
        precondition(position >= 0 && position < chunkCount, "position out of range")
        guard let chunk = file.record(.blobOrder, position, UInt32.self), chunk < file.header.chunkCount else {
            file.markDamaged()
            return 0
        }
        return chunk
    }

    /// The first position in blob order whose member starts at or after `offset`; `chunkCount` when there is none.
    public func blobPosition(atOrAfter offset: UInt64) -> Int {
        var low = 0
        var high = chunkCount
        while low < high {
            let middle = low + (high - low) / 2
            if chunkRecord(chunkInBlobOrder(middle)).memberOffset < offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    // MARK: Parts

    @inline(__always)
    private func chunkRecord(_ index: UInt32) -> ChunkRecord {
        precondition(index < file.header.chunkCount, "chunk out of range")
        return file.record(.chunks, Int(index), ChunkRecord.self) ?? .damaged
    }

    /// First number and count, packed; empty where they lead outside.
    @inline(__always)
    private func range(_ packed: UInt64, below end: UInt32) -> Range<UInt32> {
        let first = UInt32(truncatingIfNeeded: packed)
        let count = UInt32(truncatingIfNeeded: packed >> 32)
        guard first <= end, count <= end - first else {
            file.markDamaged()
            return 0..<0
        }
        return first..<first + count
    }

    @_lifetime(borrow self)
    private func span(_ section: IndexLayout.Section, _ offset: Int, _ byteCount: Int) -> RawSpan {
        // SAFETY: the bytes live as long as the file, which lives as long as `self`.
        let bytes = unsafe file.bytes(section, offset, byteCount) ?? UnsafeRawBufferPointer(start: nil, count: 0)
        let span = unsafe RawSpan(_unsafeBytes: bytes)
        return unsafe _overrideLifetime(span, borrowing: self)
    }
}

/// Whether two runs of bytes are the same.
func isSame(_ a: borrowing RawSpan, _ b: borrowing RawSpan) -> Bool {
    unsafe a.withUnsafeBytes { a in
        unsafe b.withUnsafeBytes { b in unsafe a.elementsEqual(b) }
    }
}

/// Goes through a list of xattrs (see `XattrList`) in an index file.
struct XattrCursor {
    struct Xattr {
        var nameAt: Int
        var nameCount: Int
        var valueAt: Int
        var valueCount: Int
    }
    private var at: Int
    private var left: UInt32

    init(at start: Int, in file: borrowing IndexFile) {
        left = 0
        at = start + 4
        if let count = unsafe file.bytes(.xattrs, start, 4) {
            left = unsafe count.loadUnaligned(as: UInt32.self)
        }
    }

    /// The next xattr; nil at the end of the list, or where it leads outside of the file.
    mutating func next(in file: borrowing IndexFile) -> Xattr? {
        guard left > 0, let head = unsafe file.bytes(.xattrs, at, 6) else { return nil }
        left -= 1
        let nameCount = unsafe Int(head.loadUnaligned(as: UInt16.self))
        let valueCount = unsafe Int(head.loadUnaligned(fromByteOffset: 2, as: UInt32.self))
        let xattr = Xattr(nameAt: at + 6, nameCount: nameCount, valueAt: at + 6 + nameCount, valueCount: valueCount)
        at = xattr.valueAt + valueCount
        // Whether name and value are inside of the file.
        guard unsafe file.bytes(.xattrs, xattr.nameAt, nameCount + valueCount) != nil else { return nil }
        return xattr
    }
}

extension NodeRecord {
    /// Stands in for a record whose block is damaged.
    static func damaged(_ record: UInt32) -> NodeRecord {
        NodeRecord(Inode(mode: UInt16(FileType.regular)), parent: 0, name: 0, nameCount: 0, record: record)
    }
}

extension ChunkRecord {
    /// Stands in for a record whose block is damaged.
    static let damaged = ChunkRecord(
        memberOffset: 0,
        fileOffset: 0,
        memberCount: 0,
        innerOffset: 0,
        lengthAndFlags: 0,
        record: 0,
        digest: (0, 0, 0, 0)
    )
}
