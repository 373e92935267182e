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

extension FileSystem {
    /// The materialised file of a node. Never waits for the network.
    ///
    /// - Parameter isUse: the node is being opened (or, where opens are not seen, read from its start).
    public func backing(_ id: NodeID, isUse: Bool) -> FileBacking {
        guard case .tree(let tree, let record) = place(id) else { return .never }
        let source = tree.source(record)
        let attributes = source.layer.index.attributes(source.record)
        guard isRegular(attributes.mode), library.blobs.mayMaterialise(source.layer, size: attributes.size) else {
            return .never
        }
        let inode = source.layer.index.inode(source.record)
        return library.blobs.materialised(source.layer, record: inode, isUse: isUse).map { .file($0) } ?? .none
    }
}
