internal import CShims
public import OCIModel
public import PosixIO

/// What is known of a plain layer once all of it has streamed by.
public struct PlainLayerFacts: Sendable {
    /// The digest of the blob.
    public var layerDigest: Digest
    /// The digest of the uncompressed tar (what an image configuration calls diffID).
    public var diffID: Digest
    /// The size of the blob in bytes.
    public var blobSize: UInt64
    /// `.tar`, `.tarGzip` or `.tarZstd`.
    public var format: IndexFormat

    /// Gathers what is known.
    public init(layerDigest: Digest, diffID: Digest, blobSize: UInt64, format: IndexFormat) {
        self.layerDigest = layerDigest
        self.diffID = diffID
        self.blobSize = blobSize
        self.format = format
    }
}

/// Builds a plain layer's index from the entries of its tar, in their order (spec section 3, "Plain layers").
///
/// Chunks are told where they stand in the uncompressed tar; what to fetch for them follows from the spans at the end.
public struct PlainIndexBuilder {
    /// Payload bytes of a chunk: each file is cut at multiples of it, so that equal files have equal chunks.
    public static var chunkBytes: Int { 4 << 20 }
    /// The most chunks that a layer may have.
    private static let mostChunks = 1 << 24

    private var tree = TreeBuilder(expecting: 1024)
    /// The regular file whose content comes, and where in it the next chunk stands.
    private var file: (inode: Int, firstChunk: Int, position: UInt64)?
    private var name: [UInt8] = []

    /// An empty layer.
    public init() {}

    /// How many chunks there are so far.
    public var chunkCount: Int { tree.chunks.count }
    /// How many entries have come.
    public private(set) var entryCount = 0

    /// Takes an entry; the content of a regular file follows with `addChunk` and `addHole`.
    public mutating func add(_ entry: TarEntry) throws(LayerFormatError) {
        closeFile()
        entryCount += 1
        name = entry.path
        if entry.kind == .hardLink {
            try unsafe Self.withBuffers(entry.path, entry.linkTarget) { (path, target) throws(LayerFormatError) in
                try unsafe tree.link(path, to: target)
            }
            return
        }
        let inode = tree.inodes.count
        tree.inodes.append(try attributes(entry))
        if entry.kind == .regular { file = (inode, tree.chunks.count, 0) }
        try unsafe Self.withBuffers(entry.path, []) { (path, _) throws(LayerFormatError) in
            try unsafe tree.place(path, inode: UInt32(inode))
        }
    }

