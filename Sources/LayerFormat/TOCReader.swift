internal import CShims
internal import Glibc
internal import OCIModel

/// Takes a TOC's entries, in their order, and builds the layer's tree and chunks from them (spec section 3).
struct TOCReader {
    var tree: TreeBuilder
    /// Why the walk was stopped.
    private(set) var failure: LayerFormatError?
    /// Every place in the blob where an entry's data starts: they bound the members.
    private(set) var memberStarts: [UInt64] = []
    /// Where the data of files ends, as far as the TOC says so: these bound members too.
    private(set) var ends: [UInt64] = []
    /// Where the TOC starts: payloads end before it.
    let tocOffset: UInt64

    private var file: OpenFile?
    /// The name of `file` where it has several chunks, for errors: the walk's own bytes may be gone when it is closed.
    private var fileName: [UInt8] = []
    /// The modtime of the entry before: neighbours often have the same.
    private var lastTimeText: [UInt8] = []
    private var lastTime = Timestamp(seconds: 0, nanoseconds: 0)

    /// A regular file whose `chunk` entries may follow.
    private struct OpenFile {
        var inode: UInt32
        var size: UInt64
        var firstChunk: Int
    }

    /// - Parameters:
    ///   - tocOffset: where the TOC starts in the blob.
    ///   - jsonBytes: how long the JSON is.
    init(tocOffset: UInt64, jsonBytes: Int) {
        self.tocOffset = tocOffset
        // An entry takes about 400 bytes of JSON.
        let expected = jsonBytes / 400
        tree = TreeBuilder(expecting: expected)
        memberStarts.reserveCapacity(expected)
    }

    /// Takes one entry; false when the walk must stop, with the reason in `failure`.
    mutating func take(_ entry: UnsafePointer<crfs_toc_entry>) -> Bool {
        do throws(LayerFormatError) {
            try unsafe add(entry)
            return true
        } catch {
            failure = error
            return false
        }
    }

    /// Call after the last entry.
    mutating func finish() throws(LayerFormatError) {
        try closeFile()
        tree.noteDroppedXattrs()
    }

    // MARK: Entries

    private enum EntryType {
        case directory, regular, symlink, hardLink, character, block, fifo, chunk
    }

    private mutating func add(_ entry: UnsafePointer<crfs_toc_entry>) throws(LayerFormatError) {
        guard let type = unsafe TOCReader.type(entry.pointee.type) else {
            throw unsafe fail(entry, "has the type \(describe(entry.pointee.type)), which crfs does not know")
        }
        if type == .chunk {
            try unsafe addChunk(entry)
            return
        }
        try closeFile()
        let offset = unsafe entry.pointee.offset
        if offset > 0 { noteMember(offset) }
        if type == .hardLink {
            guard let target = unsafe entry.pointee.link_name.buffer, target.count > 0 else {
                throw unsafe fail(entry, "is a hard link without a target")
            }
            guard let name = unsafe entry.pointee.name.buffer else { throw unsafe fail(entry, "has no name") }
            try unsafe tree.link(name, to: target)
            return
        }
        let inode = UInt32(tree.inodes.count)
        tree.inodes.append(try unsafe attributes(entry, type))
        if type == .regular { try unsafe openFile(entry, inode: inode) }
        // What follows a file's last chunk are headers: they are not fetched with it.
        let end = unsafe entry.pointee.end_offset
        if end > offset { ends.append(end) }
        guard let name = unsafe entry.pointee.name.buffer else { throw unsafe fail(entry, "has no name") }
        try unsafe tree.place(name, inode: inode)
    }

    private static func type(_ text: crfs_toc_text) -> EntryType? {
        guard let bytes = unsafe text.buffer else { return nil }
        func `is`(_ name: StaticString) -> Bool {
            // SAFETY: the lengths are compared first.
            guard bytes.count == name.utf8CodeUnitCount, let base = bytes.baseAddress else { return false }
            return unsafe memcmp(base, name.utf8Start, bytes.count) == 0
        }
        if `is`("reg") { return .regular }
        if `is`("dir") { return .directory }
        if `is`("symlink") { return .symlink }
        if `is`("hardlink") { return .hardLink }
        if `is`("chunk") { return .chunk }
        if `is`("char") { return .character }
        if `is`("block") { return .block }
        if `is`("fifo") { return .fifo }
        return nil
    }

    /// Permission bits: a tar header's 07777, or those of Go's os.FileMode, which keeps the upper three elsewhere.
    private static func permissions(_ mode: UInt64) -> UInt32 {
        var bits = UInt32(truncatingIfNeeded: mode & 0o7777)
        if mode & 1 << 23 != 0 { bits |= 0o4000 }
        if mode & 1 << 22 != 0 { bits |= 0o2000 }
        if mode & 1 << 20 != 0 { bits |= 0o1000 }
        return bits
    }

