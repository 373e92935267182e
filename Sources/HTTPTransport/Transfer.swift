internal import CShims
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// One request on its way: its handle, what has come so far, and who waits for it.
@safe
final class Transfer: @unchecked Sendable {
    // SAFETY: `request`, `host` and `cancelled` may be read by anybody. All else belongs to the sender until it submits
    // the transfer, then to the loop's thread, and to the sender again once the continuation was resumed.
    let request: HTTPRequest
    /// The server that the request counts against.
    let host: String
    /// Set by the sender's cancellation, which can come before the loop has seen the transfer.
    let cancelled = Atomic<Bool>(false)

    enum Phase {
        case new, waiting, active, finished
    }

    enum Outcome: ~Copyable {
        case response(HTTPResponse)
        case failure(TransportError)
    }

    var continuation: CheckedContinuation<Void, Never>?
    var phase = Phase.new
    /// The handle's key while libcurl has it. A value of its own: after `take()` unoptimized builds (Swift 6.3) take what is
    /// left of a handle of several fields for one, so that `easy?.key` is not nil.
    private(set) var key: UInt?
    /// Until when it may wait for its turn (CLOCK_MONOTONIC, nanoseconds).
    var queueDeadline = UInt64.max
    /// When it was started or the last byte came.
    private(set) var lastActivity: UInt64 = 0
    private var anyByte = false
    private var startedAt: UInt64 = 0
    private var firstByteAt: UInt64 = 0
    private var easy: EasyHandle?
    /// Its sink's gate is closed, and libcurl keeps what came.
    private var isHeld = false
    /// Bytes of the request's body that had gone out when it was looked at last.
    private var uploaded = 0
    /// Makes the loop's thread call `release`; set before the transfer is submitted.
    var wake: (@Sendable () -> Void)?
    private var collector: ResponseCollector
    private var outcome: Outcome?

    /// Redirects and errors are answers as soon as their headers are there: their bodies get this long.
    private static let excerptPatience: UInt64 = 2_000_000_000

    /// The other one of two transfers for the same request, while both are under way.
    var rival: Transfer?
    /// Sent beside another one that was slow.
    let isHedge: Bool
    /// Its answer has begun, and counts: the rival's does not any more.
    private(set) var hasClaimed = false
    /// It was sent a second time, or was not because there were too many.
    var wasLate = false
    private var gaveUpAfter: UInt64?
    /// How it failed, while its rival goes on.
    private var setAsideFor: TransportError?

    init(_ request: HTTPRequest, isHedge: Bool = false) {
        self.isHedge = isHedge
        self.request = request
        host = request.url.origin
        collector = ResponseCollector(
            range: request.range,
            bodyLimit: request.bodyLimit,
            expectsBody: request.method.expectsBody,
            sink: request.sink
        )
    }

    // MARK: The sender's side

    /// What came of it; once, after the continuation was resumed.
    func takeOutcome() -> Outcome {
        outcome.take() ?? .failure(TransportError(.cancelled, "no outcome"))
    }

    // MARK: The loop's side

    /// Makes the handle and hands it to libcurl; the key, or nil when that failed (and the transfer is finished).
    func start(on multi: borrowing MultiHandle, now: UInt64) -> UInt? {
        lastActivity = now
        startedAt = now
        guard var easy = EasyHandle(), let lines = headerLines() else {
            fail(.protocolError, "the request has control bytes in a header, or there is no memory for it")
            return nil
        }
        guard configure(&easy, lines), multi.add(easy) else {
            fail(.protocolError, "libcurl refuses the request")
            return nil
        }
        let key = easy.key
        self.easy = consume easy
        self.key = key
        phase = .active
        return key
    }

    /// When it has waited too long for a byte.
    var stallDeadline: UInt64 {
        if isHeld { return .max }
        let patience = nanoseconds(request.stallTimeout)
        return lastActivity
            &+ (collector.headersComplete && collector.isExcerpt
                ? min(patience, Transfer.excerptPatience) : patience)
    }

