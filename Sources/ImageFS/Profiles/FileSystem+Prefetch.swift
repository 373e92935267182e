internal import BlobIO
public import OCIModel
internal import PosixIO

extension FileSystem {
    /// Fetches an image as if somebody had begun to use it: its profile, what is before landmarks, and the rest where the
    /// policy has a background. Returns when all of that has begun; what goes wrong is logged.
    public func prefetch(_ reference: ImageReference) async {
        guard let uses else { return }
        do throws(FSError) {
            let image = try await library.openImage(reference, platform: options.platform)
            uses.use(image.manifest, image.layers).beginWhole()
        } catch {
            library.notices.warning("prefetch \(reference)", "cannot prefetch \(reference): \(error.reason)")
        }
    }

    /// Writes down what was read until now, for whoever wants to see it.
    public func saveProfiles() async {
        await uses?.save()
    }

    /// To be called when the mount is gone: writes the profiles of its images, and ends what is fetched for them.
    ///
    /// - Parameter materialises: files that this mount used, and an earlier one before it, are materialised from what is
    ///   in the store, in the background; for mounts whose opens nobody counts.
    public func finish(materialises: Bool = false) async {
        await uses?.finish(materialises: materialises)
    }
}

extension Library {
    /// An image by name: its manifest's digest, and its layers, all of them open.
    func openImage(
        _ reference: ImageReference,
        platform: Platform
    ) async throws(FSError) -> (manifest: Digest, layers: [Layer]) {
        let (digest, manifest) = try await imageManifest(reference, platform: platform)
        let stored = try await value { self.manifest(reference.repository, digest) }
        let image = try await value { self.image(reference.repository, stored, manifest) }
        return (digest, image.layers)
    }

    /// The digest of the image manifest that a reference leads to, and what it says.
    func imageManifest(
        _ reference: ImageReference,
        platform: Platform
    ) async throws(FSError) -> (Digest, ImageManifest) {
        let repository = reference.repository
        var digest = reference.digest
        if digest == nil {
            digest = try await value { self.tags.target(repository, reference.tag ?? "latest") }.target
        }
        guard var digest else { throw .notFound }
        // An index leads to a manifest, never to another index.
        for _ in 0..<2 {
            switch try await value({ self.manifest(repository, digest) }).document {
            case .image(let manifest):
                guard manifest.reasonNotMountable == nil else { throw .invalid }
                return (digest, manifest)
            case .index(let index):
                guard let chosen = index.select(platform) else { throw .notFound }
                digest = chosen.digest
            }
        }
        throw .invalid
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

    /// The digest of the image manifest that a reference leads to, for this platform.
    public func manifestDigest(_ reference: ImageReference, platform: Platform) async throws(FSError) -> Digest {
        try await imageManifest(reference, platform: platform).0
    }
}

extension FSError {
    /// For messages.
    public var reason: String {
        errno == FSError.notFound.errno ? "the registry does not have it" : describeErrno(errno)
    }
}
