internal import FoundationEssentials

/// A configuration of docker or of the containers tools (`config.json`, `auth.json`), as far as it is about credentials.
struct CredentialFile: Sendable {
    /// What a file says of a place.
    enum Answer: Sendable {
        case credential(Credential)
        /// Ask `docker-credential-<name>`; what the file holds itself counts where that has nothing.
        case helper(name: String, otherwise: Credential?)
    }

    private struct Document: Decodable {
        struct Entry: Decodable {
            var auth: String?
            var username: String?
            var password: String?
            var identitytoken: String?
            var registrytoken: String?
        }
        var auths: [String: Entry]?
        var credsStore: String?
        var credHelpers: [String: String]?
    }

    private let credentials: [String: Credential]
    private let helpers: [String: String]
    private let store: String?

    /// Reads a file's content; nil when it is not the JSON of one.
    ///
    /// - Parameter source: the file's path, for messages.
    init?(json: [UInt8], source: String) {
        guard let document = try? JSONDecoder().decode(Document.self, from: Data(json)) else { return nil }
        var credentials: [String: Credential] = [:]
        // Of two spellings of one key the one that sorts first counts, so that the choice is the same each time.
        for (key, entry) in (document.auths ?? [:]).sorted(by: { $0.key < $1.key }) {
            let name = CredentialPlace.normalized(key: key)
            guard credentials[name] == nil, let proof = CredentialFile.proof(entry) else { continue }
            credentials[name] = Credential(proof: proof, source: source)
        }
        self.credentials = credentials
        var helpers: [String: String] = [:]
        for (key, helper) in (document.credHelpers ?? [:]).sorted(by: { $0.key < $1.key }) where !helper.isEmpty {
            let name = CredentialPlace.normalized(key: key)
            if helpers[name] == nil { helpers[name] = helper }
        }
        self.helpers = helpers
        store = document.credsStore.flatMap { $0.isEmpty ? nil : $0 }
    }

    /// What the file says of `place`: its most specific key counts.
    func answer(_ place: CredentialPlace) -> Answer? {
        for key in place.keys {
            let own = credentials[key]
            if let helper = helpers[key] { return .helper(name: helper, otherwise: own) }
            if key == place.host, let store { return .helper(name: store, otherwise: own) }
            if let own { return .credential(own) }
        }
        return nil
    }

    private static func proof(_ entry: Document.Entry) -> Credential.Proof? {
        var user = entry.username ?? ""
        var password = Array((entry.password ?? "").utf8)
        if let auth = entry.auth, let decoded = Data(base64Encoded: auth, options: .ignoreUnknownCharacters),
            let colon = decoded.firstIndex(of: UInt8(ascii: ":"))
        {
            user = String(decoding: decoded[..<colon], as: UTF8.self)
            // Docker pads what it writes with NULs.
            password = Array(decoded[decoded.index(after: colon)...])
            while password.last == 0 { password.removeLast() }
        }
        if let token = entry.identitytoken, !token.isEmpty { return .identity(user: user, Secret(token)) }
        if let token = entry.registrytoken, !token.isEmpty { return .bearer(Secret(token)) }
        guard !user.isEmpty || !password.isEmpty else { return nil }
        return .password(user: user, Secret(password))
    }
}

/// Where credentials are looked for.
public struct CredentialSources: Sendable {
    /// Configuration files of docker and the containers tools; the first that has something for a registry counts.
    public var files: [String] = []
    /// Google Cloud's metadata server, `host[:port]`, for the access tokens of its registries; nil where there is none.
    public var metadataHost: String?

    /// Nowhere.
    public init() {}

    /// Where the tools of the user look (spec section 5): `$REGISTRY_AUTH_FILE`; `$DOCKER_CONFIG/config.json`, else
    /// `~/.docker/config.json`; `${XDG_RUNTIME_DIR}/containers/auth.json`, else `/run/containers/<uid>/auth.json`.
    ///
    /// - Parameters:
    ///   - variable: gives an environment variable that is set and not empty.
    ///   - user: the user's number.
    public init(variable: (String) -> String?, user: UInt32) {
        if let file = variable("REGISTRY_AUTH_FILE") { files.append(file) }
        if let directory = variable("DOCKER_CONFIG") {
            files.append(directory + "/config.json")
        } else if let home = variable("HOME") {
            files.append(home + "/.docker/config.json")
        }
        let runtime = variable("XDG_RUNTIME_DIR").map { $0 + "/containers" } ?? "/run/containers/\(user)"
        files.append(runtime + "/auth.json")
        metadataHost = variable("GCE_METADATA_HOST") ?? MetadataServer.hostOfThisMachine
    }
}
