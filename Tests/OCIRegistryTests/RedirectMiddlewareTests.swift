import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

/// docker-registry's own redirect middleware, in front of nginx as a storage server (TLS, HTTP/2, `keepalive_requests 20`).
@Suite(.serialized, .enabled(if: Requirement.services.runs, Comment(rawValue: Requirement.services.reason)))
struct RedirectMiddlewareTests {
    init() throws { try Requirement.services.orFail() }

    private struct Stage: Sendable {
        let registry: Service
        let signed: SignedStorage
        let image: ServiceImage
        let authority: String
        let tokens: TokenServer
    }

    /// - Parameter isSigned: whether the middleware sends clients to a server that sends them on, to a URL of 3 seconds;
    ///   else it sends them to the storage server at once.
    private func stage(
        _ directory: borrowing TemporaryDirectory,
        isSigned: Bool,
        maxRanges: Int
    ) async throws -> Stage {
        let storage = try directory.makeDirectory("storage")
        let certificates = try directory.makeDirectory("certificates")
        var rules = TokenServer.Rules()
        rules.users = ["": ""]
        let all = rules
        return try await offPool {
            try RegistryService.fill(storage)
            try makeCertificates(in: certificates)
            let tokens = try TokenServer(all)
            let signed = try SignedStorage(
                directory: storage,
                registry: "",
                certificates: certificates,
                life: 3,
                maxRanges: maxRanges
            )
            let target = isSigned ? "http://\(signed.front.host)" : "https://\(signed.storage.host)"
            let registry = try RegistryService.start(storage: storage, login: tokens.login, redirectTo: target)
            return Stage(
                registry: registry,
                signed: signed,
                image: try ServiceImage(registry.host),
                authority: "\(certificates)/ca.crt",
                tokens: tokens
            )
        }
    }

    @Test(arguments: [false, true], [0, 1])
    func blobsAreReadWhereTheMiddlewareSaysAndTheTokenStaysAtHome(_ isSigned: Bool, _ maxRanges: Int) async throws {
        let directory = try TemporaryDirectory("redirect")
        let stage = try await stage(directory, isSigned: isSigned, maxRanges: maxRanges)
        let client = makeClient { $0.caFile = stage.authority }
        #expect(try await client.resolve(stage.image.repository, tag: "estargz") != nil)
        // The first reader hears that this registry redirects; from then on one question serves all.
        #expect(await stage.image.readMany(client, 1) == [])
        #expect(await stage.image.readMany(client, 60) == [])
        let answers = try stage.signed.accesses()
        #expect(answers.count >= 60)
        #expect(answers.allSatisfy { $0.hasPrefix(maxRanges == 0 ? "200" : "206") && $0.contains("HTTP/2.0") })
        #expect(answers.allSatisfy { $0.contains("auth=\"-\"") })
        #expect(try stage.signed.front.requests().allSatisfy { $0.headers["authorization"] == nil })
        // One question, whatever was read.
        let log = try text(of: stage.registry.log)
        let questions = log.split(separator: "\n").filter { $0.contains("/blobs/") && $0.contains(" 307 ") }
        #expect((1...3).contains(questions.count), "\(questions.count) questions")
    }

    @Test func urlsBehindTheMiddlewareExpireAndNoReaderNotices() async throws {
        let directory = try TemporaryDirectory("redirect")
        let stage = try await stage(directory, isSigned: true, maxRanges: 1)
        let client = makeClient { $0.caFile = stage.authority }
        #expect(await stage.image.readMany(client, 1) == [])
        let deadline = monotonicNanoseconds() + 8_000_000_000
        var round = 0
        while monotonicNanoseconds() < deadline {
            round += 1
            #expect(await stage.image.readMany(client, 20, seed: round) == [])
        }
        let signed = try stage.signed.front.requests().filter { $0.path.contains("/docker/registry/") }
        // Regression: a server that the registry sends to, and that sends on, was asked again for every read.
        #expect((3...20 * 12).contains(signed.count), "\(signed.count) URLs in 8 s, \(round) rounds")
        #expect(try stage.signed.accesses().allSatisfy { $0.hasPrefix("206") }, "a reader ran into a spent URL")
    }
}
