internal import HTTPTransport
internal import OCIModel
internal import Synchronization

/// Remembers where registries redirect blob reads to: until such a URL expires or fails, with the next one asked for before
/// that, and with one question to the registry however many readers wait for the answer.
///
/// LOCK ORDER: the lock is a leaf; flights are finished without it.
final class BlobLocations: Sendable {
    struct Key: Hashable, Sendable {
        var repository: Repository
        var digest: Digest
    }

    /// What the registry answers: where to, nil for "here", or why it did not answer.
    typealias Answer = Result<HTTPURL?, AttemptFailure>

    /// What is to be done to read a blob.
    enum Place: Sendable {
        /// Read there.
        case at(HTTPURL)
        /// Read there, and ask for the next URL behind.
        case atAndRefresh(HTTPURL, Flight<Answer>)
        /// Ask the registry, and say what it answers.
        case ask(Flight<Answer>)
        /// Somebody asks already.
        case wait(Flight<Answer>)
        /// Ask the registry: it is not known to redirect, so that nobody has to wait for what others hear.
        case unknown
    }

    private struct Entry: Sendable {
        var url: HTTPURL
        /// CLOCK_MONOTONIC, nanoseconds.
        var refreshAt: UInt64
        var expiresAt: UInt64
    }

    private struct State: Sendable {
        var entries: [Key: Entry] = [:]
        var flights: [Key: Flight<Answer>] = [:]
        /// Registries that have redirected.
        var redirecting: Set<RegistryHost> = []
    }

    private let state = Mutex(State())
    private static let limit = 4096
    /// How long a URL is used that does not say how long it holds, in seconds.
    private static let defaultLife = 600.0
    private static let longestLife = 86_400.0

    /// - Parameter now: CLOCK_MONOTONIC in nanoseconds.
    func place(_ key: Key, now: UInt64) -> Place {
        state.withLock { state in
            if let entry = state.entries[key], entry.expiresAt > now {
                guard now >= entry.refreshAt, state.flights[key] == nil else { return .at(entry.url) }
                let flight = Flight<Answer>()
                state.flights[key] = flight
                return .atAndRefresh(entry.url, flight)
            }
            if let flight = state.flights[key] { return .wait(flight) }
            guard state.redirecting.contains(key.repository.host) else { return .unknown }
            let flight = Flight<Answer>()
            state.flights[key] = flight
            return .ask(flight)
        }
    }

    /// Remembers a URL that a registry redirected to.
    ///
    /// - Parameters:
    ///   - now: CLOCK_MONOTONIC in nanoseconds.
    ///   - signedAt: when the registry made it by the registry's clock, in seconds since 1970.
    func remember(_ key: Key, _ url: HTTPURL, now: UInt64, signedAt: Int64) {
        let life = min(SignedURL.life(of: url, at: signedAt) ?? BlobLocations.defaultLife, BlobLocations.longestLife)
        // A margin for the way, and for clocks that count in whole seconds.
        let usable = life - min(5, max(life / 5, min(life, 0.5)))
        state.withLock { state in
            state.redirecting.insert(key.repository.host)
            guard usable > 0 else { return }
            if state.entries.count >= BlobLocations.limit, state.entries[key] == nil {
                state.entries = state.entries.filter { $0.value.expiresAt > now }
                if state.entries.count >= BlobLocations.limit { state.entries.removeAll(keepingCapacity: true) }
            }
            let early = usable - min(60, usable / 3)
            state.entries[key] = Entry(
                url: url,
                refreshAt: now + UInt64(early * 1e9),
                expiresAt: now + UInt64(usable * 1e9)
            )
        }
    }

    /// Ends a flight; what ended before stays as it was.
    func finish(_ key: Key, _ flight: Flight<Answer>, _ answer: Answer, now: UInt64) {
        let isFirst = state.withLock { state in
            guard state.flights[key] === flight else { return false }
            state.flights[key] = nil
            switch answer {
            case .success(nil): state.entries[key] = nil
            // The old URL goes on being used to its end; the registry is asked again in a while.
            case .failure: state.entries[key]?.refreshAt = now + 1_000_000_000
            case .success: break
            }
            return true
        }
        if isFirst { flight.finish(answer) }
    }

    /// Forgets a URL that failed; a newer one for the same blob stays.
    func forget(_ key: Key, _ url: HTTPURL) {
        state.withLock { state in
            if state.entries[key]?.url == url { state.entries[key] = nil }
        }
    }
}
