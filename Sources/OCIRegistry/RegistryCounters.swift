internal import Synchronization

/// What a client has done since it was made.
public struct RegistryCounters: Sendable, Equatable {
    /// Requests sent, of every kind.
    public var requests: UInt64 = 0
    /// Of these, requests for tokens.
    public var tokenRequests: UInt64 = 0
    /// Redirects followed.
    public var redirects: UInt64 = 0
    /// Attempts after the first.
    public var retries: UInt64 = 0
    /// Bytes of bodies that were used.
    public var bodyBytes: UInt64 = 0
    /// Ranges that were asked for a second time, because their answers were later than nearly all before.
    public var hedges: UInt64 = 0
    /// Of these, those whose second answer came first.
    public var hedgesWon: UInt64 = 0

    /// All zero.
    public init() {}
}

/// The counters themselves.
final class CounterBank: Sendable {
    let requests = Atomic<UInt64>(0)
    let tokenRequests = Atomic<UInt64>(0)
    let redirects = Atomic<UInt64>(0)
    let retries = Atomic<UInt64>(0)
    let bodyBytes = Atomic<UInt64>(0)

    var snapshot: RegistryCounters {
        var counters = RegistryCounters()
        counters.requests = requests.load(ordering: .relaxed)
        counters.tokenRequests = tokenRequests.load(ordering: .relaxed)
        counters.redirects = redirects.load(ordering: .relaxed)
        counters.retries = retries.load(ordering: .relaxed)
        counters.bodyBytes = bodyBytes.load(ordering: .relaxed)
        return counters
    }
}
