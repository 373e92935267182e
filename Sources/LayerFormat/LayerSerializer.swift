internal import OCIModel
internal import PosixIO

/// Writes a finished tree as an index file.
struct LayerSerializer {
    private let finished: TreeFinisher
    private let tree: TreeBuilder
    /// Where members start, ascending, without repeats, ended by the TOC's.
    private let memberStarts: [UInt64]
    /// Place of the next chunk.
    private var chunkEnd = 0
    /// Chunk of the tree -> chunk of the file; `NameTable.none` where nothing shown has it.
    private var chunkNumbers: [UInt32]

    init(_ finished: TreeFinisher, memberStarts: [UInt64], tocOffset: UInt64) {
        self.finished = finished
        tree = finished.tree
        var starts = memberStarts.filter { $0 < tocOffset }
        starts.append(tocOffset)
        if zip(starts, starts.dropFirst()).contains(where: { $0 >= $1 }) {
            starts.sort()
            var last: UInt64?
            starts.removeAll { start in
                defer { last = start }
                return start == last
            }
        }
        self.memberStarts = starts
        chunkNumbers = [UInt32](repeating: NameTable.none, count: tree.chunks.count)
    }

    /// The file's bytes.
    mutating func serialize(_ header: IndexHeader) throws(LayerFormatError) -> UniqueBytes {
        let sizes = try measure()
        var writer = try IndexWriter(.layer, sizes: sizes)
        // Names, chunks and xattrs are written beside the nodes that refer to them, so in the order of the records.
        var names = [UInt8]()
        names.reserveCapacity(sizes[.names] ?? 0)
        var xattrs = [UInt8]()
        xattrs.reserveCapacity(sizes[.xattrs] ?? 0)
        unsafe writer.withSection(.nodes) { buffer in
            for record in finished.order.indices {
                let node = self.node(record, &names, &xattrs)
                unsafe buffer.storeBytes(of: node, toByteOffset: record * NodeRecord.byteCount, as: NodeRecord.self)
            }
        }
        var failure: LayerFormatError?
        unsafe writer.withSection(.chunks) { buffer in
            do throws(LayerFormatError) { try unsafe writeChunks(buffer) } catch { failure = error }
        }
        if let failure { throw failure }
        unsafe writer.withSection(.blobOrder) { buffer in
            for (position, chunk) in blobOrder().enumerated() {
                unsafe buffer.storeBytes(of: chunk, toByteOffset: position * 4, as: UInt32.self)
            }
        }
        unsafe writer.withSection(.externalLinks) { buffer in unsafe writeExternalLinks(buffer, &names) }
        unsafe writer.withSection(.names) { unsafe $0.copyBytes(from: names) }
        unsafe writer.withSection(.xattrs) { unsafe $0.copyBytes(from: xattrs) }
        var header = header
        header.recordCount = UInt32(finished.order.count)
        header.chunkCount = UInt32(chunkEnd)
        header.externalLinkCount = UInt32(finished.externalLinks.count)
        return writer.finish(header)
    }

    // MARK: Sizes

    private mutating func measure() throws(LayerFormatError) -> [IndexLayout.Section: Int] {
        var names = 0
        var xattrs = 0
        var chunks = 0
        for record in finished.order.indices {
            let dentry = tree.names.dentries[Int(finished.order[record])]
            names += Int(dentry.nameCount)
            let inode = tree.inodes[Int(dentry.inode)]
            guard finished.inodeRecords[Int(dentry.inode)] == UInt32(record) else { continue }
            if inode.xattrs != NameTable.none { xattrs += xattrListRange(Int(inode.xattrs)).count }
            switch UInt32(inode.mode) & FileType.mask {
            case FileType.symlink: names += Int(inode.size)
            case FileType.regular:
                let range = LayerSerializer.chunkRange(inode)
                for chunk in range { chunkNumbers[chunk] = UInt32(chunks + chunk - range.lowerBound) }
                chunks += range.count
            default: break
            }
        }
        for link in finished.externalLinks {
            names += Int(tree.names.dentries[Int(tree.links[link].dentry)].nameCount) + tree.links[link].target.count
        }
        guard names <= Int(UInt32.max) else {
            throw LayerFormatError(.tooLarge, "the layer has more than 4 GiB of names and link targets")
        }
        return [
            .nodes: finished.order.count * NodeRecord.byteCount,
            .names: names,
            .chunks: chunks * ChunkRecord.byteCount,
            .blobOrder: chunks * 4,
            .xattrs: xattrs,
            .externalLinks: finished.externalLinks.count * ExternalLinkRecord.byteCount,
        ]
    }

    private static func chunkRange(_ inode: Inode) -> Range<Int> {
        let first = Int(truncatingIfNeeded: inode.content & 0xffff_ffff)
        return first..<first + Int(truncatingIfNeeded: inode.content >> 32)
    }

    private func xattrListRange(_ start: Int) -> Range<Int> {
        func number(_ at: Int) -> Int {
            (0..<4).reduce(0) { $0 | Int(tree.xattrs[at + $1]) << (8 * $1) }
        }
        var end = start + 4
        for _ in 0..<number(start) { end += 6 + Int(tree.xattrs[end]) + number(end + 2) }
        return start..<end
    }

    // MARK: Sections

