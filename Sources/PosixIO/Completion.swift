internal import Synchronization

/// Something that is finished once, by whoever does the work, and that any number of parties wait for without a
/// thread each. What it was about is found where its starter keeps it; this only says "look again".
///
/// LOCK ORDER: the lock is a leaf; callbacks run without it, on the thread that calls `finish` (or on the caller's,
/// when it is finished already).
public final class Completion: Sendable {
    private struct State: Sendable {
        var finished = false
        var nextToken: UInt64 = 0
        var callbacks: [(token: UInt64, run: @Sendable () -> Void)] = []
    }

    private let state = Mutex(State())

    /// An unfinished one.
    public init() {}

    /// Whether `finish` was called.
    public var isFinished: Bool { state.withLock { $0.finished } }

    /// Marks it finished and runs every callback once. A second call does nothing.
    public func finish() {
        let callbacks = state.withLock { state in
            state.finished = true
            let callbacks = state.callbacks
            state.callbacks = []
            return callbacks
        }
        for callback in callbacks { callback.run() }
    }

    /// Runs `callback` once it is finished: at once on this thread if it is already. The token removes it again.
    @discardableResult
    public func whenFinished(_ callback: @escaping @Sendable () -> Void) -> UInt64 {
        let token: UInt64? = state.withLock { state in
            if state.finished { return nil }
            state.nextToken += 1
            state.callbacks.append((state.nextToken, callback))
            return state.nextToken
        }
        guard let token else {
            callback()
            return 0
        }
        return token
    }

    /// Removes a callback that has not run; its captures are released.
    public func remove(_ token: UInt64) {
        let removed = state.withLock { state in
            let index = state.callbacks.firstIndex { $0.token == token }
            return index.map { state.callbacks.remove(at: $0) }
        }
        // Released here, outside the lock: captures may own reply tokens.
        _ = removed
    }
}