    private static func withBuffers(
        _ first: [UInt8],
        _ second: [UInt8],
        _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) throws(LayerFormatError) -> Void
    ) throws(LayerFormatError) {
        var failure: LayerFormatError?
        unsafe first.withUnsafeBytes { a in
            unsafe second.withUnsafeBytes { b in
                do throws(LayerFormatError) { try unsafe body(a, b) } catch { failure = error }
            }
        }
        if let failure { throw failure }
    }

    private mutating func attributes(_ entry: TarEntry) throws(LayerFormatError) -> Inode {
        var inode = Inode(mode: UInt16(entry.mode & 0o7777))
        inode.uid = entry.uid
        inode.gid = entry.gid
        inode.mtimeSeconds = entry.mtimeSeconds
        inode.mtimeNanoseconds = entry.mtimeNanoseconds
        switch entry.kind {
        case .directory: inode.mode |= UInt16(FileType.directory)
        case .fifo: inode.mode |= UInt16(FileType.fifo)
        case .regular:
            inode.mode |= UInt16(FileType.regular)
            inode.size = entry.size
        case .symlink:
            inode.mode |= UInt16(FileType.symlink)
            guard entry.linkTarget.count < FormatLimit.pathBytes, !entry.linkTarget.contains(0) else {
                throw fail("is a symlink whose target has a NUL byte or 4,096 bytes or more")
            }
            inode.size = UInt64(entry.linkTarget.count)
            inode.content = UInt64(tree.targets.count)
            tree.targets.append(contentsOf: entry.linkTarget)
        case .character, .block:
            inode.mode |= UInt16(entry.kind == .block ? FileType.block : FileType.character)
            inode.content = crfs_makedev(entry.deviceMajor, entry.deviceMinor)
            if inode.content == 0 && entry.kind == .character { inode.flags |= NodeFlags.whiteout.rawValue }
        case .hardLink: break
        }
        if !entry.xattrs.isEmpty { try addXattrs(entry, &inode) }
        return inode
    }

    private mutating func addXattrs(_ entry: TarEntry, _ inode: inout Inode) throws(LayerFormatError) {
        var list = XattrList.Writer(&tree.xattrs)
        for xattr in entry.xattrs {
            if unsafe xattr.name.withUnsafeBytes({ unsafe XattrList.isOverlay($0) }) {
                tree.droppedOverlayXattrs += 1
                continue
            }
            guard list.count < FormatLimit.xattrs else {
                throw LayerFormatError(.tooLarge, fail("has more than \(FormatLimit.xattrs) xattrs").reason)
            }
            guard (1...FormatLimit.xattrNameBytes).contains(xattr.name.count) else {
                throw fail("has an xattr with a name of \(xattr.name.count) bytes, which Linux does not allow")
            }
            let isAppended = unsafe xattr.name.withUnsafeBytes { name in
                unsafe xattr.value.withUnsafeBytes { unsafe list.append(name, value: $0, to: &tree.xattrs) }
            }
            guard isAppended else { throw fail("has an xattr \(printable(xattr.name)) above 64 KiB") }
        }
        try tree.endXattrs(list, of: &inode)
    }

    // MARK: Content

    /// The next stored bytes of the file: at most `chunkBytes`.
    ///
    /// - Parameter position: where they stand in the uncompressed tar.
    /// - Returns: the chunk's number, for `setDigest`.
    public mutating func addChunk(at position: UInt64, count: Int) throws(LayerFormatError) -> Int {
        try append(NewChunk(memberOffset: position, fileOffset: 0, innerOffset: 0, length: UInt32(count)))
        return tree.chunks.count - 1
    }

    /// The next bytes of the file are a hole.
    public mutating func addHole(_ count: UInt64) throws(LayerFormatError) {
        guard count / FormatLimit.holePieceBytes < FormatLimit.holePieces else {
            throw LayerFormatError(.tooLarge, fail("has a hole of \(count) bytes").reason)
        }
        var left = count
        while left > 0 {
            let piece = min(left, FormatLimit.holePieceBytes)
            try append(
                NewChunk(memberOffset: 0, fileOffset: 0, innerOffset: 0, length: UInt32(piece), isZeros: true)
            )
            left -= piece
        }
    }

    private mutating func append(_ chunk: NewChunk) throws(LayerFormatError) {
        guard let open = file else { preconditionFailure("a chunk without a file") }
        guard tree.chunks.count < PlainIndexBuilder.mostChunks else {
            throw LayerFormatError(.tooLarge, "the layer has more than \(PlainIndexBuilder.mostChunks) chunks")
        }
        var chunk = chunk
        chunk.fileOffset = open.position
        file?.position += UInt64(chunk.length)
        tree.chunks.append(chunk)
    }

    private mutating func closeFile() {
        guard let open = file else { return }
        file = nil
        precondition(open.position == tree.inodes[open.inode].size, "a file's chunks do not cover it")
        tree.inodes[open.inode].setChunks(first: open.firstChunk, count: tree.chunks.count - open.firstChunk)
    }

    /// The SHA-256 of a chunk's payload.
    public mutating func setDigest(_ digest: Digest, ofChunk number: Int) {
        tree.chunks[number].digest = digest
    }

    // MARK: The end

    /// Sets how much must be inflated, and fetched, from where each span starts: up to the end of the last chunk that starts
    /// in it.
    ///
    /// - Parameter mark: where in the blob all of what is needed for the first so many bytes of the tar has been read.
    public func measure(_ spans: inout [RestartSpan], mark: (_ position: UInt64) -> UInt64) {
        var span = 0
        for chunk in tree.chunks where !chunk.isZeros {
            let position = chunk.memberOffset
            while span + 1 < spans.count, spans[span + 1].position <= position { span += 1 }
            guard span < spans.count, spans[span].position <= position else { continue }
            spans[span].length = position + UInt64(chunk.length) - spans[span].position
        }
        for index in spans.indices {
            let span = spans[index]
            spans[index].end = span.length == 0 ? span.offset : max(mark(span.position + span.length), span.offset)
        }
    }

    /// The index file's bytes.
    ///
    /// - Parameters:
    ///   - spans: where the blob can be read from, by position; none for a bare tar, whose chunks stand in the blob as they
    ///     are.
    ///   - note: gets one line for each thing that must be logged.
    public mutating func finish(
        _ facts: PlainLayerFacts,
        spans: [RestartSpan],
        note: (String) -> Void
    ) throws(LayerFormatError) -> UniqueBytes {
        closeFile()
        tree.noteDroppedXattrs()
        let starts = facts.format == .tar ? placeInTar() : try place(in: spans)
        let finished = try TreeFinisher(tree)
        tree = TreeBuilder(expecting: 0)
        finished.tree.notes.report(note)
        var header = IndexHeader()
        header.layerDigest = facts.layerDigest
        header.tocDigest = facts.diffID
        header.format = facts.format.rawValue
        header.flags = IndexHeader.hasAllDigests
        header.blobSize = facts.blobSize
        header.tocOffset = facts.blobSize
        var serializer = LayerSerializer(finished, memberStarts: starts, tocOffset: facts.blobSize)
        return try serializer.serialize(header)
    }

    /// A chunk of a bare tar is a member of its own, which ends where the chunk does.
    private func placeInTar() -> [UInt64] {
        var starts: [UInt64] = []
        for chunk in tree.chunks where !chunk.isZeros {
            if starts.last != chunk.memberOffset { starts.append(chunk.memberOffset) }
            starts.append(chunk.memberOffset + UInt64(chunk.length))
        }
        return starts
    }

    private mutating func place(in spans: [RestartSpan]) throws(LayerFormatError) -> [UInt64] {
        var span = 0
        for index in tree.chunks.indices where !tree.chunks[index].isZeros {
            let position = tree.chunks[index].memberOffset
            while span + 1 < spans.count, spans[span + 1].position <= position { span += 1 }
            guard span < spans.count, spans[span].position <= position,
                let inner = UInt32(exactly: position - spans[span].position)
            else { throw LayerFormatError(.corrupt, "a chunk at byte \(position) of the tar is in no span") }
            tree.chunks[index].memberOffset = spans[span].offset
            tree.chunks[index].innerOffset = inner
        }
        return spans.map(\.offset)
    }

    private func fail(_ what: String) -> LayerFormatError {
        LayerFormatError(.corrupt, "the tar's entry \"\(printable(name))\" \(what)")
    }
}
