internal import Glibc
internal import OCIModel
internal import OCIRegistry
internal import PosixIO

/// A manifest, index or configuration, checked against its digest.
struct SourceDocument: Sendable {
    var digest: Digest
    var mediaType: String?
    var bytes: [UInt8]
}

/// A layer as a file.
struct LayerFile: Sendable {
    var path: String
    var isTemporary: Bool

    func removeIfTemporary() {
        if isTemporary { _ = unsafe unlink(path) }
    }
}

/// Where an image is read.
struct ImageSource: Sendable {
    /// The most that a configuration may have, in bytes.
    private static let configLimit = 8 << 20

    let place: ImagePlace
    private let registry: RegistryClient

    init(_ place: ImagePlace, _ registry: RegistryClient) {
        self.place = place
        self.registry = registry
    }

    /// The manifest or index that the place names.
    func top() async throws(ImageConvertError) -> SourceDocument {
        switch place {
        case .registry(let reference):
            return try await fetched(reference.repository, reference.manifestName)
        case .layout(let directory, let tag):
            let descriptor = try OCILayout(directory: directory).descriptor(tag: tag)
            return try await manifest(descriptor.digest)
        }
    }

    /// A manifest by its digest.
    func manifest(_ digest: Digest) async throws(ImageConvertError) -> SourceDocument {
        switch place {
        case .registry(let reference):
            return try await fetched(reference.repository, .digest(digest))
        case .layout(let directory, _):
            return SourceDocument(digest: digest, bytes: try OCILayout(directory: directory).document(digest))
        }
    }

    /// A configuration.
    func document(_ descriptor: ContentDescriptor) async throws(ImageConvertError) -> [UInt8] {
        switch place {
        case .registry(let reference):
            do throws(RegistryError) {
                return try await registry.blob(
                    address(descriptor, reference.repository),
                    limit: ImageSource.configLimit
                )
            } catch {
                throw ImageConvertError(error)
            }
        case .layout(let directory, _):
            return try OCILayout(directory: directory).document(descriptor.digest)
        }
    }

    /// A layer as a file, checked against its digest.
    ///
    /// - Parameters:
    ///   - directory: where it goes, if it has to be fetched.
    ///   - progress: told of bytes that came; returns whether to go on.
    func file(
        _ layer: ContentDescriptor,
        below directory: String,
        on pool: WorkerPool,
        progress: @escaping @Sendable (_ bytes: UInt64) -> Bool
    ) async throws(ImageConvertError) -> LayerFile {
        switch place {
        case .registry(let reference):
            let path = "\(directory)/\(layer.digest.hex)"
            do throws(ImageConvertError) {
                try await registry.download(address(layer, reference.repository), to: path, progress: progress)
            } catch {
                _ = unsafe unlink(path)
                throw error
            }
            return LayerFile(path: path, isTemporary: true)
        case .layout(let directory, _):
            let checked = await pool.run { () -> Result<String, ImageConvertError> in
                do throws(ImageConvertError) {
                    return .success(try OCILayout(directory: directory).checkedBlob(layer.digest))
                } catch {
                    return .failure(error)
                }
            }
            return LayerFile(path: try checked.get(), isTemporary: false)
        }
    }

    private func fetched(
        _ repository: Repository,
        _ name: ManifestName
    ) async throws(ImageConvertError) -> SourceDocument {
        do throws(RegistryError) {
            let found = try await registry.manifest(repository, name)
            return SourceDocument(digest: found.digest, mediaType: found.mediaType, bytes: found.bytes)
        } catch {
            throw ImageConvertError(error)
        }
    }

    private func address(_ descriptor: ContentDescriptor, _ repository: Repository) -> BlobAddress {
        BlobAddress(repository: repository, digest: descriptor.digest, size: descriptor.size)
    }
}
