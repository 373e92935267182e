import Glibc
import HTTPTransport
import OCIModel
import PosixIO
import Synchronization
import TestSupport
import Testing

/// The transport against servers that send what they like.
@Suite struct TransportTests {
    private let transport = HTTPTransport()

    private func body(_ request: HTTPRequest) async throws -> String {
        let response = try await transport.send(request)
        return String(decoding: response.takeBody().share().array, as: UTF8.self)
    }

    private func failure(_ request: HTTPRequest) async -> TransportError? {
        do throws(TransportError) {
            _ = try await transport.send(request)
            return nil
        } catch {
            return error
        }
    }

    @Test func anAnswerHasStatusHeadersAndBody() async throws {
        let server = try RawServer { _ in
            .init("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Two: a\r\nx-two:  b \r\n\r\nhello")
        }
        var request = HTTPRequest(server.url("/a?b"))
        request.headers = [("X-Mine", "yes")]
        let response = try await transport.send(request)
        #expect(response.status == 200)
        #expect(response.headers["CONTENT-length"] == "5")
        #expect(response.headers.all("X-Two") == ["a", "b"])
        #expect(response.version == .http11)
        #expect(response.url == server.url("/a?b"))
        #expect(response.rangeIgnored == false)
        #expect(response.timeToFirstByte > 0)
        #expect(response.takeBody().share().array == Array("hello".utf8))
        let head = try #require(server.requests.first)
        #expect(head.hasPrefix("GET /a?b HTTP/1.1\r\n"))
        #expect(head.contains("X-Mine: yes\r\n"))
        #expect(!head.lowercased().contains("accept-encoding"))
    }

    @Test func onlyTheFinalAnswerCounts() async throws {
        let server = try RawServer { _ in
            .init("HTTP/1.1 103 Early\r\nX-Early: 1\r\n\r\nHTTP/1.1 404 No\r\nX-Late: 1\r\nContent-Length: 2\r\n\r\nno")
        }
        let response = try await transport.send(HTTPRequest(server.url()))
        #expect(response.status == 404)
        #expect(response.headers["x-early"] == nil)
        #expect(response.headers["x-late"] == "1")
    }

    @Test func aHEADHasNoBody() async throws {
        let server = try RawServer { _ in .init("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n") }
        var request = HTTPRequest(server.url())
        request.method = .head
        let response = try await transport.send(request)
        #expect(response.headers["content-length"] == "99999999999")
        #expect(response.body.count == 0)
        #expect(server.requests.first?.hasPrefix("HEAD ") == true)
    }

    @Test func aChunkedBodyGrowsToItsLimit() async throws {
        let piece = String(repeating: "x", count: 0x5000)
        let chunks = String(repeating: "5000\r\n\(piece)\r\n", count: 10)
        let server = try RawServer { _ in
            .init("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\(chunks)0\r\nX-Trailer: 1\r\n\r\n")
        }
        var request = HTTPRequest(server.url())
        request.bodyLimit = 0x5000 * 10
        #expect(try await body(request) == String(repeating: piece, count: 10))
        request.bodyLimit -= 1
        #expect(await failure(request)?.kind == .tooLarge)
    }

    @Test func anAnnouncedLengthAboveTheLimitIsRefusedUnread() async throws {
        let server = try RawServer { _ in
            .init("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n", then: .hold)
        }
        #expect(await failure(HTTPRequest(server.url()))?.kind == .tooLarge)
    }

    @Test func aCutBodySaysHowMuchCame() async throws {
        let server = try RawServer { _ in .init("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", then: .close) }
        let error = await failure(HTTPRequest(server.url()))
        #expect(error?.kind == .shortBody)
        #expect(error?.bytesReceived == 5)
        #expect((error?.lastByteAt ?? 0) > 0)
    }

    @Test func aConnectionWithoutAnAnswerIsLost() async throws {
        let server = try RawServer { _ in .init("", then: .close) }
        #expect(await failure(HTTPRequest(server.url()))?.kind == .connectionLost)
    }

    @Test(arguments: ["nonsense\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"])
    func whatIsNoHTTPIsRefused(_ text: String) async throws {
        let server = try RawServer { _ in .init(text, then: .close) }
        #expect(await failure(HTTPRequest(server.url())) != nil)
    }

