internal import BlobIO
internal import Glibc
internal import LayerFormat
internal import OCIModel
internal import OCIRegistry
internal import PosixIO
internal import Synchronization

/// A directory of the namespace as it was when it was opened.
struct Listing: Sendable {
    struct Item: Sendable {
        var name: [UInt8]
        var inode: UInt64
        /// S_IFMT bits.
        var type: UInt32
    }

    var items: [Item] = []
}

/// Listings of open directories by handle.
///
/// LOCK ORDER: a leaf.
final class ListingTable: Sendable {
    private struct State: Sendable {
        var next: UInt64 = 1
        var listings: [UInt64: Listing] = [:]
    }

    private let state = Mutex(State())

    func add(_ listing: Listing) -> UInt64 {
        state.withLock { state in
            let handle = state.next
            state.next += 1
            state.listings[handle] = listing
            return handle
        }
    }

    func listing(_ handle: UInt64) -> Listing? { state.withLock { $0.listings[handle] } }

    func remove(_ handle: UInt64) {
        let removed = state.withLock { $0.listings.removeValue(forKey: handle) }
        _ = removed
    }
}

extension FileSystem {
    /// Opens a directory. One of the namespace is listed now, as a whole; a listing makes no request per entry and
    /// opens no layer.
    public func openDirectory(_ id: NodeID) -> Outcome<DirectoryHandle> {
        switch place(id) {
        case nil: return .failed(.stale)
        case .tree(let tree, let record):
            if tree.isStale { return .failed(.stale) }
            guard isMode(tree, record) else { return .failed(.notDirectory) }
            // A listing gives all its names to the kernel: no look-up may follow.
            tree.use?.touch()
            return .ready(DirectoryHandle(handle: 0, isImmutable: true))
        case .namespace(let node):
            switch list(node) {
            case .parked(let completion): return .parked(completion)
            case .failed(let error): return .failed(error)
            case .ready(let listing):
                return .ready(DirectoryHandle(handle: listings.add(listing), isImmutable: node.isImmutable))
            }
        }
    }

    private func isMode(_ tree: Tree, _ record: UInt32) -> Bool {
        let source = tree.source(record)
        return isDirectory(source.layer.index.attributes(source.record).mode)
    }

    /// Closes what `openDirectory` opened.
    public func releaseDirectory(_ id: NodeID, handle: UInt64) {
        if handle != 0 { listings.remove(handle) }
    }

    /// Calls `body` for names from `offset` on (0: the start), "." and ".." first, until it returns false (that name
    /// was not taken) or the end. With `plus`, each taken name that has a node counts as a look-up of it.
    public func list(
        _ id: NodeID,
        handle: UInt64,
        offset: UInt64,
        plus: Bool,
        _ body: (_ name: borrowing RawSpan, _ listed: ListedName) -> Bool
    ) -> Outcome<Void> {
        switch place(id) {
        case nil: return .failed(.stale)
        case .tree(let tree, let directory):
            listTree(tree, directory, offset: offset, plus: plus, body)
            return .ready(())
        case .namespace(let node):
            guard let listing = listings.listing(handle) else { return .failed(.invalid) }
            guard listDots(node.inode, node.inode, offset: offset, body) else { return .ready(()) }
            var position = Int(clamping: offset) - 2
            position = max(position, 0)
            while position < listing.items.count {
                let item = listing.items[position]
                let entry: Entry? =
                    plus ? Entry(node: .none, attributes: nil, entryTimeout: 0, attributeTimeout: 0) : nil
                let listed = ListedName(
                    inode: item.inode,
                    type: item.type,
                    entry: entry,
                    nextOffset: UInt64(position) + 3
                )
                guard body(bytes(of: item.name), listed) else { break }
                position += 1
            }
            return .ready(())
        }
    }

