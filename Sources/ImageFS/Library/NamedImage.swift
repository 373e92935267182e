internal import BlobIO
internal import LayerFormat
public import OCIModel
internal import PosixIO

/// An image that is open, under the name that it was asked for by.
public struct NamedImage: Sendable {
    /// As it was asked for.
    public let reference: ImageReference
    /// The digest of the image manifest that the reference led to.
    public let manifest: Digest
    let content: OpenImage

    /// For people: with the tag where one was named, else with the digest.
    public var name: String {
        let digest = reference.tag == nil ? reference.digest : nil
        return "\(ImageReference(repository: reference.repository, tag: reference.tag, digest: digest))"
    }

    /// The same image whatever becomes of the tag.
    public var pinned: ImageReference {
        ImageReference(repository: reference.repository, tag: reference.tag, digest: manifest)
    }

    /// Where its root is in a tree of all registries, so that it has the same inode numbers there and as a root.
    var place: String {
        "\(View.images.name)/\(reference.repository)/\(manifest.directoryName)"
    }

    /// Whether any file of it has an extended attribute. One that only a hidden file of a lower layer has counts too.
    var hasXattrs: Bool { content.layers.contains { $0.index.hasXattrs } }
}

/// Why an image cannot be opened: half a sentence that follows its name.
public struct ImageError: Error, Sendable, CustomStringConvertible {
    /// The half sentence.
    public let description: String

    init(_ description: String) { self.description = description }

    init(_ error: FSError) {
        description =
            error == .notFound
            ? "the registry does not have it" : "\(describeErrno(error.errno)), the log says why"
    }
}

extension Library {
    /// Opens an image by name: its manifest, and all its layers.
    public func openImage(_ reference: ImageReference, platform: Platform) async throws(ImageError) -> NamedImage {
        let (digest, manifest) = try await imageManifest(reference, platform: platform)
        do throws(FSError) {
            let stored = try await value { self.manifest(reference.repository, digest) }
            let image = try await value { self.image(reference.repository, stored, manifest) }
            return NamedImage(reference: reference, manifest: digest, content: image)
        } catch {
            throw ImageError(error)
        }
    }

    /// The digest of the image manifest that a reference leads to, for this platform.
    public func manifestDigest(_ reference: ImageReference, platform: Platform) async throws(ImageError) -> Digest {
        try await imageManifest(reference, platform: platform).0
    }

    /// The same, and what the manifest says.
    private func imageManifest(
        _ reference: ImageReference,
        platform: Platform
    ) async throws(ImageError) -> (Digest, ImageManifest) {
        var digest = try await target(reference)
        // An index leads to a manifest, never to another index.
        for _ in 0..<2 {
            switch try await document(reference.repository, digest) {
            case .image(let manifest):
                if let reason = manifest.reasonNotMountable {
                    throw ImageError("it is no image that can be mounted: \(reason)")
                }
                return (digest, manifest)
            case .index(let index):
                guard let chosen = index.select(platform) else {
                    throw ImageError(
                        "it has no image for \(platform), but for \(index.platformList); choose one with --platform"
                    )
                }
                digest = chosen.digest
            }
        }
        throw ImageError("it is no image that can be mounted: an index inside of an index")
    }

    /// The digest of what a reference names.
    private func target(_ reference: ImageReference) async throws(ImageError) -> Digest {
        if let digest = reference.digest { return digest }
        do throws(FSError) {
            let answer = try await value { self.tags.target(reference.repository, reference.tag ?? "latest") }
            guard let target = answer.target else { throw .notFound }
            return target
        } catch {
            throw ImageError(error)
        }
    }

    private func document(_ repository: Repository, _ digest: Digest) async throws(ImageError) -> ManifestDocument {
        do throws(FSError) {
            return try await value { self.manifest(repository, digest) }.document
        } catch {
            throw ImageError(error)
        }
    }

    /// Waits for something that may have to be loaded.
    private func value<Value: Sendable>(_ ask: () -> Loaded<Value>) async throws(FSError) -> Value {
        while true {
            switch ask() {
            case .ready(let value): return value
            case .failed(let error): throw error
            case .loading(let completion): await completion.wait()
            }
        }
    }
}
