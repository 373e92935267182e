import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

/// Reading for a while with tokens and URLs of three seconds, while everything is restarted in turn.
@Suite(.serialized, .enabled(if: Requirement.services.runs, Comment(rawValue: Requirement.services.reason)))
struct SoakTests {
    init() throws { try Requirement.services.orFail() }

    /// `CRFS_SOAK_SECONDS`, else 20.
    private static let seconds = environmentValue("CRFS_SOAK_SECONDS").flatMap { Double($0) } ?? 20

    @Test func noReaderSeesAnErrorWhileEverythingIsRestartedInTurn() async throws {
        let directory = try TemporaryDirectory("soak")
        let storage = try directory.makeDirectory("storage")
        let cache = try directory.makeDirectory("cache")
        let certificates = try directory.makeDirectory("certificates")
        var rules = TokenServer.Rules()
        rules.users = ["reader": "secret"]
        let all = rules
        let (tokens, registry, signed, origin, mirror) = try await offPool {
            try RegistryService.fill(storage)
            try makeCertificates(in: certificates)
            let tokens = try TokenServer(all)
            let registry = try RegistryService.start(storage: storage, login: tokens.login)
            let signed = try SignedStorage(
                directory: storage,
                registry: registry.host,
                certificates: certificates,
                life: 3
            )
            let origin = try RegistryService.start(storage: storage)
            let mirror = try RegistryService.start(storage: cache, mirrorOf: "http://\(origin.host)")
            return (tokens, registry, signed, origin, mirror)
        }
        let image = try ServiceImage(signed.front.host)
        let certs = try directory.makeDirectory("certs.d/\(signed.front.host)")
        try writeFile(
            "\(certs)/hosts.toml",
            "server = \"http://\(signed.front.host)\"\n[host.\"http://\(mirror.host)\"]\n"
        )
        let configuration = try DockerConfiguration(
            #"{"auths": {"\#(signed.front.host)": {"username": "reader", "password": "secret"}}}"#
        )
        func client(_ hosts: String?) -> RegistryClient {
            var options = RegistryOptions()
            options.caFile = "\(certificates)/ca.crt"
            options.credentials = configuration.sources
            options.hostsDirectory = hosts
            return RegistryClient(transport: HTTPTransport(), options: options)
        }
        // One by the mirror, one by the registry and its storage server.
        let clients = [client(directory.file("certs.d")), client(nil)]
        let deadline = monotonicNanoseconds() + UInt64(SoakTests.seconds * 1e9)
        let (errors, rounds) = try await withThrowingTaskGroup(of: ([String], Int).self) { group in
            for (index, client) in clients.enumerated() {
                group.addTask {
                    var errors: [String] = []
                    var round = 0
                    while monotonicNanoseconds() < deadline {
                        round += 1
                        errors += await image.readMany(client, 8, seed: round * 100 + index)
                        do throws(RegistryError) {
                            let digest = try await client.resolve(image.repository, tag: "estargz")
                            if digest == nil { errors.append("no tag") }
                        } catch {
                            errors.append(error.reason)
                        }
                    }
                    return (errors, round)
                }
            }
            group.addTask {
                let parts = [registry, signed.storage, mirror, signed.front, tokens.service]
                var index = 0
                while monotonicNanoseconds() < deadline {
                    let part = parts[index % parts.count]
                    index += 1
                    try await Task.sleep(for: .milliseconds(700))
                    try await offPool {
                        part.stop()
                        _ = waitUntil(seconds: 0.5) { false }
                        try part.start()
                    }
                }
                return ([], 0)
            }
            return try await group.reduce(into: ([], 0)) { $0 = ($0.0 + $1.0, $0.1 + $1.1) }
        }
        #expect(errors == [])
        #expect(rounds > 10)
        #expect(clients[1].counters.tokenRequests > 2)
        #expect(try signed.accesses().allSatisfy { $0.contains("auth=\"-\"") })
        // Whether it still serves as it should, with all parts there.
        for client in clients { #expect(await image.readMany(client, 20, seed: 1) == []) }
        withExtendedLifetime(origin) {}
    }
}