    @Test func silenceEndsWithTheStallTimeout() async throws {
        let server = try RawServer { _ in .init("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", then: .hold) }
        var request = HTTPRequest(server.url())
        request.stallTimeout = 0.2
        let error = await failure(request)
        #expect(error?.kind == .timedOut)
        #expect(error?.bytesReceived == 5)
    }

    @Test func theTotalTimeIsBounded() async throws {
        let server = try RawServer { _ in .init("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", then: .hold) }
        var request = HTTPRequest(server.url())
        request.totalTimeout = 0.2
        #expect(await failure(request)?.kind == .timedOut)
    }

    @Test func nobodyListens() async throws {
        let url = try #require(HTTPURL("http://127.0.0.1:\(freePort())/"))
        #expect(await failure(HTTPRequest(url))?.kind == .cannotConnect)
    }

    @Test func plainHTTPIsNoTLS() async throws {
        // What a server of plain HTTP says to a handshake that it takes for a request.
        let server = try RawServer { _ in .init("", then: .close) }
        let url = try #require(HTTPURL("https://127.0.0.1:\(server.port)/"))
        var request = HTTPRequest(url)
        request.connectTimeout = 1
        let kind = await failure(request)?.kind
        #expect(kind == .tlsHandshake || kind == .timedOut)
    }

    // MARK: Ranges

    private let digits = String(repeating: "0123456789", count: 100)

    private func range(_ server: RawServer, _ offset: UInt64, _ count: UInt64) -> HTTPRequest {
        var request = HTTPRequest(server.url())
        request.range = ByteRange(offset: offset, count: count)
        request.bodyLimit = 0
        return request
    }

    @Test func aRangeIsAskedForExplicitly() async throws {
        let server = try RawServer { _ in
            .init("HTTP/1.1 206 Part\r\nContent-Range: bytes 5-9/1000\r\nContent-Length: 5\r\n\r\n56789")
        }
        let response = try await transport.send(range(server, 5, 5))
        #expect(response.status == 206)
        #expect(response.rangeIgnored == false)
        #expect(response.takeBody().share().array == Array("56789".utf8))
        #expect(server.requests.first?.contains("Range: bytes=5-9\r\n") == true)
    }

    @Test func moreThanTheRangeIsRefused() async throws {
        let server = try RawServer { _ in
            .init("HTTP/1.1 206 Part\r\nContent-Range: bytes 5-9/1000\r\nContent-Length: 6\r\n\r\n567890")
        }
        #expect(await failure(range(server, 5, 5))?.kind == .tooLarge)
    }

    @Test func aRangeIsTakenOutOfAStreamWithoutEnd() async throws {
        let digits = digits
        let server = try RawServer { _ in
            .init("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\(digits)", then: .forever)
        }
        // The status line stands at the start of every repetition: the first 1000 bytes are the digits.
        let response = try await transport.send(range(server, 123, 456))
        #expect(response.status == 200)
        #expect(response.rangeIgnored == true)
        let bytes = response.takeBody().share().array
        #expect(bytes == Array(digits.utf8)[123..<579].map { $0 })
    }

    @Test func aStreamThatEndsBeforeTheRangeIsShort() async throws {
        let digits = digits
        let server = try RawServer { _ in .init("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n\(digits)") }
        let error = await failure(range(server, 990, 20))
        #expect(error?.kind == .shortBody)
        #expect(error?.bytesReceived == 1000)
        #expect(await failure(range(server, 5000, 1))?.kind == .shortBody)
    }

    @Test func a416IsJudgedByItsStatus() async throws {
        let server = try RawServer { _ in .init("HTTP/1.1 416 No\r\nContent-Length: 123456789012\r\n\r\n", then: .hold)
        }
        var request = range(server, 5, 5)
        request.stallTimeout = 600
        let response = try await transport.send(request)
        #expect(response.status == 416)
    }

    @Test func anErrorThatNeverEndsIsStillAnAnswer() async throws {
        let server = try RawServer { _ in .init("HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\nsorry", then: .hold) }
        var request = range(server, 5, 5)
        request.stallTimeout = 0.2
        let response = try await transport.send(request)
        #expect(response.status == 503)
        #expect(response.takeBody().share().array == Array("sorry".utf8))
    }

    @Test func ofAnErrorAnExcerptIsKept() async throws {
        let server = try RawServer { _ in
            .init("HTTP/1.1 500 No\r\n\r\n" + String(repeating: "x", count: 50_000), then: .close)
        }
        let response = try await transport.send(HTTPRequest(server.url()))
        #expect(response.status == 500)
        #expect(response.body.count == 16384)
    }

