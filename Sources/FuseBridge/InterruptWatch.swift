internal import PosixIO

/// The parked requests that an INTERRUPT came for. The kernel sends one per request and for harmless signals too, so
/// each caller is looked at now and every 100 ms, until it is dying or the request is answered.
///
/// LOCK ORDER: the lock is a leaf. `add` is called by libfuse with the request's lock held and only notes the number.
final class InterruptWatch: Sendable {
    private struct State: Sendable {
        /// Noted, not looked at yet.
        var fresh: [UInt64] = []
        var hasThread = false
        var isClosed = false
    }

    private static let interval: UInt64 = 100_000_000
    private let state = Monitor(State())

    /// Watches a request. `check` is called on a thread of the watch and tells whether to go on watching.
    func add(_ id: UInt64, check: @escaping @Sendable (UInt64) -> Bool) {
        let startsThread = state.withLock { state in
            if state.isClosed { return false }
            state.fresh.append(id)
            defer { state.hasThread = true }
            return !state.hasThread
        }
        if startsThread { startThread(named: "interrupts") { self.run(check) } }
    }

    /// Ends the thread.
    func close() {
        state.withLock { $0.isClosed = true }
    }

    /// With nothing to watch the thread sleeps until something is noted.
    private func run(_ check: (UInt64) -> Bool) {
        var watched: [UInt64] = []
        var nextRound = monotonicNanoseconds()
        while true {
            let fresh: [UInt64]?
            if watched.isEmpty {
                fresh = state.wait(Self.news)
                nextRound = monotonicNanoseconds() + Self.interval
            } else {
                let now = monotonicNanoseconds()
                fresh = state.wait(nanoseconds: nextRound > now ? nextRound - now : 0, Self.news)
            }
            if let fresh {
                if fresh.isEmpty { return }
                watched += fresh.filter(check)
            } else {
                watched.removeAll { !check($0) }
                nextRound = monotonicNanoseconds() + Self.interval
            }
        }
    }

    /// What was noted; empty when the watch is closed, nil when there is nothing new.
    private static func news(_ state: inout State) -> [UInt64]? {
        if state.isClosed { return [] }
        if state.fresh.isEmpty { return nil }
        defer { state.fresh = [] }
        return state.fresh
    }
}
