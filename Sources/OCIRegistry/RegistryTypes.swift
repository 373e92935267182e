public import OCIModel

/// A manifest as a registry served it, checked against its digest.
public struct FetchedManifest: Sendable {
    /// What the bytes hash to.
    public var digest: Digest
    /// The Content-Type that came with it, without parameters.
    public var mediaType: String?
    /// The manifest, byte for byte.
    public var bytes: [UInt8]

    /// Makes one from its parts.
    public init(digest: Digest, mediaType: String?, bytes: [UInt8]) {
        self.digest = digest
        self.mediaType = mediaType
        self.bytes = bytes
    }
}

/// A page-complete answer of `tags/list`.
public struct TagList: Sendable, Equatable {
    /// The tags, in the registry's order.
    public var tags: [String]
    /// GCR's `child`: names of repositories directly below.
    public var children: [String]

    /// Makes a list from its parts.
    public init(tags: [String], children: [String]) {
        self.tags = tags
        self.children = children
    }
}

/// A blob and where it can be read.
public struct BlobAddress: Hashable, Sendable {
    /// The repository that is asked for it.
    public var repository: Repository
    /// Its digest.
    public var digest: Digest
    /// Its size in bytes, as a manifest says.
    public var size: UInt64

    /// Makes an address from its parts.
    public init(repository: Repository, digest: Digest, size: UInt64) {
        self.repository = repository
        self.digest = digest
        self.size = size
    }
}

/// How a client talks to registries.
public struct RegistryOptions: Sendable {
    /// Hosts (`name[:port]`) that are spoken to by plain HTTP although they are not loopback.
    public var insecureHosts: Set<String> = []
    /// A PEM file of certificate authorities beside the system's.
    public var caFile: String?
    /// A directory of `hosts.toml` files as containerd has it (mirrors, certificates, header fields); nil for none.
    public var hostsDirectory: String?
    /// Where credentials are looked for; nil for nowhere.
    public var credentials: CredentialSources?
    /// How long a request waits without any progress, in seconds.
    public var deadlineSeconds: Double = 120
    /// The longest silence of a connection before the request is tried again on another one, in seconds.
    public var stallSeconds: Double = 30
    /// How long a connection may take to be made, in seconds.
    public var connectSeconds: Double = 10
    /// The User-Agent.
    public var userAgent: String = "crfs"

    /// The defaults.
    public init() {}
}
