public import ArgumentParser
internal import Glibc
public import LayerWriter
internal import PosixIO

/// `crfs convert`, also `stargzify`
struct ConvertCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert",
        abstract: "Convert a layer file into eStargz, stargz or zstd:chunked, so that it can be mounted lazily.",
        discussion: """
            Reads tar, tar.gz, tar.zst and (e)stargz, whatever the file is called. Prints the digests and the \
            annotations that a manifest and a configuration need.

            Example: crfs convert file:layer.tar.gz file:layer.esgz
            """,
        aliases: ["stargzify"]
    )

    @Option(help: ArgumentHelp("What to write: estargz, stargz or zstd-chunked.", valueName: "format"))
    var format = OutputFormat.estargz

    @Option(help: ArgumentHelp("Bytes of a file that one chunk has at most.", valueName: "size"))
    var chunkSize = ByteSize(bytes: ConvertOptions().chunkSize)

    @Option(help: ArgumentHelp("Compression, 1 (fast) to 12 (small); to 19 with zstd-chunked.", valueName: "level"))
    var level = ConvertOptions().level

    @Option(
        help: ArgumentHelp(
            "File with paths, one a line, that are put first and fetched when the layer is mounted.",
            valueName: "file"
        )
    )
    var prioritize: String?

    @Flag(help: "No progress.")
    var quiet = false

    @Argument(help: ArgumentHelp("Layer file to read.", valueName: "in"))
    var input: String

    @Argument(help: ArgumentHelp("File to write (default: beside the input, with another suffix).", valueName: "out"))
    var output: String?

    func validate() throws {
        guard ConvertOptions.chunkSizes.contains(chunkSize.bytes) else {
            throw ValidationError("--chunk-size must be 4KiB to 32MiB.")
        }
        guard format.levels.contains(level) else {
            throw ValidationError("--level must be \(format.levels.lowerBound) to \(format.levels.upperBound).")
        }
    }

    func run() throws {
        var options = ConvertOptions()
        options.format = format
        options.chunkSize = chunkSize.bytes
        options.level = level
        if let prioritize { options.prioritized = try ConvertCommand.paths(in: prioritize) }
        let interrupt = Interrupt()
        let progress = ProgressLine(isQuiet: quiet, verb: "converting")
        let result: ConvertResult
        do throws(ConvertError) {
            result = try LayerConverter.convert(
                input: ConvertCommand.path(input),
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

    /// `file:PATH` and PATH are the same.
    private static func path(_ text: String) -> String {
        text.hasPrefix("file:") ? String(text.dropFirst(5)) : text
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