    @Test func redirectsAreNotFollowed() async throws {
        let server = try RawServer { _ in .init("HTTP/1.1 302 There\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n") }
        let response = try await transport.send(HTTPRequest(server.url()))
        #expect(response.status == 302)
        #expect(response.headers["location"] == "/other")
        #expect(server.requests.count == 1)
    }

    // MARK: Requests

    @Test(arguments: ["a\r\nX-Injected: 1", "a\u{0}b", "\n"])
    func headersWithControlBytesAreRefused(_ value: String) async throws {
        let server = try RawServer { _ in .init("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") }
        var request = HTTPRequest(server.url())
        request.headers = [("X-Mine", value)]
        #expect(await failure(request)?.kind == .protocolError)
        #expect(server.requests.isEmpty)
    }

    @Test func aCancelledTaskEndsItsTransfer() async throws {
        let server = try RawServer { _ in .init("", then: .hold) }
        let transport = transport
        let url = server.url()
        let task = Task {
            do throws(TransportError) {
                _ = try await transport.send(HTTPRequest(url))
                return TransportError.Kind?.none
            } catch {
                return error.kind
            }
        }
        #expect(await eventually { !server.requests.isEmpty })
        task.cancel()
        #expect(await task.value == .cancelled)
        // One that is cancelled before it begins, too.
        let early = Task {
            unsafe withUnsafeCurrentTask { unsafe $0?.cancel() }
            return await failure(HTTPRequest(url))?.kind
        }
        #expect(await early.value == .cancelled)
    }

    // MARK: Connections

    @Test func aConnectionIsKept() async throws {
        let server = try RawServer { _ in .init("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }
        for _ in 0..<10 { #expect(try await body(HTTPRequest(server.url())) == "ok") }
        #expect(server.connections == 1)
        var fresh = HTTPRequest(server.url())
        fresh.freshConnection = true
        #expect(try await body(fresh) == "ok")
        #expect(server.connections == 2)
    }

    @Test func manyRequestsShareFewConnections() async throws {
        let server = try RawServer { _ in
            usleep(2000)
            return .init("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        }
        try await withThrowingTaskGroup(of: String.self) { group in
            for index in 0..<200 {
                group.addTask {
                    var request = HTTPRequest(server.url("/\(index)"))
                    request.priority = [.background, .profile, .demand, .demand][index % 4]
                    return try await body(request)
                }
            }
            for try await text in group { #expect(text == "ok") }
        }
        #expect(server.mostOpen <= 16)
        #expect(server.requests.count == 200)
    }

    @Test func aRequestThatNeverGetsItsTurnTimesOut() async throws {
        let server = try RawServer { _ in .init("", then: .hold) }
        let transport = transport
        let url = server.url()
        let holders = (0..<16).map { _ in Task { _ = try? await transport.send(HTTPRequest(url)) } }
        #expect(await eventually { server.requests.count >= 16 })
        var request = HTTPRequest(url)
        request.queueTimeout = 0.1
        #expect(await failure(request)?.kind == .timedOut)
        // Other servers are as fast as ever.
        let other = try RawServer { _ in .init("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }
        #expect(try await body(HTTPRequest(other.url())) == "ok")
        for holder in holders { holder.cancel() }
        for holder in holders { await holder.value }
        #expect(server.requests.count == 16)
    }

    @Test(.enabled(if: Requirement.registry.runs, Comment(rawValue: Requirement.registry.reason)))
    func http2SharesOneConnection() async throws {
        try Requirement.registry.orFail()
        let server = try await onThread { try RegistryServer(.tls) }
        let url = try #require(HTTPURL("https://\(server.host)/v2/"))
        let transport = transport
        let connections = try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 0..<100 {
                group.addTask {
                    var request = HTTPRequest(url)
                    request.caFile = server.certificateAuthority
                    let response = try await transport.send(request)
                    #expect(response.version == .http2)
                    #expect(response.status == 200)
                    return response.newConnections
                }
            }
            return try await group.reduce(0, +)
        }
        #expect(connections == 1)
        var unknown = HTTPRequest(url)
        unknown.freshConnection = true
        #expect(await failure(unknown)?.kind == .certificate)
    }
}

/// Runs what blocks on a thread of its own, not on the cooperative pool.
private func onThread<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
        startThread(named: "test-blocking") { continuation.resume(with: Result(catching: body)) }
    }
}
