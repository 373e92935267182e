import HTTPTransport
import OCIModel
import OCIRegistry
import Synchronization
import TestSupport
import Testing

/// What a stream handed over.
private final class Taken: Sendable {
    private let bytes = Mutex<[UInt8]>([])
    var array: [UInt8] { bytes.withLock { $0 } }

    func take(_ piece: borrowing RawSpan) -> Bool {
        // SAFETY: the buffer is only read, and not kept.
        let copy = unsafe piece.withUnsafeBytes { buffer in unsafe [UInt8](buffer) }
        bytes.withLock { $0 += copy }
        return true
    }
}

/// Ranges that are handed over as they come.
@Suite struct StreamTests {
    private let blob = FakeBlob(count: 300_000)

    private func stream(
        _ client: RegistryClient,
        _ registry: FakeRegistry,
        _ offset: Int,
        _ count: Int
    ) async throws(RegistryError) -> [UInt8] {
        let taken = Taken()
        try await client.stream(
            blob.address(registry),
            ByteRange(offset: UInt64(offset), count: UInt64(count)),
            priority: .demand
        ) { taken.take($0) }
        return taken.array
    }

    @Test func whatCameBeforeACutIsNotAskedForAgain() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "cut", "keep": 1000, "times": 3}]}"#
        )
        let client = makeClient()
        #expect(try await stream(client, registry, 100, 200_000) == Array(blob.bytes[100..<200_100]))
        #expect(client.counters.retries == 3)
        let ranges = try registry.requests("registry").compactMap { request in
            request.headers.first { $0.key.lowercased() == "range" }?.value
        }
        #expect(ranges == (0..<4).map { "bytes=\(100 + $0 * 1000)-200099" })
    }

    @Test func aServerWithoutRangesStreams() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "whole"}]}"#
        )
        #expect(try await stream(makeClient(), registry, 1000, 5000) == Array(blob.bytes[1000..<6000]))
    }

    @Test func bytesOfAnotherRangeAreNotHandedOver() async throws {
        let registry = try await FakeRegistry.start(
            #"{"blob": 300000, "rules": [{"match": "blobs", "mode": "shift", "times": 1}]}"#
        )
        #expect(try await stream(makeClient(), registry, 1000, 5000) == Array(blob.bytes[1000..<6000]))
    }

    @Test func aReceiverThatTakesNoMoreEndsTheTransfer() async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 300000}"#)
        let client = makeClient()
        let error = await registryError { () async throws(RegistryError) in
            try await client.stream(
                blob.address(registry),
                ByteRange(offset: 0, count: 300_000),
                priority: .demand
            ) { _ in false }
        }
        #expect(error != nil)
        #expect(client.counters.retries == 0)
    }

    @Test func theLinkIsMeasured() async throws {
        let registry = try await FakeRegistry.start(#"{"blob": 300000}"#)
        let client = makeClient()
        #expect(client.link(registry.host) == .unknown)
        _ = try await stream(client, registry, 0, 300_000)
        let link = client.link(registry.host)
        #expect(link != .unknown)
        #expect(link.roundTrip > 0 && link.roundTrip < 10_000_000_000)
        #expect(link.bytesPerSecond > 1000)
    }
}
