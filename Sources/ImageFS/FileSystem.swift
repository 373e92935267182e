internal import BlobIO
internal import Glibc
internal import LayerFormat
internal import OCIModel
public import PosixIO
internal import Synchronization

/// The tree of one mount (spec sections 1 and 2): all registries, or one image. Every operation returns at once: what
/// needs the network is started and the caller told what to wait for. Nothing here knows of FUSE.
///
/// A node's number says where it belongs: number 0 is the namespace above the digests (hosts, repositories, tags), all
/// others are immutable trees. Where the root is an image, there is no namespace: the root is the only node of number 0.
public final class FileSystem: Sendable {
    let library: Library
    let options: FileSystemOptions
    let namespace = NamespaceTable()
    let trees: TreeTable
    let uses: ImageUseTable?
    /// The image that is the root; nil: the root is the namespace.
    public let image: NamedImage?
    /// Its tree.
    let root: Tree?
    /// Whether a node can have an extended attribute. In a tree of all registries that may be at any time.
    public let hasXattrs: Bool

    /// A tree of all registries on top of what the process knows; any number of trees may share a library.
    public init(library: Library, options: FileSystemOptions) {
        self.library = library
        self.options = options
        trees = TreeTable()
        uses = options.prefetch.map { ImageUseTable(library, $0) }
        image = nil
        root = nil
        hasXattrs = true
    }

    /// One image, whose root directory is the root. An error is the cache directory's, which keeps the inode numbers.
    public init(library: Library, options: FileSystemOptions, image: NamedImage) throws(SystemError) {
        let trees = TreeTable()
        let uses = options.prefetch.map { ImageUseTable(library, $0) }
        root = try trees.image(
            image.content,
            place: image.place,
            numbers: library.numbers,
            use: uses?.use(image.manifest, image.content.layers)
        )
        self.library = library
        self.options = options
        self.trees = trees
        self.uses = uses
        self.image = image
        hasXattrs = image.hasXattrs
    }

    /// What a node number refers to.
    enum Place {
        case namespace(NamespaceNode)
        case tree(Tree, record: UInt32)
    }

    func place(_ id: NodeID) -> Place? {
        let number = UInt32(truncatingIfNeeded: id.rawValue >> 28)
        let record = UInt32(truncatingIfNeeded: id.rawValue & 0x0fff_ffff)
        if number == 0 {
            guard let root else { return namespace.node(record).map { .namespace($0) } }
            return id == .root ? .tree(root, record: 0) : nil
        }
        guard let tree = trees.tree(number), tree.has(record) else { return nil }
        return .tree(tree, record: record)
    }

    /// Looks a name up in a directory.
    public func lookup(_ parent: NodeID, _ name: borrowing RawSpan) -> Outcome<Entry> {
        switch place(parent) {
        case nil: return .failed(.stale)
        case .tree(let tree, let directory):
            tree.use?.touch()
            guard let record = tree.lookup(name, in: directory) else {
                return .ready(.negative(timeout: Entry.unlimited))
            }
            return .ready(tree.entry(record))
        case .namespace(let node):
            // Names of the namespace are ASCII; anything else cannot be there.
            guard let text = String(ascii: name) else { return .ready(.negative(timeout: Entry.unlimited)) }
            return lookUp(text, in: node)
        }
    }

    /// Attributes of a node, and how many seconds the kernel may keep them.
    public func attributes(_ id: NodeID) -> Outcome<(Attributes, timeout: Double)> {
        switch place(id) {
        case nil: return .failed(.stale)
        case .tree(let tree, let record):
            var attributes = tree.attributes(record)
            if id == .root {
                if let mode = options.rootMode { attributes.mode = S_IFDIR | mode }
                if let group = options.rootGroup { attributes.gid = group }
            }
            return .ready((attributes, timeout: Entry.unlimited))
        case .namespace(let node): return .ready((attributes(of: node), timeout: Entry.unlimited))
        }
    }

    /// A symlink's target.
    public func readLink(_ id: NodeID) -> Outcome<[UInt8]> {
        switch place(id) {
        case nil: return .failed(.stale)
        case .tree(let tree, let record):
            let source = tree.source(record)
            let index = source.layer.index
            guard isSymlink(index.attributes(source.record).mode) else { return .failed(.invalid) }
            return .ready(Array(copying: index.linkTarget(source.record)))
        case .namespace(let node):
            guard case .symlink(let target) = node.kind else { return .failed(.invalid) }
            return .ready(target)
        }
    }

    /// Opens a regular file. `keepCache`: the content never changes under this node.
    public func open(_ id: NodeID) -> Outcome<(handle: UInt64, keepCache: Bool)> {
        switch place(id) {
        case nil: return .failed(.stale)
        case .tree(let tree, let record):
            if tree.isStale { return .failed(.stale) }
            let source = tree.source(record)
            let mode = source.layer.index.attributes(source.record).mode
            if isDirectory(mode) { return .failed(.isDirectory) }
            source.layer.noteOpen(source.record)
            return .ready((handle: 0, keepCache: true))
        case .namespace(let node):
            return node.isDirectory ? .failed(.isDirectory) : .ready((handle: 0, keepCache: true))
        }
    }