    private func listTree(
        _ tree: Tree,
        _ directory: UInt32,
        offset: UInt64,
        plus: Bool,
        _ body: (_ name: borrowing RawSpan, _ listed: ListedName) -> Bool
    ) {
        let own = tree.nodeID(directory).rawValue
        let parent = tree.nodeID(tree.parent(directory)).rawValue
        guard listDots(own, parent, offset: offset, body) else { return }
        let children = tree.children(directory)
        guard offset < UInt64(children.count) + 2 else { return }
        var record = children.lowerBound + UInt32(max(offset, 2) - 2)
        while record < children.upperBound {
            let entry = tree.entry(record)
            guard let attributes = entry.attributes else { return }
            let listed = ListedName(
                inode: attributes.inode,
                type: attributes.mode & S_IFMT,
                entry: plus ? entry : nil,
                nextOffset: UInt64(record - children.lowerBound) + 3
            )
            guard tree.withName(record, { body($0, listed) }) else { return }
            record += 1
        }
    }

    /// "." and ".."; false when the buffer is full.
    private func listDots(
        _ own: UInt64,
        _ parent: UInt64,
        offset: UInt64,
        _ body: (_ name: borrowing RawSpan, _ listed: ListedName) -> Bool
    ) -> Bool {
        let names: [(StaticString, UInt64)] = [(".", own), ("..", parent)]
        for (index, (name, inode)) in names.enumerated() where UInt64(index) >= offset {
            let listed = ListedName(inode: inode, type: S_IFDIR, entry: nil, nextOffset: UInt64(index) + 1)
            guard body(bytes(of: Array("\(name)".utf8)), listed) else { return false }
        }
        return true
    }

    /// What a namespace directory holds.
    private func list(_ node: NamespaceNode) -> Outcome<Listing> {
        switch node.kind {
        case .root: .ready(listRoot())
        case .view(let view): .ready(listHosts(node, view))
        case .local: .ready(listLocal(node))
        case .host(let view, let host): listHost(node, view, host)
        case .repository(let view, let repository): listRepository(node, view, repository)
        case .manifest(_, _, let manifest): .ready(listManifest(node, manifest))
        case .symlink, .file, .configuration: .failed(.notDirectory)
        }
    }

    private func item(_ node: NamespaceNode, _ name: String, _ type: UInt32) -> Listing.Item {
        let place = node.place.isEmpty ? name : "\(node.place)/\(name)"
        return Listing.Item(name: Array(name.utf8), inode: NamespaceNode.inode(ofPlace: place), type: type)
    }

    /// A name whose directory is the root of a tree.
    private func treeItem(_ node: NamespaceNode, _ name: String, place: String) -> Listing.Item? {
        guard let number = try? library.numbers.number(for: "D \(place)") else { return nil }
        return Listing.Item(name: Array(name.utf8), inode: Tree.nodeID(number, 0).rawValue, type: S_IFDIR)
    }

    private func listRoot() -> Listing {
        let root = namespace.root
        return Listing(items: [
            item(root, "README-crfs.txt", S_IFREG), item(root, "images", S_IFDIR), item(root, "layers", S_IFDIR),
        ])
    }

    /// Hosts that are listed without being asked for (spec section 1).
    private static let usualHosts = [
        "gcr.io", "us.gcr.io", "eu.gcr.io", "asia.gcr.io", "index.docker.io", "ghcr.io", "quay.io", "registry.k8s.io",
        "public.ecr.aws",
    ].compactMap { RegistryHost($0) }

    private func listHosts(_ node: NamespaceNode, _ view: View) -> Listing {
        let hosts = Set(FileSystem.usualHosts + options.listedHosts + library.answeredHosts())
        let names = hosts.filter { isAllowed($0) }.map(\.name).sorted()
        let local = view == .layers ? [item(node, "local", S_IFDIR)] : []
        return Listing(items: local + names.map { item(node, $0, S_IFDIR) })
    }

    private func listLocal(_ node: NamespaceNode) -> Listing {
        let names = namesInDirectory(options.localDirectory).filter { LocalLayerName.isLayer($0) }
        return Listing(
            items: names.compactMap { name in
                guard let identity = LocalFileIdentity(path: "\(options.localDirectory)/\(name)") else { return nil }
                return treeItem(node, name, place: "\(node.place)/\(name)@\(identity.key)")
            }
        )
    }

