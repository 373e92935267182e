public import HTTPTransport
public import OCIModel
public import PosixIO

extension RegistryClient {
    /// A whole small blob (a configuration), checked against its digest; at most `limit` bytes.
    public func blob(_ address: BlobAddress, limit: Int) async throws(RegistryError) -> [UInt8] {
        let what = "read the blob \(address.digest) of \(address.repository)"
        guard address.size <= UInt64(max(0, limit)) else {
            throw RegistryError(.protocolViolation, "cannot \(what): \(address.size) bytes are more than \(limit)")
        }
        let servers = exchange.serverCount(address.repository.host)
        return try await wire.retrying(what, deadline: nil, servers: servers) { (budget) async throws(AttemptFailure) in
            var content: [UInt8] = []
            if address.size > 0 {
                let body = try await part(
                    address,
                    ByteRange(offset: 0, count: address.size),
                    .demand,
                    avoidCachedURL: budget.failures > 0,
                    budget
                )
                // SAFETY: the buffer is only read, and not kept.
                content = unsafe body.span.withUnsafeBytes { buffer in unsafe [UInt8](buffer) }
            }
            let digest = await contentDigest(content)
            guard digest == address.digest else {
                throw .once(
                    RegistryError(.protocolViolation, "\(address.repository.host) served other content (\(digest))")
                )
            }
            return content
        }
    }

    /// Exactly `range` of a blob, which must not be empty and must lie inside the blob. Not checked against any digest:
    /// the caller knows the chunks'.
    ///
    /// - Parameter avoidCachedURL: asks the registry anew where to read, for a second try after bytes that were wrong.
    public func read(
        _ address: BlobAddress,
        _ range: ByteRange,
        priority: TransferPriority,
        avoidCachedURL: Bool = false
    ) async throws(RegistryError) -> UniqueBytes {
        let what = "read \(range.count) bytes at \(range.offset) of \(address.digest) in \(address.repository)"
        guard range.count > 0, range.end <= address.size, range.count <= UInt64(Int.max / 2) else {
            throw RegistryError(.protocolViolation, "cannot \(what): the blob has \(address.size) bytes")
        }
        let servers = exchange.serverCount(address.repository.host)
        return try await wire.retrying(what, deadline: nil, servers: servers) { (budget) async throws(AttemptFailure) in
            try await part(address, range, priority, avoidCachedURL: avoidCachedURL && budget.failures == 0, budget)
        }
    }

    /// Exactly `range` of a blob, handed over as it comes. What came before a failure stays taken: the next attempt asks
    /// for the rest only.
    ///
    /// - Parameters:
    ///   - avoidCachedURL: asks the registry anew where to read, for a second try after bytes that were wrong.
    ///   - gate: holds bytes back while it is closed.
    ///   - take: gets the bytes in order, each once, on the transport's thread; must not wait. False ends the call with an
    ///     error.
    public func stream(
        _ address: BlobAddress,
        _ range: ByteRange,
        priority: TransferPriority,
        avoidCachedURL: Bool = false,
        gate: FlowGate? = nil,
        into take: @escaping @Sendable (_ bytes: borrowing RawSpan) -> Bool
    ) async throws(RegistryError) {
        let what = "read \(range.count) bytes at \(range.offset) of \(address.digest) in \(address.repository)"
        guard range.count > 0, range.end <= address.size, range.count <= UInt64(Int.max / 2) else {
            throw RegistryError(.protocolViolation, "cannot \(what): the blob has \(address.size) bytes")
        }
        let stream = BlobStream(range, gate: gate, take)
        let servers = exchange.serverCount(address.repository.host)
        try await wire.retrying(what, deadline: nil, servers: servers) { (budget) async throws(AttemptFailure) in
            let before = stream.taken
            guard before < range.count else { return }
            let rest = ByteRange(offset: range.offset + before, count: range.count - before)
            do throws(AttemptFailure) {
                _ = try await part(
                    address,
                    rest,
                    priority,
                    avoidCachedURL: avoidCachedURL && budget.failures == 0,
                    sink: stream.sink(rest),
                    budget
                )
            } catch {
                throw error.after(before)
            }
        }
    }

