internal import Glibc
internal import PosixIO
internal import Synchronization

/// Debian's `docker-registry` on a free loopback port, with its storage in a directory of its own.
///
/// It can be stopped and started again on the same port, or suspended so that it accepts connections and never answers.
public final class RegistryServer: Sendable {
    /// How clients reach the server.
    public enum Transport: Sendable {
        /// HTTP without TLS.
        case plain
        /// HTTPS with HTTP/2, by a certificate for 127.0.0.1 and localhost of a CA made for this server.
        case tls
    }

    /// `127.0.0.1:<port>`.
    public let host: String
    /// The port.
    public let port: UInt16
    /// How clients reach it.
    public let transport: Transport
    /// The CA certificate (PEM) of a TLS server.
    public let certificateAuthority: String
    /// The server's log, with one line of access log per request.
    public let log: String

    private let directory: TemporaryDirectory
    private let process = Mutex<BackgroundProcess?>(nil)

    /// Makes the configuration (and the certificates) and starts the server.
    public init(_ transport: Transport = .plain) throws {
        directory = try TemporaryDirectory("registry")
        self.transport = transport
        log = directory.file("log")
        certificateAuthority = directory.file("certificates/ca.crt")
        if transport == .tls { try makeCertificates(in: directory.makeDirectory("certificates")) }
        // The port is free when it is chosen, and may be taken a moment later by somebody else.
        var started = false
        var port: UInt16 = 0
        for _ in 0..<5 where !started {
            port = freePort()
            try writeFile(
                directory.file("config.yml"),
                RegistryServer.configuration(directory: directory.path, port: port, transport: transport)
            )
            let server = try RegistryServer.launch(directory: directory.path, log: log)
            started = waitUntil { !server.isRunning || isListening(port: port) } && server.isRunning
            if started { process.withLock { $0 = server } }
        }
        self.port = port
        host = "127.0.0.1:\(port)"
        guard started else {
            let said = (try? text(of: log)) ?? ""
            throw CommandFailure(description: "docker-registry did not start:\n\(said)")
        }
    }

    /// Ends the server: connections to it are refused.
    public func stop() {
        process.withLock { process in
            process?.kill()
            process = nil
        }
    }

    /// Starts it again on the same port, with what was stored before.
    public func start() throws {
        stop()
        let server = try RegistryServer.launch(directory: directory.path, log: log)
        guard waitUntil({ !server.isRunning || isListening(port: port) }), server.isRunning else {
            throw CommandFailure(description: "docker-registry did not start again on port \(port)")
        }
        process.withLock { $0 = server }
    }

    /// Stops all its threads: the kernel still accepts connections, nobody answers.
    public func suspend() { process.withLock { $0?.signal(SIGSTOP) } }

    /// Lets it go on after `suspend`.
    public func resume() { process.withLock { $0?.signal(SIGCONT) } }

    /// Copies the image of an OCI layout into the registry, byte for byte.
    ///
    /// - Parameters:
    ///   - layout: the layout's directory.
    ///   - source: its tag in the layout.
    ///   - destination: `repository:tag` in the registry.
    ///   - all: push all images of an index.
    public func push(layout: String, tag source: String, to destination: String, all: Bool = false) throws {
        let security =
            switch transport {
            case .plain: ["--dest-tls-verify=false"]
            case .tls: ["--dest-cert-dir=\(directory.file("certificates"))"]
            }
        try runChecked(
            "skopeo",
            ["--insecure-policy", "copy", "--preserve-digests", "--quiet"] + security + (all ? ["--all"] : [])
                + ["oci:\(layout):\(source)", "docker://\(host)/\(destination)"]
        )
    }

    /// Pushes a corpus image as `corpus:<format>`, or to another `repository:tag`.
    public func pushCorpus(_ format: String, to destination: String? = nil) throws {
        try push(layout: Corpus.layout(format), tag: format, to: destination ?? "corpus:\(format)")
    }

    /// Removes a tag (not the manifest), as if it had never been pushed.
    public func deleteTag(_ tag: String, of repository: String) {
        removeOnOneFileSystem("\(storage)/repositories/\(repository)/_manifests/tags/\(tag)")
    }

    /// Removes the bytes of a blob, as a broken disk would.
    public func deleteBlob(hex: String) {
        removeOnOneFileSystem("\(storage)/blobs/sha256/\(hex.prefix(2))/\(hex)")
    }

    /// The lines of the access log that contain all of `parts`.
    public func requests(containing parts: String...) -> [String] {
        let lines = ((try? text(of: log)) ?? "").split(separator: "\n")
        return lines.filter { line in line.contains(" HTTP/") && parts.allSatisfy { line.contains($0) } }.map(
            String.init
        )
    }

    private var storage: String { directory.file("data/docker/registry/v2") }

    private static func launch(directory: String, log: String) throws -> BackgroundProcess {
        try BackgroundProcess(
            "docker-registry",
            ["serve", "\(directory)/config.yml"],
            environment: ["OTEL_TRACES_EXPORTER": "none"],
            log: log
        )
    }

    private static func configuration(directory: String, port: UInt16, transport: Transport) -> String {
        var result = """
            version: 0.1
            log: {level: warn}
            storage:
              filesystem: {rootdirectory: \(directory)/data}
              delete: {enabled: true}
            http:
              addr: "127.0.0.1:\(port)"
              secret: only-for-tests

            """
        if transport == .tls {
            result += """
                  tls:
                    certificate: \(directory)/certificates/server.crt
                    key: \(directory)/certificates/server-key.pem

                """
        }
        return result
    }
}

/// Makes `ca.crt`, `server.crt` and `server-key.pem` (for 127.0.0.1 and localhost), `client.pem` and `client-key.pem` in
/// `directory`.
///
/// The directory also serves as skopeo's `--cert-dir`, which takes every `.key` for a client's: hence the name of the
/// server's, and the CA's own stays outside.
public func makeCertificates(in directory: String) throws {
    let authority = try TemporaryDirectory("ca")
    try runChecked(
        "openssl",
        [
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=crfs test CA", "-addext", "basicConstraints=critical,CA:TRUE",
            "-keyout", authority.file("ca.key"), "-out", "\(directory)/ca.crt",
        ]
    )
    try runChecked(
        "openssl",
        [
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost",
            "-keyout", "\(directory)/server-key.pem", "-out", authority.file("server.csr"),
        ]
    )
    try writeFile(authority.file("extensions"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    let signing = [
        "-CA", "\(directory)/ca.crt", "-CAkey", authority.file("ca.key"), "-CAcreateserial", "-days", "2",
    ]
    try runChecked(
        "openssl",
        ["x509", "-req", "-in", authority.file("server.csr")] + signing + [
            "-extfile", authority.file("extensions"), "-out", "\(directory)/server.crt",
        ]
    )
    try runChecked(
        "openssl",
        [
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
            "/CN=crfs test client",
            "-keyout", "\(directory)/client-key.pem", "-out", authority.file("client.csr"),
        ]
    )
    try runChecked(
        "openssl",
        ["x509", "-req", "-in", authority.file("client.csr")] + signing + ["-out", "\(directory)/client.pem"]
    )
}
