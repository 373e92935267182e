internal import Glibc
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// Converts a layer file (tar, tar.gz, tar.zst, or one that is stargz or eStargz already) into eStargz, stargz or zstd:chunked.
public enum LayerConverter {
    /// Converts the layer file at `input`. Blocks until it is done; compresses on threads of its own.
    ///
    /// The same input and options always give the same bytes, however many threads work. `stargz.index.json` and
    /// landmarks in the input are dropped and made anew. The output appears under its name only when it is complete.
    ///
    /// - Parameters:
    ///   - input: a layer file; recognised by its first bytes, not its name.
    ///   - output: where the result goes, replacing what is there, but never the input; nil for `input` with its
    ///     suffix replaced (`x.tar.gz` gives `x.esgz` or `x.stargz`).
    ///   - options: what to write, and how.
    ///   - progress: called now and then from the calling thread; returns whether to go on.
    public static func convert(
        input: String,
        output: String? = nil,
        options: ConvertOptions = ConvertOptions(),
        progress: @escaping (ConvertProgress) -> Bool = { _ in true }
    ) throws(ConvertError) -> ConvertResult {
        try check(options)
        let output = output ?? defaultOutput(for: input, format: options.format)
        let size = try checkFiles(input: input, output: output)
        return try Conversion(input: input, output: output, size: size, options: options, report: progress).run()
    }

    private static let layerSuffixes = [
        ".chunked.tar.zst", ".tar.gz", ".tar.zst", ".tgz", ".tzst", ".tar", ".esgz", ".stargz", ".gz", ".zst",
    ]

    /// Whether a path ends as those of layer files do.
    public static func isLayerName(_ path: String) -> Bool { layerSuffixes.contains { path.hasSuffix($0) } }

    /// Where the result of a conversion goes when nobody says: beside the input, with another suffix.
    public static func defaultOutput(for input: String, format: OutputFormat) -> String {
        for suffix in layerSuffixes where input.hasSuffix(suffix) && !input.hasSuffix("/" + suffix) && input != suffix {
            return input.dropLast(suffix.count) + format.fileSuffix
        }
        return input + format.fileSuffix
    }

    private static func check(_ options: ConvertOptions) throws(ConvertError) {
        guard ConvertOptions.chunkSizes.contains(options.chunkSize) else {
            throw ConvertError(
                .invalidOption,
                "a chunk size of \(options.chunkSize) bytes is out of bounds: use "
                    + "\(ConvertOptions.chunkSizes.lowerBound) to \(ConvertOptions.chunkSizes.upperBound)"
            )
        }
        let levels = options.format.levels
        guard levels.contains(options.level) else {
            throw ConvertError(
                .invalidOption,
                "there is no compression level \(options.level): use \(levels.lowerBound) to \(levels.upperBound)"
            )
        }
        guard (1...1024).contains(options.threads) else {
            throw ConvertError(.invalidOption, "\(options.threads) threads cannot work: use 1 to 1024")
        }
    }

    /// Checks that the input can be read and is not the output. Returns its size in bytes.
    private static func checkFiles(input: String, output: String) throws(ConvertError) -> UInt64 {
        let inputStatus: stat
        do throws(SystemError) {
            inputStatus = try Descriptor.open(input).status()
        } catch {
            throw ConvertError(error, "\(input) cannot be read")
        }
        guard inputStatus.st_mode & S_IFMT == S_IFREG else {
            throw ConvertError(.input, "\(input) is not a file: a layer is a tar, tar.gz or tar.zst file")
        }
        guard inputStatus.st_size > 0 else { throw ConvertError(.input, "\(input) is empty: no layer is") }
        var outputStatus = stat()
        if unsafe stat(output, &outputStatus) == 0 {
            guard outputStatus.st_dev != inputStatus.st_dev || outputStatus.st_ino != inputStatus.st_ino else {
                throw ConvertError(.refused, "the output \(output) is the input: name another file")
            }
            guard outputStatus.st_mode & S_IFMT == S_IFREG else {
                throw ConvertError(.refused, "the output \(output) exists and is not a file: name another one")
            }
        }
        return UInt64(inputStatus.st_size)
    }
}
