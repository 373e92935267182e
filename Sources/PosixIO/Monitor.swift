/// State behind a lock, with a condition to wait for. Not for hot paths: those use `Mutex`.
///
/// LOCK ORDER: a leaf; the closures call nothing that locks.
@safe
public final class Monitor<State>: @unchecked Sendable {
    // SAFETY: `state` is touched only with the condition's lock held.
    private let condition = Condition()
    private var state: State

    /// A lock around `state`.
    public init(_ state: State) { self.state = state }

    /// Runs `body` with the lock held, and wakes those who wait.
    public func withLock<R>(_ body: (inout State) -> R) -> R {
        condition.lock()
        defer { condition.unlock() }
        let result = body(&state)
        condition.broadcast()
        return result
    }

    /// Waits until `body` gives a value. It runs with the lock held, at first and after each change.
    public func wait<R>(_ body: (inout State) -> R?) -> R {
        condition.lock()
        defer { condition.unlock() }
        while true {
            if let result = body(&state) { return result }
            condition.wait()
        }
    }

    /// The same, for at most so many nanoseconds; nil when that was not enough.
    public func wait<R>(nanoseconds: UInt64, _ body: (inout State) -> R?) -> R? {
        let end = monotonicNanoseconds() &+ nanoseconds
        condition.lock()
        defer { condition.unlock() }
        while true {
            if let result = body(&state) { return result }
            if !condition.wait(until: end) { return body(&state) }
        }
    }
}
