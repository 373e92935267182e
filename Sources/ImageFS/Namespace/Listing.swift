internal import BlobIO
internal import Glibc
internal import LayerFormat
internal import OCIModel
internal import OCIRegistry
internal import PosixIO
internal import Synchronization

/// What a directory of the namespace held when it was asked.
///
/// The kernel comes for a listing in parts and says by a number where it goes on. So the number follows from the name
/// alone: whatever was added or has gone in between, all other names come once. That is also why they are in this order.
struct Listing: Sendable {
    struct Item: Sendable {
        var name: [UInt8]
        var inode: UInt64
        /// S_IFMT bits.
        var type: UInt32
        /// Where the listing goes on after this name; above what "." and ".." take, and below 2^63 (off_t).
        var cookie: UInt64 = 0
    }

    /// By cookie; no two have the same.
    let items: [Item]

    init(items: [Item]) {
        var items = items
        for index in items.indices { items[index].cookie = (fnv1a64(items[index].name) >> 2) + 3 }
        items.sort { ($0.cookie, $0.inode) < ($1.cookie, $1.inode) }
        // Names whose hashes are the same still have to be told apart.
        for index in items.indices.dropFirst() where items[index].cookie <= items[index - 1].cookie {
            items[index].cookie = items[index - 1].cookie + 1
        }
        self.items = items
    }

    /// The items after a cookie.
    func items(after cookie: UInt64) -> ArraySlice<Item> {
        var (low, high) = (0, items.count)
        while low < high {
            let middle = (low + high) / 2
            if items[middle].cookie > cookie { high = middle } else { low = middle + 1 }
        }
        return items[low...]
    }
}

extension FileSystem {
    /// Whether a directory's listing follows from a digest, so that whoever has it may keep it.
    public func isListingFixed(_ id: NodeID) -> Bool {
        if case .namespace(let node) = place(id) { return node.isImmutable }
        return true
    }

    /// Calls `body` for names from `offset` on (0: the start, else what came as `nextOffset`), "." and ".." first, until
    /// it returns false (that name was not taken) or the end. With `plus`, each taken name that has a node counts as a
    /// look-up of it. A directory need not be opened before.
    ///
    /// One of the namespace is listed as it is when its first name is asked for; that makes no request per entry and
    /// opens no layer.
    public func list(
        _ id: NodeID,
        offset: UInt64,
        plus: Bool,
        _ body: (_ name: borrowing RawSpan, _ listed: ListedName) -> Bool
    ) -> Outcome<Void> {
        switch place(id) {
        case nil: return .failed(.stale)
        case .tree(let tree, let directory):
            if tree.isStale { return .failed(.stale) }
            guard isMode(tree, directory) else { return .failed(.notDirectory) }
            // A listing gives all its names to the kernel: no look-up may follow.
            tree.use?.touch()
            listTree(tree, directory, offset: offset, plus: plus, body)
            return .ready(())
        case .namespace(let node): return listNamespace(node, offset: offset, plus: plus, body)
        }
    }

    private func isMode(_ tree: Tree, _ record: UInt32) -> Bool {
        let source = tree.source(record)
        return isDirectory(source.layer.index.attributes(source.record).mode)
    }

    private func listNamespace(
        _ node: NamespaceNode,
        offset: UInt64,
        plus: Bool,
        _ body: (_ name: borrowing RawSpan, _ listed: ListedName) -> Bool
    ) -> Outcome<Void> {
        let listing: Listing
        if offset > 0, let begun = node.listing {
            listing = begun
        } else {
            switch list(node) {
            case .parked(let completion): return .parked(completion)
            case .failed(let error): return .failed(error)
            case .ready(let made): listing = made
            }
        }
        guard listDots(node.inode, node.inode, offset: offset, body) else {
            node.listing = listing
            return .ready(())
        }
        let rest = listing.items(after: offset)
        // The end is asked for once more, and then nobody comes for it.
        node.listing = rest.isEmpty && offset > 0 ? nil : listing
        let entry: Entry? = plus ? Entry(node: .none, attributes: nil, entryTimeout: 0, attributeTimeout: 0) : nil
        for item in rest {
            let listed = ListedName(inode: item.inode, type: item.type, entry: entry, nextOffset: item.cookie)
            guard body(bytes(of: item.name), listed) else { break }
        }
        return .ready(())
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
        let names = hosts.filter { isAllowed($0) }.map(\.name)
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
            return .ready(Listing(items: names.map { item(node, $0, S_IFDIR) }))
        }
        switch library.catalog(host) {
        case .loading(let completion): return .parked(completion)
        case .failed(let error): if names.isEmpty { return .failed(error) }
        case .ready: names = names.union(library.knownChildren(host, ""))
        }
        return .ready(Listing(items: names.map { item(node, $0, S_IFDIR) }))
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
        return .ready(Listing(items: items))
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
