internal import ArgumentParser
internal import FoundationEssentials
internal import ImageFS
internal import OCIRegistry

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
        let source = try ImageSource(image)
        let stack = try Stack(access, sharing: true)
        switch source {
        case .file(let path):
            let report = runBlocking { await stack.library.inspect(file: path) }
            if let problem = report.problem { throw CommandError("\(path): \(problem)") }
            try json ? printJSON(report) : printText(report)
        case .image(let reference):
            let platform = access.platform
            let result = runBlocking { () async -> Result<ImageReport, RegistryError> in
                do throws(RegistryError) {
                    return .success(try await stack.library.inspect(reference, platform: platform))
                } catch {
                    return .failure(error)
                }
            }
            switch result {
            case .failure(let error): throw CommandError("\(reference): \(error)")
            case .success(let report): try json ? printJSON(report) : printText(report)
            }
        }
    }

    private func printJSON(_ report: some Encodable) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        var output = OutputLines()
        try output.write(Array(try encoder.encode(report)))
        try output.flush()
    }

    private func printText(_ report: ImageReport) {
        print("image: \(report.reference)")
        if report.digest != report.manifestDigest { print("index: \(report.digest)") }
        print("manifest: \(report.manifestDigest)")
        print("media-type: \(report.mediaType)")
        if let problem = report.problem { print("not mountable: \(problem)") }
        for (number, layer) in report.layers.enumerated() {
            print("")
            print("layer \(number): \(layer.digest ?? "")")
            printText(layer)
        }
    }

    private func printText(_ layer: LayerReport) {
        if let mediaType = layer.mediaType { print("  media-type: \(mediaType)") }
        print("  size: \(layer.size)")
        if let problem = layer.problem { print("  not mountable: \(problem)") }
        guard let format = layer.format else { return }
        print("  format: \(format)")
        if let digest = layer.tocDigest {
            print("  toc-digest: \(digest)\(layer.isVerified ? " (promised by the manifest)" : "")")
        }
        if let size = layer.tocSize { print("  toc-size: \(size)") }
        if let entries = layer.entries { print("  entries: \(entries)") }
        if let chunks = layer.chunks { print("  chunks: \(chunks)") }
        if let size = layer.prefetchSize { print("  prefetch-size: \(size)") }
    }
}
