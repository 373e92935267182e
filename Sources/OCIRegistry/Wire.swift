internal import HTTPTransport
internal import Logging
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// What all requests of a client share: the transport, the options, the counters, and what was learned about hosts.
final class Wire: Sendable {
    let transport: HTTPTransport
    let options: RegistryOptions
    let counters = CounterBank()
    let log = Logger(label: "crfs.registry")

    init(transport: HTTPTransport, options: RegistryOptions) {
        self.transport = transport
        self.options = options
    }

    /// Sends one request and counts it. The request's time-outs are cut to `patience` seconds; `silence` is how long it may
    /// be silent, where that is less than the options' figure.
    func send(
        _ request: HTTPRequest,
        patience: Double,
        silence: Double? = nil,
        fresh: Bool = false
    ) async throws(AttemptFailure) -> HTTPResponse {
        var request = request
        // A last moment's attempt on a connection that is there can still succeed.
        let patience = max(patience, 0.05)
        request.caFile = options.caFile
        request.connectTimeout = min(options.connectSeconds, request.connectTimeout, patience)
        request.stallTimeout = min(options.stallSeconds, silence ?? .infinity, patience)
        // What nobody waits for may stand in line for as long as others need the connections.
        request.queueTimeout = request.priority == .demand ? patience : nil
        request.freshConnection = fresh
        request.headers.append(("User-Agent", options.userAgent))
        counters.requests.add(1, ordering: .relaxed)
        do throws(TransportError) {
            let response = try await transport.send(request)
            counters.bodyBytes.add(UInt64(response.body.count) + response.delivered, ordering: .relaxed)
            return response
        } catch {
            throw .transport(error, host: request.url.authority)
        }
    }

    /// Why the server at `home` may not send us to `url`; nil when it may. HTTPS goes anywhere, plain HTTP only on this
    /// machine, to the same server, and where the options allow it (spec section 5). Nobody else may send us to this machine's
    /// own servers.
    func objection(to url: HTTPURL, from home: HTTPURL) -> String? {
        if url.origin == home.origin { return nil }
        if url.isLoopback { return home.isLoopback ? nil : "which is this machine" }
        let isAllowed =
            url.scheme == "https" || options.insecureHosts.contains(url.authority)
            || options.insecureHosts.contains("\(url.host):\(url.port)")
        return isAllowed ? nil : "which is not HTTPS"
    }

    /// Runs `attempt` until it succeeds or its failures say that no further one may follow.
    ///
    /// - Parameters:
    ///   - what: what is tried, as the object of "cannot".
    ///   - deadline: seconds without progress, where that is less than the option's.
    ///   - servers: how many can be asked.
    func retrying<Value: ~Copyable>(
        _ what: String,
        deadline: Double?,
        servers: Int = 1,
        _ attempt: (RetryBudget) async throws(AttemptFailure) -> Value
    ) async throws(RegistryError) -> Value {
        let seconds = min(deadline ?? .infinity, options.deadlineSeconds)
        var budget = RetryBudget(seconds: seconds, now: monotonicNanoseconds(), servers: servers)
        while true {
            do throws(AttemptFailure) {
                return try await attempt(budget)
            } catch {
                let delay = budget.failed(error, now: monotonicNanoseconds(), random: Double.random(in: 0...1))
                guard let delay else { throw budget.error(error, what: what) }
                log.debug("cannot \(what): \(error.reason); trying again in \(Int(delay * 1000)) ms")
                do {
                    try await Task.sleep(for: .seconds(delay))
                } catch {
                    throw RegistryError(.unavailable, "cannot \(what): cancelled")
                }
                guard budget.remaining(now: monotonicNanoseconds()) > 0 else { throw budget.error(error, what: what) }
                counters.retries.add(1, ordering: .relaxed)
            }
        }
    }
}

/// What statuses mean that every kind of request takes alike.
enum StatusRule {
    /// The failure for a status that is worth another attempt; nil for all other statuses.
    static func refusal(_ response: borrowing HTTPResponse) -> AttemptFailure? {
        let status = response.status
        guard status == 408 || status == 429 || status >= 500 else { return nil }
        let wait = response.headers["retry-after"].flatMap { RetryAfter.seconds($0, now: wallClockSeconds()) }
        return .refused(
            status: status,
            retryAfter: wait,
            detail: ErrorBody.detail(response),
            host: response.url.authority
        )
    }

    /// The error for a status that ends the request.
    static func error(_ response: borrowing HTTPResponse) -> RegistryError {
        let text = "\(response.url.authority) answered \(response.status)\(ErrorBody.detail(response))"
        switch response.status {
        case 404: return RegistryError(.notFound, text)
        case 401, 403: return RegistryError(.denied, "\(text); it is private, or does not exist")
        default: return RegistryError(.protocolViolation, text)
        }
    }
}
