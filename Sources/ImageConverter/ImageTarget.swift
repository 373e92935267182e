internal import Glibc
internal import OCIModel
internal import OCIRegistry
internal import PosixIO

/// Where an image is written. It has its name when `finish` has returned.
struct ImageTarget: Sendable {
    private enum Destination: Sendable {
        case registry(Repository, tag: String)
        case layout(OCILayout, tag: String)
    }

    private let destination: Destination
    private let registry: RegistryClient
    private let work: String

    init(_ place: ImagePlace, _ registry: RegistryClient, work: String) throws(ImageConvertError) {
        self.registry = registry
        self.work = work
        switch place {
        case .registry(let reference):
            guard reference.digest == nil, let tag = reference.tag else {
                throw ImageConvertError("\(reference) names a digest: what is written has another one, so name a tag")
            }
            destination = .registry(reference.repository, tag: tag)
        case .layout(let directory, let tag):
            let layout = OCILayout(directory: directory)
            try layout.create()
            destination = .layout(layout, tag: tag ?? "latest")
        }
    }

    /// Where a layer may be made: on the file system where it stays.
    func workFile(_ number: Int) -> String {
        switch destination {
        case .registry: "\(work)/converted-\(number)"
        case .layout(let layout, _): "\(layout.blobDirectory)/.crfs-convert-\(getpid())-\(number)"
        }
    }

    /// Takes the file of a layer over.
    func put(file: String, _ digest: Digest) async throws(ImageConvertError) {
        switch destination {
        case .registry(let repository, _):
            let bytes: SharedBytes
            do throws(SystemError) {
                bytes = SharedBytes(try Mapping(try Descriptor.open(file)))
            } catch {
                throw ImageConvertError(error, "\(file) cannot be read")
            }
            try await push(bytes, digest, repository)
        case .layout(let layout, _):
            try layout.adopt(file, as: digest)
        }
    }

    /// Puts a configuration.
    func put(blob: [UInt8], _ digest: Digest) async throws(ImageConvertError) {
        switch destination {
        case .registry(let repository, _): try await push(SharedBytes(blob), digest, repository)
        case .layout(let layout, _): try layout.write(document: blob, digest: digest)
        }
    }

    /// Puts a manifest or index.
    func put(manifest: [UInt8], _ mediaType: String, _ digest: Digest) async throws(ImageConvertError) {
        switch destination {
        case .registry(let repository, _): try await push(manifest, mediaType, .digest(digest), repository)
        case .layout(let layout, _): try layout.write(document: manifest, digest: digest)
        }
    }

    /// Gives what was put its name.
    func finish(_ top: ContentDescriptor, _ bytes: [UInt8]) async throws(ImageConvertError) {
        switch destination {
        case .registry(let repository, let tag): try await push(bytes, top.mediaType, .tag(tag), repository)
        case .layout(let layout, let tag): try layout.set(tag: tag, to: top)
        }
    }

    private func push(
        _ bytes: SharedBytes,
        _ digest: Digest,
        _ repository: Repository
    ) async throws(ImageConvertError) {
        do throws(RegistryError) {
            try await registry.push(bytes, digest: digest, to: repository)
        } catch {
            throw ImageConvertError(error)
        }
    }

    private func push(
        _ manifest: [UInt8],
        _ mediaType: String,
        _ name: ManifestName,
        _ repository: Repository
    ) async throws(ImageConvertError) {
        do throws(RegistryError) {
            try await registry.push(manifest: manifest, mediaType: mediaType, as: name, to: repository)
        } catch {
            throw ImageConvertError(error)
        }
    }
}