    private mutating func attributes(
        _ entry: UnsafePointer<crfs_toc_entry>,
        _ type: EntryType
    ) throws(LayerFormatError) -> Inode {
        let mode = unsafe entry.pointee.mode
        let uid = unsafe entry.pointee.uid
        let gid = unsafe entry.pointee.gid
        guard mode <= UInt64(UInt32.max), uid <= UInt64(UInt32.max), gid <= UInt64(UInt32.max) else {
            throw unsafe fail(entry, "has a mode, uid or gid of more than 32 bits")
        }
        var inode = Inode(mode: UInt16(TOCReader.permissions(mode)))
        inode.uid = UInt32(uid)
        inode.gid = UInt32(gid)
        if let text = unsafe entry.pointee.modtime.buffer, text.count > 0 {
            if unsafe !isLastTime(text) {
                guard let time = unsafe TOCText.time(Span(_unsafeBytes: text)) else {
                    throw unsafe fail(entry, "has the modtime \(printable(text)), which is not an RFC 3339 time")
                }
                lastTime = time
                lastTimeText.removeAll(keepingCapacity: true)
                unsafe lastTimeText.append(contentsOf: text)
            }
            inode.mtimeSeconds = lastTime.seconds
            inode.mtimeNanoseconds = lastTime.nanoseconds
        }
        switch type {
        case .directory: inode.mode |= UInt16(FileType.directory)
        case .regular: inode.mode |= UInt16(FileType.regular)
        case .fifo: inode.mode |= UInt16(FileType.fifo)
        case .symlink:
            inode.mode |= UInt16(FileType.symlink)
            try unsafe addTarget(entry, &inode)
        case .character, .block:
            inode.mode |= UInt16(type == .block ? FileType.block : FileType.character)
            try unsafe addDevice(entry, &inode)
        case .hardLink, .chunk: break
        }
        if unsafe entry.pointee.xattr_count > 0 { try unsafe addXattrs(entry, &inode) }
        return inode
    }

    private func isLastTime(_ text: UnsafeRawBufferPointer) -> Bool {
        guard lastTimeText.count == text.count else { return false }
        return unsafe lastTimeText.withUnsafeBytes { unsafe compareNames($0, text) == 0 }
    }

    private mutating func addTarget(
        _ entry: UnsafePointer<crfs_toc_entry>,
        _ inode: inout Inode
    ) throws(LayerFormatError) {
        guard let target = unsafe entry.pointee.link_name.buffer, target.count > 0 else {
            throw unsafe fail(entry, "is a symlink without a target")
        }
        guard target.count < FormatLimit.pathBytes, unsafe target.firstIndex(of: 0) == nil else {
            throw unsafe fail(entry, "is a symlink whose target has a NUL byte or 4,096 bytes or more")
        }
        inode.size = UInt64(target.count)
        inode.content = UInt64(tree.targets.count)
        unsafe tree.targets.append(contentsOf: target)
    }

    private func addDevice(_ entry: UnsafePointer<crfs_toc_entry>, _ inode: inout Inode) throws(LayerFormatError) {
        let major = unsafe entry.pointee.dev_major
        let minor = unsafe entry.pointee.dev_minor
        guard major <= UInt64(UInt32.max), minor <= UInt64(UInt32.max) else {
            throw unsafe fail(entry, "has a device number of more than 32 bits")
        }
        inode.content = crfs_makedev(UInt32(major), UInt32(minor))
        if inode.content == 0, UInt32(inode.mode) & FileType.mask == FileType.character {
            inode.flags |= NodeFlags.whiteout.rawValue
        }
    }

    private mutating func addXattrs(
        _ entry: UnsafePointer<crfs_toc_entry>,
        _ inode: inout Inode
    ) throws(LayerFormatError) {
        var list = XattrList.Writer(&tree.xattrs)
        for index in unsafe 0..<entry.pointee.xattr_count {
            // SAFETY: `xattrs` holds `xattr_count` elements.
            guard let xattr = unsafe entry.pointee.xattrs?[index], let name = unsafe xattr.name.buffer else { continue }
            if unsafe XattrList.isOverlay(name) {
                tree.droppedOverlayXattrs += 1
                continue
            }
            guard list.count < FormatLimit.xattrs else {
                throw unsafe LayerFormatError(
                    .tooLarge,
                    fail(entry, "has more than \(FormatLimit.xattrs) xattrs").reason
                )
            }
            let fits = (1...FormatLimit.xattrNameBytes).contains(name.count)
            guard fits, unsafe name.firstIndex(of: 0) == nil else {
                throw unsafe fail(entry, "has an xattr with the name \(printable(name)), which Linux does not allow")
            }
            let value = unsafe xattr.value.buffer ?? UnsafeRawBufferPointer(start: nil, count: 0)
            guard unsafe list.append(name, base64: value, to: &tree.xattrs) else {
                throw unsafe fail(
                    entry,
                    "has an xattr \(printable(name)) that is not base64, or above 64 KiB"
                )
            }
        }
        try tree.endXattrs(list, of: &inode)
    }

