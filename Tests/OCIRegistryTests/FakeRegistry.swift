import FoundationEssentials
import OCIModel
import OCIRegistry
import PosixIO
import Synchronization
import TestSupport

/// fakeregistry.py: a registry, a token server and a storage server that misbehave as a scenario tells.
final class FakeRegistry: Sendable {
    /// One request that one of the three saw.
    struct Request: Decodable {
        var role: String
        var method: String
        var path: String
        var headers: [String: String]
        var connection: Int
    }

    private struct Ports: Decodable {
        var registry: UInt16
        var tokens: UInt16
        var storage: UInt16
    }

    private let directory: String
    /// The registry.
    let host: RegistryHost
    /// `app` there.
    let repository: Repository
    /// `127.0.0.1:port` of the storage server.
    let storage: String

    /// Starts the servers.
    ///
    /// - Parameter scenario: the JSON that fakeregistry.py describes.
    static func start(_ scenario: String) async throws -> FakeRegistry {
        try await offPool { try FakeRegistry(scenario) }
    }

    private init(_ scenario: String) throws {
        directory = try FakeServers.shared.get().add(scenario)
        let file = "\(directory)/ports.json"
        guard waitUntil({ (try? text(of: file)) != nil }), let text = try? text(of: file),
            let ports = try? JSONDecoder().decode(Ports.self, from: Data(text.utf8)),
            let host = RegistryHost("127.0.0.1:\(ports.registry)"),
            let repository = Repository(host: host, path: "app")
        else {
            throw CommandFailure(description: "no fake registry: \(FakeServers.complaints())")
        }
        self.host = host
        self.repository = repository
        storage = "127.0.0.1:\(ports.storage)"
    }

    /// The requests so far, without the one that found out how to speak to the host.
    func requests(_ role: String? = nil) throws -> [Request] {
        let lines = try text(of: "\(directory)/requests").split(separator: "\n")
        let all = try lines.map { try JSONDecoder().decode(Request.self, from: Data($0.utf8)) }
        let probes = all.count > 1 && all[0].method == "TLS" ? 2 : 0
        return all.dropFirst(probes).filter { role == nil || $0.role == role }
    }

    /// All requests, TLS handshakes included.
    func allRequests() throws -> [Request] {
        try text(of: "\(directory)/requests").split(separator: "\n").map {
            try JSONDecoder().decode(Request.self, from: Data($0.utf8))
        }
    }
}

/// The blob that fakeregistry.py serves.
struct FakeBlob {
    let bytes: [UInt8]
    let digest: Digest

    init(count: Int) {
        bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 * 7 + $0 / 251) }
        digest = sha256(bytes)
    }

    func address(_ registry: FakeRegistry) -> BlobAddress {
        BlobAddress(repository: registry.repository, digest: digest, size: UInt64(bytes.count))
    }
}

/// The one process that serves all scenarios: starting Python for each would be most of the tests' time. It ends with
/// the tests' process.
private final class FakeServers: Sendable {
    static let shared = Result { try FakeServers() }

    private let directory: TemporaryDirectory
    private let process: BackgroundProcess
    private let next = Atomic(0)

    private init() throws {
        directory = try TemporaryDirectory("fake")
        _ = try directory.makeDirectory("worlds")
        process = try BackgroundProcess(
            "python3",
            ["\(SourceTree.root)/Tests/OCIRegistryTests/fakeregistry.py", directory.path],
            log: directory.file("log")
        )
    }

    /// Puts a scenario where the process finds it, and returns its directory.
    func add(_ scenario: String) throws -> String {
        let number = next.add(1, ordering: .relaxed).newValue
        let path = try directory.makeDirectory("worlds/\(number)")
        try replaceFile("\(path)/scenario.json", with: unsafe Array(scenario.utf8).span.bytes)
        return path
    }

    static func complaints() -> String {
        (try? text(of: shared.get().directory.file("log"))) ?? ""
    }
}
