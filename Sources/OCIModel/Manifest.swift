internal import FoundationEssentials

/// A manifest's bytes that are not what a manifest must be.
public struct ManifestError: Error, Sendable, CustomStringConvertible {
    /// What is wrong with it.
    public let reason: String

    /// Makes an error with its reason.
    public init(reason: String) { self.reason = reason }

    /// The reason.
    public var description: String { reason }
}

/// An image manifest or an index, as it was read.
public enum ManifestDocument: Sendable {
    /// An image (or artifact) manifest.
    case image(ImageManifest)
    /// An index or manifest list.
    case index(ManifestIndex)

    /// Parses the JSON of a manifest.
    ///
    /// - Parameter mediaType: what the registry's Content-Type said, for documents that carry no `mediaType`.
    public init(json: [UInt8], mediaType: String?) throws(ManifestError) {
        let wire: WireManifest
        do {
            wire = try JSONDecoder().decode(WireManifest.self, from: Data(json))
        } catch {
            throw ManifestError(reason: "not a manifest: \(error)")
        }
        guard wire.schemaVersion == 2 else {
            throw ManifestError(
                reason: "schema version \(wire.schemaVersion.map(String.init) ?? "absent"); crfs reads 2"
            )
        }
        let type = wire.mediaType ?? mediaType?.split(separator: ";").first.map(String.init)
        let isIndex = wire.manifests != nil && wire.layers == nil
        if type == MediaType.ociIndex || type == MediaType.dockerIndex || isIndex {
            self = .index(
                ManifestIndex(
                    mediaType: type ?? MediaType.ociIndex,
                    manifests: try (wire.manifests ?? []).map { descriptor throws(ManifestError) in
                        try descriptor.checked()
                    }
                )
            )
            return
        }
        self = .image(
            ImageManifest(
                mediaType: type ?? MediaType.ociManifest,
                artifactType: wire.artifactType,
                config: try wire.config?.checked(),
                layers: try (wire.layers ?? []).map { descriptor throws(ManifestError) in try descriptor.checked() },
                annotations: wire.annotations ?? [:],
                subject: try wire.subject?.checked()
            )
        )
    }
}

/// An image manifest (OCI image specification, "manifest"; Docker schema 2).
public struct ImageManifest: Sendable {
    /// Its media type.
    public let mediaType: String
    /// What kind of artifact it is, where it isn't an image.
    public let artifactType: String?
    /// The image configuration.
    public let config: ContentDescriptor?
    /// The layers, bottom first.
    public let layers: [ContentDescriptor]
    /// Annotations; empty where there are none.
    public let annotations: [String: String]
    /// The manifest that this one is about, where it is an artifact that refers to one.
    public let subject: ContentDescriptor?

    /// Why this is not a root file system that can be mounted; nil when it is one.
    public var reasonNotMountable: String? {
        if layers.isEmpty { return "it has no layers" }
        for layer in layers where MediaType.layerCompression(layer.mediaType) == nil {
            return "its layer \(layer.digest) has media type \(layer.mediaType), which is no file system layer"
        }
        return nil
    }
}

/// An index of manifests (OCI image specification, "image-index"; Docker manifest list).
public struct ManifestIndex: Sendable {
    /// Its media type.
    public let mediaType: String
    /// What it lists.
    public let manifests: [ContentDescriptor]

    /// The manifest that serves `platform` best; nil when none does. Equal ones: the first.
    public func select(_ platform: Platform) -> ContentDescriptor? {
        var best: (score: Int, descriptor: ContentDescriptor)?
        for descriptor in manifests {
            guard let offered = descriptor.platform, let score = platform.match(offered) else { continue }
            if score > best?.score ?? -1 { best = (score, descriptor) }
        }
        return best?.descriptor
    }

    /// The platforms it has, for messages.
    public var platformList: String {
        let names = manifests.compactMap(\.platform).map(\.description).filter { $0 != "unknown/unknown" }
        return names.isEmpty ? "none" : names.joined(separator: ", ")
    }
}

/// What crfs needs of an image configuration.
public struct ImageConfiguration: Sendable {
    /// The platform that it is for.
    public let platform: Platform?
    /// The digests of the uncompressed layers, bottom first.
    public let diffIDs: [Digest]

    /// Parses the JSON of a configuration.
    public init(json: [UInt8]) throws(ManifestError) {
        let wire: WireConfiguration
        do {
            wire = try JSONDecoder().decode(WireConfiguration.self, from: Data(json))
        } catch {
            throw ManifestError(reason: "not an image configuration: \(error)")
        }
        platform = wire.os.flatMap { os in
            wire.architecture.map { Platform(os: os, architecture: $0, variant: wire.variant) }
        }
        diffIDs = (wire.rootfs?.diff_ids ?? []).compactMap { Digest($0) }
    }
}

private struct WireManifest: Decodable {
    var schemaVersion: Int?
    var mediaType: String?
    var artifactType: String?
    var config: WireDescriptor?
    var layers: [WireDescriptor]?
    var manifests: [WireDescriptor]?
    var annotations: [String: String]?
    var subject: WireDescriptor?
}

private struct WireDescriptor: Decodable {
    var mediaType: String?
    var digest: String
    var size: Int64
    var annotations: [String: String]?
    var platform: WirePlatform?
    var artifactType: String?

    func checked() throws(ManifestError) -> ContentDescriptor {
        guard let parsed = Digest(digest) else {
            throw ManifestError(reason: "digest \(digest) is not sha256:<64 hexadecimal digits>")
        }
        guard size >= 0 else { throw ManifestError(reason: "size \(size) of \(digest)") }
        return ContentDescriptor(
            mediaType: mediaType ?? "",
            digest: parsed,
            size: UInt64(size),
            annotations: annotations ?? [:],
            platform: platform.flatMap { wire in
                wire.os.flatMap { os in
                    wire.architecture.map { Platform(os: os, architecture: $0, variant: wire.variant) }
                }
            },
            artifactType: artifactType
        )
    }
}

private struct WirePlatform: Decodable {
    var os: String?
    var architecture: String?
    var variant: String?
}

private struct WireConfiguration: Decodable {
    struct RootFS: Decodable {
        var diff_ids: [String]?
    }
    var os: String?
    var architecture: String?
    var variant: String?
    var rootfs: RootFS?
}
