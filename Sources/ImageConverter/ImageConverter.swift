internal import BlockCodec
public import LayerWriter
public import OCIModel
public import OCIRegistry
internal import PosixIO
internal import Synchronization

/// How images are converted.
public struct ImageConvertOptions: Sendable {
    /// How each layer is. A prioritized path counts in every layer that has it.
    public var layer = ConvertOptions()
    /// Which image of an index is converted; nil for all.
    public var platform: Platform? = .host

    /// The defaults.
    public init() {}
}

/// How far the conversion of an image is.
public struct ImageConvertProgress: Sendable {
    /// What is being done with a layer.
    public enum Step: String, Sendable {
        /// It comes from the registry.
        case fetching
        /// It is written anew.
        case converting
        /// It goes to the registry.
        case pushing
    }

    /// What is being done.
    public var step: Step
    /// Which layer, from 1, over all images.
    public var layer: Int
    /// Bytes of this step that are done.
    public var done: UInt64
    /// Bytes of this step.
    public var total: UInt64
}

/// What the conversion of an image made.
public struct ConvertedImage: Sendable {
    /// One layer of it.
    public struct Layer: Sendable {
        /// The layer that it was made of.
        public var source: ContentDescriptor
        /// What was made; its path is no more.
        public var result: ConvertResult
    }

    /// The digest of the manifest or, where all platforms were converted, of the index.
    public var digest: Digest
    /// How many manifests were written.
    public var images: Int
    /// The layers, each once.
    public var layers: [Layer]
    /// What an index had that is no image and so was left out: the digests of attestations and the like.
    public var leftOut: [Digest]

    /// Prioritized paths that no layer has, or that occur in it more than once.
    public var notMoved: [String] {
        guard let first = layers.first else { return [] }
        return first.result.notMoved.filter { path in layers.allSatisfy { $0.result.notMoved.contains(path) } }
    }
}

/// Converts all layers of images, and writes configurations and manifests that fit them.
///
/// The result is always an OCI image, whatever the source was. Manifest and configuration keep what they have, but for the
/// layers, their DiffIDs, the annotations that describe a layer's index, and media types of Docker.
public struct ImageConverter: Sendable {
    private let registry: RegistryClient
    private let options: ImageConvertOptions
    private let work: String
    private let report: @Sendable (ImageConvertProgress) -> Bool
    /// For what blocks: reading, compressing.
    private let pool = WorkerPool(named: "convert", threads: 1)

    /// - Parameters:
    ///   - work: an empty directory for layers on their way, which need room there: the largest one of the source, and
    ///     its result.
    ///   - report: called now and then; returns whether to go on.
    public init(
        registry: RegistryClient,
        options: ImageConvertOptions,
        work: String,
        report: @escaping @Sendable (ImageConvertProgress) -> Bool = { _ in true }
    ) {
        self.registry = registry
        self.options = options
        self.work = work
        self.report = report
    }

    /// Converts the image at `source`; the result appears under its name when all of it is there.
    public func convert(
        _ source: ImagePlace,
        to destination: ImagePlace
    ) async throws(ImageConvertError) -> ConvertedImage {
        let source = ImageSource(source, registry)
        let target = try ImageTarget(destination, registry, work: work)
        let top = try await source.top()
        var state = Conversions()
        let result: Written
        switch try parsed(top) {
        case .image:
            result = try await image(top, source, target, &state)
        case .index(let index):
            if let platform = options.platform {
                guard let chosen = index.select(platform) else {
                    throw ImageConvertError(
                        "\(source.place) has no image for \(platform); it has \(index.platformList)"
                    )
                }
                result = try await image(source.manifest(chosen.digest), source, target, &state)
            } else {
                result = try await all(index, top, source, target, &state)
            }
        }
        try await target.finish(result.descriptor, result.bytes)
        return ConvertedImage(
            digest: result.descriptor.digest,
            images: state.images,
            layers: state.layers,
            leftOut: state.leftOut
        )
    }

    /// A manifest or index that the target has.
    private struct Written {
        var descriptor: ContentDescriptor
        var bytes: [UInt8]
    }

    /// What one call has made so far.
    private struct Conversions {
        var images = 0
        var layers: [ConvertedImage.Layer] = []
        var leftOut: [Digest] = []

        func result(of source: Digest) -> ConvertResult? {
            layers.first { $0.source.digest == source }?.result
        }
    }

    private func parsed(_ document: SourceDocument) throws(ImageConvertError) -> ManifestDocument {
        do throws(ManifestError) {
            return try ManifestDocument(json: document.bytes, mediaType: document.mediaType)
        } catch {
            throw ImageConvertError(error, "\(document.digest)")
        }
    }

    private func json(_ bytes: [UInt8], _ digest: Digest) throws(ImageConvertError) -> JSONValue {
        do throws(ManifestError) {
            return try JSONValue(json: bytes)
        } catch {
            throw ImageConvertError(error, "\(digest)")
        }
    }

    /// Converts every image of an index.
    private func all(
        _ index: ManifestIndex,
        _ top: SourceDocument,
        _ source: ImageSource,
        _ target: ImageTarget,
        _ state: inout Conversions
    ) async throws(ImageConvertError) -> Written {
        var entries: [JSONValue] = []
        for descriptor in index.manifests {
            let document = try await source.manifest(descriptor.digest)
            guard case .image(let manifest) = try parsed(document), manifest.reasonNotMountable == nil,
                descriptor.artifactType == nil, descriptor.platform?.os != "unknown"
            else {
                state.leftOut.append(descriptor.digest)
                continue
            }
            var entry = try await image(document, source, target, &state).descriptor
            entry.platform = descriptor.platform
            entry.annotations = descriptor.annotations
            entries.append(entry.json)
        }
        guard !entries.isEmpty else { throw ImageConvertError("\(source.place) has no image that can be converted") }
        var document = try json(top.bytes, top.digest)
        document["mediaType"] = .string(MediaType.ociIndex)
        document["manifests"] = .array(entries)
        return try await put(document, MediaType.ociIndex, target)
    }

