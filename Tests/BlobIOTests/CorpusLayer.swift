import FoundationEssentials
import LayerFormat
import OCIModel
import PosixIO
import TestSupport

@testable import BlobIO

/// Every regular file of a corpus layer, as the corpus says.
struct ExpectedFile: Decodable {
    var path: String
    var type: String
    var size: Int?
    var sha256: String?

    static func all(layer: Int) throws -> [ExpectedFile] {
        try text(of: Corpus.manifest("layer\(layer)")).split(separator: "\n").map { line in
            try JSONDecoder().decode(ExpectedFile.self, from: Data(line.utf8))
        }.filter { $0.type == "reg" }
    }

    /// The path without percent-encoding.
    var plainPath: String {
        var result: [UInt8] = []
        var rest = path.utf8[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "%"), let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            {
                result.append(value)
                rest = rest.dropFirst(2)
            } else {
                result.append(byte)
            }
        }
        return String(decoding: result, as: UTF8.self)
    }
}

/// A layer of a corpus image as its manifest describes it, with its bytes.
struct CorpusLayer: Sendable {
    /// The formats that have an index.
    static let indexed = [
        "estargz", "estargz-exttoc", "estargz-min64k", "estargz-prefetch", "stargz-legacy", "zstdchunked-ctr",
        "zstdchunked-skopeo",
    ]

    var format: String
    /// 1 is the bottom layer.
    var number: Int
    var descriptor: ContentDescriptor
    var blob: [UInt8]
    /// The layer of the TOC image that describes this one.
    var toc: [UInt8]?

    static func all(_ format: String) throws -> [CorpusLayer] {
        let layout = try ImageLayout(Corpus.layout(format), tag: format)
        var tocs: [Digest: [UInt8]] = [:]
        if format == "estargz-exttoc" {
            let second = try ImageLayout(Corpus.layout(format), tag: "estargz-exttoc-esgztoc")
            for descriptor in try layers(second) {
                guard let layer = descriptor.describedLayer else { continue }
                tocs[layer] = try contents(of: second.blob(descriptor.digest.hex))
            }
        }
        return try layers(layout).enumerated().map { index, descriptor in
            CorpusLayer(
                format: format,
                number: index + 1,
                descriptor: descriptor,
                blob: try contents(of: layout.blob(descriptor.digest.hex)),
                toc: tocs[descriptor.digest]
            )
        }
    }

    private static func layers(_ layout: ImageLayout) throws -> [ContentDescriptor] {
        let json = try contents(of: layout.blob(layout.manifestHex))
        guard case .image(let image) = try ManifestDocument(json: json, mediaType: nil) else { return [] }
        return image.layers
    }

    /// The descriptor without a promise for the TOC, and without its position.
    var unpromised: ContentDescriptor {
        var result = descriptor
        result.annotations = [:]
        return result
    }

    /// A place that has the layer and its TOC.
    func place(_ source: ScriptedSource) -> Place {
        var place = source.place
        if let toc { place.tocLayers = { _ in [TOCLayer { SharedBytes(toc) }] } }
        return place
    }

    /// The files, by path, with their digests.
    func files() throws -> [ExpectedFile] { try ExpectedFile.all(layer: number) }
}