    private func listHost(_ node: NamespaceNode, _ view: View, _ host: RegistryHost) -> Outcome<Listing> {
        var names = library.knownChildren(host, "")
        if host.isGCR {
            // No catalog for users here: a project's repositories come with its `tags/list`.
            switch library.ownProjects() {
            case .loading(let completion): return .parked(completion)
            case .failed: break
            case .ready(let projects): names.formUnion(projects)
            }
            return .ready(Listing(items: names.sorted().map { item(node, $0, S_IFDIR) }))
        }
        switch library.catalog(host) {
        case .loading(let completion): return .parked(completion)
        case .failed(let error): if names.isEmpty { return .failed(error) }
        case .ready: names = names.union(library.knownChildren(host, ""))
        }
        return .ready(Listing(items: names.sorted().map { item(node, $0, S_IFDIR) }))
    }

    private func listRepository(
        _ node: NamespaceNode,
        _ view: View,
        _ repository: Repository
    ) -> Outcome<Listing> {
        var tags: Set<String> = Set(library.repositories.tags(repository))
        var children = library.knownChildren(repository.host, repository.path)
        let digests = library.repositories.digests(repository)
        var failure: FSError?
        // Both are asked at once.
        let tagList = library.tagList(repository)
        let catalog = repository.host.isGCR ? .ready(CatalogListing.none) : library.catalog(repository.host)
        switch tagList {
        case .loading(let completion): return .parked(completion)
        case .failed(let error): failure = error
        case .ready(let listing):
            if let list = listing.list {
                tags = Set(list.tags)
                children.formUnion(list.children)
            }
        }
        switch catalog {
        case .loading(let completion): return .parked(completion)
        case .failed(let error): failure = failure ?? error
        case .ready: children.formUnion(library.knownChildren(repository.host, repository.path))
        }
        if let failure, tags.isEmpty && children.isEmpty && digests.isEmpty { return .failed(failure) }
        tags = tags.filter { Repository.isTag($0) && Digest(directoryName: $0) == nil }
        children = children.filter { Repository.isComponent($0) && !tags.contains($0) }
        var items = tags.map { item(node, $0, S_IFLNK) } + children.map { item(node, $0, S_IFDIR) }
        items += digests.compactMap { digestItem(node, view, repository, $0) }
        return .ready(Listing(items: items.sorted { $0.name.lexicographicallyPrecedes($1.name) }))
    }

    /// A digest that was used before, by what the cache directory knows of it.
    private func digestItem(
        _ node: NamespaceNode,
        _ view: View,
        _ repository: Repository,
        _ digest: Digest
    ) -> Listing.Item? {
        guard let document = library.knownManifest(repository, digest) else { return nil }
        switch document {
        case .index(let index):
            return index.select(options.platform) == nil ? nil : item(node, digest.directoryName, S_IFLNK)
        case .image(let manifest):
            if view == .layers { return item(node, digest.directoryName, S_IFDIR) }
            guard manifest.reasonNotMountable == nil else { return nil }
            return treeItem(node, digest.directoryName, place: "\(node.place)/\(digest.directoryName)")
        }
    }

    private func listManifest(_ node: NamespaceNode, _ manifest: ImageManifest) -> Listing {
        var items = [item(node, "manifest", S_IFREG)]
        if manifest.config != nil { items.append(item(node, "config", S_IFREG)) }
        guard manifest.reasonNotMountable == nil else { return Listing(items: items) }
        let layers = manifest.distinctLayers
        items += layers.indices.map { item(node, "\($0)", S_IFLNK) }
        items += ["bottom", "top"].map { item(node, $0, S_IFLNK) }
        items += layers.compactMap { layer in
            treeItem(node, layer.digest.directoryName, place: "\(node.place)/\(layer.digest.directoryName)")
        }
        return Listing(items: items)
    }
}

extension NamespaceNode {
    /// Its listing follows from a digest.
    var isImmutable: Bool {
        switch kind {
        case .root, .manifest: true
        default: false
        }
    }
}

/// The bytes of an array as a raw span.
@_lifetime(borrow array)
private func bytes(of array: borrowing [UInt8]) -> RawSpan {
    // SAFETY: a UInt8 is one byte without padding.
    unsafe array.span.bytes
}
