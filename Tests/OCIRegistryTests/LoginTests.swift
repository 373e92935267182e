import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

/// docker-registry that wants to know who asks, by password and by tokens of a token server.
@Suite(.serialized, .enabled(if: Requirement.services.runs, Comment(rawValue: Requirement.services.reason)))
struct LoginTests {
    init() throws { try Requirement.services.orFail() }

    /// Runs `body` with a registry's storage that holds the corpus image.
    private func withStorage(_ body: @Sendable (_ storage: String) async throws -> Void) async throws {
        let directory = try TemporaryDirectory("storage")
        let path = directory.path
        try await offPool { try RegistryService.fill(path) }
        try await body(path)
    }

    private func client(_ sources: CredentialSources) -> RegistryClient {
        makeClient { $0.credentials = sources }
    }

    @Test func aPasswordFromTheConfigurationOpensTheRegistryAndAChangeOfItCounts() async throws {
        try await withStorage { storage in
            let registry = try await offPool {
                try RegistryService.start(storage: storage, login: .password(user: "reader", password: "right one"))
            }
            let image = try ServiceImage(registry.host)
            func json(_ password: String) -> String {
                #"{"auths": {"\#(registry.host)": {"username": "reader", "password": "\#(password)"}}}"#
            }
            let configuration = try DockerConfiguration(json("wrong one"))
            let client = client(configuration.sources)
            let denied = await registryError { () async throws(RegistryError) in try await image.read(client, 0, 100) }
            #expect(denied?.kind == .denied)
            #expect(denied?.reason.contains("wrong one") == false)
            #expect(try await client.resolve(image.repository, tag: "estargz") == nil)
            #expect(try await client.tags(image.repository) == nil)
            // The user logs in; nothing is restarted.
            try configuration.write(json("right one"))
            #expect(try await image.read(client, 0, 100))
            #expect(await image.readMany(client, 50) == [])
            #expect(try await client.tags(image.repository)?.tags == ["estargz"])
            #expect(try await client.catalog(image.repository.host) == ["corpus"])
            // Without a login there is nothing to see.
            let nobody = await registryError { () async throws(RegistryError) in
                try await image.read(makeClient(), 0, 100)
            }
            #expect(nobody?.kind == .denied)
        }
    }

