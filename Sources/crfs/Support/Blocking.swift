internal import PosixIO
internal import Synchronization

/// Runs async work to its end from a thread that may wait.
///
/// - Parameter cancelled: its end cancels the work's task.
func runBlocking<T: Sendable>(cancelled: Completion? = nil, _ work: @escaping @Sendable () async -> T) -> T {
    let box = ResultBox<T>()
    let done = Completion()
    let task = Task {
        box.set(await work())
        done.finish()
    }
    let token = cancelled?.whenFinished { task.cancel() }
    done.waitBlocking()
    if let token { cancelled?.remove(token) }
    guard let value = box.value else { fatalError("finished without a result") }
    return value
}

private final class ResultBox<T: Sendable>: Sendable {
    private let stored = Mutex<T?>(nil)

    func set(_ value: T) { stored.withLock { $0 = value } }

    var value: T? { stored.withLock { $0 } }
}

extension Completion {
    /// Blocks the calling thread until it is finished, or the other one is.
    func waitBlocking(or other: Completion? = nil) {
        let isFinished = Monitor(false)
        let token = whenFinished { isFinished.withLock { $0 = true } }
        let otherToken = other?.whenFinished { isFinished.withLock { $0 = true } }
        isFinished.wait { $0 ? () : nil }
        remove(token)
        if let otherToken { other?.remove(otherToken) }
    }
}
