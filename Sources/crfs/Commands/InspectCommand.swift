internal import ArgumentParser
internal import FoundationEssentials
internal import ImageFS
internal import OCIModel
internal import OCIRegistry
internal import PosixIO

/// `crfs inspect`
struct InspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect",
        abstract: "Show what an image or a layer file is made of, and whether it can be mounted.",
        discussion: "Example: crfs inspect ghcr.io/stargz-containers/python:3.9-esgz"
    )

    @Flag(help: "JSON instead of text.")
    var json = false

    @OptionGroup var access: AccessOptions

    @Argument(help: ArgumentHelp("Reference or layer file.", valueName: "image"))
    var image: String

    func run() throws {
        try runQuery(InspectQuery(image: image, json: json, platform: access.platform.description), access)
    }
}

/// What `crfs inspect` does.
struct InspectQuery: ImageQuery {
    static let request = "inspect"

    var image: String
    var json: Bool
    var platform: String

    func run(_ stack: Stack, cancelled: Completion?, _ sink: @escaping OutputSink) throws {
        var output = OutputLines(sink)
        let source = try ImageSource(image)
        switch source {
        case .file(let path):
            let report = runBlocking(cancelled: cancelled) { await stack.library.inspect(file: path) }
            if let problem = report.problem { throw CommandError("\(path): \(problem)") }
            try json ? writeJSON(report, &output) : write(report, &output)
        case .image(let reference):
            let platform = try chosenPlatform
            let result = runBlocking(cancelled: cancelled) { () async -> Result<ImageReport, RegistryError> in
                do throws(RegistryError) {
                    return .success(try await stack.library.inspect(reference, platform: platform))
                } catch {
                    return .failure(error)
                }
            }
            switch result {
            case .failure(let error): throw CommandError("\(reference): \(error)")
            case .success(let report): try json ? writeJSON(report, &output) : write(report, &output)
            }
        }
        try output.flush()
    }

    private func write(_ report: ImageReport, _ output: inout OutputLines) throws {
        try output.write("image: \(report.reference)")
        if report.digest != report.manifestDigest { try output.write("index: \(report.digest)") }
        try output.write("manifest: \(report.manifestDigest)")
        try output.write("media-type: \(report.mediaType)")
        if let problem = report.problem { try output.write("not mountable: \(problem)") }
        for (number, layer) in report.layers.enumerated() {
            try output.write("")
            try output.write("layer \(number): \(layer.digest ?? "")")
            try write(layer, &output)
        }
    }

    private func write(_ layer: LayerReport, _ output: inout OutputLines) throws {
        if let mediaType = layer.mediaType { try output.write("  media-type: \(mediaType)") }
        try output.write("  size: \(layer.size)")
        if let problem = layer.problem { try output.write("  not mountable: \(problem)") }
        guard let format = layer.format else { return }
        try output.write("  format: \(format)")
        if let digest = layer.tocDigest {
            try output.write("  toc-digest: \(digest)\(layer.isVerified ? " (promised by the manifest)" : "")")
        }
        if let size = layer.tocSize { try output.write("  toc-size: \(size)") }
        if let entries = layer.entries { try output.write("  entries: \(entries)") }
        if let chunks = layer.chunks { try output.write("  chunks: \(chunks)") }
        if let size = layer.prefetchSize { try output.write("  prefetch-size: \(size)") }
    }
}

/// A value as JSON for people and programs: indented, members sorted.
func writeJSON(_ value: some Encodable, _ output: inout OutputLines) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    try output.write(Array(try encoder.encode(value)))
}
