/// A registry host as image references write it: name or address and optional port, lower case.
public struct RegistryHost: Hashable, Sendable, CustomStringConvertible {
    /// `index.docker.io`, `localhost:5000`, `127.0.0.1:5000`, `[::1]:5000`.
    public let name: String

    /// Parses and normalises a host; `docker.io` becomes `index.docker.io`. Nil for what cannot be a host.
    public init?(_ text: String) {
        guard let name = RegistryHost.normalize(text) else { return nil }
        self.name = name
    }

    /// Docker Hub, whose repositories of one component are below `library/`.
    public var isDockerHub: Bool { name == "index.docker.io" }

    /// gcr.io and its regional hosts, whose first component is a Google Cloud project.
    public var isGCR: Bool { name == "gcr.io" || name.hasSuffix(".gcr.io") }

    /// The host without its port and without brackets.
    public var address: String { RegistryHost.split(name).address }

    /// Whether the host is this machine: `localhost`, `*.localhost`, 127.0.0.0/8 or `::1`.
    public var isLoopback: Bool {
        let address = address
        if address == "localhost" || address.hasSuffix(".localhost") || address == "::1" { return true }
        return address.hasPrefix("127.") && RegistryHost.isIPv4(address)
    }

    /// Where requests go: Docker Hub's API host is not the name that references use.
    public var apiAuthority: String { isDockerHub ? "registry-1.docker.io" : name }

    /// The normalised name.
    public var description: String { name }

    private static func split(_ text: String) -> (address: String, port: String?) {
        if text.hasPrefix("[") {
            guard let close = text.firstIndex(of: "]") else { return (text, nil) }
            let rest = text[text.index(after: close)...]
            let address = String(text[text.index(after: text.startIndex)..<close])
            return (address, rest.hasPrefix(":") ? String(rest.dropFirst()) : rest.isEmpty ? nil : "?")
        }
        guard let colon = text.firstIndex(of: ":") else { return (text, nil) }
        return (String(text[..<colon]), String(text[text.index(after: colon)...]))
    }

    private static func normalize(_ text: String) -> String? {
        guard !text.isEmpty, text.utf8.count <= 255 else { return nil }
        let lowered = text.lowercased()
        let (address, port) = split(lowered)
        if let port {
            guard let number = UInt16(port), number > 0, String(number) == port else { return nil }
        }
        if lowered.hasPrefix("[") { return isIPv6(address) ? lowered : nil }
        guard isHostName(address) else { return nil }
        // References cannot name a host of one label without a port (it reads as a repository of Docker Hub), and what
        // programs look up at the top of a tree (`autorun`) is mostly of that form.
        guard address.contains(".") || port != nil || address == "localhost" else { return nil }
        if address == "docker.io" && port == nil { return "index.docker.io" }
        return lowered
    }

    /// RFC 1123 labels, or an IPv4 address.
    private static func isHostName(_ name: String) -> Bool {
        let labels = name.split(separator: ".", omittingEmptySubsequences: false)
        for label in labels {
            let bytes = Array(label.utf8)
            guard let first = bytes.first, let last = bytes.last, bytes.count <= 63 else { return false }
            guard isAlphanumeric(first), isAlphanumeric(last) else { return false }
            guard bytes.allSatisfy({ isAlphanumeric($0) || $0 == UInt8(ascii: "-") }) else { return false }
        }
        // All digits and dots must be an address.
        if labels.allSatisfy({ $0.utf8.allSatisfy { $0 >= 0x30 && $0 <= 0x39 } }) { return isIPv4(name) }
        return true
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x61...0x7a).contains(byte)
    }

    private static func isIPv4(_ text: String) -> Bool {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts.allSatisfy { UInt8($0).map { String($0) } == String($0) }
    }

    private static func isIPv6(_ text: String) -> Bool {
        guard text.contains(":"), !text.contains(":::") else { return false }
        let halves = text.split(separator: "::", omittingEmptySubsequences: false)
        guard halves.count <= 2 else { return false }
        let groups = text.split(separator: ":").map(String.init)
        guard groups.allSatisfy({ (1...4).contains($0.utf8.count) && UInt16($0, radix: 16) != nil }) else {
            return false
        }
        return text.contains("::") ? groups.count < 8 : groups.count == 8
    }
}

/// A repository: a host and a path of one or more components.
public struct Repository: Hashable, Sendable, CustomStringConvertible {
    /// The registry.
    public let host: RegistryHost
    /// The path as the tree shows it, without leading or trailing slash: `app`, `proj/img`, `a/b/c`.
    public let path: String

    /// Makes a repository; nil when the path is not one or more valid components joined by `/`.
    public init?(host: RegistryHost, path: String) {
        let components = path.split(separator: "/", omittingEmptySubsequences: false)
        guard !components.isEmpty, path.utf8.count <= 255 else { return nil }
        guard components.allSatisfy({ Repository.isComponent($0) }) else { return nil }
        self.host = host
        self.path = path
    }

