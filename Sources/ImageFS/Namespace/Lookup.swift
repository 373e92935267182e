internal import BlobIO
internal import Glibc
internal import LayerFormat
public import OCIModel
internal import PosixIO

// The look-up rules of spec section 1, for the names above the digests.

extension FileSystem {
    func lookUp(_ name: String, in node: NamespaceNode) -> Outcome<Entry> {
        switch node.kind {
        case .root: lookUpInRoot(name)
        case .view(let view): lookUpHost(name, in: node, view)
        case .local: lookUpLocal(name, in: node)
        case .host(let view, let host): lookUpFirstComponent(name, in: node, view, host)
        case .repository(let view, let repository): lookUpBelow(name, in: node, view, repository)
        case .manifest(let repository, let stored, let manifest):
            lookUpInManifest(name, in: node, repository, stored, manifest)
        case .symlink, .file, .configuration: .failed(.notDirectory)
        }
    }

    /// The node of a namespace name, as the kernel is told of it.
    private func entry(
        _ parent: NamespaceNode,
        _ name: String,
        _ kind: NamespaceNode.Kind,
        timeout: Double = Entry.unlimited
    ) -> Outcome<Entry> {
        let node = namespace.lookUp(parent.place.isEmpty ? name : "\(parent.place)/\(name)", kind)
        return .ready(
            Entry(
                node: node.nodeID,
                attributes: attributes(of: node),
                entryTimeout: timeout,
                attributeTimeout: Entry.unlimited
            )
        )
    }

    /// For what can never be there: no request now, and none later.
    private var never: Outcome<Entry> { .ready(.negative(timeout: Entry.unlimited)) }

    private func missing(_ timeout: Double) -> Outcome<Entry> { .ready(.negative(timeout: timeout)) }

    private func lookUpInRoot(_ name: String) -> Outcome<Entry> {
        switch name {
        case "layers": entry(namespace.root, name, .view(.layers))
        case "images": entry(namespace.root, name, .view(.images))
        case "README-crfs.txt": entry(namespace.root, name, .file(SharedBytes(Array(options.readme.utf8))))
        default: never
        }
    }

    private func lookUpHost(_ name: String, in node: NamespaceNode, _ view: View) -> Outcome<Entry> {
        if view == .layers && name == "local" { return entry(node, name, .local) }
        guard let host = RegistryHost(name.percentDecoded), isAllowed(host) else { return never }
        // Another spelling leads to the one name that the host has.
        if host.name != name { return entry(node, name, .symlink(Array(host.name.utf8))) }
        return entry(node, name, .host(view, host))
    }

    /// Whether `--allow-host` lets the tree show a host.
    func isAllowed(_ host: RegistryHost) -> Bool {
        host.isAllowed(by: options.allowedHosts)
    }

    private func lookUpFirstComponent(
        _ name: String,
        in node: NamespaceNode,
        _ view: View,
        _ host: RegistryHost
    ) -> Outcome<Entry> {
        if let path = name.pathOfEscapedSlashes {
            guard let nested = Repository(host: host, path: path) else { return never }
            return lookUpEscaped(name, in: node, view, nested, relativeTarget: path)
        }
        guard let repository = Repository(host: host, path: name), Digest(directoryName: name) == nil else {
            return never
        }
        if host.isGCR && !GCRProject.isValid(name) { return never }
        return entry(node, name, .repository(view, repository))
    }

    /// `P%2FN`: the nested repository that a tag `P:N` hides, and else another spelling of `P/N`.
    private func lookUpEscaped(
        _ name: String,
        in node: NamespaceNode,
        _ view: View,
        _ nested: Repository,
        relativeTarget: String
    ) -> Outcome<Entry> {
        let components = nested.path.split(separator: "/")
        let parentPath = components.dropLast().joined(separator: "/")
        guard let parent = Repository(host: nested.host, path: parentPath), let last = components.last else {
            return never
        }
        if nested.host.isGCR && !GCRProject.isValid(components[0]) { return never }
        let alias = NamespaceNode.Kind.symlink(Array(relativeTarget.utf8))
        guard Repository.isTag(last) else { return entry(node, name, alias) }
        switch library.tags.target(parent, String(last)) {
        case .loading(let completion): return .parked(completion)
        case .failed(let error): return .failed(error)
        case .ready(let answer):
            let kind = answer.target == nil ? alias : .repository(view, nested)
            return entry(node, name, kind, timeout: answer.remaining)
        }
    }

