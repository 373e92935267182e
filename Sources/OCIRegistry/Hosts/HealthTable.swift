internal import PosixIO
internal import Synchronization

/// Which servers do not work at the moment, as reading found out. A server that failed is passed by for a while; when that is
/// over, a small request finds out whether it is back, so that no reader has to.
///
/// LOCK ORDER: the lock is a leaf; servers are asked without it.
final class HealthTable: Sendable {
    private struct Trouble: Sendable {
        /// When it may be looked at again (CLOCK_MONOTONIC, nanoseconds).
        var until: UInt64
        /// How long it is passed by the next time, in nanoseconds.
        var pause: UInt64
        var isProbing = false
    }

    private let troubles = Mutex<[String: Trouble]>([:])

    private static let firstPause: UInt64 = 500_000_000
    private static let longestPause: UInt64 = 15_000_000_000

    /// Whether the server works, as far as is known. `probe` is started where it is time to look again; it says whether
    /// the server is back.
    func isUp(_ name: String, probe: @escaping @Sendable () async -> Bool) -> Bool {
        let now = monotonicNanoseconds()
        let (isUp, starts): (Bool, Bool) = troubles.withLock { troubles in
            guard let trouble = troubles[name] else { return (true, false) }
            guard !trouble.isProbing, now >= trouble.until else { return (false, false) }
            troubles[name]?.isProbing = true
            return (false, true)
        }
        if starts {
            Task {
                if await probe() { self.worked(name) } else { self.failed(name) }
            }
        }
        return isUp
    }

    /// Notes that a server answered.
    func worked(_ name: String) {
        troubles.withLock { $0[name] = nil }
    }

    /// Notes that a server did not answer, or with an error of its own. True when that is news.
    @discardableResult
    func failed(_ name: String) -> Bool {
        let now = monotonicNanoseconds()
        return troubles.withLock { troubles in
            guard let known = troubles[name] else {
                troubles[name] = Trouble(until: now + HealthTable.firstPause, pause: HealthTable.firstPause)
                return true
            }
            // Many requests can fail at once for one reason: only the next look makes the pause longer.
            guard known.isProbing || now >= known.until else { return false }
            let pause = min(known.pause * 2, HealthTable.longestPause)
            troubles[name] = Trouble(until: now + pause, pause: pause)
            return false
        }
    }
}