    /// The name that requests use: Docker Hub's one-component names are below `library/`.
    public var apiName: String {
        host.isDockerHub && !path.contains("/") ? "library/" + path : path
    }

    /// Whether `text` is a path component (OCI distribution specification, "pulling manifests", `<name>`):
    /// alphanumerics joined by `.`, `_`, `__` or dashes.
    public static func isComponent(_ text: some StringProtocol) -> Bool {
        let bytes = Array(text.utf8)
        guard !bytes.isEmpty else { return false }
        func isAlphanumeric(_ byte: UInt8) -> Bool {
            (0x30...0x39).contains(byte) || (0x61...0x7a).contains(byte)
        }
        guard isAlphanumeric(bytes[0]), isAlphanumeric(bytes[bytes.count - 1]) else { return false }
        var index = 0
        while index < bytes.count {
            if isAlphanumeric(bytes[index]) {
                index += 1
                continue
            }
            let start = index
            while index < bytes.count, !isAlphanumeric(bytes[index]) { index += 1 }
            let separator = bytes[start..<index]
            let dashes = separator.allSatisfy { $0 == UInt8(ascii: "-") }
            let text = Array(separator)
            guard dashes || text == Array(".".utf8) || text == Array("_".utf8) || text == Array("__".utf8) else {
                return false
            }
        }
        return true
    }

    /// Whether `text` is a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    public static func isTag(_ text: some StringProtocol) -> Bool {
        let bytes = Array(text.utf8)
        guard (1...128).contains(bytes.count) else { return false }
        func isWord(_ byte: UInt8) -> Bool {
            (0x30...0x39).contains(byte) || (0x61...0x7a).contains(byte) || (0x41...0x5a).contains(byte)
                || byte == UInt8(ascii: "_")
        }
        return isWord(bytes[0])
            && bytes.allSatisfy { isWord($0) || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-") }
    }

    /// `host/path`.
    public var description: String { "\(host)/\(path)" }
}

/// What names a manifest inside a repository.
public enum ManifestName: Hashable, Sendable, CustomStringConvertible {
    /// A tag, which can move.
    case tag(String)
    /// A digest, which cannot.
    case digest(Digest)

    /// The tag, or `sha256:<hex>`: what a manifest URL ends in.
    public var description: String {
        switch self {
        case .tag(let tag): tag
        case .digest(let digest): digest.description
        }
    }
}

/// An image reference as users write it: `[host/]path[:tag][@digest]`.
public struct ImageReference: Hashable, Sendable, CustomStringConvertible {
    /// Where the image is.
    public let repository: Repository
    /// The tag, `latest` when neither tag nor digest was given; nil when only a digest was.
    public let tag: String?
    /// The digest, which decides when both were given.
    public let digest: Digest?

    /// Makes a reference from its parts.
    public init(repository: Repository, tag: String?, digest: Digest?) {
        self.repository = repository
        self.tag = tag
        self.digest = digest
    }

    /// Parses a reference. The first component is a host when it has a dot or a colon or is `localhost`; else the
    /// host is Docker Hub, as container tools take it. Nil for anything that is none.
    public init?(_ text: String) {
        var rest = Substring(text)
        for scheme in ["docker://", "oci://"] where rest.hasPrefix(scheme) { rest = rest.dropFirst(scheme.count) }
        var digest: Digest?
        if let at = rest.lastIndex(of: "@") {
            guard let parsed = Digest(rest[rest.index(after: at)...]) else { return nil }
            digest = parsed
            rest = rest[..<at]
        }
        var tag: String?
        if let colon = rest.lastIndex(of: ":"), !rest[colon...].contains("/") {
            let after = rest[rest.index(after: colon)...]
            guard Repository.isTag(after), !rest[..<colon].isEmpty else { return nil }
            tag = String(after)
            rest = rest[..<colon]
        }
        var host = "index.docker.io"
        if let slash = rest.firstIndex(of: "/") {
            let first = rest[..<slash]
            if first.contains(".") || first.contains(":") || first == "localhost" {
                host = String(first)
                rest = rest[rest.index(after: slash)...]
            }
        }
        guard let parsedHost = RegistryHost(host) else { return nil }
        var path = String(rest)
        if parsedHost.isDockerHub, path.hasPrefix("library/"), !path.dropFirst(8).contains("/") {
            path = String(path.dropFirst(8))
        }
        guard let repository = Repository(host: parsedHost, path: path) else { return nil }
        self.init(repository: repository, tag: tag ?? (digest == nil ? "latest" : nil), digest: digest)
    }

    /// What to ask the registry for.
    public var manifestName: ManifestName {
        if let digest { return .digest(digest) }
        return .tag(tag ?? "latest")
    }

    /// The reference in full.
    public var description: String {
        repository.description + (tag.map { ":" + $0 } ?? "") + (digest.map { "@\($0)" } ?? "")
    }
}
