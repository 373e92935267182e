internal import PosixIO
internal import Synchronization

/// Runs async work to its end from a thread that may wait (the main one).
func runBlocking<T: Sendable>(_ work: @escaping @Sendable () async -> T) -> T {
    let box = ResultBox<T>()
    let done = Completion()
    Task {
        box.set(await work())
        done.finish()
    }
    done.waitBlocking()
    guard let value = box.value else { fatalError("finished without a result") }
    return value
}

private final class ResultBox<T: Sendable>: Sendable {
    private let stored = Mutex<T?>(nil)

    func set(_ value: T) { stored.withLock { $0 = value } }

    var value: T? { stored.withLock { $0 } }
}

extension Completion {
    /// Blocks the calling thread until it is finished.
    func waitBlocking() {
        let isFinished = Monitor(false)
        whenFinished { isFinished.withLock { $0 = true } }
        isFinished.wait { $0 ? () : nil }
    }
}
