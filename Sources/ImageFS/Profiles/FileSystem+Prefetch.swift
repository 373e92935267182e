internal import BlobIO
public import OCIModel
internal import PosixIO

extension FileSystem {
    /// Begins to fetch what is needed early of the image that is the root, as the first look-up inside of it would.
    public func beginPrefetch() {
        root?.use?.touch()
    }

    /// Fetches an image as if somebody had begun to use it: its profile, what is before landmarks, and the rest where the
    /// policy has a background. Returns when all of that has begun; what goes wrong is logged.
    public func prefetch(_ reference: ImageReference) async {
        guard let uses else { return }
        do throws(ImageError) {
            let image = try await library.openImage(reference, platform: options.platform)
            uses.use(image.manifest, image.content.layers).beginWhole()
        } catch {
            library.notices.warning("prefetch \(reference)", "cannot prefetch \(reference): \(error)")
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