    private mutating func node(_ record: Int, _ names: inout [UInt8], _ xattrs: inout [UInt8]) -> NodeRecord {
        let number = finished.order[record]
        let dentry = tree.names.dentries[Int(number)]
        let inodeNumber = Int(dentry.inode)
        let inode = tree.inodes[inodeNumber]
        let inodeRecord = finished.inodeRecords[inodeNumber]
        var node = NodeRecord(
            inode,
            parent: record == 0 ? 0 : finished.records[Int(dentry.parent)],
            name: UInt32(names.count),
            nameCount: dentry.nameCount,
            record: inodeRecord
        )
        let start = Int(dentry.nameStart)
        unsafe tree.names.arena.withUnsafeBytes { arena in
            unsafe names.append(
                contentsOf: UnsafeRawBufferPointer(rebasing: arena[start..<start + Int(dentry.nameCount)])
            )
        }
        node.linkCount = finished.linkCounts[inodeNumber]
        node.xattrs = NameTable.none
        // A further name of an inode: all else stands in the inode's record.
        if inodeRecord != UInt32(record) {
            node.content = 0
            return node
        }
        if inode.xattrs != NameTable.none {
            node.xattrs = UInt32(xattrs.count)
            xattrs.append(contentsOf: tree.xattrs[xattrListRange(Int(inode.xattrs))])
        }
        switch UInt32(inode.mode) & FileType.mask {
        case FileType.directory:
            let children = finished.children[record]
            node.content = UInt64(children.count) << 32 | UInt64(children.lowerBound)
            if dentry.isOpaque { node.flags |= NodeFlags.opaque.rawValue }
            if dentry.replacesLower { node.flags |= NodeFlags.replacesLower.rawValue }
        case FileType.symlink:
            let start = Int(inode.content)
            node.content = UInt64(names.count)
            names.append(contentsOf: tree.targets[start..<start + Int(inode.size)])
        case FileType.regular:
            let range = LayerSerializer.chunkRange(inode)
            node.content = UInt64(range.count) << 32 | UInt64(chunkEnd)
            chunkEnd += range.count
        default: break
        }
        return node
    }

    private func writeChunks(_ buffer: UnsafeMutableRawBufferPointer) throws(LayerFormatError) {
        // Records by inode, for the chunks' way back to their file.
        var member = 0
        for (inodeNumber, record) in finished.inodeRecords.enumerated() where record != NameTable.none {
            let inode = tree.inodes[inodeNumber]
            guard UInt32(inode.mode) & FileType.mask == FileType.regular else { continue }
            for index in LayerSerializer.chunkRange(inode) {
                let chunk = tree.chunks[index]
                var memberCount: UInt64 = 0
                if !chunk.isZeros {
                    member = self.member(chunk.memberOffset, near: member)
                    memberCount = memberStarts[member + 1] - chunk.memberOffset
                }
                guard memberCount <= UInt64(UInt32.max) else {
                    throw LayerFormatError(
                        .tooLarge,
                        "a member of \(memberCount) compressed bytes at byte \(chunk.memberOffset) is more than crfs reads"
                    )
                }
                var flags: UInt32 = 0
                if chunk.digest != nil { flags |= ChunkRecord.hasDigest }
                if chunk.isZeros { flags |= ChunkRecord.isZeros }
                let stored = ChunkRecord(
                    memberOffset: chunk.memberOffset,
                    fileOffset: chunk.fileOffset,
                    memberCount: UInt32(memberCount),
                    innerOffset: chunk.innerOffset,
                    lengthAndFlags: chunk.length | flags,
                    record: record,
                    digest: chunk.digest?.words ?? (0, 0, 0, 0)
                )
                let at = Int(chunkNumbers[index]) * ChunkRecord.byteCount
                unsafe buffer.storeBytes(of: stored, toByteOffset: at, as: ChunkRecord.self)
            }
        }
    }

    /// The position of a member in `memberStarts`; files mostly come in the order of the blob.
    private func member(_ offset: UInt64, near: Int) -> Int {
        if memberStarts[near] == offset { return near }
        if near + 1 < memberStarts.count, memberStarts[near + 1] == offset { return near + 1 }
        var low = 0
        var high = memberStarts.count
        while low < high {
            let middle = (low + high) / 2
            if memberStarts[middle] < offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The file's chunk numbers in the order of the blob, zeros first.
    private func blobOrder() -> [UInt32] {
        var shown: [Int] = []
        shown.reserveCapacity(chunkEnd)
        var isSorted = true
        for index in tree.chunks.indices where chunkNumbers[index] != NameTable.none {
            if let last = shown.last, !isBefore(last, index) { isSorted = false }
            shown.append(index)
        }
        if !isSorted { shown.sort(by: isBefore) }
        return shown.map { chunkNumbers[$0] }
    }

    private func isBefore(_ a: Int, _ b: Int) -> Bool {
        let (first, second) = (tree.chunks[a], tree.chunks[b])
        if first.memberOffset != second.memberOffset { return first.memberOffset < second.memberOffset }
        if first.innerOffset != second.innerOffset { return first.innerOffset < second.innerOffset }
        return chunkNumbers[a] < chunkNumbers[b]
    }

    private func writeExternalLinks(_ buffer: UnsafeMutableRawBufferPointer, _ names: inout [UInt8]) {
        for (index, link) in finished.externalLinks.enumerated() {
            let dentry = tree.links[link].dentry
            let name = tree.names.name(dentry)
            let target = tree.targets[tree.links[link].target]
            let stored = ExternalLinkRecord(
                parent: finished.records[Int(tree.names.dentries[Int(dentry)].parent)],
                name: UInt32(names.count),
                nameCount: UInt32(name.count),
                target: UInt32(names.count + name.count),
                targetCount: UInt32(target.count)
            )
            names.append(contentsOf: name)
            names.append(contentsOf: target)
            let at = index * ExternalLinkRecord.byteCount
            unsafe buffer.storeBytes(of: stored, toByteOffset: at, as: ExternalLinkRecord.self)
        }
    }
}