    /// Converts one image.
    private func image(
        _ document: SourceDocument,
        _ source: ImageSource,
        _ target: ImageTarget,
        _ state: inout Conversions
    ) async throws(ImageConvertError) -> Written {
        guard case .image(let manifest) = try parsed(document) else {
            throw ImageConvertError("\(document.digest) is an index in an index, which crfs does not convert")
        }
        if let reason = manifest.reasonNotMountable {
            throw ImageConvertError("\(source.place) is no image that can be converted: \(reason)")
        }
        guard let oldConfig = manifest.config else {
            throw ImageConvertError("\(document.digest) has no configuration")
        }
        var results: [ConvertResult] = []
        for layer in manifest.layers { results.append(try await convert(layer, source, target, &state)) }

        var config = try json(try await source.document(oldConfig), oldConfig.digest)
        guard config["rootfs"]?["diff_ids"]?.elements?.count == results.count else {
            throw ImageConvertError(
                "the configuration \(oldConfig.digest) does not list the \(results.count) layers of its manifest"
            )
        }
        var rootfs = config["rootfs"] ?? .object([:])
        rootfs["diff_ids"] = .array(results.map { .string($0.diffID.description) })
        config["rootfs"] = rootfs
        let configBytes = config.json
        let newConfig = ContentDescriptor(
            mediaType: MediaType.ociConfig,
            digest: unsafe SHA256.digest(of: configBytes.span.bytes),
            size: UInt64(configBytes.count),
            annotations: oldConfig.annotations
        )
        try await target.put(blob: configBytes, newConfig.digest)

        var text = try json(document.bytes, document.digest)
        text["mediaType"] = .string(MediaType.ociManifest)
        text["config"] = newConfig.json
        text["layers"] = .array(
            zip(manifest.layers, results).map { old, result in
                ContentDescriptor(converting: old, result).json
            }
        )
        state.images += 1
        return try await put(text, MediaType.ociManifest, target)
    }

    /// Writes a manifest or index by its digest.
    private func put(
        _ document: JSONValue,
        _ mediaType: String,
        _ target: ImageTarget
    ) async throws(ImageConvertError) -> Written {
        let bytes = document.json
        let digest = unsafe SHA256.digest(of: bytes.span.bytes)
        try await target.put(manifest: bytes, mediaType, digest)
        return Written(
            descriptor: ContentDescriptor(mediaType: mediaType, digest: digest, size: UInt64(bytes.count)),
            bytes: bytes
        )
    }

    private func convert(
        _ layer: ContentDescriptor,
        _ source: ImageSource,
        _ target: ImageTarget,
        _ state: inout Conversions
    ) async throws(ImageConvertError) -> ConvertResult {
        if let known = state.result(of: layer.digest) { return known }
        let number = state.layers.count + 1
        let report = report
        let taken = Mutex<UInt64>(0)
        let input = try await source.file(layer, below: work, on: pool) { count in
            let done = taken.withLock { taken in
                taken += count
                return taken
            }
            return report(ImageConvertProgress(step: .fetching, layer: number, done: done, total: layer.size))
        }
        defer { input.removeIfTemporary() }
        let output = target.workFile(number)
        defer { removeTree(output) }
        let options = options.layer
        let outcome = await pool.run { () -> Result<ConvertResult, ConvertError> in
            do throws(ConvertError) {
                return .success(
                    try LayerConverter.convert(input: input.path, output: output, options: options) { state in
                        report(
                            ImageConvertProgress(
                                step: .converting,
                                layer: number,
                                done: state.done,
                                total: state.total
                            )
                        )
                    }
                )
            } catch {
                return .failure(error)
            }
        }
        let result: ConvertResult
        switch outcome {
        case .success(let made): result = made
        case .failure(let error): throw ImageConvertError("layer \(layer.digest): \(error)")
        }
        guard report(ImageConvertProgress(step: .pushing, layer: number, done: 0, total: result.blobSize)) else {
            throw ImageConvertError("the conversion was stopped")
        }
        try await target.put(file: output, result.blobDigest)
        state.layers.append(ConvertedImage.Layer(source: layer, result: result))
        return result
    }
}

extension ContentDescriptor {
    /// What describes the index of a layer, and so holds for one blob only.
    private static let indexAnnotations = [
        "containerd.io/snapshot/stargz/", "io.containers.estargz.", "io.containers.zstd-chunked.",
        "io.github.containers.zstd-chunked.",
    ]

    /// The descriptor of what a layer was converted into: its other annotations stay.
    init(converting old: ContentDescriptor, _ result: ConvertResult) {
        var annotations = old.annotations.filter { name, _ in
            !ContentDescriptor.indexAnnotations.contains { name.hasPrefix($0) }
        }
        for annotation in result.annotations { annotations[annotation.name] = annotation.value }
        self.init(
            mediaType: result.mediaType,
            digest: result.blobDigest,
            size: result.blobSize,
            annotations: annotations
        )
    }
}
