internal import BlobIO
internal import BlockCodec
public import OCIModel
public import OCIRegistry
internal import PosixIO

/// What `crfs index` wrote.
public struct PublishedIndex: Sendable {
    /// The manifest of the image that the index is of.
    public var manifest: Digest
    /// The artifact's manifest.
    public var artifact: Digest
    /// The image index that names it, where one was asked for.
    public var boundIndex: Digest?
    /// Layers in it.
    public var layers: Int
    /// Bytes of its parts.
    public var bytes: UInt64
}

extension Library {
    /// Streams the plain layers of an image, where they are not indexed yet, and writes their indexes beside the image: as an
    /// artifact that refers to it.
    ///
    /// - Parameters:
    ///   - tag: a tag for an image index that names the artifact, so that whoever mounts that trusts it; nil for none.
    public func publishIndex(
        _ reference: ImageReference,
        platform: Platform,
        boundAs tag: String?
    ) async throws(RegistryError) -> PublishedIndex {
        let repository = reference.repository
        let top = try await registry.manifest(repository, reference.manifestName)
        var chosen = top
        var others: [ContentDescriptor] = []
        if case .index(let index) = try parsed(top) {
            guard let descriptor = index.select(platform) else {
                throw RegistryError(
                    .notFound,
                    "\(reference) has no image for \(platform); it has \(index.platformList)"
                )
            }
            others = index.manifests
            chosen = try await registry.manifest(repository, .digest(descriptor.digest))
        }
        guard case .image(let image) = try parsed(chosen), image.reasonNotMountable == nil else {
            throw RegistryError(.protocolViolation, "\(reference) is no image that can be mounted")
        }
        var result = PublishedIndex(manifest: chosen.digest, artifact: chosen.digest, layers: 0, bytes: 0)
        let parts = try await pushParts(repository, image, &result)
        guard !parts.isEmpty else {
            throw RegistryError(
                .protocolViolation,
                "every layer of \(reference) has an index of its own: nothing to write"
            )
        }
        let subject = ContentDescriptor(
            mediaType: image.mediaType,
            digest: chosen.digest,
            size: UInt64(chosen.bytes.count),
            platform: others.first { $0.digest == chosen.digest }?.platform
        )
        let artifact = try await pushArtifact(repository, parts, subject)
        result.artifact = artifact.digest
        if let tag {
            result.boundIndex = try await bind(repository, artifact, subject, others, platform: platform, as: tag)
        }
        return result
    }

    private func parsed(_ fetched: FetchedManifest) throws(RegistryError) -> ManifestDocument {
        do throws(ManifestError) {
            return try ManifestDocument(json: fetched.bytes, mediaType: fetched.mediaType)
        } catch {
            throw RegistryError(.protocolViolation, "\(fetched.digest): \(error)")
        }
    }

    private func pushParts(
        _ repository: Repository,
        _ image: ImageManifest,
        _ result: inout PublishedIndex
    ) async throws(RegistryError) -> [ContentDescriptor] {
        let layers: [Layer]
        do throws(FSError) {
            layers = try await openLayers(repository, image, digest: result.manifest)
        } catch {
            throw RegistryError(.protocolViolation, "its layers cannot be opened (the log says why)")
        }
        var parts: [ContentDescriptor] = []
        for layer in layers where layer.diffID != nil {
            let (index, restarts) = layer.indexFiles
            parts.append(try await push(index, IndexArtifact.indexType, of: layer.digest, repository))
            if let restarts {
                parts.append(try await push(restarts, IndexArtifact.restartsType, of: layer.digest, repository))
            }
            result.layers += 1
            result.bytes += UInt64(index.count + (restarts?.count ?? 0))
        }
        return parts
    }

    private func push(
        _ bytes: SharedBytes,
        _ mediaType: String,
        of layer: Digest,
        _ repository: Repository
    ) async throws(RegistryError) -> ContentDescriptor {
        let digest = await mergePool.run { SHA256.digest(of: bytes.span) }
        try await registry.push(bytes, digest: digest, to: repository)
        return ContentDescriptor(
            mediaType: mediaType,
            digest: digest,
            size: UInt64(bytes.count),
            annotations: [IndexArtifact.subjectAnnotation: layer.description]
        )
    }

    /// Writes the artifact's manifest, and the tag that leads to it where the registry does not keep track of referrers.
    private func pushArtifact(
        _ repository: Repository,
        _ parts: [ContentDescriptor],
        _ subject: ContentDescriptor
    ) async throws(RegistryError) -> ContentDescriptor {
        let config = IndexArtifact.emptyConfig
        let configDigest = unsafe SHA256.digest(of: config.span.bytes)
        try await registry.push(SharedBytes(config), digest: configDigest, to: repository)
        var plainSubject = subject
        plainSubject.platform = nil
        let manifest = stableJSON(
            ArtifactText(
                config: ContentDescriptor(
                    mediaType: IndexArtifact.emptyType,
                    digest: configDigest,
                    size: UInt64(config.count)
                ).json,
                layers: parts.map(\.json),
                subject: plainSubject.json
            )
        )
        let artifact = ContentDescriptor(
            mediaType: MediaType.ociManifest,
            digest: unsafe SHA256.digest(of: manifest.span.bytes),
            size: UInt64(manifest.count),
            annotations: [IndexArtifact.subjectAnnotation: subject.digest.description],
            artifactType: IndexArtifact.artifactType
        )
        let isTracked = try await registry.push(
            manifest: manifest,
            mediaType: MediaType.ociManifest,
            as: .digest(artifact.digest),
            to: repository
        )
        if !isTracked { try await tagReferrer(repository, artifact, subject.digest) }
        return artifact
    }

    /// Adds an artifact to the index that stands in for the referrers API. A newer index of crfs replaces an older one.
    private func tagReferrer(
        _ repository: Repository,
        _ artifact: ContentDescriptor,
        _ subject: Digest
    ) async throws(RegistryError) {
        let tag = RegistryClient.referrersTag(subject)
        var manifests: [ContentDescriptor] = []
        do throws(RegistryError) {
            if case .index(let index) = try parsed(try await registry.manifest(repository, .tag(tag))) {
                manifests = index.manifests.filter { $0.artifactType != IndexArtifact.artifactType }
            }
        } catch {
            guard error.kind == .notFound || error.kind == .denied else { throw error }
        }
        let index = ImageIndexText(manifests: (manifests + [artifact]).map(\.json))
        try await registry.push(
            manifest: stableJSON(index),
            mediaType: MediaType.ociIndex,
            as: .tag(tag),
            to: repository
        )
    }

    /// Writes an image index of the image (and the others of its index) and the artifact.
    private func bind(
        _ repository: Repository,
        _ artifact: ContentDescriptor,
        _ subject: ContentDescriptor,
        _ others: [ContentDescriptor],
        platform: Platform,
        as tag: String
    ) async throws(RegistryError) -> Digest {
        var manifests = others.filter {
            $0.annotations[IndexArtifact.subjectAnnotation] != subject.digest.description
                || $0.artifactType != IndexArtifact.artifactType
        }
        if manifests.isEmpty {
            var image = subject
            image.platform = platform
            manifests = [image]
        }
        // Engines that take a descriptor without a platform for one of theirs pass this one by.
        var artifact = artifact
        artifact.platform = Platform(os: "unknown", architecture: "unknown")
        let json = stableJSON(ImageIndexText(manifests: (manifests + [artifact]).map(\.json)))
        try await registry.push(manifest: json, mediaType: MediaType.ociIndex, as: .tag(tag), to: repository)
        return unsafe SHA256.digest(of: json.span.bytes)
    }
}