    private func lookUpBelow(
        _ name: String,
        in node: NamespaceNode,
        _ view: View,
        _ repository: Repository
    ) -> Outcome<Entry> {
        if let digest = Digest(directoryName: name) { return lookUpDigest(digest, in: node, view, repository) }
        if let digest = Digest(name) { return entry(node, name, .symlink(Array(digest.directoryName.utf8))) }
        if let path = name.pathOfEscapedSlashes {
            guard let nested = Repository(host: repository.host, path: "\(repository.path)/\(path)") else {
                return never
            }
            return lookUpEscaped(name, in: node, view, nested, relativeTarget: path)
        }
        let nested = Repository(host: repository.host, path: "\(repository.path)/\(name)")
        if repository.host.isDockerHub && repository.path == "library" {
            // `library/debian` is another spelling of `debian`.
            return nested == nil ? never : entry(node, name, .symlink(Array("../\(name)".utf8)))
        }
        guard Repository.isTag(name) else {
            // A component can be longer than a tag, else every component is a tag as well.
            guard let nested else { return never }
            return entry(node, name, .repository(view, nested), timeout: library.options.tagFreshness)
        }
        let isKnownPath = { [library] in nested.map { library.isKnown($0) } ?? false }
        switch library.tags.target(repository, name, isKnownPath: isKnownPath) {
        case .loading(let completion): return .parked(completion)
        case .failed(let error):
            // The registry is away, but what was a directory before is one still.
            guard let nested, library.isKnown(nested) else { return .failed(error) }
            return entry(node, name, .repository(view, nested), timeout: library.options.tagFreshness)
        case .ready(let answer):
            if let target = answer.target {
                library.noteRepository(repository)
                let kind = NamespaceNode.Kind.symlink(Array(target.directoryName.utf8))
                return entry(node, name, kind, timeout: answer.remaining)
            }
            guard let nested else { return missing(answer.remaining) }
            if !library.isKnown(nested) && library.isRepository(repository) { return missing(answer.remaining) }
            return entry(node, name, .repository(view, nested), timeout: answer.remaining)
        }
    }

    private func lookUpDigest(
        _ digest: Digest,
        in node: NamespaceNode,
        _ view: View,
        _ repository: Repository
    ) -> Outcome<Entry> {
        switch library.manifest(repository, digest) {
        case .loading(let completion): return .parked(completion)
        case .failed(.notFound): return missing(library.options.tagFreshness)
        case .failed(let error): return .failed(error)
        case .ready(let stored):
            switch stored.document {
            case .index(let index):
                guard let chosen = index.select(options.platform) else {
                    library.notices.warning(
                        "platform \(digest)",
                        "\(repository)@\(digest) has no image for \(options.platform); "
                            + "it has \(index.platformList); choose one with --platform"
                    )
                    return missing(Entry.unlimited)
                }
                return entry(node, digest.directoryName, .symlink(Array(chosen.digest.directoryName.utf8)))
            case .image(let manifest):
                if view == .layers {
                    return entry(node, digest.directoryName, .manifest(repository, stored, manifest))
                }
                return lookUpImage(node, repository, stored, manifest)
            }
        }
    }

    private func lookUpImage(
        _ node: NamespaceNode,
        _ repository: Repository,
        _ stored: StoredManifest,
        _ manifest: ImageManifest
    ) -> Outcome<Entry> {
        if let reason = manifest.reasonNotMountable {
            library.notices.warning(
                "unmountable \(stored.digest)",
                "\(repository)@\(stored.digest) is no image that can be mounted: \(reason)"
            )
            return missing(Entry.unlimited)
        }
        switch library.image(repository, stored, manifest) {
        case .loading(let completion): return .parked(completion)
        case .failed(let error): return .failed(error)
        case .ready(let image):
            do throws(SystemError) {
                let tree = try trees.image(
                    image,
                    place: "\(node.place)/\(stored.digest.directoryName)",
                    numbers: library.numbers,
                    use: uses?.use(stored.digest, image.layers)
                )
                return .ready(tree.entry(0))
            } catch {
                return .failed(FSError(error))
            }
        }
    }

