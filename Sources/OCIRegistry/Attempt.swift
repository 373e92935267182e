internal import HTTPTransport

/// One attempt that failed, and what that means for the next.
enum AttemptFailure: Error, Sendable {
    /// No answer, or not all of it.
    case transport(TransportError, host: String)
    /// 408, 429 or 5xx.
    case refused(status: Int, retryAfter: Double?, detail: String, host: String)
    /// Content that is wrong, or a storage server that refuses what the registry just sent us to it for: worth a second
    /// attempt, not a third.
    case once(RegistryError)
    /// No attempt can help.
    case final(RegistryError)

    /// The same failure where attempts before had got `bytes` that were not asked for again.
    func after(_ bytes: UInt64) -> AttemptFailure {
        guard case .transport(let error, let host) = self, error.bytesReceived > 0 else { return self }
        let received = error.bytesReceived.addingReportingOverflow(bytes)
        return .transport(
            TransportError(
                error.kind,
                error.message,
                bytesReceived: received.overflow ? .max : received.partialValue,
                lastByteAt: error.lastByteAt
            ),
            host: host
        )
    }

    /// Whether another attempt can help.
    var isRetryable: Bool {
        switch self {
        case .transport(let error, _):
            switch error.kind {
            case .certificate, .protocolError, .tooLarge, .outOfMemory, .cancelled: false
            case .timedOut, .cannotResolve, .cannotConnect, .tlsHandshake, .shortBody, .connectionLost: true
            }
        case .refused, .once: true
        case .final: false
        }
    }

    /// What happened, as the middle of a sentence.
    var reason: String {
        switch self {
        case .transport(let error, let host): "\(host): \(error.message)"
        case .refused(let status, _, let detail, let host): "\(host) answered \(status)\(detail)"
        case .once(let error), .final(let error): error.reason
        }
    }
}

/// Decides whether and when a request is tried again (spec section 5): until so many seconds passed without progress,
/// with exponential back-off and full jitter between the attempts.
struct RetryBudget: Sendable {
    /// The first back-off's upper bound, in seconds.
    static let firstDelay = 0.1
    /// Every back-off's upper bound, in seconds.
    static let longestDelay = 5.0

    private let allowed: UInt64
    private var lastProgress: UInt64
    private var furthest: UInt64 = 0
    /// How often content may still be wrong.
    private var secondChances: Int
    /// How many attempts have failed.
    private(set) var failures = 0
    /// Whether the last attempt ended because nothing came: the next one takes another connection.
    private(set) var lastWasSilent = false

    /// - Parameters:
    ///   - seconds: how long to go on without progress.
    ///   - now: CLOCK_MONOTONIC in nanoseconds.
    ///   - servers: how many can be asked: each gets one chance to serve better content than the one before.
    init(seconds: Double, now: UInt64, servers: Int = 1) {
        secondChances = max(1, servers)
        let bounded = seconds.isFinite ? min(max(seconds, 0), 1e9) : 1e9
        allowed = UInt64(bounded * 1e9)
        lastProgress = now
    }

    /// Seconds until the deadline; 0 when it has passed.
    func remaining(now: UInt64) -> Double {
        let end = lastProgress &+ allowed
        return now >= end ? 0 : Double(end - now) / 1e9
    }

    /// Notes a failed attempt. Returns how many seconds to wait before the next one, or nil when there is none.
    ///
    /// Progress is content beyond what any attempt before got: bytes that come a second time bring nobody further, and a
    /// server that cuts every body at the same place must not hold a reader for ever.
    mutating func failed(_ failure: AttemptFailure, now: UInt64, random: Double) -> Double? {
        failures += 1
        lastWasSilent = false
        var floor = 0.0
        switch failure {
        case .final:
            return nil
        case .once:
            if secondChances == 0 { return nil }
            secondChances -= 1
        case .transport(let error, _):
            guard failure.isRetryable else { return nil }
            lastWasSilent = error.kind == .timedOut
            if error.bytesReceived > furthest {
                furthest = error.bytesReceived
                lastProgress = max(lastProgress, error.lastByteAt)
            }
        case .refused(_, let retryAfter, _, _):
            floor = retryAfter ?? 0
        }
        let left = remaining(now: now)
        guard left > 0 else { return nil }
        let bound = min(RetryBudget.longestDelay, RetryBudget.firstDelay * Double(1 << min(failures - 1, 10)))
        return min(left, max(floor, bound * random))
    }

    /// The error for a request that is given up.
    ///
    /// - Parameters:
    ///   - failure: how the last attempt failed.
    ///   - what: what was tried, as the object of "cannot": `read tags of host/app`.
    func error(_ failure: AttemptFailure, what: String) -> RegistryError {
        let attempts = failures == 1 ? "" : " after \(failures) attempts"
        let text = "cannot \(what)\(attempts): \(failure.reason)"
        switch failure {
        case .once(let error), .final(let error):
            return RegistryError(error.kind, text)
        case .refused:
            return RegistryError(.unavailable, "\(text); try again later")
        case .transport(let error, _):
            switch error.kind {
            case .timedOut:
                return RegistryError(.timedOut, "\(text); check the network and the registry")
            case .certificate:
                return RegistryError(
                    .unavailable,
                    "\(text); give the registry's certificate authority as a PEM file, if it has its own"
                )
            case .cannotResolve, .cannotConnect, .tlsHandshake, .connectionLost, .shortBody:
                return RegistryError(.unavailable, "\(text); check the host's name, the network and the registry")
            case .protocolError, .tooLarge:
                return RegistryError(.protocolViolation, text)
            case .outOfMemory, .cancelled:
                return RegistryError(.unavailable, text)
            }
        }
    }
}
