public import OCIModel

/// How the indexes of an image's plain layers look in a registry (docs/index-artifact.md).
enum IndexArtifact {
    static let artifactType = "application/vnd.crfs.index.v1"
    /// An index file (docs/layer-index.md), and a file of restart points (docs/restart-points.md).
    static let indexType = "application/vnd.crfs.index.layer.v1"
    static let restartsType = "application/vnd.crfs.index.restarts.v1"
    /// The digest of the layer that a part is about; in an image index, that of the manifest that an artifact is about.
    static let subjectAnnotation = "vnd.crfs.index.subject"
    static let emptyType = "application/vnd.oci.empty.v1+json"
    static let emptyConfig = Array("{}".utf8)
    /// The most that a part may have, in bytes.
    static let mostBytes: UInt64 = 1 << 30
}

/// Which indexes from elsewhere are believed until they are proved (spec section 3).
public struct IndexTrust: Sendable {
    /// Whether any is.
    public var isOn = true
    /// Hosts and repositories whose artifacts are: `host`, `host/path`, where `*` stands for anything.
    public var sources: [String] = []
    /// Digests of artifacts that are, wherever they come from.
    public var digests: Set<Digest> = []

    /// None but those that an image index names.
    public init() {}

    /// Whether what refers to images in a repository is believed.
    func trusts(_ repository: Repository) -> Bool {
        sources.contains { source in
            let name = source.contains("/") ? "\(repository.host)/\(repository.path)" : repository.host.name
            return IndexTrust.matches(Array(name.utf8)[...], Array(source.utf8)[...])
        }
    }

    private static func matches(_ name: ArraySlice<UInt8>, _ pattern: ArraySlice<UInt8>) -> Bool {
        guard let first = pattern.first else { return name.isEmpty }
        if first == UInt8(ascii: "*") {
            return (name.startIndex...name.endIndex).contains { matches(name[$0...], pattern.dropFirst()) }
        }
        return name.first == first && matches(name.dropFirst(), pattern.dropFirst())
    }
}

/// An artifact's manifest as it is written.
struct ArtifactText: Encodable {
    var schemaVersion = 2
    var mediaType = MediaType.ociManifest
    var artifactType = IndexArtifact.artifactType
    var config: JSONValue
    var layers: [JSONValue]
    var subject: JSONValue
}

/// An image index as it is written.
struct ImageIndexText: Encodable {
    var schemaVersion = 2
    var mediaType = MediaType.ociIndex
    var manifests: [JSONValue]
}