    /// Whether more of the request's body has gone out since this was asked before: then it is not late.
    func hasSentMore(now: UInt64) -> Bool {
        guard case .put = request.method, key != nil, let sent = easy?.infoOffset(CURLINFO_SIZE_UPLOAD_T),
            sent > uploaded
        else {
            return false
        }
        uploaded = sent
        lastActivity = now
        return true
    }

    /// Ends an active transfer that was silent for too long.
    func stall(on multi: borrowing MultiHandle) {
        if collector.headersComplete && collector.isExcerpt {
            finish(CURLE_OPERATION_TIMEDOUT, on: multi)
            return
        }
        // The connection may be dead without knowing it: nobody else shall get it.
        if key != nil { _ = easy?.set(CURLOPT_FORBID_REUSE, 1) }
        withdraw(from: multi)
        fail(.timedOut, "no byte of an answer for \(seconds(request.stallTimeout))")
    }

    /// Ends a transfer that nobody wants any more.
    func abandon(on multi: borrowing MultiHandle) {
        withdraw(from: multi)
        fail(.cancelled, "cancelled")
    }

    /// Ends a transfer that comes after the transport's end.
    func refuse() {
        fail(.cancelled, "the transport has ended")
    }

    /// Ends a transfer that never got its turn.
    func expireInQueue() {
        fail(.timedOut, "no free connection for \(seconds(request.queueTimeout ?? 0))")
    }

    /// Whether the connection turned out to carry many requests at once; nil when none was made.
    private(set) var multiplexed: Bool?

    // MARK: Two for one request

    /// Bytes that it is expected to bring, for the order of transfers.
    var expectedBytes: UInt64 { request.range?.count ?? UInt64(max(0, request.bodyLimit)) }

    /// Whether it may be sent a second time when it is slow: a reader waits for it, and it can be asked for twice.
    var mayBeHedged: Bool {
        request.priority == .demand && request.method.isGet && request.range != nil && !isHedge
            && request.sink?.gate == nil
    }

    /// Until when its answer may begin before it is sent a second time; nil when it has begun, or was.
    func hedgeTime(after delay: UInt64) -> UInt64? {
        mayBeHedged && phase == .active && !anyByte && !wasLate ? startedAt &+ delay : nil
    }

    /// How long its answer took to begin, in nanoseconds, or how long its rival's did; nil when it did not, or was an
    /// error.
    var answerBegan: UInt64? {
        if let gaveUpAfter { return gaveUpAfter }
        return anyByte && (200..<400).contains(collector.status) ? firstByteAt - min(firstByteAt, startedAt) : nil
    }

    /// Another one for the same request. Where connections are shared it gets one of its own.
    func makeHedge(isMultiplexed: Bool) -> Transfer {
        var request = request
        if isMultiplexed { request.freshConnection = true }
        let hedge = Transfer(request, isHedge: true)
        hedge.phase = .active
        return hedge
    }

    /// Lets go of libcurl's side, and goes on waiting: the rival has the answer, or may get one.
    func retire(on multi: borrowing MultiHandle) {
        if rival?.hasClaimed == true { gaveUpAfter = monotonicNanoseconds() - startedAt }
        withdraw(from: multi)
    }

    /// Lets go of libcurl's side after a failure before any answer, and goes on waiting: the rival may do better.
    func setAside(_ code: CURLcode, on multi: borrowing MultiHandle) {
        guard let easy = takeHandle() else { return }
        multi.remove(easy)
        setAsideFor = TransportError(code == CURLE_OK ? .connectionLost : errorKind(code), easy.message(code))
    }

    /// Ends with what became of the rival; with its own failure where that one had no answer either.
    func adopt(_ hedge: Transfer, on multi: borrowing MultiHandle) {
        withdraw(from: multi)
        if let setAsideFor, !hedge.hasClaimed {
            complete(.failure(setAsideFor))
        } else {
            complete(hedge.takeOutcome())
        }
    }

