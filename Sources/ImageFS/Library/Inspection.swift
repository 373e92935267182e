internal import BlobIO
internal import LayerFormat
public import OCIModel
public import OCIRegistry
internal import PosixIO

/// What is known of one layer.
public struct LayerReport: Sendable, Encodable {
    /// `sha256:<hex>`; nil for a layer file, which is known by its path.
    public var digest: String?
    /// The media type that the manifest gives it; nil for a layer file.
    public var mediaType: String?
    /// Bytes of the blob.
    public var size: UInt64
    /// `estargz`, `estargz-external-toc`, `stargz` or `zstd-chunked`; `tar`, `tar+gzip` or `tar+zstd` without an index; nil when the layer cannot be read.
    public var format: String?
    /// SHA-256 of the TOC's JSON.
    public var tocDigest: String?
    /// Whether the manifest promises the TOC's digest and every chunk has one, so that every byte is covered by the image's
    /// own digest.
    public var isVerified: Bool
    /// Compressed bytes of TOC and footer.
    public var tocSize: UInt64?
    /// Names in the layer, directories that are only implied included.
    public var entries: Int?
    /// Chunks of regular files.
    public var chunks: Int?
    /// Bytes that the landmark asks to prefetch; nil without a landmark.
    public var prefetchSize: UInt64?
    /// Why the layer cannot be read.
    public var problem: String?
}

/// What is known of an image.
public struct ImageReport: Sendable, Encodable {
    /// The reference in full.
    public var reference: String
    /// The digest that the tag leads to: an index's, or the manifest's own.
    public var digest: String
    /// The image manifest's digest.
    public var manifestDigest: String
    /// The image manifest's media type.
    public var mediaType: String
    /// Why it is no image that can be mounted.
    public var problem: String?
    /// The layers, bottom first, each once.
    public var layers: [LayerReport]
}

extension Library {
    /// Looks an image and its layers up; opens every layer that can be opened.
    public func inspect(_ reference: ImageReference, platform: Platform) async throws(RegistryError) -> ImageReport {
        let repository = reference.repository
        let top = try await topManifest(reference)
        var chosen = top
        var manifest: ImageManifest?
        switch try document(top, repository) {
        case .image(let image): manifest = image
        case .index(let index):
            guard let descriptor = index.select(platform) else {
                throw RegistryError(
                    .notFound,
                    "\(reference) has no image for \(platform); it has \(index.platformList)"
                )
            }
            chosen = try await manifestByDigest(repository, descriptor.digest)
            if case .image(let image) = try document(chosen, repository) { manifest = image }
        }
        guard let manifest else { throw RegistryError(.protocolViolation, "\(reference): an index inside of an index") }
        var layers: [LayerReport] = []
        var tags: [String] = []
        if case .tag(let tag) = reference.manifestName { tags = [tag] }
        for descriptor in manifest.distinctLayers { layers.append(await report(descriptor, repository, tags)) }
        return ImageReport(
            reference: reference.description,
            digest: top.digest.description,
            manifestDigest: chosen.digest.description,
            mediaType: manifest.mediaType,
            problem: manifest.reasonNotMountable,
            layers: layers
        )
    }

    /// The manifest or index that a reference names; by the tag's last known target where the registry is silent.
    private func topManifest(_ reference: ImageReference) async throws(RegistryError) -> FetchedManifest {
        let repository = reference.repository
        guard case .tag(let tag) = reference.manifestName else {
            guard let digest = reference.digest else {
                return try await registry.manifest(repository, reference.manifestName)
            }
            return try await manifestByDigest(repository, digest)
        }
        let known = repositories.tag(repository, tag)
        if let known, silentHosts.contains(repository.host) {
            return try await manifestByDigest(repository, known.target)
        }
        do throws(RegistryError) {
            let deadline = known == nil ? nil : options.knownTagDeadline
            let fetched = try await registry.manifest(repository, .tag(tag), deadline: deadline)
            contents.write(fetched.bytes, digest: fetched.digest)
            repositories.addDigest(repository, fetched.digest)
            return fetched
        } catch {
            guard let known, error.kind == .timedOut || error.kind == .unavailable else { throw error }
            silentHosts.note(repository.host, error)
            notices.warning(
                "tag \(repository):\(tag)",
                "\(repository):\(tag): using the last known digest \(known.target), because: \(error)"
            )
            return try await manifestByDigest(repository, known.target)
        }
    }

    private func manifestByDigest(
        _ repository: Repository,
        _ digest: Digest
    ) async throws(RegistryError) -> FetchedManifest {
        if repositories.hasDigest(repository, digest), let bytes = contents.read(digest) {
            return FetchedManifest(digest: digest, mediaType: nil, bytes: bytes)
        }
        let fetched = try await registry.manifest(repository, .digest(digest))
        contents.write(fetched.bytes, digest: digest)
        repositories.addDigest(repository, digest)
        return fetched
    }

    private func document(
        _ fetched: FetchedManifest,
        _ repository: Repository
    ) throws(RegistryError) -> ManifestDocument {
        do {
            return try ManifestDocument(json: fetched.bytes, mediaType: fetched.mediaType)
        } catch {
            throw RegistryError(.protocolViolation, "\(repository)@\(fetched.digest): \(error)")
        }
    }

    private func report(
        _ descriptor: ContentDescriptor,
        _ repository: Repository,
        _ tags: [String]
    ) async -> LayerReport {
        var report = LayerReport(
            digest: descriptor.digest.description,
            mediaType: descriptor.mediaType,
            size: descriptor.size,
            isVerified: false
        )
        do throws(BlobError) {
            let layer = try await blobs.open(descriptor, from: repository, tags: tags, streams: false)
            report.fill(from: layer.index)
            report.isVerified = layer.isVerified
        } catch {
            if error.isPlainLayer {
                report.format = LayerReport.plainFormat(descriptor.mediaType)
            } else {
                report.problem = error.reason
            }
        }
        return report
    }

    /// Looks a layer file up.
    public func inspect(file path: String) async -> LayerReport {
        var report = LayerReport(size: LocalFileIdentity(path: path)?.size ?? 0, isVerified: false)
        do throws(BlobError) {
            report.fill(from: try await blobs.open(localFile: path).index)
        } catch {
            report.problem = error.reason
        }
        return report
    }
}

extension LayerReport {
    /// What a layer without an index is called.
    fileprivate static func plainFormat(_ mediaType: String) -> String? {
        switch MediaType.layerCompression(mediaType) {
        case .gzip: IndexFormat.tarGzip.description
        case .zstd: IndexFormat.tarZstd.description
        case .some(.none): IndexFormat.tar.description
        case nil: nil
        }
    }

    fileprivate mutating func fill(from index: LayerIndex) {
        format = index.format.description
        if !index.format.isPlain {
            tocDigest = index.tocDigest.description
            tocSize = index.blobSize - min(index.tocOffset, index.blobSize)
        }
        entries = index.recordCount
        chunks = index.chunkCount
        prefetchSize = index.prefetchEnd
    }
}
