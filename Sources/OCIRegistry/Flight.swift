internal import Synchronization

/// One piece of work that any number of tasks wait for, each for as long as it likes. The work goes on when a waiter
/// gives up.
///
/// LOCK ORDER: the lock is a leaf; continuations are resumed without it.
final class Flight<Value: Sendable>: Sendable {
    private enum Decision {
        case registered, now(Value?)
    }

    private struct State: Sendable {
        var value: Value?
        var nextID: UInt64 = 0
        var waiters: [UInt64: CheckedContinuation<Value?, Never>] = [:]
        /// Waiters that gave up before they were registered.
        var gone: Set<UInt64> = []
    }

    private let state = Mutex(State())

    /// Gives the result to all that wait and will wait. Once.
    func finish(_ value: Value) {
        let waiters = state.withLock { state in
            state.value = value
            let waiters = state.waiters
            state.waiters = [:]
            return waiters
        }
        for waiter in waiters.values { waiter.resume(returning: value) }
    }

    /// Waits for the result; nil when so many seconds passed or the task was cancelled.
    func wait(atMost seconds: Double) async -> Value? {
        let id = state.withLock { state in
            state.nextID += 1
            return state.nextID
        }
        let timer = Task {
            try? await Task.sleep(for: .seconds(max(0, seconds)))
            giveUp(id)
        }
        defer { timer.cancel() }
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let decision: Decision = state.withLock { state in
                    if let value = state.value { return .now(value) }
                    if state.gone.remove(id) != nil { return .now(nil) }
                    state.waiters[id] = continuation
                    return .registered
                }
                if case .now(let value) = decision { continuation.resume(returning: value) }
            }
        } onCancel: {
            giveUp(id)
        }
    }

    private func giveUp(_ id: UInt64) {
        let waiter = state.withLock { state in
            guard let waiter = state.waiters.removeValue(forKey: id) else {
                if state.value == nil { state.gone.insert(id) }
                return CheckedContinuation<Value?, Never>?.none
            }
            return waiter
        }
        waiter?.resume(returning: nil)
    }
}
