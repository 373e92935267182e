internal import FoundationEssentials
internal import PosixIO
internal import Synchronization

/// A server on a free loopback port that can be stopped and started again on it, with a directory of its own.
public final class Service: Sendable {
    /// Its directory.
    public let directory: String
    /// Its port.
    public let port: UInt16
    /// What it wrote to its output and error.
    public let log: String

    private let owner: TemporaryDirectory
    private let program: String
    private let arguments: [String]
    private let process = Mutex<BackgroundProcess?>(nil)

    /// Starts a server.
    ///
    /// - Parameters:
    ///   - label: what its directory is called.
    ///   - program: in PATH.
    ///   - arguments: `{}` stands for the directory.
    ///   - prepare: writes its configuration into the directory, for a port.
    public init(
        _ label: String,
        _ program: String,
        _ arguments: [String],
        prepare: (_ directory: String, _ port: UInt16) throws -> Void
    ) throws {
        owner = try TemporaryDirectory(label)
        directory = owner.path
        log = owner.file("log")
        self.program = program
        let path = owner.path
        self.arguments = arguments.map { argument in
            argument.split(separator: "{}", omittingEmptySubsequences: false).joined(separator: path)
        }
        var started: BackgroundProcess?
        var port: UInt16 = 0
        // The port is free when it is chosen, and may be taken a moment later by somebody else.
        for _ in 0..<5 where started == nil {
            port = freePort()
            try prepare(path, port)
            started = try Service.launch(program, self.arguments, log, port)
        }
        self.port = port
        guard let started else {
            throw CommandFailure(description: "\(label) did not start:\n\((try? text(of: log)) ?? "")")
        }
        process.withLock { $0 = started }
    }

    /// `127.0.0.1:<port>`.
    public var host: String { "127.0.0.1:\(port)" }

    /// Ends it: connections are refused, and broken.
    public func stop() {
        process.withLock { process in
            process?.terminate(seconds: 2)
            process = nil
        }
    }

    /// Starts it again on the same port.
    public func start() throws {
        stop()
        guard let server = try Service.launch(program, arguments, log, port) else {
            throw CommandFailure(description: "\(program) did not start again:\n\((try? text(of: log)) ?? "")")
        }
        process.withLock { $0 = server }
    }

    private static func launch(
        _ program: String,
        _ arguments: [String],
        _ log: String,
        _ port: UInt16
    ) throws -> BackgroundProcess? {
        let server = try BackgroundProcess(
            program,
            arguments,
            environment: ["OTEL_TRACES_EXPORTER": "none"],
            log: log
        )
        return waitUntil { !server.isRunning || isListening(port: port) } && server.isRunning ? server : nil
    }

    /// One request that the server's file `requests` tells of.
    public struct Request: Sendable, Decodable {
        /// GET, HEAD or POST.
        public var method: String
        /// Path and query.
        public var path: String
        /// Header fields, with names in lower case.
        public var headers: [String: String]
        /// The body of a POST.
        public var body: String
    }

    /// The requests so far, for servers that write them down.
    public func requests() throws -> [Request] {
        guard let content = try? text(of: "\(directory)/requests") else { return [] }
        return try content.split(separator: "\n").map { try JSONDecoder().decode(Request.self, from: Data($0.utf8)) }
    }
}

/// How a registry wants to know who asks.
public enum RegistryLogin: Sendable {
    /// Not at all.
    case open
    /// Basic authentication.
    case password(user: String, password: String)
    /// Tokens of a token server: where it is, and the directory that holds its cert.pem.
    case token(realm: String, directory: String)
}

/// docker-registry in any of its roles.
public enum RegistryService {
    /// Puts corpus images into a storage directory, as `corpus:<format>`.
    public static func fill(_ storage: String, _ formats: [String] = ["estargz"]) throws {
        let registry = try start(storage: storage)
        for format in formats {
            try runChecked(
                "skopeo",
                [
                    "--insecure-policy", "copy", "--preserve-digests", "--quiet", "--dest-tls-verify=false",
                    "oci:\(Corpus.layout(format)):\(format)", "docker://\(registry.host)/corpus:\(format)",
                ]
            )
        }
        registry.stop()
    }

    /// Starts a registry.
    ///
    /// - Parameters:
    ///   - storage: its storage directory.
    ///   - login: how it wants to know who asks.
    ///   - mirrorOf: makes it a pull-through cache of the registry at this URL.
    ///   - certificates: a directory of `makeCertificates`, for TLS.
    ///   - redirectTo: sends clients for blobs to this origin, by the registry's own redirect middleware: to
    ///     `/docker/registry/v2/blobs/sha256/<xx>/<hex>/data` there.
    public static func start(
        storage: String,
        login: RegistryLogin = .open,
        mirrorOf: String? = nil,
        certificates: String? = nil,
        redirectTo: String? = nil
    ) throws -> Service {
        try Service("registry", "docker-registry", ["serve", "{}/config.yml"]) { directory, port in
            var text = """
                version: 0.1
                log: {level: warn}
                storage:
                  filesystem: {rootdirectory: \(storage)}
                  delete: {enabled: true}
                http:
                  addr: "127.0.0.1:\(port)"
                  secret: only-for-tests

                """
            if let certificates {
                text += "  tls: {certificate: \(certificates)/server.crt, key: \(certificates)/server-key.pem}\n"
            }
            if let redirectTo {
                text += "middleware: {storage: [{name: redirect, options: {baseurl: \"\(redirectTo)\"}}]}\n"
            }
            if let mirrorOf { text += "proxy: {remoteurl: \"\(mirrorOf)\"}\n" }
            switch login {
            case .open: break
            case .password(let user, let password):
                let line = try runChecked("htpasswd", ["-Bbn", "-C", "5", user, password]).text
                try writeFile("\(directory)/htpasswd", line)
                text += "auth: {htpasswd: {realm: test, path: \(directory)/htpasswd}}\n"
            case .token(let realm, let tokens):
                text += "auth: {token: {realm: \"\(realm)\", service: test-registry, issuer: test-issuer, "
                text += "rootcertbundle: \(tokens)/cert.pem}}\n"
            }
            try writeFile("\(directory)/config.yml", text)
        }
    }
}

