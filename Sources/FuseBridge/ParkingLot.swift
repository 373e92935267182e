internal import Glibc
internal import ImageFS
internal import PosixIO

/// The parked requests of one session.
///
/// LOCK ORDER: the lock is a leaf; nothing is answered, and no completion called, with it held.
final class ParkingLot: Sendable {
    private struct State: Sendable {
        var requests: [UInt64: ParkedRequest] = [:]
        var lastID: UInt64 = 0
        var isClosed = false
        var waits = WaitStatistics()
    }

    private let state = Monitor(State())

    /// Makes room for a request; nil when the session ends.
    func enter(callerThread: pid_t, operation: ParkedOperation) -> ParkedRequest? {
        state.withLock { state in
            if state.isClosed { return nil }
            state.lastID += 1
            let request = ParkedRequest(id: state.lastID, callerThread: callerThread, operation: operation)
            state.requests[request.id] = request
            return request
        }
    }

    /// The request of that number, while it is parked or being tried again.
    func request(_ id: UInt64) -> ParkedRequest? {
        state.withLock { $0.requests[id] }
    }

    /// Forgets a request; only after it was answered.
    func leave(_ id: UInt64) {
        let now = monotonicNanoseconds()
        state.withLock { state in
            guard let request = state.requests.removeValue(forKey: id) else { return }
            state.waits.note(nanoseconds: now &- request.since)
        }
    }

    /// Whether nothing may be parked any more.
    var isClosed: Bool { state.withLock { $0.isClosed } }

    /// What has waited so far.
    var statistics: WaitStatistics {
        state.withLock { state in
            var waits = state.waits
            waits.waitingNow = state.requests.count
            return waits
        }
    }

    /// How many requests are parked or being tried again.
    var count: Int { state.withLock { $0.requests.count } }

    /// Lets nothing in any more, answers what is parked with `code`, and waits until what is being tried is answered.
    func close(answering code: CInt) {
        let requests = state.withLock { state in
            state.isClosed = true
            return Array(state.requests.values)
        }
        for request in requests {
            guard var taken = request.take() else { continue }
            taken.reply.take()?.error(code)
            leave(request.id)
        }
        state.wait { $0.requests.isEmpty ? () : nil }
    }
}
