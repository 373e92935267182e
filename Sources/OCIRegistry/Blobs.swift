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
        return try await wire.retrying(what, deadline: nil) { (budget) async throws(AttemptFailure) in
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
        return try await wire.retrying(what, deadline: nil) { (budget) async throws(AttemptFailure) in
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
        try await wire.retrying(what, deadline: nil) { (budget) async throws(AttemptFailure) in
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
        let key = BlobLocations.Key(repository: address.repository, digest: address.digest)
        if !avoidCachedURL, let url = locations.url(key, now: monotonicNanoseconds()) {
            if let body = try await remembered(key, url, range, priority, sink, budget) { return body }
        }
        let ask = Ask(
            host: address.repository.host,
            target: "/v2/\(address.repository.apiName)/blobs/\(address.digest)",
            scope: Ask.pullScope(address.repository),
            range: range,
            priority: priority,
            sink: sink
        )
        let answer = try await exchange.perform(ask, budget)
        if answer.isElsewhere {
            let status = answer.response.status
            if isSpent(status) { throw .once(StatusRule.error(answer.response)) }
            if status == 200 || status == 206 {
                locations.remember(
                    key,
                    answer.response.url,
                    now: monotonicNanoseconds(),
                    wallClock: wallClockSeconds()
                )
            }
        }
        return try content(answer.response, range, key)
    }

    /// Reads from a remembered URL; nil when it does not hold any more, so that the registry has to be asked anew.
    private func remembered(
        _ key: BlobLocations.Key,
        _ url: HTTPURL,
        _ range: ByteRange,
        _ priority: TransferPriority,
        _ sink: BodySink?,
        _ budget: RetryBudget
    ) async throws(AttemptFailure) -> UniqueBytes? {
        var request = HTTPRequest(url)
        request.range = range
        request.priority = priority
        request.sink = sink
        do throws(AttemptFailure) {
            let answer = try await exchange.follow(request, nil, budget)
            if isSpent(answer.response.status) {
                locations.forget(key, url)
                return nil
            }
            if let refusal = StatusRule.refusal(answer.response) { throw refusal }
            return try content(answer.response, range, key)
        } catch {
            // Whatever it was: another storage server may be better off.
            locations.forget(key, url)
            throw error
        }
    }

    /// The bytes of `range` out of an answer, or why they are not there.
    private func content(
        _ response: consuming HTTPResponse,
        _ range: ByteRange,
        _ key: BlobLocations.Key
    ) throws(AttemptFailure) -> UniqueBytes {
        let host = response.url.authority
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
        links.note(key.repository.host, response, bytes: came)
        return response.takeBody()
    }
}

/// Whether a status says that a URL that a registry gave holds no longer (spec section 5).
private func isSpent(_ status: Int) -> Bool { [400, 401, 403, 404, 410].contains(status) }
