internal import BlobIO
internal import LayerFormat
internal import PosixIO

/// An immutable tree below a digest: one number, records in an index. What the number stands for decides what its
/// records are (design: a directory's number belongs to its place, all other nodes' to their layer).
final class Tree: Sendable {
    enum Content: Sendable {
        /// A layer's own nodes, wherever the layer appears: all but directories.
        case layerNodes(Layer)
        /// Directories of a layer at one place in `layers/`.
        case layerDirectories(Layer, nodes: UInt32)
        /// Directories (and nodes with attributes of their own) of an image at one place in `images/`.
        case image(OpenImage, nodes: [UInt32])
    }

    let number: UInt32
    let content: Content
    /// For a local layer: the file that must not change.
    let localFile: (path: String, identity: LocalFileIdentity)?

    /// The image that its directories belong to, where a mount fetches ahead.
    let use: ImageUse?

    init(
        number: UInt32,
        content: Content,
        localFile: (path: String, identity: LocalFileIdentity)? = nil,
        use: ImageUse? = nil
    ) {
        self.number = number
        self.use = use
        self.content = content
        self.localFile = localFile
    }

    /// The node number of one of its records.
    func nodeID(_ record: UInt32) -> NodeID { Tree.nodeID(number, record) }

    static func nodeID(_ number: UInt32, _ record: UInt32) -> NodeID {
        NodeID(rawValue: UInt64(number) << 28 | UInt64(record))
    }

    /// Where the bytes and the attributes of a record are: the layer and the inode record in it.
    func source(_ record: UInt32) -> (layer: Layer, record: UInt32) {
        switch content {
        case .layerNodes(let layer), .layerDirectories(let layer, _): return (layer, record)
        case .image(let image, _):
            let node = image.index.node(record)
            return (image.layers[node.layer], node.record)
        }
    }

    /// Whether `record` is one that this tree can have given to the kernel.
    func has(_ record: UInt32) -> Bool {
        switch content {
        case .layerNodes(let layer), .layerDirectories(let layer, _): Int(record) < layer.index.recordCount
        case .image(let image, _): Int(record) < image.index.recordCount
        }
    }

    /// Attributes of a record that belongs to this tree.
    func attributes(_ record: UInt32) -> Attributes {
        let source = source(record)
        var linkCount: UInt32?
        if case .image(let image, _) = content { linkCount = image.index.node(record).linkCount }
        return Tree.attributes(source.layer.index.attributes(source.record), nodeID(record), linkCount: linkCount)
    }

    static func attributes(_ node: NodeAttributes, _ id: NodeID, linkCount: UInt32?) -> Attributes {
        Attributes(
            inode: id.rawValue,
            mode: node.mode,
            linkCount: linkCount ?? node.linkCount,
            uid: node.uid,
            gid: node.gid,
            device: node.device,
            size: node.size,
            mtimeSeconds: node.mtimeSeconds,
            mtimeNanoseconds: node.mtimeNanoseconds
        )
    }

    /// What the kernel is told of a name's record.
    func entry(_ record: UInt32) -> Entry {
        let attributes: Attributes
        switch content {
        case .layerNodes(let layer):
            attributes = Tree.attributes(layer.index.attributes(record), nodeID(record), linkCount: nil)
        case .layerDirectories(let layer, let nodes):
            let inode = layer.index.inode(record)
            let node = layer.index.attributes(inode)
            let number = isDirectory(node.mode) ? self.number : nodes
            attributes = Tree.attributes(node, Tree.nodeID(number, inode), linkCount: nil)
        case .image(let image, let nodes):
            let merged = image.index.node(record)
            let node = image.layers[merged.layer].index.attributes(merged.record)
            let id: NodeID
            if isDirectory(node.mode) {
                id = nodeID(record)
            } else if merged.hasOwnAttributes {
                id = nodeID(image.index.inode(record))
            } else {
                id = Tree.nodeID(nodes[merged.layer], merged.record)
            }
            attributes = Tree.attributes(node, id, linkCount: merged.linkCount)
        }
        return Entry(
            node: NodeID(rawValue: attributes.inode),
            attributes: attributes,
            entryTimeout: Entry.unlimited,
            attributeTimeout: Entry.unlimited
        )
    }

    /// The record of a name in a directory.
    func lookup(_ name: borrowing RawSpan, in directory: UInt32) -> UInt32? {
        switch content {
        case .layerNodes: nil
        case .layerDirectories(let layer, _): layer.index.lookup(name, in: directory)
        case .image(let image, _): image.index.lookup(name, in: directory)
        }
    }

    func children(_ directory: UInt32) -> Range<UInt32> {
        switch content {
        case .layerNodes: 0..<0
        case .layerDirectories(let layer, _): layer.index.children(directory)
        case .image(let image, _): image.index.children(directory)
        }
    }

    func parent(_ record: UInt32) -> UInt32 {
        switch content {
        case .layerNodes: 0
        case .layerDirectories(let layer, _): layer.index.parent(record)
        case .image(let image, _): image.index.parent(record)
        }
    }

    /// Calls `body` with the name of a record.
    func withName<R>(_ record: UInt32, _ body: (borrowing RawSpan) -> R) -> R {
        switch content {
        case .layerNodes(let layer), .layerDirectories(let layer, _):
            let index = layer.index
            return body(index.name(record))
        case .image(let image, _):
            let index = image.index
            return body(index.name(record))
        }
    }

    /// Whether an opaque directory says so in an xattr: only layer views do.
    func isOpaque(_ record: UInt32) -> Bool {
        guard case .layerDirectories(let layer, _) = content else { return false }
        return layer.index.attributes(record).flags.contains(.opaque)
    }

    /// A local layer's file is no longer what was indexed.
    var isStale: Bool {
        guard let localFile else { return false }
        return LocalFileIdentity(path: localFile.path) != localFile.identity
    }
}

/// S_ISDIR.
func isDirectory(_ mode: UInt32) -> Bool { mode & 0o170000 == 0o040000 }

/// S_ISREG.
func isRegular(_ mode: UInt32) -> Bool { mode & 0o170000 == 0o100000 }

/// S_ISLNK.
func isSymlink(_ mode: UInt32) -> Bool { mode & 0o170000 == 0o120000 }
