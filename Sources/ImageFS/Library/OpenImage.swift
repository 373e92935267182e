internal import BlobIO
internal import BlockCodec
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// An image whose layers are open and merged.
final class OpenImage: Sendable {
    /// Bottom first; a layer that the manifest repeats is here once, at its topmost place.
    let layers: [Layer]
    let index: ImageIndex

    init(layers: [Layer], index: ImageIndex) {
        self.layers = layers
        self.index = index
    }
}

extension ImageManifest {
    /// The layers, bottom first, each once: a repeated one counts at its topmost place (overlayfs refuses a directory
    /// that it is given twice).
    var distinctLayers: [ContentDescriptor] {
        var seen: Set<Digest> = []
        return layers.reversed().filter { seen.insert($0.digest).inserted }.reversed()
    }
}

extension Library {
    /// An image's merged tree. All layers are opened at once.
    func image(_ repository: Repository, _ stored: StoredManifest, _ manifest: ImageManifest) -> Loaded<OpenImage> {
        images.value(ManifestKey(repository: repository, digest: stored.digest)) { [self] () throws(FSError) in
            let layers = try await openLayers(repository, manifest, digest: stored.digest)
            let index = try await mergedIndex(of: layers, for: stored.digest)
            return OpenImage(layers: layers, index: index)
        }
    }

    /// All layers of an image, each once, bottom first.
    func openLayers(
        _ repository: Repository,
        _ manifest: ImageManifest,
        digest: Digest
    ) async throws(FSError) -> [Layer] {
        let descriptors = manifest.distinctLayers
        let results = await withTaskGroup(of: (Int, Result<Layer, FSError>).self) { group in
            // The largest first: its index takes longest, and the others are read and built beside it.
            for (position, descriptor) in descriptors.enumerated().sorted(by: { $0.element.size > $1.element.size }) {
                group.addTask { [self] in
                    do throws(FSError) {
                        let layer = try await checkedLayer(repository, descriptor, of: manifest, digest)
                        return (position, .success(layer))
                    } catch {
                        return (position, .failure(error))
                    }
                }
            }
            var results = [Result<Layer, FSError>?](repeating: nil, count: descriptors.count)
            for await (position, result) in group { results[position] = result }
            return results
        }
        var layers: [Layer] = []
        for result in results {
            switch result {
            case .success(let layer): layers.append(layer)
            case .failure(let error): throw error
            case nil: throw .inputOutput
            }
        }
        return layers
    }

    /// The merged index from the cache directory, or a new one. Images with the same layers share it.
    private func mergedIndex(of layers: [Layer], for manifest: Digest) async throws(FSError) -> ImageIndex {
        var hash = SHA256()
        for layer in layers { unsafe hash.update(Array(layer.digest.description.utf8).span.bytes) }
        let path = "\(state.imageIndexDirectory)/\(hash.finish().directoryName).idx"
        let indexes = layers.map(\.index)
        let result = await mergePool.run { [notices] () -> Result<ImageIndex, LayerFormatError> in
            do throws(LayerFormatError) {
                return .success(try ImageIndex(path: path, layers: indexes))
            } catch {
                return Library.buildMergedIndex(indexes, path: path, notices: notices)
            }
        }
        switch result {
        case .success(let index): return index
        case .failure(let error):
            notices.warning("image \(manifest)", "cannot merge the layers of image \(manifest): \(error)")
            throw .inputOutput
        }
    }

    private static func buildMergedIndex(
        _ indexes: [LayerIndex],
        path: String,
        notices: Notices
    ) -> Result<ImageIndex, LayerFormatError> {
        do throws(LayerFormatError) {
            let bytes = try ImageIndex.build(layers: indexes) { notices.info($0) }
            let shared = bytes.share()
            if (try? replaceFile(path, with: shared.span)) != nil {
                return .success(try ImageIndex(path: path, layers: indexes))
            }
            // No room in the cache directory: the index lives in memory this time.
            return .success(try ImageIndex(bytes: shared, layers: indexes))
        } catch {
            return .failure(error)
        }
    }
}
