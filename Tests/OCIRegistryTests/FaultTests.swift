import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

private let python = Requirement.program("python3")

/// Registries, token servers and storage servers that misbehave (spec section 5).
@Suite(.serialized, .enabled(if: python.runs, Comment(rawValue: python.reason)))
struct FaultTests {
    private let blob = FakeBlob(count: 300_000)

    init() throws { try python.orFail() }

    // MARK: How a host is spoken to

    @Test func aPlainHTTPHostCostsOneTLSAttempt() async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 300000}"#)
        let client = makeClient()
        for _ in 0..<3 { try await client.ping(registry.host) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for offset in 0..<20 {
                group.addTask {
                    let bytes = try await client.readArray(blob.address(registry), offset, 10)
                    #expect(bytes == Array(blob.bytes[offset..<offset + 10]))
                }
            }
            try await group.waitForAll()
        }
        #expect(try registry.allRequests().filter { $0.method == "TLS" }.count == 1)
    }

    @Test func aPlainHTTPHostThatSwallowsTheHandshakeIsFoundOut() async throws {
        let registry = try await FakeRegistry.start(#"{"silentTLS": true}"#)
        try await makeClient().ping(registry.host)
    }

    @Test func anInsecureHostIsNeverAskedForTLS() async throws {
        let registry = try await FakeRegistry.start(#"{}"#)
        try await makeClient { $0.insecureHosts = [registry.host.name] }.ping(registry.host)
        #expect(try registry.allRequests().map(\.method) == ["GET"])
    }

    // MARK: Tokens

    @Test(arguments: ["token", "access_token"])
    func oneTokenServesAllThatWait(_ field: String) async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "tokens": {"life": 600, "expires_in": 600, "field": "\#(field)", "delay": 0.3}}"#
        )
        let client = makeClient()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<12 {
                group.addTask {
                    let bytes = try await client.readArray(blob.address(registry), index * 100, 100)
                    #expect(bytes == Array(blob.bytes[index * 100..<index * 100 + 100]))
                }
            }
            try await group.waitForAll()
        }
        let asked = try registry.requests("tokens")
        #expect(asked.map(\.path) == ["/token?service=fake%20registry&scope=repository:app:pull"])
        #expect(asked.allSatisfy { $0.headers["authorization"] == nil })
        #expect(client.counters.tokenRequests == 1)
    }

    @Test func aTokenThatExpiredIsFetchedAgain() async throws {
        // The server says ten minutes and means a moment: 401 is what counts.
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "tokens": {"life": 0.5, "expires_in": 600}}"#
        )
        let client = makeClient()
        _ = try await client.readArray(blob.address(registry), 0, 10)
        try await mustHold {
            _ = try await client.readArray(blob.address(registry), 0, 10)
            return client.counters.tokenRequests == 2
        }
        #expect(try registry.requests("tokens").count == 2)
    }

    @Test func aTokenIsNotUsedPastItsAnnouncedLife() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "tokens": {"life": 600, "expires_in": 0.5}}"#
        )
        let client = makeClient()
        _ = try await client.readArray(blob.address(registry), 0, 10)
        try await mustHold {
            _ = try await client.readArray(blob.address(registry), 0, 10)
            return client.counters.tokenRequests == 2
        }
    }

    @Test func aTokenThatNeverHelpsIsDenied() async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 10, "tokens": {"life": -1, "expires_in": 600}}"#)
        let client = makeClient()
        let address = FakeBlob(count: 10).address(registry)
        let error = await registryError { () async throws(RegistryError) in
            try await client.readArray(address, 0, 10)
        }
        #expect(error?.kind == .denied)
        #expect(try registry.requests("tokens").count == 2)
        // What may not be seen is as good as not there where registries do not tell them apart.
        #expect(try await client.resolve(registry.repository, tag: "latest") == nil)
        #expect(try await client.tags(registry.repository) == nil)
    }

    @Test func aRefusingTokenServerIsDenied() async throws {
        let registry = try await FakeRegistry.start(
            #"""
            {"blob": 10, "tokens": {"life": 600},
             "rules": [{"match": "^tokens", "mode": "status", "code": 403}]}
            """#
        )
        let error = await registryError { () async throws(RegistryError) in
            try await makeClient().manifest(registry.repository, .tag("latest"))
        }
        #expect(error?.kind == .denied)
    }

    @Test func aTokenServerThatStumblesIsAskedAgain() async throws {
        let registry = try await FakeRegistry.start(
            #"""
            {"blob": 300000, "tokens": {"life": 600},
             "rules": [{"match": "^tokens", "mode": "status", "code": 503, "times": 2}]}
            """#
        )
        let bytes = try await makeClient().readArray(blob.address(registry), 0, 10)
        #expect(bytes == Array(blob.bytes[..<10]))
    }

    // MARK: Redirects

    @Test func aRedirectIsRememberedAndGetsNoToken() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "tokens": {"life": 600}, "redirect": {"uses": 100}}"#
        )
        let client = makeClient()
        for offset in [0, 1000, 2000] {
            let bytes = try await client.readArray(blob.address(registry), offset, 100)
            #expect(bytes == Array(blob.bytes[offset..<offset + 100]))
        }
        let stored = try registry.requests("storage")
        #expect(stored.map { $0.headers["range"] } == ["bytes=0-99", "bytes=1000-1099", "bytes=2000-2099"])
        #expect(stored.allSatisfy { $0.headers["authorization"] == nil })
        // One without a token, one with it; the other reads went straight to the storage server.
        #expect(try registry.requests("registry").map { $0.headers["authorization"] != nil } == [false, true])
    }

    @Test(arguments: [400, 401, 403, 404, 410])
    func aSpentRedirectIsAskedForAnew(_ status: Int) async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "redirect": {"uses": 2, "spent": \#(status)}}"#
        )
        let client = makeClient()
        for offset in 0..<5 {
            let bytes = try await client.readArray(blob.address(registry), offset, 100)
            #expect(bytes == Array(blob.bytes[offset..<offset + 100]))
        }
        #expect(try registry.requests("registry").count == 3)
        #expect(try registry.requests("storage").count == 7)
        #expect(client.counters.retries == 0)
    }

    @Test func aCallerCanAvoidTheRememberedURL() async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 300000, "redirect": {"uses": 100}}"#)
        let client = makeClient()
        _ = try await client.readArray(blob.address(registry), 0, 10)
        _ = try await client.readArray(blob.address(registry), 0, 10, avoidCachedURL: true)
        #expect(try registry.requests("registry").count == 2)
        #expect(Set(try registry.requests("storage").map(\.path)).count == 2)
    }

    @Test func aFreshRedirectThatIsRefusedIsTriedTwice() async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 300000, "redirect": {"uses": 0}}"#)
        let error = await registryError { () async throws(RegistryError) in
            try await makeClient().readArray(blob.address(registry), 0, 10)
        }
        #expect(error?.kind == .denied)
        #expect(error?.reason.contains("secret") == false)
        #expect(try registry.requests("registry").count == 2)
    }

    @Test func endlessRedirectsEnd() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "redirect": {"to": "http://127.0.0.1:{storage}/hop/1"}}"#
        )
        let error = await registryError { () async throws(RegistryError) in
            try await makeClient().readArray(blob.address(registry), 0, 10)
        }
        #expect(error?.kind == .protocolViolation)
        #expect(try registry.requests("storage").map(\.path) == (1...5).map { "/hop/\($0)" })
    }

    @Test(arguments: ["http://registry.example/blob", "ftp://127.0.0.1/blob", "http://user:secret@127.0.0.1/blob", ""])
    func aRedirectToWhereNothingMayGoIsRefused(_ target: String) async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 300000, "redirect": {"to": "\#(target)"}}"#)
        let error = await registryError { () async throws(RegistryError) in
            try await makeClient().readArray(blob.address(registry), 0, 10)
        }
        #expect(error?.kind == .protocolViolation)
        #expect(error?.reason.contains("secret") == false)
    }

    // MARK: Ranges

    @Test func aServerWithoutRangesWorks() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "whole"}]}"#
        )
        let client = makeClient()
        for range in [0..<10, 100_000..<200_000, 299_990..<300_000] {
            let bytes = try await client.readArray(blob.address(registry), range.lowerBound, range.count)
            #expect(bytes == Array(blob.bytes[range]))
        }
        #expect(client.counters.retries == 0)
    }

    @Test func a416WithAWrongLengthIsAnError() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "wrong416"}]}"#
        )
        let client = makeClient()
        let error = await registryError { () async throws(RegistryError) in
            try await client.readArray(blob.address(registry), 0, 10)
        }
        #expect(error?.kind == .protocolViolation)
        #expect(client.counters.retries == 0)
    }

    @Test func anotherRangeThanAskedForIsNotTaken() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "shift"}]}"#
        )
        let client = makeClient()
        let error = await registryError { () async throws(RegistryError) in
            try await client.readArray(blob.address(registry), 5, 10)
        }
        #expect(error?.kind == .protocolViolation)
        #expect(client.counters.retries == 1)
    }

    @Test func whatLiesOutsideABlobIsNotAskedFor() async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 300000}"#)
        let client = makeClient()
        for (offset, count) in [(299_999, 2), (300_000, 1), (5, 0)] {
            let error = await registryError { () async throws(RegistryError) in
                try await client.readArray(blob.address(registry), offset, count)
            }
            #expect(error?.kind == .protocolViolation)
        }
        #expect(client.counters.requests == 0)
    }

    // MARK: Retries

    @Test func cutBodiesAreReadAgain() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "cut", "keep": 1000, "times": 3}]}"#
        )
        let client = makeClient()
        #expect(try await client.readArray(blob.address(registry), 0, 300_000) == blob.bytes)
        #expect(client.counters.retries == 3)
    }

    @Test func bodiesThatAreAlwaysCutEndWithTheDeadline() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "cut", "keep": 1000}]}"#
        )
        let client = makeClient { $0.deadlineSeconds = 2 }
        let error = await registryError { () async throws(RegistryError) in
            try await client.readArray(blob.address(registry), 0, 300_000)
        }
        #expect(error?.kind == .unavailable)
        #expect(client.counters.retries > 0)
    }

    @Test(arguments: [408, 429, 500, 503])
    func statusesThatPassAreTriedAgain(_ code: Int) async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "status", "code": \#(code), "times": 3}]}"#
        )
        let client = makeClient()
        #expect(try await client.readArray(blob.address(registry), 7, 100) == Array(blob.bytes[7..<107]))
        #expect(client.counters.retries == 3)
    }

    @Test(arguments: [400, 405, 418])
    func otherStatusesAreNot(_ code: Int) async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "v2/app", "mode": "status", "code": \#(code)}]}"#
        )
        let client = makeClient()
        let error = await registryError { () async throws(RegistryError) in
            try await client.readArray(blob.address(registry), 0, 10)
        }
        #expect(error?.kind == .protocolViolation)
        #expect(client.counters.retries == 0)
    }

    @Test func retryAfterIsHonoured() async throws {
        let registry = try await FakeRegistry.start(
            #"""
            {"blob": 300000, "rules": [
              {"match": "blobs", "mode": "status", "code": 429, "headers": {"Retry-After": "1"}, "times": 1}]}
            """#
        )
        let client = makeClient()
        let begun = monotonicNanoseconds()
        _ = try await client.readArray(blob.address(registry), 0, 10)
        // A lower bound, which no busy machine can break.
        #expect(monotonicNanoseconds() - begun >= 1_000_000_000)
        #expect(client.counters.retries == 1)
    }

    @Test func aRegistryThatStaysBusyIsUnavailable() async throws {
        let registry = try await FakeRegistry.start(
            #"""
            {"rules": [{"match": "tags", "mode": "status", "code": 503,
             "body": "{\"errors\": [{\"code\": \"UNAVAILABLE\", \"message\": \"maintenance\"}]}"}]}
            """#
        )
        let client = makeClient()
        let error = await registryError { () async throws(RegistryError) in
            try await client.tags(registry.repository, deadline: 2)
        }
        #expect(error?.kind == .unavailable)
        #expect(error?.reason.contains("503 (UNAVAILABLE: maintenance)") == true)
        #expect(client.counters.retries > 0)
    }

    @Test func silenceIsATimeOut() async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 300000, "rules": [{"match": "app", "mode": "hang"}]}"#)
        let client = makeClient { options in
            options.deadlineSeconds = 2
            options.stallSeconds = 0.3
        }
        let error = await registryError { () async throws(RegistryError) in
            try await client.readArray(blob.address(registry), 0, 10)
        }
        #expect(error?.kind == .timedOut)
        #expect(client.counters.retries > 0)
        let shorter = await registryError { () async throws(RegistryError) in
            try await client.resolve(registry.repository, tag: "latest", deadline: 0.2)
        }
        #expect(shorter?.kind == .timedOut)
    }

    @Test func slowBytesAreProgress() async throws {
        // Three seconds in all, with a deadline of two: what comes keeps the reader waiting.
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "drip", "bytes": 10000, "pause": 0.1}]}"#
        )
        let client = makeClient { $0.deadlineSeconds = 2 }
        #expect(try await client.readArray(blob.address(registry), 0, 300_000) == blob.bytes)
    }

    @Test func aConnectionThatEndsWithoutAnAnswerIsTriedAgain() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "close", "times": 2}]}"#
        )
        let client = makeClient()
        #expect(try await client.readArray(blob.address(registry), 0, 10) == Array(blob.bytes[..<10]))
    }

    @Test func nobodyListeningIsUnavailable() async throws {
        let host = try #require(RegistryHost("127.0.0.1:\(freePort())"))
        let client = makeClient()
        let error = await registryError { () async throws(RegistryError) in try await client.ping(host, deadline: 2) }
        #expect(error?.kind == .unavailable)
        #expect(client.counters.retries > 0)
    }

    @Test func aCancelledReaderGoesAtOnce() async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 300000, "rules": [{"match": "app", "mode": "hang"}]}"#)
        let client = makeClient {
            $0.deadlineSeconds = 600; $0.stallSeconds = 600
        }
        let reader = Task {
            await registryError { () async throws(RegistryError) in
                try await client.readArray(blob.address(registry), 0, 10)
            }
        }
        try await mustHold { try registry.allRequests().contains { $0.path.contains("blobs") } }
        reader.cancel()
        #expect(await reader.value?.kind == .unavailable)
    }

    // MARK: Content

    @Test func aManifestIsKnownByItsContent() async throws {
        let registry = try await FakeRegistry.start(#"{"manifest": "{}"}"#)
        let client = makeClient()
        let digest = sha256(Array("{}".utf8))
        #expect(try await client.resolve(registry.repository, tag: "latest") == digest)
        let manifest = try await client.manifest(registry.repository, .tag("latest"))
        #expect(manifest.digest == digest)
        #expect(manifest.mediaType == MediaType.ociManifest)
        #expect(manifest.bytes == Array("{}".utf8))
        let accepted = try registry.requests("registry").map { $0.headers["accept"] ?? "" }
        for type in MediaType.acceptedManifests { #expect(accepted.allSatisfy { $0.contains(type) }) }
        #expect(try registry.requests("registry").map(\.method) == ["HEAD", "GET"])
    }

    @Test func withoutADigestHeaderTheContentIsRead() async throws {
        let registry = try await FakeRegistry.start(#"{"manifest": "{}", "noDigest": true}"#)
        #expect(
            try await makeClient().resolve(registry.repository, tag: "latest") == sha256(Array("{}".utf8))
        )
        #expect(try registry.requests("registry").map(\.method) == ["HEAD", "GET"])
    }

    @Test func withoutHEADTheContentIsRead() async throws {
        let registry = try await FakeRegistry.start(
            #"{"manifest": "{}", "rules": [{"match": "HEAD", "mode": "status", "code": 405}]}"#
        )
        #expect(
            try await makeClient().resolve(registry.repository, tag: "latest") == sha256(Array("{}".utf8))
        )
    }

    @Test func aWrongManifestIsTriedOnceMore() async throws {
        let registry = try await FakeRegistry.start(
            #"{"manifest": "{}", "rules": [{"match": "manifests", "mode": "flip", "times": 1}]}"#
        )
        let digest = sha256(Array("{}".utf8))
        #expect(try await makeClient().manifest(registry.repository, .digest(digest)).bytes == Array("{}".utf8))
        let wrong = await registryError { () async throws(RegistryError) in
            try await makeClient().manifest(registry.repository, .digest(sha256([])))
        }
        #expect(wrong?.kind == .protocolViolation)
        #expect(try registry.requests("registry").filter { $0.path.contains("manifests") }.count == 4)
    }

    @Test func aWrongBlobIsReadAgainFromAnotherURL() async throws {
        let registry = try await FakeRegistry.start(
            #"""
            {"blob": 300000, "redirect": {"uses": 100},
             "rules": [{"match": "^storage", "mode": "flip", "times": 1}]}
            """#
        )
        let client = makeClient()
        #expect(try await client.blob(blob.address(registry), limit: 1 << 20) == blob.bytes)
        #expect(try registry.requests("registry").count == 2)
        let error = await registryError { () async throws(RegistryError) in
            try await client.blob(blob.address(registry), limit: 1000)
        }
        #expect(error?.kind == .protocolViolation)
    }

    @Test func aManifestWithoutEndIsRefused() async throws {
        let registry = try await FakeRegistry.start(
            #"""
            {"rules": [{"match": "manifests", "mode": "status", "code": 200, "body": "\#(longText)"}]}
            """#
        )
        let client = makeClient()
        let error = await registryError { () async throws(RegistryError) in
            try await client.manifest(registry.repository, .tag("latest"))
        }
        #expect(error?.kind == .protocolViolation)
        #expect(client.counters.bodyBytes < 8 << 20)
    }

    private var longText: String { String(repeating: "0123456789abcdef", count: (9 << 20) / 16) }

    // MARK: Lists

    @Test(arguments: ["relative", "absolute"])
    func allPagesOfTagsAreRead(_ link: String) async throws {
        let registry = try await FakeRegistry.start(
            #"{"pages": [["a", "b"], ["c"], ["d"]], "link": "\#(link)", "catalog": [["x"], ["y/z"]]}"#
        )
        let client = makeClient()
        #expect(try await client.tags(registry.repository) == TagList(tags: ["a", "b", "c", "d"], children: []))
        #expect(try await client.catalog(registry.host) == ["x", "y/z"])
    }

    @Test func childrenAreListed() async throws {
        let registry = try await FakeRegistry.start(#"{"pages": [[]], "children": ["sub", "other"]}"#)
        let list = try await makeClient().tags(registry.repository)
        #expect(list == TagList(tags: [], children: ["sub", "other"]))
    }

    @Test func pagesThatComeAgainAreRefused() async throws {
        let registry = try await FakeRegistry.start(#"{"pages": [["a"], ["b"]], "link": "loop"}"#)
        let error = await registryError { () async throws(RegistryError) in
            try await makeClient().tags(registry.repository)
        }
        #expect(error?.kind == .protocolViolation)
        #expect(try registry.requests("registry").count < 6)
    }

    @Test func aRegistryThatRefusesThePageSizeIsAskedWithout() async throws {
        let registry = try await FakeRegistry.start(
            #"{"pages": [["a"]], "rules": [{"match": "n=1000$", "mode": "status", "code": 400}]}"#
        )
        #expect(try await makeClient().tags(registry.repository)?.tags == ["a"])
    }

    @Test(arguments: [401, 403, 404, 405])
    func aCatalogThatIsNotOfferedIsNil(_ code: Int) async throws {
        let registry = try await FakeRegistry.start(
            #"{"rules": [{"match": "catalog", "mode": "status", "code": \#(code)}]}"#
        )
        #expect(try await makeClient().catalog(registry.host) == nil)
    }

    @Test(arguments: ["", "[]", "{\"tags\": 5}", "<html>"])
    func aListThatIsNoneIsRefused(_ body: String) async throws {
        let quoted = body.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: #"\""#)
        let registry = try await FakeRegistry.start(
            #"{"rules": [{"match": "tags", "mode": "status", "code": 200, "body": "\#(quoted)"}]}"#
        )
        let error = await registryError { () async throws(RegistryError) in
            try await makeClient().tags(registry.repository)
        }
        #expect(error?.kind == .protocolViolation)
    }

    @Test(arguments: [401, 200])
    func aRegistryAnswersPing(_ code: Int) async throws {
        let registry = try await FakeRegistry.start(
            #"{"rules": [{"match": "v2/$", "mode": "status", "code": \#(code)}]}"#
        )
        try await makeClient().ping(registry.host)
    }

    @Test(arguments: [(404, RegistryError.Kind.notFound), (403, .denied), (301, .protocolViolation)])
    func anotherServerDoesNot(_ code: Int, _ kind: RegistryError.Kind) async throws {
        let registry = try await FakeRegistry.start(
            #"{"rules": [{"match": "v2/$", "mode": "status", "code": \#(code)}]}"#
        )
        let error = await registryError { () async throws(RegistryError) in try await makeClient().ping(registry.host) }
        #expect(error?.kind == kind)
    }
}
