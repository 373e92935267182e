internal import OCIModel
internal import PosixIO
internal import Synchronization

/// Which half of the tree a name is in.
enum View: Sendable {
    case layers
    case images

    var name: String { self == .layers ? "layers" : "images" }
}

/// A node above the digests: directories of hosts and repositories, symlinks, generated files.
///
/// LOCK ORDER: the lock is a leaf.
final class NamespaceNode: Sendable {
    enum Kind: Sendable {
        case root
        case view(View)
        case local
        case host(View, RegistryHost)
        /// A repository, or the beginning of one.
        case repository(View, Repository)
        /// `layers/…/sha256-<hex>`.
        case manifest(Repository, StoredManifest, ImageManifest)
        case symlink([UInt8])
        case file(SharedBytes)
        /// An image configuration, fetched when it is read.
        case configuration(Repository, ContentDescriptor)
    }

    let id: UInt32
    /// Where it stands in the tree, `/`-joined, without a leading slash; empty for the root.
    let place: String
    let kind: Kind
    private let begun = Mutex<Listing?>(nil)

    /// What somebody has begun to list and may come back for.
    var listing: Listing? {
        get { begun.withLock { $0 } }
        set {
            // Released outside the lock.
            let old = begun.withLock { listing in
                let old = listing
                listing = newValue
                return old
            }
            _ = old
        }
    }

    init(id: UInt32, place: String, kind: Kind) {
        self.id = id
        self.place = place
        self.kind = kind
    }

    var nodeID: NodeID { NodeID(rawValue: UInt64(id)) }

    /// st_ino: the same after a remount, because it follows from the place alone. Bit 55 keeps it apart from the
    /// numbers of layers and places, of which there are at most 2^27.
    var inode: UInt64 { NamespaceNode.inode(ofPlace: place) }

    static func inode(ofPlace place: String) -> UInt64 {
        if place.isEmpty { return 1 }
        return 1 << 55 | (fnv1a64(place.utf8) & (1 << 55 - 1))
    }

    var isDirectory: Bool {
        switch kind {
        case .root, .view, .local, .host, .repository, .manifest: true
        case .symlink, .file, .configuration: false
        }
    }
}

/// The namespace nodes that the kernel knows. A node lives from its first look-up to its last forget; its number is
/// never given again.
///
/// LOCK ORDER: a leaf.
final class NamespaceTable: Sendable {
    private struct Key: Hashable, Sendable {
        var place: String
        /// A symlink's target: a tag that moves is another node, because the kernel keeps a symlink's text.
        var variant: [UInt8]
    }

    private struct State: Sendable {
        var nodes: [UInt32: NamespaceNode]
        var ids: [Key: UInt32]
        var lookups: [UInt32: UInt64] = [:]
        var next: UInt32
    }

    private let state: Mutex<State>
    let root: NamespaceNode

    init() {
        root = NamespaceNode(id: 1, place: "", kind: .root)
        state = Mutex(State(nodes: [1: root], ids: [Key(place: "", variant: []): 1], next: 2))
    }

    func node(_ id: UInt32) -> NamespaceNode? {
        state.withLock { $0.nodes[id] }
    }

    /// The node at a place, made if the kernel does not know it, with one look-up more.
    func lookUp(_ place: String, _ kind: NamespaceNode.Kind) -> NamespaceNode {
        var variant: [UInt8] = []
        if case .symlink(let target) = kind { variant = target }
        let key = Key(place: place, variant: variant)
        return state.withLock { state in
            if let id = state.ids[key], let node = state.nodes[id] {
                state.lookups[id, default: 0] += 1
                return node
            }
            let id = state.next
            state.next += 1
            let node = NamespaceNode(id: id, place: place, kind: kind)
            state.nodes[id] = node
            state.ids[key] = id
            state.lookups[id] = 1
            return node
        }
    }

    func forget(_ id: UInt32, count: UInt64) {
        // Released outside the lock: the last reference to a manifest's bytes may go with it.
        let removed: NamespaceNode? = state.withLock { state in
            guard id != root.id, let lookups = state.lookups[id] else { return nil }
            if lookups > count {
                state.lookups[id] = lookups - count
                return nil
            }
            state.lookups[id] = nil
            guard let node = state.nodes.removeValue(forKey: id) else { return nil }
            var variant: [UInt8] = []
            if case .symlink(let target) = node.kind { variant = target }
            state.ids[Key(place: node.place, variant: variant)] = nil
            return node
        }
        _ = removed
    }
}