    private func layerTree(
        _ layer: Layer,
        place: String,
        localFile: (path: String, identity: LocalFileIdentity)? = nil,
        manifest: Digest? = nil
    ) throws(SystemError) -> Tree {
        let number = try library.numbers.number(for: "D \(place)")
        if let tree = trees.tree(number) { return tree }
        let nodes = try trees.layerNodes(layer, localFile: localFile, numbers: library.numbers)
        let use = manifest.flatMap { uses?.use($0, [layer]) }
        return trees.tree(number) {
            Tree(number: number, content: .layerDirectories(layer, nodes: nodes), localFile: localFile, use: use)
        }
    }

    private func lookUpInManifest(
        _ name: String,
        in node: NamespaceNode,
        _ repository: Repository,
        _ stored: StoredManifest,
        _ manifest: ImageManifest
    ) -> Outcome<Entry> {
        let layers = manifest.reasonNotMountable == nil ? manifest.distinctLayers : []
        switch name {
        case "manifest": return entry(node, name, .file(SharedBytes(stored.bytes)))
        case "config":
            guard let config = manifest.config else { return never }
            return entry(node, name, .configuration(repository, config))
        case "bottom" where !layers.isEmpty: return entry(node, name, .symlink(Array("0".utf8)))
        case "top" where !layers.isEmpty: return entry(node, name, .symlink(Array("\(layers.count - 1)".utf8)))
        default: break
        }
        if let position = Int(name), String(position) == name, layers.indices.contains(position) {
            return entry(node, name, .symlink(Array(layers[position].digest.directoryName.utf8)))
        }
        if let digest = Digest(name), layers.contains(where: { $0.digest == digest }) {
            return entry(node, name, .symlink(Array(digest.directoryName.utf8)))
        }
        guard let digest = Digest(directoryName: name), let descriptor = layers.first(where: { $0.digest == digest })
        else { return never }
        switch library.layer(repository, descriptor, of: manifest, stored.digest) {
        case .loading(let completion): return .parked(completion)
        case .failed(let error): return .failed(error)
        case .ready(let layer):
            do throws(SystemError) {
                return .ready(try layerTree(layer, place: "\(node.place)/\(name)", manifest: stored.digest).entry(0))
            } catch {
                return .failed(FSError(error))
            }
        }
    }

    private func lookUpLocal(_ name: String, in node: NamespaceNode) -> Outcome<Entry> {
        guard LocalLayerName.isLayer(name) else { return never }
        let path = "\(options.localDirectory)/\(name)"
        // A file can be replaced at any time, so its name is asked for again each second.
        guard let identity = LocalFileIdentity(path: path) else { return missing(0) }
        switch library.localLayer(path, identity) {
        case .loading(let completion): return .parked(completion)
        case .failed(let error): return .failed(error)
        case .ready(let layer):
            do throws(SystemError) {
                let place = "\(node.place)/\(name)@\(identity.key)"
                var entry = try layerTree(layer, place: place, localFile: (path, identity)).entry(0)
                entry.entryTimeout = 1
                return .ready(entry)
            } catch {
                return .failed(FSError(error))
            }
        }
    }
}

extension RegistryHost {
    /// Whether one of the patterns (fnmatch(3)) fits, or there are none.
    public func isAllowed(by patterns: [String]) -> Bool {
        patterns.isEmpty || patterns.contains { pattern in unsafe fnmatch(pattern.lowercased(), name, 0) == 0 }
    }
}

/// Names of layer files that `layers/local` shows.
enum LocalLayerName {
    static let suffixes = [".stargz", ".esgz", ".tar.gz", ".tgz", ".tar.zst", ".tar"]

    static func isLayer(_ name: String) -> Bool {
        suffixes.contains { name.hasSuffix($0) && name.utf8.count > $0.utf8.count }
    }
}

extension String {
    /// The text with `%xx` sequences decoded where they give printable ASCII; `%` stands for itself elsewhere.
    var percentDecoded: String {
        guard contains("%") else { return self }
        var decoded: [UInt8] = []
        let bytes = Array(utf8)
        var index = 0
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "%"), index + 2 < bytes.count,
                let value = UInt8(String(decoding: bytes[(index + 1)...(index + 2)], as: UTF8.self), radix: 16),
                (0x21...0x7e).contains(value)
            {
                decoded.append(value)
                index += 3
            } else {
                decoded.append(bytes[index])
                index += 1
            }
        }
        return String(decoding: decoded, as: UTF8.self)
    }

    /// For a name with an escaped slash (`%2F`): the path that it stands for.
    var pathOfEscapedSlashes: String? {
        let decoded = percentDecoded
        return decoded.contains("/") ? decoded : nil
    }
}
