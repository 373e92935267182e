import HTTPTransport
import OCIModel
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import HTTPTransport

/// Demands that are slower than nearly all before them.
@Suite struct HedgeTests {
    private static let answer =
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/10\r\nContent-Length: 5\r\n\r\nhello"

    /// Answers everything at once, but what is asked of `/late` as the test says, by how often it was asked for.
    private func server(_ late: @escaping @Sendable (Int) -> RawServer.Reply) throws -> RawServer {
        let count = Atomic(0)
        return try RawServer { head in
            guard head.hasPrefix("GET /late ") else { return .init(HedgeTests.answer) }
            return late(count.add(1, ordering: .relaxed).newValue)
        }
    }

    private func request(_ server: RawServer, _ path: String, _ priority: TransferPriority = .demand) -> HTTPRequest {
        var request = HTTPRequest(server.url(path))
        request.range = ByteRange(offset: 0, count: 5)
        request.priority = priority
        return request
    }

    /// Enough answers to compare with.
    private func warmUp(_ transport: HTTPTransport, _ server: RawServer, _ count: Int = 40) async throws {
        for _ in 0..<count { _ = try await transport.send(request(server, "/")) }
    }

    private func text(_ response: consuming HTTPResponse) -> String {
        String(decoding: response.takeBody().share().array, as: UTF8.self)
    }

    private func asked(_ server: RawServer) -> Int { server.requests.filter { $0.hasPrefix("GET /late ") }.count }

    @Test func aDemandThatIsLateIsAskedForAgain() async throws {
        let server = try server { $0 == 1 ? .init("", then: .hold) : .init(HedgeTests.answer) }
        let transport = HTTPTransport()
        try await warmUp(transport, server)
        #expect(text(try await transport.send(request(server, "/late"))) == "hello")
        #expect(asked(server) == 2)
        #expect(transport.statistics.hedges == 1)
        #expect(transport.statistics.hedgesWon == 1)
        // All places are free again, and nothing of the first is left.
        #expect(text(try await transport.send(request(server, "/late"))) == "hello")
    }

    @Test func aSinkGetsOneAnswer() async throws {
        let server = try server { $0 == 1 ? .init("", then: .hold) : .init(HedgeTests.answer) }
        let transport = HTTPTransport()
        try await warmUp(transport, server)
        let taken = Mutex("")
        var request = request(server, "/late")
        request.sink = BodySink(begins: { status, _ in status == 206 }) { bytes in
            taken.withLock { $0 += unsafe bytes.withUnsafeBytes { unsafe String(decoding: $0, as: UTF8.self) } }
            return true
        }
        #expect(try await transport.send(request).delivered == 5)
        #expect(taken.withLock { $0 } == "hello")
    }