    /// Closes what `open` opened.
    public func release(_ id: NodeID, handle: UInt64) {}

    /// Extended attributes: one value, or ENODATA.
    public func xattr(_ id: NodeID, _ name: borrowing RawSpan) -> Outcome<[UInt8]> {
        guard case .tree(let tree, let record) = place(id) else { return .failed(.noData) }
        if tree.isOpaque(record) {
            for opaque in opaqueNames where name.equals(opaque.utf8) { return .ready([0x79]) }
        }
        let source = tree.source(record)
        let index = source.layer.index
        guard index.attributes(source.record).flags.contains(.hasXattrs),
            let value = index.xattr(source.record, name)
        else { return .failed(.noData) }
        return .ready(Array(copying: value))
    }

    /// Names of extended attributes, each ended by a 0 byte.
    public func xattrNames(_ id: NodeID) -> Outcome<[UInt8]> {
        guard case .tree(let tree, let record) = place(id) else { return .ready([]) }
        var names: [UInt8] = []
        if tree.isOpaque(record) {
            for opaque in opaqueNames { names += Array(opaque.utf8) + [0] }
        }
        let source = tree.source(record)
        if source.layer.index.attributes(source.record).flags.contains(.hasXattrs) {
            source.layer.index.forEachXattr(source.record) { name, _ in
                names += Array(copying: name) + [0]
                return true
            }
        }
        return .ready(names)
    }

    /// What an opaque directory of a layer view is marked with (overlayfs, "whiteouts and opaque directories").
    private var opaqueNames: [String] {
        options.userXattr ? ["trusted.overlay.opaque", "user.overlay.opaque"] : ["trusted.overlay.opaque"]
    }

    /// Figures for statfs(2): all nodes of the layers in use; nothing is free.
    public func statistics() -> FileSystemStatistics {
        FileSystemStatistics(bytes: 1 << 40, nodes: UInt64(trees.recordCount) + 1024)
    }

    /// The kernel forgets `count` look-ups of a node.
    public func forget(_ id: NodeID, count: UInt64) {
        // Nodes of trees are not counted one by one: they cost nothing.
        guard id.rawValue >> 28 == 0 else { return }
        namespace.forget(UInt32(truncatingIfNeeded: id.rawValue), count: count)
    }

    func attributes(of node: NamespaceNode) -> Attributes {
        let inode = node.inode
        switch node.kind {
        case .root:
            let mode = S_IFDIR | (options.rootMode ?? 0o755)
            return Attributes(inode: inode, mode: mode, linkCount: 4, gid: options.rootGroup ?? 0)
        case .view, .local, .host, .repository, .manifest:
            return Attributes(inode: inode, mode: 0o040755, linkCount: 2)
        case .symlink(let target): return Attributes(inode: inode, mode: 0o120777, size: UInt64(target.count))
        case .file(let bytes): return Attributes(inode: inode, mode: 0o100444, size: UInt64(bytes.count))
        case .configuration(_, let descriptor):
            return Attributes(inode: inode, mode: 0o100444, size: descriptor.size)
        }
    }
}

extension Entry {
    /// "No such name", for so many seconds.
    static func negative(timeout: Double) -> Entry {
        Entry(node: .none, attributes: nil, entryTimeout: timeout, attributeTimeout: 0)
    }
}

extension String {
    /// The text, if all of it is printable ASCII without `/`.
    init?(ascii bytes: borrowing RawSpan) {
        var scalars: [UInt8] = []
        scalars.reserveCapacity(bytes.byteCount)
        for offset in 0..<bytes.byteCount {
            let byte = bytes.byte(at: offset)
            guard (0x21...0x7e).contains(byte), byte != 0x2f else { return nil }
            scalars.append(byte)
        }
        self.init(decoding: scalars, as: UTF8.self)
    }
}

extension Array<UInt8> {
    /// A copy of a span's bytes.
    init(copying bytes: borrowing RawSpan) {
        // SAFETY: the buffer is only read while the span is borrowed.
        self = unsafe bytes.withUnsafeBytes { unsafe Array($0) }
    }
}

extension RawSpan {
    /// One byte; traps when `offset` is out of range.
    func byte(at offset: Int) -> UInt8 {
        precondition(offset >= 0 && offset < byteCount)
        // SAFETY: the offset was checked, and any bits are a UInt8.
        return unsafe unsafeLoad(fromUncheckedByteOffset: offset, as: UInt8.self)
    }

    /// Whether the bytes are these.
    func equals(_ other: String.UTF8View) -> Bool {
        guard other.count == byteCount else { return false }
        var offset = 0
        for byte in other {
            guard self.byte(at: offset) == byte else { return false }
            offset += 1
        }
        return true
    }
}