    /// One attempt: from where the registry sent us before, else from the registry or where it sends us now.
    private func part(
        _ address: BlobAddress,
        _ range: ByteRange,
        _ priority: TransferPriority,
        avoidCachedURL: Bool,
        sink: BodySink? = nil,
        _ budget: RetryBudget
    ) async throws(AttemptFailure) -> UniqueBytes {
        let read = BlobRead(
            key: BlobLocations.Key(repository: address.repository, digest: address.digest),
            range: range,
            priority: priority,
            sink: sink
        )
        if avoidCachedURL {
            // What came was wrong: another server may do better.
            if let server = servedBy.server(read.key) { exchange.distrust(server, address.digest) }
            return try await ask(read, nil, budget)
        }
        // A URL can turn out to be spent, and so can the next one, but not for ever.
        for _ in 0..<5 {
            switch locations.place(read.key, now: monotonicNanoseconds()) {
            case .unknown:
                return try await ask(read, nil, budget)
            case .ask(let flight):
                return try await ask(read, flight, budget)
            case .at(let url):
                if let body = try await remembered(url, read, budget) { return body }
            case .atAndRefresh(let url, let flight):
                refresh(read.key, flight)
                if let body = try await remembered(url, read, budget) { return body }
            case .wait(let flight):
                guard let answer = await flight.wait(atMost: exchange.patience(budget)) else {
                    let text = "no answer where \(address.digest) is"
                    throw .transport(TransportError(.timedOut, text), host: address.repository.host.name)
                }
                guard let url = try answer.get() else { return try await ask(read, nil, budget) }
                if let body = try await remembered(url, read, budget) { return body }
            }
        }
        return try await ask(read, nil, budget)
    }

    private func blobAsk(_ key: BlobLocations.Key, _ range: ByteRange) -> Ask {
        Ask(
            host: key.repository.host,
            target: "/v2/\(key.repository.apiName)/blobs/\(key.digest)",
            scope: Ask.pullScope(key.repository),
            range: range,
            path: key.repository.path,
            content: key.digest
        )
    }

    /// Asks the registry, and reads where it sends us. All who wait for `flight` hear where that is as soon as it is known.
    private func ask(
        _ read: BlobRead,
        _ flight: Flight<BlobLocations.Answer>?,
        _ budget: RetryBudget
    ) async throws(AttemptFailure) -> UniqueBytes {
        var ask = blobAsk(read.key, read.range)
        ask.priority = read.priority
        ask.sink = read.sink
        let locations = locations
        do throws(AttemptFailure) {
            let answer = try await exchange.perform(ask, budget) { url, date in
                guard let flight else { return }
                let now = monotonicNanoseconds()
                locations.remember(read.key, url, now: now, signedAt: date ?? wallClockSeconds())
                locations.finish(read.key, flight, .success(url), now: now)
            }
            let now = monotonicNanoseconds()
            if let flight { locations.finish(read.key, flight, .success(nil), now: now) }
            servedBy.note(read.key, answer.endpoint.name)
            if answer.isElsewhere {
                let status = answer.response.status
                if isSpent(status) {
                    // All who were told of it forget it.
                    locations.forget(read.key, answer.response.url)
                    throw .once(StatusRule.error(answer.response))
                }
                if status == 200 || status == 206 {
                    let date = answer.redirectedAt ?? wallClockSeconds()
                    locations.remember(read.key, answer.response.url, now: now, signedAt: date)
                }
            }
            return try content(answer.response, read)
        } catch {
            if let flight { locations.finish(read.key, flight, .failure(error), now: monotonicNanoseconds()) }
            throw error
        }
    }

