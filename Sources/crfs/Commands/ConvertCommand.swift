public import ArgumentParser
internal import Glibc
internal import ImageConverter
public import LayerWriter
internal import Logging
internal import OCIModel
internal import OCIRegistry
internal import PosixIO

/// `crfs convert`, also `stargzify`
struct ConvertCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert",
        abstract:
            "Convert an image or a layer file into eStargz, stargz or zstd:chunked, so that it can be mounted lazily.",
        discussion: """
            An image is a reference, or oci:DIRECTORY[:TAG] for an OCI image layout. All its layers are converted, and \
            configuration and manifest written that fit them; of an index the image for --platform, or with \
            --all-platforms all of them. The layers need room in $TMPDIR on their way.

            A layer file is file:PATH, or a path of a file that is there: tar, tar.gz, tar.zst or (e)stargz, whatever \
            it is called. Printed are the digests and the annotations that a manifest and a configuration need.

            Examples:
              crfs convert registry.example/app:1.2 registry.example/app:1.2-lazy
              crfs convert --format zstd-chunked registry.example/app:1.2 oci:layout:1.2
              crfs convert file:layer.tar.gz file:layer.esgz
            """,
        aliases: ["stargzify"]
    )

    @OptionGroup var layout: LayerWriterOptions

    @Option(
        help: ArgumentHelp(
            "File with paths, one a line, that are put first and fetched when the layer is mounted.",
            valueName: "file"
        )
    )
    var prioritize: String?

    @Option(help: ArgumentHelp("Which image of an index to convert.", valueName: "os/arch[/variant]"))
    var platform: Platform = .host

    @Flag(help: "Convert every image of an index.")
    var allPlatforms = false

    @Flag(help: "Put the converted image where the image is, under the same tag.")
    var upgrade = false

    @OptionGroup var registry: RegistryAccessOptions

    @Argument(help: ArgumentHelp("Image or layer file to read.", valueName: "in"))
    var input: String

    @Argument(
        help: ArgumentHelp(
            "Image or layer file to write (default for a layer file: beside the input, with another suffix).",
            valueName: "out"
        )
    )
    var output: String?

    func run() throws {
        var options = layout.options
        if let prioritize { options.prioritized = try ConvertCommand.paths(in: prioritize) }
        if let path = ConvertCommand.layerFile(input) {
            guard !upgrade else { throw CommandError("--upgrade is for images, and \(path) is a layer file") }
            try convert(layer: path, options)
        } else {
            try convert(image: input, options)
        }
    }

    /// The path that an argument means, where it means a layer file: `file:PATH`, what is a file, and what is called like a
    /// layer file.
    private static func layerFile(_ text: String) -> String? {
        if text.hasPrefix("file:") { return path(text) }
        if text.hasPrefix("oci:") || text.hasPrefix("docker://") { return nil }
        var status = stat()
        let isThere = unsafe stat(text, &status) == 0
        return isThere || LayerConverter.isLayerName(text) || text.hasPrefix("/") || text.hasPrefix(".") ? text : nil
    }

    /// `file:PATH` and PATH are the same.
    private static func path(_ text: String) -> String {
        text.hasPrefix("file:") ? String(text.dropFirst(5)) : text
    }

    private func convert(layer: String, _ options: ConvertOptions) throws {
        let interrupt = Interrupt()
        let progress = ProgressLine(isQuiet: layout.quiet, verb: "converting")
        let result: ConvertResult
        do throws(ConvertError) {
            result = try LayerConverter.convert(
                input: layer,
                output: output.map(ConvertCommand.path),
                options: options
            ) { state in
                progress.update(done: state.done, total: state.total)
                return !interrupt.isRequested
            }
        } catch {
            progress.end()
            throw CommandError("\(error)")
        }
        progress.end()
        for path in result.notMoved { printError("crfs: \(path) is not in the layer once, so it was not put first") }
        print(
            """
            file: \(result.path)
            format: \(result.format.name)
            entries: \(result.entries)
            size: \(result.blobSize)
            uncompressed-size: \(result.uncompressedSize)
            digest: \(result.blobDigest)
            diff-id: \(result.diffID)
            toc-digest: \(result.tocDigest)
            media-type: \(result.mediaType)
            """
        )
        for annotation in result.annotations { print("annotation: \(annotation.name)=\(annotation.value)") }
    }

    private func convert(image: String, _ options: ConvertOptions) throws {
        guard let source = ImagePlace(image) else {
            throw CommandError("\(image) is no layer file, no image reference and no oci:DIRECTORY")
        }
        guard upgrade == (output == nil) else {
            throw CommandError("name where the converted image goes, or give --upgrade to put it where it was")
        }
        var conversion = ImageConversion(source: source, layer: options)
        conversion.target = try ImageConversion.target(output ?? image)
        conversion.platform = allPlatforms ? nil : platform
        conversion.isQuiet = layout.quiet
        _ = registry.startLogging(.warning)
        try conversion.run(registry.makeClient())
    }

    private static func paths(in file: String) throws -> [String] {
        do {
            let text = String(decoding: try readFile(file, limit: 64 << 20).array, as: UTF8.self)
            return text.split(whereSeparator: \.isNewline).map(String.init)
        } catch {
            throw CommandError("cannot read the list of paths: \(error)")
        }
    }
}

/// How layers are written: options that commands share.
struct LayerWriterOptions: ParsableArguments {
    @Option(help: ArgumentHelp("What to write: estargz, stargz or zstd-chunked.", valueName: "format"))
    var format = OutputFormat.estargz

    @Option(help: ArgumentHelp("Bytes of a file that one chunk has at most.", valueName: "size"))
    var chunkSize = ByteSize(bytes: ConvertOptions().chunkSize)

    @Option(help: ArgumentHelp("Compression, 1 (fast) to 12 (small); to 19 with zstd-chunked.", valueName: "level"))
    var level = ConvertOptions().level

    @Flag(help: "No progress.")
    var quiet = false

    func validate() throws {
        guard ConvertOptions.chunkSizes.contains(chunkSize.bytes) else {
            throw ValidationError("--chunk-size must be 4KiB to 32MiB.")
        }
        guard format.levels.contains(level) else {
            throw ValidationError("--level must be \(format.levels.lowerBound) to \(format.levels.upperBound).")
        }
    }

    /// What the writer of layers takes.
    var options: ConvertOptions {
        var options = ConvertOptions()
        options.format = format
        options.chunkSize = chunkSize.bytes
        options.level = level
        return options
    }
}

extension OutputFormat: ExpressibleByArgument {
    /// Parses `estargz`, `stargz` or `zstd-chunked`.
    public init?(argument: String) {
        switch argument {
        case "estargz": self = .estargz
        case "stargz": self = .stargz
        case "zstd-chunked": self = .zstdChunked
        default: return nil
        }
    }

    /// What can be given.
    public static var allValueStrings: [String] { ["estargz", "stargz", "zstd-chunked"] }

    /// How help shows it.
    public var defaultValueDescription: String { name }

    /// How options and reports name it.
    var name: String {
        switch self {
        case .estargz: "estargz"
        case .stargz: "stargz"
        case .zstdChunked: "zstd-chunked"
        }
    }
}
