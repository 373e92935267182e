internal import BlobIO
internal import OCIModel
internal import PosixIO

/// A layer as one image has it: another image can promise something else of the same blob.
struct CheckedLayerKey: Hashable, Sendable {
    var repository: Repository
    var layer: Digest
    var configuration: Digest?
}

extension Library {
    /// A layer of an image, checked against the image's configuration.
    func layer(
        _ repository: Repository,
        _ descriptor: ContentDescriptor,
        of manifest: ImageManifest,
        _ digest: Digest
    ) -> Loaded<Layer> {
        let key = CheckedLayerKey(
            repository: repository,
            layer: descriptor.digest,
            configuration: manifest.config?.digest
        )
        if checkedLayers.existing(key)?.isRefuted == true { checkedLayers.forget(key) }
        return checkedLayers.value(key) { [self] () throws(FSError) in
            try await checkedLayer(repository, descriptor, of: manifest, digest)
        }
    }

    /// The same, for callers that may suspend.
    func checkedLayer(
        _ repository: Repository,
        _ descriptor: ContentDescriptor,
        of manifest: ImageManifest,
        _ digest: Digest
    ) async throws(FSError) -> Layer {
        let key = ManifestKey(repository: repository, digest: descriptor.digest)
        if layers.existing(key)?.isRefuted == true { layers.forget(key) }
        let layer = try await layers.awaitValue(key) { [self] () throws(FSError) in
            try await openLayer(repository, descriptor, image: digest)
        }
        try await checkDiffID(of: layer, repository, manifest)
        return layer
    }

    /// What a plain layer decompresses to must be what the image's configuration says (spec section 4). The layers that
    /// have an index are covered by the digest of that.
    private func checkDiffID(
        of layer: Layer,
        _ repository: Repository,
        _ manifest: ImageManifest
    ) async throws(FSError) {
        guard let diffID = layer.diffID, blobs.verify != .off else { return }
        let promised = try await diffIDs(repository, manifest)
        guard promised.count == manifest.layers.count else {
            if blobs.verify == .auto { return }
            notices.warning(
                "diffID \(layer.digest)",
                "layer \(layer.digest) of \(repository) has no diffID in the image's configuration, which"
                    + " --verify=require asks for; mount it with --verify=auto"
            )
            throw .inputOutput
        }
        for (descriptor, promise) in zip(manifest.layers, promised)
        where descriptor.digest == layer.digest && promise != diffID {
            notices.warning(
                "diffID \(layer.digest)",
                "layer \(layer.digest) of \(repository) is not what the image's configuration says: uncompressed it has"
                    + " the digest \(diffID), and \(promise) was promised; the image is damaged, push it again"
            )
            throw .inputOutput
        }
    }

    /// The digests of the uncompressed layers; none where the configuration does not say them.
    private func diffIDs(_ repository: Repository, _ manifest: ImageManifest) async throws(FSError) -> [Digest] {
        guard let config = manifest.config else { return [] }
        while true {
            switch configuration(repository, config) {
            case .loading(let completion): await completion.wait()
            case .failed(let error): throw error
            case .ready(let bytes): return (try? ImageConfiguration(json: bytes))?.diffIDs ?? []
            }
        }
    }
}
