internal import HTTPTransport
internal import OCIModel

/// One server that can be asked for a registry's content: the registry itself or a mirror of it.
struct Endpoint: Sendable {
    /// How a URL is made.
    enum Base: Sendable {
        /// The registry's own host: HTTPS, and on this machine whatever it turns out to speak.
        case host(RegistryHost)
        /// As the configuration writes it.
        case origin(HTTPURL)
    }

    /// What a server may be asked for (containerd's word for it).
    struct Capabilities: OptionSet, Sendable {
        let rawValue: UInt8
        /// Content by digest.
        static let pull = Capabilities(rawValue: 1)
        /// What a tag leads to, and lists.
        static let resolve = Capabilities(rawValue: 2)
        static let all: Capabilities = [.pull, .resolve]
    }

    var base: Base
    /// What stands for `/v2` in its paths, without a slash at the end.
    var prefix = "/v2"
    var capabilities = Capabilities.all
    var tls = TLSSettings()
    /// Header fields that every request gets.
    var headers: [(name: String, value: Secret)] = []
    /// How long a connection may take to be made, in seconds.
    var dialTimeout: Double?
    /// What `?ns=` says: whose content is asked for, where the server is not that registry itself.
    var namespace: String?
    /// The registry itself, whose word counts for what is not there.
    var isRegistry = true

    /// Names it in tables and messages.
    var name: String {
        switch base {
        case .host(let host): host.name
        case .origin(let url): url.origin + (prefix == "/v2" ? "" : prefix)
        }
    }

    /// A registry of which nothing is configured.
    init(registry: RegistryHost) { base = .host(registry) }

    /// The path and query that ask this server for `target`, which begins with `/v2`.
    func path(_ target: String) -> String {
        let path = prefix + target.dropFirst(3)
        guard let namespace, !path.contains("?ns="), !path.contains("&ns=") else { return path }
        return path + (path.contains("?") ? "&" : "?") + "ns=" + percentEncode(namespace.utf8)
    }

    /// What a path of this server is as one of a registry, from `/v2` on; nil where it is outside.
    func target(_ path: String) -> String? {
        guard path.hasPrefix(prefix + "/") else { return nil }
        return "/v2" + path.dropFirst(prefix.count)
    }
}
