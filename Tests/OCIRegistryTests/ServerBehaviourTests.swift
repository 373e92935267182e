import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

private let programs = Requirement.all(["python3", "openssl", "nginx"].map { .program($0) })

/// Servers that end connections and streams as HTTP allows them to, and those with few of either.
@Suite(.serialized, .enabled(if: programs.runs, Comment(rawValue: programs.reason)))
struct ServerBehaviourTests {
    private let blob = FakeBlob(count: 40_000)

    init() throws { try programs.orFail() }

    /// Reads ranges of the blob, many at once; each must be right.
    private func readMany(_ client: RegistryClient, _ host: String, _ count: Int) async throws {
        let repository = try #require(RegistryHost(host).flatMap { Repository(host: $0, path: "app") })
        let address = BlobAddress(repository: repository, digest: blob.digest, size: UInt64(blob.bytes.count))
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<count {
                group.addTask {
                    let offset = index * 7919 % 30_000
                    let bytes = try await client.readArray(address, offset, 10_000)
                    #expect(bytes == Array(blob.bytes[offset..<offset + 10_000]))
                }
            }
            try await group.waitForAll()
        }
    }

    private func client(_ authority: String? = nil) -> RegistryClient {
        makeClient {
            $0.caFile = authority
            $0.deadlineSeconds = 60
        }
    }

    @Test(arguments: ["goaway", "reset", "limit"])
    func streamsEndInEveryWay(_ mode: String) async throws {
        let server = try await offPool { try StreamServer(mode, blob.bytes) }
        let client = client(server.authority)
        // One after the other, so that the server has shown its way, then all at once.
        for _ in 0..<6 { try await readMany(client, server.host, 1) }
        try await readMany(client, server.host, 40)
        let events = try server.events()
        switch mode {
        case "goaway":
            #expect(events.contains("goaway"))
            #expect(events.filter { $0 == "connection" }.count > 1)
        case "reset": #expect(events.contains("reset"))
        default: #expect(events.filter { $0 == "connection" }.count <= 16)
        }
    }

    /// nginx ends a connection after so many requests, and HTTP/2's with GOAWAY.
    @Test(arguments: [false, true])
    func connectionsThatEndAfterAFewRequestsAreReplaced(_ isSecure: Bool) async throws {
        let server = try await offPool { try NginxServer(blob, "keepalive_requests 5;", isSecure: isSecure) }
        let client = client(server.authority)
        for _ in 0..<12 { try await readMany(client, server.host, 1) }
        try await readMany(client, server.host, 60)
    }

    @Test func aServerOfTwoConnectionsServesAll() async throws {
        let server = try await offPool { try NginxServer(blob, "limit_conn few 2;", isSecure: false) }
        try await readMany(client(), server.host, 12)
    }

    @Test func fewStreamsAtOnceServeAll() async throws {
        let server = try await offPool { try NginxServer(blob, "http2_max_concurrent_streams 2;", isSecure: true) }
        try await readMany(client(server.authority), server.host, 60)
    }
}

/// h2server.py in one of its modes.
private final class StreamServer: Sendable {
    let host: String
    let authority: String
    private let directory: TemporaryDirectory
    private let process: BackgroundProcess

    init(_ mode: String, _ content: [UInt8]) throws {
        directory = try TemporaryDirectory("h2")
        let certificates = try directory.makeDirectory("certificates")
        try makeCertificates(in: certificates)
        authority = "\(certificates)/ca.crt"
        try replaceFile(directory.file("content"), with: unsafe content.span.bytes)
        try writeFile(directory.file("events"), "")
        process = try BackgroundProcess(
            "python3",
            [
                "\(SourceTree.root)/Tests/OCIRegistryTests/h2server.py", mode, "\(certificates)/server.crt",
                "\(certificates)/server-key.pem", directory.file("content"), directory.file("port"),
                directory.file("events"),
            ],
            log: directory.file("log")
        )
        let process = process
        let port = directory.file("port")
        guard waitUntil({ !process.isRunning || (try? FileStatus(port)) != nil }), process.isRunning else {
            throw CommandFailure(description: "h2server.py: \((try? text(of: directory.file("log"))) ?? "")")
        }
        host = "127.0.0.1:\(try text(of: port))"
    }

    func events() throws -> [String] { try text(of: directory.file("events")).split(separator: "\n").map(String.init) }
}

/// nginx with a blob and one setting.
private final class NginxServer: Sendable {
    let host: String
    let authority: String?
    private let directory: TemporaryDirectory
    private let process: BackgroundProcess

    init(_ blob: FakeBlob, _ setting: String, isSecure: Bool) throws {
        directory = try TemporaryDirectory("nginx")
        let folder = try directory.makeDirectory("root/v2/app/blobs")
        try writeFile(directory.file("root/v2/index.html"), "{}")
        try replaceFile("\(folder)/\(blob.digest)", with: unsafe blob.bytes.span.bytes)
        let port = freePort()
        var listen = "listen 127.0.0.1:\(port);"
        if isSecure {
            let certificates = try directory.makeDirectory("certificates")
            try makeCertificates(in: certificates)
            listen = """
                listen 127.0.0.1:\(port) ssl http2;
                ssl_certificate \(certificates)/server.crt;
                ssl_certificate_key \(certificates)/server-key.pem;
                """
            authority = "\(certificates)/ca.crt"
        } else {
            authority = nil
        }
        let path = directory.path
        try writeFile(
            directory.file("nginx.conf"),
            """
            daemon off; master_process off; pid \(path)/pid; error_log \(path)/log warn;
            events { worker_connections 256; }
            http {
                access_log off; client_body_temp_path \(path)/a; proxy_temp_path \(path)/b;
                fastcgi_temp_path \(path)/c; uwsgi_temp_path \(path)/d; scgi_temp_path \(path)/e;
                limit_conn_zone $server_name zone=few:64k;
                server { \(listen) root \(path)/root; \(setting) }
            }
            """
        )
        process = try BackgroundProcess(
            "nginx",
            ["-e", "\(path)/log", "-c", "\(path)/nginx.conf"],
            log: directory.file("output")
        )
        let process = process
        guard waitUntil({ !process.isRunning || isListening(port: port) }), process.isRunning else {
            throw CommandFailure(description: "nginx: \((try? text(of: directory.file("log"))) ?? "")")
        }
        host = "127.0.0.1:\(port)"
    }
}