    // MARK: Chunks

    private mutating func openFile(
        _ entry: UnsafePointer<crfs_toc_entry>,
        inode: UInt32
    ) throws(LayerFormatError) {
        let size = unsafe entry.pointee.size
        guard size <= UInt64(Int64.max) else { throw unsafe fail(entry, "has a size of \(size) bytes: 2^63 or more") }
        tree.inodes[Int(inode)].size = size
        let first = tree.chunks.count
        file = OpenFile(inode: inode, size: size, firstChunk: first)
        if !fileName.isEmpty { fileName.removeAll(keepingCapacity: true) }
        guard size > 0 else { return }
        try unsafe appendChunk(entry, ofFileSize: size)
        if UInt64(tree.chunks[first].length) != size { unsafe keepFileName(entry) }
        if tree.chunks[first].isZeros { return }
        // The file's digest is its chunk's where that is the only one.
        if tree.chunks[first].digest == nil, UInt64(tree.chunks[first].length) == size,
            let text = unsafe entry.pointee.digest.buffer, text.count > 0
        {
            guard let digest = unsafe TOCText.digest(Span(_unsafeBytes: text)) else {
                throw unsafe fail(entry, "has the digest \(printable(text)), which is not a SHA-256 digest")
            }
            tree.chunks[first].digest = digest
        }
    }

    private mutating func addChunk(_ entry: UnsafePointer<crfs_toc_entry>) throws(LayerFormatError) {
        guard let size = file?.size else {
            throw unsafe fail(entry, "is a chunk that does not follow its file")
        }
        if fileName.isEmpty { unsafe keepFileName(entry) }
        try unsafe appendChunk(entry, ofFileSize: size)
    }

    private mutating func keepFileName(_ entry: UnsafePointer<crfs_toc_entry>) {
        if let name = unsafe entry.pointee.name.buffer { unsafe fileName.append(contentsOf: name) }
    }

    private mutating func appendChunk(
        _ entry: UnsafePointer<crfs_toc_entry>,
        ofFileSize size: UInt64
    ) throws(LayerFormatError) {
        let fileOffset = unsafe entry.pointee.chunk_offset
        guard fileOffset < size else {
            throw unsafe fail(entry, "has a chunk at byte \(fileOffset), behind the file's end at \(size)")
        }
        let given = unsafe entry.pointee.chunk_size
        let length = given == 0 ? size - fileOffset : given
        guard length <= size - fileOffset else {
            throw unsafe fail(entry, "has a chunk at byte \(fileOffset) that ends behind the file's end at \(size)")
        }
        if try unsafe isZeros(entry) { return try unsafe appendZeros(entry, at: fileOffset, length) }
        guard length <= FormatLimit.chunkBytes else {
            throw unsafe LayerFormatError(
                .tooLarge,
                fail(entry, "has a chunk of \(length) bytes; crfs reads chunks of up to 32 MiB").reason
            )
        }
        var chunk = NewChunk(memberOffset: 0, fileOffset: fileOffset, innerOffset: 0, length: UInt32(length))
        try unsafe setPlace(entry, &chunk)
        if let text = unsafe entry.pointee.chunk_digest.buffer, text.count > 0 {
            guard let digest = unsafe TOCText.digest(Span(_unsafeBytes: text)) else {
                throw unsafe fail(entry, "has the chunkDigest \(printable(text)), which is not a SHA-256 digest")
            }
            chunk.digest = digest
        }
        tree.chunks.append(chunk)
    }

    private func isZeros(_ entry: UnsafePointer<crfs_toc_entry>) throws(LayerFormatError) -> Bool {
        guard let type = unsafe entry.pointee.chunk_type.buffer, type.count > 0 else { return false }
        guard unsafe type.elementsEqual("zeros".utf8) else {
            throw unsafe fail(entry, "has a chunk of the type \(printable(type)), which crfs does not know")
        }
        return true
    }