    /// Ends a transfer that libcurl is done with.
    func finish(_ code: CURLcode, on multi: borrowing MultiHandle) {
        guard let easy = takeHandle() else { return }
        multi.remove(easy)
        let version = easy.info(CURLINFO_HTTP_VERSION)
        if version != 0 { multiplexed = version == Int(CURL_HTTP_VERSION_2_0) }
        let isAnswer = collector.headersComplete && (code == CURLE_OK || collector.isExcerpt)
        switch collector.stop {
        case .tooLarge:
            let limit = request.range.map { Int(clamping: $0.count) } ?? request.bodyLimit
            fail(.tooLarge, "the answer is longer than \(limit) bytes")
        case .outOfMemory:
            fail(.outOfMemory, "no memory for the answer")
        case nil where !isAnswer:
            fail(code == CURLE_OK ? .connectionLost : errorKind(code), easy.message(code))
        case nil where collector.isSliceIncomplete:
            fail(.shortBody, "the content ended before the bytes that were asked for")
        case nil, .satisfied:
            let times = Times(
                sent: easy.infoOffset(CURLINFO_PRETRANSFER_TIME_T),
                firstByte: easy.infoOffset(CURLINFO_STARTTRANSFER_TIME_T),
                end: easy.infoOffset(CURLINFO_TOTAL_TIME_T)
            )
            let connects = easy.info(CURLINFO_NUM_CONNECTS)
            complete(.response(makeResponse(version: version, times, connects: connects)))
        }
    }

    /// When a transfer got how far, in microseconds from its start.
    private struct Times {
        var sent: Int
        var firstByte: Int
        var end: Int
    }

    private func makeResponse(version: Int, _ times: Times, connects: Int) -> HTTPResponse {
        HTTPResponse(
            status: collector.status,
            headers: collector.headers,
            body: collector.finishBody(),
            rangeIgnored: collector.rangeIgnored,
            delivered: UInt64(collector.delivered),
            url: request.url,
            version: HTTPVersion(curl: version),
            timeToFirstByte: UInt64(max(0, times.firstByte)) * 1000,
            answerTime: UInt64(max(0, times.firstByte - times.sent)) * 1000,
            transferTime: UInt64(max(0, times.end - times.firstByte)) * 1000,
            newConnections: connects
        )
    }

    private func withdraw(from multi: borrowing MultiHandle) {
        if let easy = takeHandle() { multi.remove(easy) }
    }

    /// Takes the handle out, whose key is no key of this transfer any more.
    private func takeHandle() -> EasyHandle? {
        guard key != nil else { return nil }
        key = nil
        return easy.take()
    }

    private func fail(_ kind: TransportError.Kind, _ message: String) {
        let error = TransportError(
            kind,
            message,
            bytesReceived: collector.bytesReceived,
            lastByteAt: anyByte ? lastActivity : 0
        )
        complete(.failure(error))
    }

    private func complete(_ result: consuming Outcome) {
        guard phase != .finished else { return }
        phase = .finished
        outcome = consume result
        continuation.take()?.resume()
    }

    // MARK: libcurl's side

    func takeHeader(_ bytes: UnsafeRawBufferPointer) -> Bool {
        noteActivity()
        // The rival has begun: two answers must not be mixed.
        if rival?.hasClaimed == true { return false }
        let goesOn = unsafe collector.takeHeader(bytes)
        if rival != nil, !hasClaimed, collector.status >= 200 {
            // An error is no better answer than none, as long as the first one can still have another.
            if isHedge && collector.status >= 400 && rival?.key != nil { return false }
            hasClaimed = true
        }
        return goesOn
    }

    /// How many bytes were taken: all, or -1 to end the transfer, or what makes libcurl hold them back.
    func takeBody(_ bytes: UnsafeRawBufferPointer) -> Int {
        noteActivity()
        if rival?.hasClaimed == true { return -1 }
        if let gate = request.sink?.gate, let wake, !gate.passes(orElse: wake) {
            isHeld = true
            return Int(CURL_WRITEFUNC_PAUSE)
        }
        return unsafe collector.takeBody(bytes) ? bytes.count : -1
    }

    /// Goes on after the gate was opened.
    func release() {
        guard isHeld, phase == .active, key != nil else { return }
        isHeld = false
        lastActivity = monotonicNanoseconds()
        easy?.unpause()
    }

    private func noteActivity() {
        lastActivity = monotonicNanoseconds()
        if !anyByte { firstByteAt = lastActivity }
        anyByte = true
    }
}

