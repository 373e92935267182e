import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

/// A pull-through cache in front of a registry, by `hosts.toml`; and storage servers whose URLs expire.
@Suite(.serialized, .enabled(if: Requirement.services.runs, Comment(rawValue: Requirement.services.reason)))
struct MirrorTests {
    init() throws { try Requirement.services.orFail() }

    private func accesses(_ service: Service, _ part: String) throws -> Int {
        try text(of: service.log).split(separator: "\n").filter { $0.contains(" HTTP/") && $0.contains(part) }.count
    }

    /// The directory of hosts.toml files with one for `registry`.
    private func hosts(_ directory: borrowing TemporaryDirectory, _ registry: String, _ text: String) throws -> String {
        let path = try directory.makeDirectory("certs.d/\(registry)")
        try writeFile("\(path)/hosts.toml", text)
        return directory.file("certs.d")
    }

    @Test func aMirrorIsReadFromAndReplacedWhileItIsAway() async throws {
        let directory = try TemporaryDirectory("mirror")
        let storage = try directory.makeDirectory("upstream")
        let cache = try directory.makeDirectory("cache")
        try await offPool { try RegistryService.fill(storage) }
        let registry = try await offPool { try RegistryService.start(storage: storage) }
        let mirror = try await offPool {
            try RegistryService.start(storage: cache, mirrorOf: "http://\(registry.host)")
        }
        let image = try ServiceImage(registry.host)
        let text = "server = \"http://\(registry.host)\"\n[host.\"http://\(mirror.host)\"]\n"
        let hostsDirectory = try hosts(directory, registry.host, text)
        let client = makeClient { $0.hostsDirectory = hostsDirectory }

        #expect(try await client.resolve(image.repository, tag: "estargz") != nil)
        #expect(await image.readMany(client, 20) == [])
        #expect(try accesses(mirror, "ns=127.0.0.1:\(registry.port)") > 0)
        #expect(try accesses(registry, "crfs") == 0, "the registry was asked although the mirror works")

        // Away: the registry takes over, and no reader sees it.
        await offPool { mirror.stop() }
        #expect(await image.readMany(client, 20, seed: 100) == [])
        #expect(try accesses(registry, "crfs") > 0)
        #expect(client.counters.retries == 0, "a reader had to wait for another attempt")
        let before = try accesses(mirror, "/blobs/")

        // Back: the mirror is asked again, without being told.
        try await offPool { try mirror.start() }
        var round = 200
        try await mustHold {
            round += 1
            #expect(await image.readMany(client, 5, seed: round) == [])
            return try accesses(mirror, "/blobs/") > before
        }

        // The registry is away, and the mirror has what is read.
        await offPool { registry.stop() }
        try await mustHold { await image.readMany(client, 5, seed: 300) == [] }
    }

    @Test func aMirrorWithoutTheImageIsPassedBy() async throws {
        let directory = try TemporaryDirectory("mirror")
        let storage = try directory.makeDirectory("upstream")
        let nothing = try directory.makeDirectory("nothing")
        try await offPool { try RegistryService.fill(storage) }
        let registry = try await offPool { try RegistryService.start(storage: storage) }
        let mirror = try await offPool { try RegistryService.start(storage: nothing) }
        let image = try ServiceImage(registry.host)
        let text = "[host.\"http://\(mirror.host)\"]\ncapabilities = [\"pull\"]\n"
        let hostsDirectory = try hosts(directory, registry.host, text)
        let client = makeClient { $0.hostsDirectory = hostsDirectory }
        #expect(try await client.resolve(image.repository, tag: "estargz") != nil)
        #expect(try accesses(mirror, "/manifests/estargz") == 0, "it is not to be asked for tags")
        #expect(await image.readMany(client, 10) == [])
        #expect(try accesses(mirror, "/blobs/") > 0)
        #expect(try await client.tags(image.repository)?.tags == ["estargz"])
        #expect(try await client.catalog(image.repository.host) == ["corpus"])
        #expect(try await client.resolve(image.repository, tag: "missing") == nil)
    }