    /// A hole. It can be much larger than a chunk with data, and is cut into pieces then.
    private mutating func appendZeros(
        _ entry: UnsafePointer<crfs_toc_entry>,
        at fileOffset: UInt64,
        _ length: UInt64
    ) throws(LayerFormatError) {
        // Writers store the zeros all the same, so that the blob is a tar: the chunk before ends where they start.
        let offset = unsafe entry.pointee.offset
        if offset > 0 { noteMember(offset) }
        guard length / FormatLimit.holePieceBytes < FormatLimit.holePieces else {
            throw unsafe LayerFormatError(
                .tooLarge,
                fail(entry, "has a hole of \(length) bytes; crfs reads holes of up to 16 TiB").reason
            )
        }
        var done: UInt64 = 0
        while done < length {
            let piece = min(length - done, FormatLimit.holePieceBytes)
            var chunk = NewChunk(
                memberOffset: 0,
                fileOffset: fileOffset + done,
                innerOffset: 0,
                length: UInt32(piece)
            )
            chunk.isZeros = true
            tree.chunks.append(chunk)
            done += piece
        }
    }

    private mutating func setPlace(
        _ entry: UnsafePointer<crfs_toc_entry>,
        _ chunk: inout NewChunk
    ) throws(LayerFormatError) {
        let offset = unsafe entry.pointee.offset
        let inner = unsafe entry.pointee.inner_offset
        guard offset < tocOffset else {
            throw unsafe fail(entry, "has its data at byte \(offset) of the blob; the TOC starts at \(tocOffset)")
        }
        guard inner <= FormatLimit.innerBytes - UInt64(chunk.length) else {
            throw unsafe LayerFormatError(
                .tooLarge,
                fail(entry, "has an innerOffset of \(inner) bytes; crfs reads members of up to 256 MiB").reason
            )
        }
        chunk.memberOffset = offset
        chunk.innerOffset = UInt32(inner)
        noteMember(offset)
    }

    private mutating func noteMember(_ offset: UInt64) {
        if memberStarts.last != offset { memberStarts.append(offset) }
    }

    /// Checks that the file's chunks cover it, once its last one is there.
    private mutating func closeFile() throws(LayerFormatError) {
        guard let open = file else { return }
        file = nil
        let first = open.firstChunk
        let count = tree.chunks.count - first
        tree.inodes[Int(open.inode)].setChunks(first: first, count: count)
        // One chunk that is the file, as most are.
        if count == 1, UInt64(tree.chunks[first].length) == open.size { return }
        var end: UInt64 = 0
        var isSorted = true
        for chunk in tree.chunks[first...] {
            if chunk.fileOffset < end { isSorted = false }
            end = chunk.fileOffset + UInt64(chunk.length)
        }
        if !isSorted {
            tree.chunks[first...].sort { $0.fileOffset < $1.fileOffset }
        }
        end = 0
        for chunk in tree.chunks[first...] {
            guard chunk.fileOffset == end else {
                let what = chunk.fileOffset < end ? "that overlap" : "with a gap before them"
                throw unsafe LayerFormatError(
                    .corrupt,
                    "TOC entry \(fileName.withUnsafeBytes { unsafe printable($0) }) has chunks \(what) at byte \(chunk.fileOffset) of the file"
                )
            }
            end += UInt64(chunk.length)
        }
        guard end == open.size else {
            throw unsafe LayerFormatError(
                .corrupt,
                "TOC entry \(fileName.withUnsafeBytes { unsafe printable($0) }) has chunks for \(end) of \(open.size) bytes"
            )
        }
    }

    // MARK: Errors

    private func fail(_ entry: UnsafePointer<crfs_toc_entry>, _ what: String) -> LayerFormatError {
        unsafe LayerFormatError(.corrupt, "TOC entry \(describe(entry.pointee.name)) \(what)")
    }

    private func describe(_ text: crfs_toc_text) -> String {
        unsafe text.buffer.map { unsafe printable($0) } ?? "without a name"
    }
}

extension crfs_toc_text {
    /// The bytes; nil where the field is absent.
    var buffer: UnsafeRawBufferPointer? {
        unsafe bytes.map { unsafe UnsafeRawBufferPointer(start: $0, count: count) }
    }
}

extension Span where Element == UInt8 {
    /// The bytes of a buffer, which must outlive the span.
    @_lifetime(borrow bytes)
    init(_unsafeBytes bytes: UnsafeRawBufferPointer) {
        let span = unsafe Span<UInt8>(_bytes: RawSpan(_unsafeBytes: bytes))
        self = unsafe _overrideLifetime(span, borrowing: bytes)
    }
}