extension Transfer {
    private func headerLines() -> [String]? {
        var lines: [String] = []
        for (name, value) in request.headers {
            guard (name + value).utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f }) else { return nil }
            lines.append("\(name): \(value)")
        }
        if let range = request.range {
            guard range.count > 0 else { return nil }
            lines.append("Range: \(range.headerValue)")
        }
        // libcurl would wait for 100 before it sends a form of more than 1 KiB.
        switch request.method {
        case .form: lines.append("Expect:")
        case .put(_, let type): lines += ["Expect:", "Content-Type: \(type)"]
        case .post: lines += ["Expect:", "Content-Type:"]
        case .get, .head: break
        }
        return lines
    }

    private func configure(_ easy: inout EasyHandle, _ lines: [String]) -> Bool {
        let secure = request.url.scheme == "https"
        var accepted =
            easy.set(CURLOPT_URL, request.url.string)
            && easy.set(CURLOPT_PROTOCOLS_STR, "http,https")
            && easy.set(CURLOPT_FOLLOWLOCATION, 0)
            && easy.set(CURLOPT_UNRESTRICTED_AUTH, 0)
            && easy.set(CURLOPT_NOSIGNAL, 1)
            && easy.set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1)
            && easy.set(CURLOPT_NOBODY, request.method.expectsBody ? 0 : 1)
            && easy.set(CURLOPT_TCP_NODELAY, 1)
            && easy.set(CURLOPT_BUFFERSIZE, expectedBytes < 64 << 10 ? 16 << 10 : 128 << 10)
            && easy.set(CURLOPT_TCP_KEEPALIVE, 1)
            && easy.set(CURLOPT_TCP_KEEPIDLE, 30)
            && easy.set(CURLOPT_TCP_KEEPINTVL, 10)
            && easy.setUserTimeout(milliseconds: 30_000)
            && easy.set(CURLOPT_CONNECTTIMEOUT_MS, milliseconds(request.connectTimeout))
            && easy.setHeaders(lines)
        if let totalTimeout = request.totalTimeout {
            accepted = accepted && easy.set(CURLOPT_TIMEOUT_MS, milliseconds(totalTimeout))
        }
        if request.freshConnection { accepted = accepted && easy.set(CURLOPT_FRESH_CONNECT, 1) }
        switch request.method {
        case .form(let text): accepted = accepted && easy.set(CURLOPT_COPYPOSTFIELDS, text)
        case .post: accepted = accepted && easy.set(CURLOPT_COPYPOSTFIELDS, "")
        // The request, which holds the body, outlives the handle.
        case .put(let body, _): accepted = accepted && easy.set(CURLOPT_CUSTOMREQUEST, "PUT") && easy.setBody(body)
        case .get, .head: break
        }
        // No proxy of the environment stands between this machine and itself.
        if request.url.isLoopback || request.passesProxy { accepted = accepted && easy.set(CURLOPT_PROXY, "") }
        if secure {
            accepted =
                accepted && easy.set(CURLOPT_HTTP_VERSION, Int(CURL_HTTP_VERSION_2TLS))
                && easy.set(CURLOPT_PIPEWAIT, 1)
            // Beside the system's directory of authorities, which libcurl knows. Without a file of our own the system's
            // bundle is enough, and libcurl keeps it parsed only where no directory is set.
            accepted = accepted && setTrust(easy)
        } else {
            // Waiting for a connection to multiplex on would make the first requests go one after the other.
            accepted = accepted && easy.set(CURLOPT_HTTP_VERSION, Int(CURL_HTTP_VERSION_1_1))
        }
        // SAFETY: the loop keeps the transfer until the handle is removed, so the context outlives the callbacks.
        let context = unsafe Unmanaged.passUnretained(self).toOpaque()
        return unsafe accepted && easy.setSinks(header: headerSink, body: bodySink, context: context)
    }
}

