internal import FoundationEssentials

/// An OCI image layout on disk, as far as tests ask: its one image and that image's layers.
public struct ImageLayout: Sendable {
    /// The directory of the layout.
    public let directory: String
    /// The 64 hex digits of the manifest's digest.
    public let manifestHex: String
    /// The 64 hex digits of the configuration's digest.
    public let configHex: String
    /// The 64 hex digits of each layer's digest, bottom layer first.
    public let layerHexes: [String]
    /// The size in bytes of each layer.
    public let layerSizes: [Int]

    private struct Reference: Decodable {
        var digest: String
        var size: Int
        var annotations: [String: String]?
        var hex: String { String(digest.dropFirst("sha256:".count)) }
    }
    private struct Index: Decodable { var manifests: [Reference] }
    private struct Manifest: Decodable {
        var config: Reference
        var layers: [Reference]
    }

    /// Reads `index.json` and the manifest of the image with this tag, or of the first one.
    public init(_ directory: String, tag: String? = nil) throws {
        func decode<T: Decodable>(_ type: T.Type, _ path: String) throws -> T {
            try JSONDecoder().decode(type, from: Data(contents(of: "\(directory)/\(path)")))
        }
        let index = try decode(Index.self, "index.json")
        let image = index.manifests.first {
            tag == nil || $0.annotations?["org.opencontainers.image.ref.name"] == tag
        }
        guard let image else {
            throw CommandFailure(description: "\(directory)/index.json does not list \(tag ?? "any image")")
        }
        let manifest = try decode(Manifest.self, "blobs/sha256/\(image.hex)")
        self.directory = directory
        manifestHex = image.hex
        configHex = manifest.config.hex
        layerHexes = manifest.layers.map(\.hex)
        layerSizes = manifest.layers.map(\.size)
    }

    /// Makes a layout, or adds to one, from layer files by `mklayout.py`; the image gets the tag `tag`.
    ///
    /// - Parameters:
    ///   - layers: layer files, bottom layer first.
    ///   - options: further options of mklayout.py.
    public static func make(_ directory: String, tag: String, layers: [String], options: [String] = []) throws {
        try runChecked("python3", [SourceTree.testSupport("mklayout.py"), directory, tag] + layers + options)
    }

    /// The path of a blob in the layout.
    public func blob(_ hex: String) -> String { "\(directory)/blobs/sha256/\(hex)" }
}
