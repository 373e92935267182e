internal import Synchronization

/// Holds a transfer's bytes back while whoever takes them is behind: the transport stops reading from the connection, so
/// that the server waits, and goes on when the gate is opened. A transfer that is held back is not late.
///
/// LOCK ORDER: the lock is a leaf; a transfer is woken without it.
public final class FlowGate: Sendable {
    private struct State: Sendable {
        var isClosed = false
        var resume: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())

    /// An open gate. It serves one transfer at a time.
    public init() {}

    /// Holds back what has not been handed over yet.
    public func close() {
        state.withLock { $0.isClosed = true }
    }

    /// Lets bytes pass again.
    public func open() {
        let resume = state.withLock { state in
            state.isClosed = false
            return state.resume.take()
        }
        resume?()
    }

    /// Whether bytes may pass. If not, `resume` is called once when they may; it replaces one that was given before.
    public func passes(orElse resume: @escaping @Sendable () -> Void) -> Bool {
        state.withLock { state in
            if state.isClosed { state.resume = resume }
            return !state.isClosed
        }
    }
}
