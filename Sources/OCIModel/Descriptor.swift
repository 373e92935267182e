/// What refers to a blob or a manifest (OCI image specification, "descriptor").
public struct ContentDescriptor: Hashable, Sendable {
    /// The media type, as the manifest gives it.
    public var mediaType: String
    /// The content's digest.
    public var digest: Digest
    /// The content's size in bytes.
    public var size: UInt64
    /// Annotations; empty where there are none.
    public var annotations: [String: String]
    /// Only in an index.
    public var platform: Platform?
    /// Only in an index: what kind of artifact it refers to, where that is no image.
    public var artifactType: String?

    /// Makes a descriptor from its parts.
    public init(
        mediaType: String,
        digest: Digest,
        size: UInt64,
        annotations: [String: String] = [:],
        platform: Platform? = nil,
        artifactType: String? = nil
    ) {
        self.mediaType = mediaType
        self.digest = digest
        self.size = size
        self.annotations = annotations
        self.platform = platform
        self.artifactType = artifactType
    }

    /// `containerd.io/snapshot/stargz/toc.digest`: the SHA-256 of the TOC JSON (eStargz specification).
    public var tocDigest: Digest? {
        annotations["containerd.io/snapshot/stargz/toc.digest"].flatMap { Digest($0) }
    }

    /// `containerd.io/snapshot/stargz/layer.digest`: for which layer this one, of a TOC image, holds the TOC.
    public var describedLayer: Digest? {
        annotations["containerd.io/snapshot/stargz/layer.digest"].flatMap { Digest($0) }
    }

    /// `manifest-checksum` of zstd:chunked: the SHA-256 of the compressed TOC.
    public var tocFrameDigest: Digest? { zstdChunked("manifest-checksum").flatMap { Digest($0) } }

    /// `manifest-position` of zstd:chunked: `offset:compressed:uncompressed:type` of the TOC.
    public var tocFramePosition: String? { zstdChunked("manifest-position") }

    /// An annotation of zstd:chunked, under the prefix that the containers tools use now, or the older one.
    private func zstdChunked(_ name: String) -> String? {
        annotations["io.github.containers.zstd-chunked.\(name)"] ?? annotations["io.containers.zstd-chunked.\(name)"]
    }
}

/// Media types that crfs reads (OCI image specification and Docker image manifest v2, schema 2).
public enum MediaType {
    /// An OCI image manifest.
    public static let ociManifest = "application/vnd.oci.image.manifest.v1+json"
    /// An OCI image index.
    public static let ociIndex = "application/vnd.oci.image.index.v1+json"
    /// A Docker image manifest, schema 2.
    public static let dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
    /// A Docker manifest list.
    public static let dockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json"
    /// An OCI image configuration.
    public static let ociConfig = "application/vnd.oci.image.config.v1+json"

    /// What a request for a manifest accepts.
    public static let acceptedManifests = [ociManifest, ociIndex, dockerManifest, dockerIndex]

    /// How a layer is compressed, by its media type; nil for what is not a file system layer (and for encrypted ones).
    public static func layerCompression(_ mediaType: String) -> LayerCompression? {
        switch mediaType {
        case "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar":
            LayerCompression.none
        case "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
            .gzip
        case "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.zstd":
            .zstd
        default: nil
        }
    }
}

/// How a layer blob is compressed.
public enum LayerCompression: Sendable, Hashable {
    /// A bare tar.
    case none
    /// tar in gzip members.
    case gzip
    /// tar in zstd frames.
    case zstd
}