/// `tokenserver.py`: tokens for a registry, and Google Cloud's metadata.
public struct TokenServer: Sendable {
    /// What it does.
    public struct Rules: Sendable, Encodable {
        /// Seconds that a token works.
        public var life = 3
        /// Who gets tokens by name and password.
        public var users: [String: String] = [:]
        /// Who gets tokens by a refresh token.
        public var refresh: [String] = []
        /// The status of every POST.
        public var postStatus: Int?
        /// The status of every request for a token.
        public var status: Int?
        /// The access token of the metadata server.
        public var access = ""
        fileprivate var issuer = "test-issuer"
        fileprivate var service = "test-registry"
        fileprivate var port: UInt16 = 0

        /// Tokens of 3 seconds, for nobody.
        public init() {}
    }

    /// The server.
    public let service: Service

    /// Starts it with a key of its own.
    public init(_ rules: Rules) throws {
        let program = SourceTree.testSupport("tokenserver.py")
        service = try Service("tokens", "python3", [program, "{}"]) { directory, port in
            try runChecked(
                "openssl",
                [
                    "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test tokens",
                    "-keyout", "\(directory)/key.pem", "-out", "\(directory)/cert.pem",
                ]
            )
            try runChecked(
                "openssl",
                ["x509", "-in", "\(directory)/cert.pem", "-outform", "DER", "-out", "\(directory)/cert.der"]
            )
            try TokenServer.write(rules, directory, port)
        }
    }

    /// Where registries send clients to.
    public var realm: String { "http://\(service.host)/token" }

    /// What a registry is configured with.
    public var login: RegistryLogin { .token(realm: realm, directory: service.directory) }

    /// Makes these its rules from the next request on.
    public func use(_ rules: Rules) throws { try TokenServer.write(rules, service.directory, service.port) }

    private static func write(_ rules: Rules, _ directory: String, _ port: UInt16) throws {
        var rules = rules
        rules.port = port
        let path = "\(directory)/configuration.json"
        let text = String(decoding: try JSONEncoder().encode(rules), as: UTF8.self)
        // Replaced whole: it is read at any time.
        try replaceFile(path, with: unsafe Array(text.utf8).span.bytes)
    }
}

/// `signingfront.py`: a registry that sends clients to a storage server, or passes everything on.
public enum SigningFront {
    private struct Configuration: Encodable {
        var port: UInt16
        var upstream: String
        var storage: String
        var secret = "test secret"
        var life: Int
    }

    /// Starts one.
    ///
    /// - Parameters:
    ///   - registry: `host:port` of the registry behind it.
    ///   - storage: the storage server's URL; empty for none.
    ///   - life: seconds that URLs hold.
    public static func start(registry: String, storage: String = "", life: Int = 3) throws -> Service {
        try Service("front", "python3", [SourceTree.testSupport("signingfront.py"), "{}"]) { own, port in
            let wanted = Configuration(port: port, upstream: registry, storage: storage, life: life)
            try writeFile(
                "\(own)/configuration.json",
                String(decoding: try JSONEncoder().encode(wanted), as: UTF8.self)
            )
        }
    }
}

/// nginx as a storage server with TLS, HTTP/2 and URLs that expire, over the blobs of a registry's storage directory, and the
/// registry's front that sends clients there.
public struct SignedStorage: Sendable {
    private let nginx: Nginx
    /// What clients take for the registry.
    public let front: Service

    /// Starts both.
    ///
    /// - Parameters:
    ///   - directory: the registry's storage directory.
    ///   - registry: `host:port` of the registry, which decides who may read.
    ///   - certificates: a directory of `makeCertificates`.
    ///   - life: seconds that a URL holds.
    ///   - maxRanges: nginx's `max_ranges`; 0 makes it answer 200 to ranges.
    public init(directory: String, registry: String, certificates: String, life: Int, maxRanges: Int = 1) throws {
        let blobs = "\(directory)/docker/registry/v2/blobs/sha256"
        nginx = try Nginx(
            "storage",
            certificates: certificates,
            logFormat:
                #"$status "$request" auth="$http_authorization" test="$http_x_test" $server_protocol $connection"#,
            settings: "keepalive_requests 20;",
            server: """
                max_ranges \(maxRanges);
                location /blobs/ {
                    secure_link $arg_md5,$arg_expires;
                    secure_link_md5 "$secure_link_expires$uri test secret";
                    if ($secure_link = "") { return 403; }
                    if ($secure_link = "0") { return 410; }
                    alias \(blobs)/;
                }
                # For who is sent here by a registry's redirect middleware, which signs nothing.
                location /docker/registry/v2/blobs/sha256/ { alias \(blobs)/; }
                """
        )
        let address = "https://\(nginx.service.host)/blobs"
        front = try SigningFront.start(registry: registry, storage: address, life: life)
    }

    /// nginx.
    public var storage: Service { nginx.service }

    /// The lines of nginx's access log: status, request, Authorization, Cookie, X-Test, HTTP version.
    public func accesses() throws -> [String] { nginx.accesses() }
}
