/// Who we are to one registry, and where that was found.
struct Credential: Sendable {
    enum Proof: Sendable, Hashable {
        /// A name and its password, for basic authentication and for token servers.
        case password(user: String, Secret)
        /// A refresh token, which a token server takes instead of a password (`identitytoken`).
        case identity(user: String, Secret)
        /// A bearer token for the registry itself (`registrytoken`).
        case bearer(Secret)
    }

    let proof: Proof
    /// The file, the helper or the server that gave it, for messages.
    let source: String

    /// The value of an Authorization header for who takes a name and a password; nil for a bearer token.
    var basic: Secret? {
        switch proof {
        case .password(let user, let secret): Secret("Basic " + secret.basic(user: user))
        case .identity(let user, let secret):
            Secret("Basic " + secret.basic(user: user.isEmpty ? CredentialHelper.tokenUser : user))
        case .bearer: nil
        }
    }
}

/// Whom a credential is for: a registry's server and a repository there.
struct CredentialPlace: Hashable, Sendable {
    /// `host[:port]`; Docker Hub's is `docker.io`.
    var host: String
    /// The repository; nil for what belongs to none.
    var path: String?

    /// Docker Hub has a name in references, one in configurations and one for its API.
    init(authority: String, path: String?) {
        host = CredentialPlace.canonical(authority)
        self.path = path
    }

    /// The keys that can stand for it in a configuration, most specific first: `host/a/b`, `host/a`, `host`.
    var keys: [String] {
        var keys = [host]
        var prefix = host
        for component in (path ?? "").split(separator: "/") {
            prefix += "/" + component
            keys.append(prefix)
        }
        return keys.reversed()
    }

    static func canonical(_ host: String) -> String {
        ["index.docker.io", "registry-1.docker.io"].contains(host) ? "docker.io" : host
    }

    /// A configuration's key without scheme, version and trailing slashes: `https://index.docker.io/v1/` is `docker.io`.
    static func normalized(key: String) -> String {
        var rest = Substring(key.lowercased())
        for scheme in ["https://", "http://"] where rest.hasPrefix(scheme) { rest = rest.dropFirst(scheme.count) }
        while rest.last == "/" { rest.removeLast() }
        for version in ["/v1", "/v2"] where rest.hasSuffix(version) && !rest.dropLast(3).contains("/") {
            rest = rest.dropLast(version.count)
        }
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        return canonical(String(rest[..<slash])) + rest[slash...]
    }
}
