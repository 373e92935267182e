internal import BlobIO
public import ChunkStore
internal import LayerFormat

/// What may stand behind an open file beside the chunks.
public enum FileBacking: Sendable {
    /// Nothing ever: the file is small, generated, or can change.
    case never
    /// Nothing now.
    case none
    /// A file with the same bytes.
    case file(MaterialisedFile)
}

/// What an open means for a file's becoming materialised.
public enum FileUse: Sendable {
    /// Nothing: a file would be of no use.
    case none
    /// A file would be read from; none is made for this open (`FileSystem.finish` may have one made).
    case reads
    /// The same, and it counts as a use: from the second on a file is made.
    case counts
}

extension FileSystem {
    /// The materialised file of a node that is being opened. Never waits for the network.
    public func backing(_ id: NodeID, _ use: FileUse) -> FileBacking {
        guard case .tree(let tree, let record) = place(id) else { return .never }
        let source = tree.source(record)
        let attributes = source.layer.index.attributes(source.record)
        guard isRegular(attributes.mode), library.blobs.mayMaterialise(source.layer, size: attributes.size) else {
            return .never
        }
        let inode = source.layer.index.inode(source.record)
        let file = library.blobs.materialised(source.layer, record: inode, isUse: use == .counts)
        if use != .none, file != nil { source.layer.noteHiddenReads(inode) } else { source.layer.noteOpen(inode) }
        return file.map { .file($0) } ?? .none
    }

    /// Whether any file at all may be materialised now.
    public var mayHaveMaterialised: Bool { library.blobs.mayHaveMaterialised }
}
