internal import OCIModel
internal import OCIRegistry
internal import PosixIO
internal import Synchronization

/// A layer of a TOC image (eStargz with external TOC) that says that it holds a layer's TOC.
struct TOCLayer: Sendable {
    /// Reads all of it, checked against its own digest.
    let read: @Sendable () async throws(BlobError) -> SharedBytes
}

/// Finds TOCs in second images of a repository: those whose tag ends in `-esgztoc`, each layer of which names the layer that
/// it describes (spec section 3).
///
/// An image is known by its digest when its layers are opened, so which tag led there is not known: the tags that are
/// given as likely come first, and only when they have nothing the repository's list is asked for.
///
/// LOCK ORDER: the lock is a leaf.
final class ExternalTOCs: Sendable {
    static let suffix = "-esgztoc"
    /// A TOC of 256 MiB that cannot be compressed, and its headers.
    private static let mostBytes = 257 << 20
    /// TOC images of one repository that are looked at.
    private static let mostImages = 200

    private struct Known {
        /// Tags that were looked at.
        var tags: Set<String> = []
        var layers: [Digest: [ContentDescriptor]] = [:]
    }

    private let registry: RegistryClient
    private let known = Mutex<[Repository: Known]>([:])

    init(_ registry: RegistryClient) {
        self.registry = registry
    }

    /// The layers of TOC images that name this layer; empty when there are none.
    ///
    /// - Parameter likely: tags that may have led to the layer's image.
    func layers(for layer: Digest, in repository: Repository, likely: [String]) async throws(BlobError) -> [TOCLayer] {
        do throws(RegistryError) {
            let found = try await descriptors(for: layer, in: repository, likely)
            return found.map { descriptor in
                TOCLayer { [registry] () throws(BlobError) in
                    let address = BlobAddress(
                        repository: repository,
                        digest: descriptor.digest,
                        size: descriptor.size
                    )
                    do throws(RegistryError) {
                        return SharedBytes(try await registry.blob(address, limit: ExternalTOCs.mostBytes))
                    } catch {
                        throw BlobError(error, layer: layer)
                    }
                }
            }
        } catch {
            throw BlobError(error, layer: layer)
        }
    }

    private func descriptors(
        for layer: Digest,
        in repository: Repository,
        _ likely: [String]
    ) async throws(RegistryError) -> [ContentDescriptor] {
        if let found = find(layer, repository) { return found }
        for tag in likely.prefix(ExternalTOCs.mostImages) {
            try await look(repository, tag.hasSuffix(ExternalTOCs.suffix) ? tag : tag + ExternalTOCs.suffix)
            if let found = find(layer, repository) { return found }
        }
        let tags = try await registry.tags(repository)?.tags ?? []
        for tag in tags.filter({ $0.hasSuffix(ExternalTOCs.suffix) }).prefix(ExternalTOCs.mostImages) {
            try await look(repository, tag)
            if let found = find(layer, repository) { return found }
        }
        // A TOC image may be pushed later.
        known.withLock { $0[repository] = nil }
        return []
    }

    private func find(_ layer: Digest, _ repository: Repository) -> [ContentDescriptor]? {
        known.withLock { $0[repository]?.layers[layer] }
    }

    /// Takes note of a TOC image's layers; a tag that is not there, or of another kind of thing, has none.
    private func look(_ repository: Repository, _ tag: String) async throws(RegistryError) {
        guard known.withLock({ $0[repository]?.tags.contains(tag) != true }) else { return }
        var layers: [ContentDescriptor] = []
        do throws(RegistryError) {
            let fetched = try await registry.manifest(repository, .tag(tag))
            let document = try? ManifestDocument(json: fetched.bytes, mediaType: fetched.mediaType)
            if case .image(let image) = document { layers = image.layers }
        } catch {
            guard error.kind == .notFound || error.kind == .denied else { throw error }
        }
        known.withLock { known in
            var entry = known[repository] ?? Known()
            entry.tags.insert(tag)
            for descriptor in layers {
                guard let described = descriptor.describedLayer else { continue }
                if entry.layers[described]?.contains(where: { $0.digest == descriptor.digest }) != true {
                    entry.layers[described, default: []].append(descriptor)
                }
            }
            known[repository] = entry
        }
    }
}