    @Test func aChangedHostsFileCountsWithoutARestart() async throws {
        let directory = try TemporaryDirectory("mirror")
        let storage = try directory.makeDirectory("upstream")
        let certificates = try directory.makeDirectory("certificates")
        try await offPool {
            try RegistryService.fill(storage)
            try makeCertificates(in: certificates)
        }
        // Nobody has told us the authority, until hosts.toml does.
        let registry = try await offPool { try RegistryService.start(storage: storage, certificates: certificates) }
        let image = try ServiceImage(registry.host)
        let hostsDirectory = try hosts(directory, registry.host, "server = \"https://\(registry.host)\"\n")
        let client = makeClient { $0.hostsDirectory = hostsDirectory }
        let error = await registryError { () async throws(RegistryError) in try await image.read(client, 0, 10) }
        #expect(error?.reason.contains("certificate") == true)
        _ = try hosts(
            directory,
            registry.host,
            "server = \"https://\(registry.host)\"\nca = \"\(certificates)/ca.crt\"\n"
        )
        try await mustHold {
            (try? await image.read(client, 0, 10)) == true
        }
        _ = try hosts(directory, registry.host, "server = \"https://\(registry.host)\"\nskip_verify = true\n")
        let trusting = makeClient { $0.hostsDirectory = hostsDirectory }
        #expect(try await image.read(trusting, 0, 10))
    }

    // MARK: Signed URLs

    /// A registry, a storage server with signed URLs, and the front that sends clients there.
    private struct SignedStage: Sendable {
        let registry: Service
        let signed: SignedStorage
        let image: ServiceImage
        let authority: String
    }

    private func signedStage(
        _ directory: borrowing TemporaryDirectory,
        life: Int,
        maxRanges: Int = 1
    ) async throws -> SignedStage {
        let storage = try directory.makeDirectory("storage")
        let certificates = try directory.makeDirectory("certificates")
        return try await offPool {
            try RegistryService.fill(storage)
            try makeCertificates(in: certificates)
            let registry = try RegistryService.start(storage: storage)
            let signed = try SignedStorage(
                directory: storage,
                registry: registry.host,
                certificates: certificates,
                life: life,
                maxRanges: maxRanges
            )
            return SignedStage(
                registry: registry,
                signed: signed,
                image: try ServiceImage(signed.front.host),
                authority: "\(certificates)/ca.crt"
            )
        }
    }

    @Test func urlsOfThreeSecondsAreRenewedAheadAndByOneQuestion() async throws {
        let directory = try TemporaryDirectory("signed")
        let stage = try await signedStage(directory, life: 3)
        let client = makeClient { $0.caFile = stage.authority }
        #expect(await stage.image.readMany(client, 1) == [])
        let deadline = monotonicNanoseconds() + 8_000_000_000
        var round = 0
        while monotonicNanoseconds() < deadline {
            round += 1
            #expect(await stage.image.readMany(client, 40, seed: round) == [])
        }
        let answers = try stage.signed.accesses()
        #expect(answers.count > 100)
        #expect(answers.allSatisfy { $0.hasPrefix("206") }, "a reader ran into a spent URL")
        #expect(answers.allSatisfy { $0.contains("auth=\"-\"") && $0.contains("HTTP/2.0") })
        let questions = try stage.signed.front.requests().filter { $0.path.contains("/blobs/") }.count
        #expect((3...12).contains(questions), "\(questions) questions for URLs in 8 s, \(round) rounds")
    }

    @Test func aSpentURLIsReplacedByOneQuestionForAllWhoWait() async throws {
        // Each URL works 120 times and is 403 then.
        let registry = try await FakeRegistry.start(#"{"blob": 300000, "redirect": {"uses": 120}}"#)
        let blob = FakeBlob(count: 300_000)
        let client = makeClient()
        #expect(try await client.readArray(blob.address(registry), 0, 10) == Array(blob.bytes[0..<10]))
        let wrong = await withTaskGroup(of: Bool.self) { group in
            for index in 0..<200 {
                group.addTask {
                    let bytes = try? await client.readArray(blob.address(registry), index * 1000, 100)
                    return bytes == Array(blob.bytes[index * 1000..<index * 1000 + 100])
                }
            }
            return await group.reduce(into: 0) { $0 += $1 ? 0 : 1 }
        }
        #expect(wrong == 0)
        let questions = try registry.requests("registry").filter { $0.path.contains("/blobs/") }.count
        #expect(questions <= 8, "\(questions) questions")
    }

    @Test func aStorageServerWithoutRangesIsReadAllTheSame() async throws {
        let directory = try TemporaryDirectory("signed")
        let stage = try await signedStage(directory, life: 3, maxRanges: 0)
        let client = makeClient { $0.caFile = stage.authority }
        #expect(await stage.image.readMany(client, 20) == [])
        #expect(try stage.signed.accesses().allSatisfy { $0.hasPrefix("200") })
    }
}