    @Test func anErrorOfTheSecondDoesNotCount() async throws {
        let release = Monitor(false)
        let server = try server { number in
            if number == 1 {
                release.wait { $0 ? () : nil }
                return .init(HedgeTests.answer)
            }
            release.withLock { $0 = true }
            return .init("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        }
        let transport = HTTPTransport()
        try await warmUp(transport, server)
        #expect(text(try await transport.send(request(server, "/late"))) == "hello")
        #expect(transport.statistics.hedges == 1)
        #expect(transport.statistics.hedgesWon == 0)
    }

    @Test func theSecondAnswersWhenTheFirstFails() async throws {
        let release = Monitor(false)
        let server = try server { number in
            if number == 1 {
                release.wait { $0 ? () : nil }
                return .init("", then: .close)
            }
            release.withLock { $0 = true }
            return .init(HedgeTests.answer)
        }
        let transport = HTTPTransport()
        try await warmUp(transport, server)
        #expect(text(try await transport.send(request(server, "/late"))) == "hello")
    }

    /// Of two that are under way the first fails, and after it the second, as the test says.
    private func twoThatFail(_ last: RawServer.Reply) throws -> RawServer {
        let second = Monitor(false)
        let itself = Mutex<RawServer?>(nil)
        let server = try server { number in
            if number == 1 {
                second.wait { $0 ? () : nil }
                // No HTTP: libcurl gives up, where it would send the request again after a mere end.
                return .init("nonsense\r\n\r\n", then: .hold)
            }
            let server = itself.withLock { $0.take() }
            second.withLock { $0 = true }
            // The client ends the connection of what has failed.
            _ = waitUntil { (server?.open ?? 1) == 1 }
            return last
        }
        itself.withLock { $0 = server }
        return server
    }

    @Test func aReaderHearsOfTheFirstFailureWhereBothFail() async throws {
        let server = try twoThatFail(.init("", then: .close))
        let transport = HTTPTransport()
        try await warmUp(transport, server)
        let late = request(server, "/late")
        do throws(TransportError) {
            _ = try await transport.send(late)
            Issue.record("there was an answer")
        } catch {
            #expect(error.kind == .protocolError)
        }
        #expect(transport.statistics.hedges == 1)
        #expect(asked(server) == 2)
    }

    @Test func anErrorOfTheSecondCountsWhereTheFirstFailed() async throws {
        let server = try twoThatFail(.init("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"))
        let transport = HTTPTransport()
        try await warmUp(transport, server)
        #expect(try await transport.send(request(server, "/late")).status == 503)
        #expect(transport.statistics.hedges == 1)
    }

    @Test func whatProgressesAndWhatNobodyWaitsForIsNotAskedForTwice() async throws {
        let server = try server { number in
            .init(number == 1 ? String(HedgeTests.answer.dropLast(2)) : "", then: .hold)
        }
        let transport = HTTPTransport()
        try await warmUp(transport, server)
        for priority in [TransferPriority.demand, .profile] {
            var request = request(server, "/late", priority)
            request.stallTimeout = 0.5
            await #expect(throws: TransportError.self) { _ = try await transport.send(request) }
        }
        #expect(asked(server) == 2)
        #expect(transport.statistics.hedges == 0)
    }

    @Test func fewAreAskedForTwice() async throws {
        let server = try server { _ in .init("", then: .hold) }
        let transport = HTTPTransport()
        try await warmUp(transport, server, 70)
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<10 {
                var request = request(server, "/late")
                request.stallTimeout = 0.5
                group.addTask { [request] in _ = try? await transport.send(request) }
            }
        }
        #expect(transport.statistics.hedges == 2)
        #expect(asked(server) == 12)
    }

    @Test func withoutEnoughAnswersNothingIsLate() async throws {
        let server = try server { _ in .init("", then: .hold) }
        let transport = HTTPTransport()
        try await warmUp(transport, server, 20)
        var request = request(server, "/late")
        request.stallTimeout = 0.5
        await #expect(throws: TransportError.self) { _ = try await transport.send(request) }
        #expect(asked(server) == 1)
    }

    @Test func aCancelledReaderEndsBoth() async throws {
        let server = try server { _ in .init("", then: .hold) }
        let transport = HTTPTransport()
        try await warmUp(transport, server)
        let late = request(server, "/late")
        let reader = Task {
            do throws(TransportError) {
                _ = try await transport.send(late)
                return nil as TransportError.Kind?
            } catch {
                return error.kind
            }
        }
        while asked(server) < 2 { await Task.yield() }
        reader.cancel()
        #expect(await reader.value == .cancelled)
        try await warmUp(transport, server, 1)
    }

    @Test func aHistogramSaysWhatNearlyAllStayBelow() {
        var histogram = LatencyHistogram()
        for _ in 0..<31 { histogram.note(1_000_000) }
        #expect(histogram.bound(allButOneIn: 20) == nil)
        for _ in 0..<66 { histogram.note(1_000_000) }
        for _ in 0..<3 { histogram.note(500_000_000) }
        let bound = histogram.bound(allButOneIn: 20) ?? 0
        #expect(bound >= 1_000_000 && bound <= 1_250_000)
        let all = histogram.bound(allButOneIn: 1000) ?? 0
        #expect(all >= 500_000_000 && all <= 625_000_000)
        histogram.note(0)
        histogram.note(.max)
        // What was long ago is forgotten.
        for _ in 0..<8000 { histogram.note(10_000_000) }
        #expect((histogram.bound(allButOneIn: 1000) ?? 0) <= 12_500_000)
    }
}