extension Transfer {
    /// Whom we trust and who we are. libcurl shares a connection only between requests that agree in all of this.
    private func setTrust(_ easy: borrowing EasyHandle) -> Bool {
        let tls = request.tls
        var accepted =
            if !tls.authorities.isEmpty {
                easy.set(CURLOPT_CAINFO_BLOB, blob: tls.authorities)
            } else {
                request.caFile.map { easy.set(CURLOPT_CAINFO, $0) } ?? easy.set(CURLOPT_CAPATH, nil)
            }
        if let certificate = tls.clientCertificate {
            accepted =
                accepted && easy.set(CURLOPT_SSLCERT, certificate)
                && easy.set(CURLOPT_SSLKEY, tls.clientKey ?? certificate)
        }
        if tls.skipsVerification {
            accepted = accepted && easy.set(CURLOPT_SSL_VERIFYPEER, 0) && easy.set(CURLOPT_SSL_VERIFYHOST, 0)
        }
        return accepted
    }
}

/// libcurl's header callback: one whole line each time.
private func headerSink(
    _ bytes: UnsafeMutablePointer<CChar>?,
    _ size: Int,
    _ count: Int,
    _ context: UnsafeMutableRawPointer?
) -> Int {
    // SAFETY: the context is the transfer, which the loop keeps while libcurl has its handle.
    guard let context = unsafe context else { return 0 }
    let transfer = unsafe Unmanaged<Transfer>.fromOpaque(context).takeUnretainedValue()
    let line = unsafe UnsafeRawBufferPointer(start: bytes, count: size * count)
    return unsafe transfer.takeHeader(line) ? line.count : -1
}

/// libcurl's write callback.
private func bodySink(
    _ bytes: UnsafeMutablePointer<CChar>?,
    _ size: Int,
    _ count: Int,
    _ context: UnsafeMutableRawPointer?
) -> Int {
    // SAFETY: as above.
    guard let context = unsafe context else { return 0 }
    let transfer = unsafe Unmanaged<Transfer>.fromOpaque(context).takeUnretainedValue()
    let part = unsafe UnsafeRawBufferPointer(start: bytes, count: size * count)
    return unsafe transfer.takeBody(part)
}

extension HTTPVersion {
    fileprivate init(curl version: Int) {
        switch version {
        case Int(CURL_HTTP_VERSION_1_0): self = .http10
        case Int(CURL_HTTP_VERSION_1_1): self = .http11
        case Int(CURL_HTTP_VERSION_2_0): self = .http2
        default: self = .other
        }
    }
}

/// What a libcurl result means for retries.
private func errorKind(_ code: CURLcode) -> TransportError.Kind {
    switch code {
    case CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_RESOLVE_PROXY: .cannotResolve
    case CURLE_COULDNT_CONNECT, CURLE_PROXY: .cannotConnect
    case CURLE_SSL_CONNECT_ERROR: .tlsHandshake
    case CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CACERT_BADFILE, CURLE_SSL_CERTPROBLEM, CURLE_SSL_ISSUER_ERROR,
        CURLE_SSL_PINNEDPUBKEYNOTMATCH, CURLE_SSL_INVALIDCERTSTATUS:
        .certificate
    case CURLE_OPERATION_TIMEDOUT: .timedOut
    case CURLE_PARTIAL_FILE: .shortBody
    case CURLE_GOT_NOTHING, CURLE_SEND_ERROR, CURLE_RECV_ERROR, CURLE_HTTP2, CURLE_HTTP2_STREAM, CURLE_AGAIN,
        CURLE_SSL_SHUTDOWN_FAILED, CURLE_HTTP_RETURNED_ERROR:
        .connectionLost
    case CURLE_OUT_OF_MEMORY: .outOfMemory
    default: .protocolError
    }
}

/// Seconds as nanoseconds, within bounds that clock arithmetic cannot leave.
func nanoseconds(_ seconds: Double) -> UInt64 {
    guard seconds.isFinite, seconds > 0 else { return 0 }
    return UInt64(min(seconds, 1e9) * 1e9)
}

/// Seconds as milliseconds, at least one: 0 means "no limit" or a default to libcurl.
private func milliseconds(_ seconds: Double) -> Int {
    guard seconds.isFinite, seconds > 0.001 else { return 1 }
    return Int(min(seconds, 1e6) * 1000)
}

private func seconds(_ value: Double) -> String {
    value == value.rounded() && value < 1e9 ? "\(Int(value)) s" : "\(value) s"
}
