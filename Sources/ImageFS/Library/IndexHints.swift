internal import BlobIO
internal import BlockCodec
internal import HTTPTransport
internal import OCIModel
internal import OCIRegistry
internal import PosixIO
internal import Synchronization

/// The parts of an artifact that is believed, by layer.
struct IndexParts: Sendable {
    struct Part: Sendable {
        var index: ContentDescriptor?
        var restarts: ContentDescriptor?
    }

    /// `host/repository@sha256:…`.
    var source: String
    var layers: [Digest: Part]
}

/// Artifacts that image indexes named, by the manifest that they are about.
///
/// LOCK ORDER: the lock is a leaf.
final class IndexBindings: Sendable {
    private let bound = Mutex<[Digest: Digest]>([:])

    /// Remembers what an image index binds: whoever trusts its digest trusts what it names.
    func note(_ index: ManifestIndex) {
        for descriptor in index.manifests where descriptor.artifactType == IndexArtifact.artifactType {
            guard let subject = descriptor.annotations[IndexArtifact.subjectAnnotation].flatMap({ Digest($0) }) else {
                continue
            }
            bound.withLock { $0[subject] = descriptor.digest }
        }
    }

    func artifact(of manifest: Digest) -> Digest? { bound.withLock { $0[manifest] } }
}

extension Library {
    /// The index that somebody made of a plain layer of an image, from a source that is trusted; nil where there is none.
    func hint(_ layer: Digest, _ repository: Repository, image: Digest) async -> PlainHint? {
        guard options.indexTrust.isOn else { return nil }
        let key = ManifestKey(repository: repository, digest: image)
        let parts = try? await indexParts.awaitValue(key) { [self] () throws(FSError) in
            await findIndexParts(repository, image: image)
        }
        guard let parts = parts ?? nil, let part = parts.layers[layer], let index = part.index else { return nil }
        guard let indexBytes = await content(index, repository) else { return nil }
        var restarts: SharedBytes?
        if let descriptor = part.restarts { restarts = await content(descriptor, repository) }
        return PlainHint(index: indexBytes, restarts: restarts, source: parts.source)
    }

    /// A part of an artifact, checked against its digest.
    private func content(_ descriptor: ContentDescriptor, _ repository: Repository) async -> SharedBytes? {
        guard descriptor.size > 0, descriptor.size <= IndexArtifact.mostBytes else { return nil }
        let address = BlobAddress(repository: repository, digest: descriptor.digest, size: descriptor.size)
        let range = ByteRange(offset: 0, count: descriptor.size)
        guard let bytes = try? await registry.read(address, range, priority: .demand).share() else { return nil }
        let digest = await mergePool.run { SHA256.digest(of: bytes.span) }
        if digest == descriptor.digest { return bytes }
        notices.warning("index \(descriptor.digest)", "\(repository) served other content for \(descriptor.digest)")
        return nil
    }

    /// The artifact of an image: the one that the image index names, one whose digest was given, or the first one that
    /// refers to the image where the configuration trusts whoever may write there.
    private func findIndexParts(_ repository: Repository, image: Digest) async -> IndexParts? {
        var digests: [Digest] = []
        if let bound = bindings.artifact(of: image) { digests.append(bound) }
        digests += options.indexTrust.digests.sorted { $0.description < $1.description }
        if options.indexTrust.trusts(repository) {
            do throws(RegistryError) {
                digests += try await registry.referrers(
                    repository,
                    of: image,
                    artifactType: IndexArtifact.artifactType
                ).map(\.digest)
            } catch {
                notices.info("cannot look for indexes of \(repository)@\(image): \(error)")
            }
        }
        for digest in digests {
            if let parts = await parts(of: digest, repository, image: image) { return parts }
        }
        return nil
    }

    private func parts(of artifact: Digest, _ repository: Repository, image: Digest) async -> IndexParts? {
        guard let fetched = try? await registry.manifest(repository, .digest(artifact)),
            let document = try? ManifestDocument(json: fetched.bytes, mediaType: fetched.mediaType),
            case .image(let manifest) = document, manifest.artifactType == IndexArtifact.artifactType,
            manifest.subject?.digest == image
        else { return nil }
        var parts = IndexParts(source: "\(repository)@\(artifact)", layers: [:])
        for descriptor in manifest.layers {
            guard let layer = descriptor.annotations[IndexArtifact.subjectAnnotation].flatMap({ Digest($0) }) else {
                continue
            }
            switch descriptor.mediaType {
            case IndexArtifact.indexType: parts.layers[layer, default: IndexParts.Part()].index = descriptor
            case IndexArtifact.restartsType: parts.layers[layer, default: IndexParts.Part()].restarts = descriptor
            default: break
            }
        }
        return parts
    }
}