    @Test func tokensOfThreeSecondsAreRenewedAheadForAllWhoRead() async throws {
        try await withStorage { storage in
            var rules = TokenServer.Rules()
            rules.users = ["robot": "helper secret"]
            rules.life = 600
            let first = rules
            let tokens = try await offPool { try TokenServer(first) }
            let registry = try await offPool { try RegistryService.start(storage: storage, login: tokens.login) }
            let image = try ServiceImage(registry.host)
            let helper = try TemporaryDirectory("helper")
            try makeCountingHelper("tokens", helper.path, user: "robot", secret: "helper secret")
            let configuration = try DockerConfiguration(#"{"credHelpers": {"\#(registry.host)": "tokens"}}"#)
            // 200 readers at once: one token, one question to the helper.
            let crowd = client(configuration.sources)
            #expect(await image.readMany(crowd, 200) == [])
            #expect(crowd.counters.tokenRequests == 1)
            #expect(try text(of: helper.file("asked")) == "\(registry.host)\n")

            rules.life = 3
            try tokens.use(rules)
            try makeCountingHelper("tokens", helper.path, user: "robot", secret: "helper secret")
            try writeFile(helper.file("asked"), "")
            let client = client(configuration.sources)

            // Reading goes on over the end of several tokens.
            let deadline = monotonicNanoseconds() + 8_000_000_000
            var round = 0
            while monotonicNanoseconds() < deadline {
                round += 1
                #expect(await image.readMany(client, 20, seed: round) == [])
            }
            let count = client.counters.tokenRequests
            #expect((3...10).contains(count), "\(count) tokens in 8 s")
            let asked = try text(of: helper.file("asked"))
            #expect(asked == "\(registry.host)\n", "the helper was asked for every token: \(asked)")

            // The secret changes: the token server refuses the old one, and the helper is asked again.
            rules.users = ["robot": "second secret"]
            try tokens.use(rules)
            try makeCountingHelper("tokens", helper.path, user: "robot", secret: "second secret")
            try await mustHold {
                #expect(await image.readMany(client, 5, seed: 5000) == [])
                return try text(of: helper.file("asked")) == "\(registry.host)\n\(registry.host)\n"
            }
        }
    }

    @Test func aTokenServerThatIsAwayForAMomentIsSeenByNoReader() async throws {
        try await withStorage { storage in
            var rules = TokenServer.Rules()
            rules.users = ["": ""]
            let first = rules
            let tokens = try await offPool { try TokenServer(first) }
            let registry = try await offPool { try RegistryService.start(storage: storage, login: tokens.login) }
            let image = try ServiceImage(registry.host)
            let client = makeClient()
            #expect(await image.readMany(client, 5) == [])
            await offPool { tokens.service.stop() }
            async let later = readUntil(client, image, seconds: 5)
            try await mustHold { client.counters.retries > 0 }
            try await offPool { try tokens.service.start() }
            #expect(await later == [])
        }
    }

    private func readUntil(_ client: RegistryClient, _ image: ServiceImage, seconds: Double) async -> [String] {
        let deadline = monotonicNanoseconds() + UInt64(seconds * 1e9)
        var errors: [String] = []
        var round = 0
        while monotonicNanoseconds() < deadline {
            round += 1
            errors += await image.readMany(client, 3, seed: round)
        }
        return errors
    }

    @Test(arguments: [nil, 404, 405])
    func aRefreshTokenGoesByPostAndByGetWhereThatIsNotKnown(_ postStatus: Int?) async throws {
        try await withStorage { storage in
            var rules = TokenServer.Rules()
            rules.life = 60
            rules.postStatus = postStatus
            rules.refresh = ["refresh me"]
            rules.users = postStatus == nil ? [:] : ["<token>": "refresh me"]
            let first = rules
            let tokens = try await offPool { try TokenServer(first) }
            let registry = try await offPool { try RegistryService.start(storage: storage, login: tokens.login) }
            let image = try ServiceImage(registry.host)
            let configuration = try DockerConfiguration(
                #"{"auths": {"\#(registry.host)": {"identitytoken": "refresh me"}}}"#
            )
            let client = client(configuration.sources)
            #expect(await image.readMany(client, 10) == [])
            let requests = try tokens.service.requests()
            #expect(requests.map(\.method) == (postStatus == nil ? ["POST"] : ["POST", "GET"]))
            let form = try #require(requests.first?.body)
            #expect(form.contains("grant_type=refresh_token"))
            #expect(form.contains("scope=repository:corpus:pull"))
            #expect(form.contains("service=test-registry"))
            #expect(form.contains("refresh_token=refresh%20me"))
        }
    }

    @Test func aTokenServerThatRepeatsACredentialIsNotQuoted() async throws {
        try await withStorage { storage in
            let tokens = try await offPool { try TokenServer(TokenServer.Rules()) }
            let registry = try await offPool { try RegistryService.start(storage: storage, login: tokens.login) }
            let image = try ServiceImage(registry.host)
            let configuration = try DockerConfiguration(
                #"{"auths": {"\#(registry.host)": {"username": "u", "password": "not to be seen"}}}"#
            )
            let client = client(configuration.sources)
            let error = await registryError { () async throws(RegistryError) in try await image.read(client, 0, 100) }
            #expect(error?.kind == .denied)
            let reason = try #require(error?.reason)
            #expect(!reason.contains("not to be seen"))
            #expect(!reason.contains("dTpub3QgdG8gYmUgc2Vlbg"))
            #expect(reason.contains("config.json"))
        }
    }
}
