internal import ImageConverter
internal import LayerWriter
internal import OCIModel
internal import OCIRegistry

/// The conversion of an image as a command does it: with progress, an end by a signal, and a report.
struct ImageConversion {
    var source: ImagePlace
    var target: ImagePlace
    var layer: ConvertOptions
    /// Which image of an index; nil for all.
    var platform: Platform? = .host
    var isQuiet = false

    init(source: ImagePlace, layer: ConvertOptions) {
        self.source = source
        self.layer = layer
        target = source
    }

    /// The place that an argument names.
    static func target(_ text: String) throws -> ImagePlace {
        guard let place = ImagePlace(text) else {
            throw CommandError("\(text) is no image reference and no oci:DIRECTORY")
        }
        return place
    }

    func run(_ registry: RegistryClient) throws {
        var options = ImageConvertOptions()
        options.layer = layer
        options.platform = platform
        let interrupt = Interrupt()
        let work = try TemporaryState()
        let progress = LayerProgress(isQuiet: isQuiet, interrupt)
        let (source, target) = (source, target)
        let converter = ImageConverter(registry: registry, options: options, work: work.path) { progress.update($0) }
        let outcome = runBlocking(cancelled: interrupt.requested) {
            () async -> Result<ConvertedImage, ImageConvertError> in
            do throws(ImageConvertError) {
                return .success(try await converter.convert(source, to: target))
            } catch {
                return .failure(error)
            }
        }
        progress.end()
        withExtendedLifetime(work) {}
        switch outcome {
        case .failure(let error):
            throw CommandError(interrupt.isRequested ? "interrupted: nothing was written as \(target)" : "\(error)")
        case .success(let result): report(result)
        }
    }

    private func report(_ image: ConvertedImage) {
        for path in image.notMoved { printError("crfs: \(path) is in no layer once, so it was not put first") }
        for digest in image.leftOut { printError("crfs: \(digest) is no image, so it was left out") }
        print(
            """
            image: \(target)
            digest: \(image.digest)
            format: \(layer.format.name)
            manifests: \(image.images)
            """
        )
        for layer in image.layers {
            let (old, new) = (layer.source, layer.result)
            print("layer: \(old.digest) (\(old.size)) -> \(new.blobDigest) (\(new.blobSize))")
        }
    }
}

/// Shows how far the layers are.
private final class LayerProgress: @unchecked Sendable {
    // SAFETY: a conversion reports from one thread at a time, and `end` comes after it.
    private let isQuiet: Bool
    private let interrupt: Interrupt
    private var line: ProgressLine
    private var verb = ""

    init(isQuiet: Bool, _ interrupt: Interrupt) {
        self.isQuiet = isQuiet
        self.interrupt = interrupt
        line = ProgressLine(isQuiet: isQuiet, verb: verb)
    }

    /// Whether to go on.
    func update(_ progress: ImageConvertProgress) -> Bool {
        let verb = "\(progress.step) layer \(progress.layer)"
        if verb != self.verb {
            line.end()
            line = ProgressLine(isQuiet: isQuiet, verb: verb)
            self.verb = verb
        }
        line.update(done: progress.done, total: progress.total)
        return !interrupt.isRequested
    }

    func end() { line.end() }
}