    /// Asks the registry for the next URL while the old one still holds.
    private func refresh(_ key: BlobLocations.Key, _ flight: Flight<BlobLocations.Answer>) {
        Task {
            let budget = RetryBudget(seconds: wire.options.stallSeconds, now: monotonicNanoseconds())
            // The least that can be asked for: what counts is the redirect.
            let ask = blobAsk(key, ByteRange(offset: 0, count: 1))
            do throws(AttemptFailure) {
                let answer = try await exchange.perform(ask, budget, followsRedirect: false)
                let now = monotonicNanoseconds()
                if let url = answer.redirect {
                    let date = answer.redirectedAt ?? wallClockSeconds()
                    locations.remember(key, url, now: now, signedAt: date)
                    locations.finish(key, flight, .success(url), now: now)
                } else if answer.response.status < 400 {
                    locations.finish(key, flight, .success(nil), now: now)
                } else {
                    locations.finish(key, flight, .failure(.final(StatusRule.error(answer.response))), now: now)
                }
            } catch {
                locations.finish(key, flight, .failure(error), now: monotonicNanoseconds())
            }
        }
    }

    /// Reads from a remembered URL; nil when it does not hold any more, so that the registry has to be asked anew.
    private func remembered(
        _ url: HTTPURL,
        _ read: BlobRead,
        _ budget: RetryBudget
    ) async throws(AttemptFailure) -> UniqueBytes? {
        var request = HTTPRequest(url)
        request.range = read.range
        request.priority = read.priority
        request.sink = read.sink
        request.tls = exchange.hosts.trust(url.authority)
        let place = Endpoint(registry: read.key.repository.host)
        do throws(AttemptFailure) {
            let answer = try await exchange.follow(request, place, nil, budget)
            if isSpent(answer.response.status) {
                locations.forget(read.key, url)
                return nil
            }
            if let refusal = StatusRule.refusal(answer.response) { throw refusal }
            if answer.response.url != url {
                // A server that sends on in its turn is asked once, not for every read.
                locations.remember(
                    read.key,
                    answer.response.url,
                    now: monotonicNanoseconds(),
                    signedAt: answer.redirectedAt ?? wallClockSeconds()
                )
            }
            return try content(answer.response, read)
        } catch {
            // Whatever it was: another storage server may be better off.
            locations.forget(read.key, url)
            throw error
        }
    }

    /// The bytes of `range` out of an answer, or why they are not there.
    private func content(
        _ response: consuming HTTPResponse,
        _ read: BlobRead
    ) throws(AttemptFailure) -> UniqueBytes {
        let host = response.url.authority
        let range = read.range
        switch response.status {
        case 200 where response.rangeIgnored:
            break
        case 206:
            guard let text = response.headers["content-range"], let served = ContentRange(text) else {
                throw .once(RegistryError(.protocolViolation, "\(host) answered 206 without a valid Content-Range"))
            }
            guard served.first == range.offset, served.last < range.end else {
                throw .once(
                    RegistryError(.protocolViolation, "\(host) served bytes \(served.first)-\(served.last) instead")
                )
            }
        case 416:
            throw .final(RegistryError(.protocolViolation, "\(host) answered 416: the blob is shorter than announced"))
        default:
            throw .final(StatusRule.error(response))
        }
        let came = UInt64(response.body.count) + response.delivered
        guard came == range.count else {
            let text = "the body ended after \(came) of \(range.count) bytes"
            throw .transport(TransportError(.shortBody, text, bytesReceived: came), host: host)
        }
        links.note(read.key.repository.host, response, bytes: came)
        return response.takeBody()
    }
}

/// What is read of a blob, and how.
private struct BlobRead: Sendable {
    var key: BlobLocations.Key
    var range: ByteRange
    var priority: TransferPriority
    var sink: BodySink?
}

/// Whether a status says that a URL that a registry gave holds no longer (spec section 5).
private func isSpent(_ status: Int) -> Bool { [400, 401, 403, 404, 410].contains(status) }
