internal import PosixIO
internal import Synchronization

/// What is known of a thing that may have to be fetched.
enum Loaded<Value: Sendable>: Sendable {
    case ready(Value)
    case failed(FSError)
    case loading(Completion)
}

/// Single flight by key for what the network or the disk provides: the first question starts a task, all others wait
/// for the same one. What it gave is kept; a failure is kept only for as long as those who waited need to see it.
///
/// LOCK ORDER: a leaf; the task's work and its completion run without the lock.
final class Loader<Key: Hashable & Sendable, Value: Sendable>: Sendable {
    private enum Slot: Sendable {
        case loading(Completion)
        case ready(Value)
        case failed(FSError, at: UInt64)
    }

    private let slots = Mutex<[Key: Slot]>([:])

    /// How long a failure answers further questions: waiters are asked to look again when the flight ends, and must
    /// not start the next one instead of seeing what became of theirs.
    private let failureNanoseconds: UInt64

    init(failureNanoseconds: UInt64 = 200_000_000) {
        self.failureNanoseconds = failureNanoseconds
    }

    /// What is known under `key`; starts `work` when nothing is.
    func value(_ key: Key, _ work: @escaping @Sendable () async throws(FSError) -> Value) -> Loaded<Value> {
        let fresh = Completion()
        let (answer, starts): (Loaded<Value>, Bool) = slots.withLock { slots in
            switch slots[key] {
            case .ready(let value): return (.ready(value), false)
            case .loading(let completion): return (.loading(completion), false)
            case .failed(let error, let at) where monotonicNanoseconds() &- at < failureNanoseconds:
                return (.failed(error), false)
            case .failed, nil:
                slots[key] = .loading(fresh)
                return (.loading(fresh), true)
            }
        }
        if starts {
            Task { [self] in
                let slot: Slot
                do throws(FSError) {
                    slot = .ready(try await work())
                } catch {
                    slot = .failed(error, at: monotonicNanoseconds())
                }
                slots.withLock { $0[key] = slot }
                fresh.finish()
            }
        }
        return answer
    }

    /// What is there now, without starting anything.
    func existing(_ key: Key) -> Value? {
        slots.withLock { slots in
            if case .ready(let value) = slots[key] { return value }
            return nil
        }
    }

    /// How many values are kept.
    var readyCount: Int {
        slots.withLock { slots in
            slots.values.reduce(0) { count, slot in
                if case .ready = slot { return count + 1 }
                return count
            }
        }
    }

    /// Forgets what is known under `key`, unless it is just being loaded.
    func forget(_ key: Key) {
        slots.withLock { slots in
            if case .loading = slots[key] { return }
            slots[key] = nil
        }
    }

    /// Waits for the value, for callers that may suspend.
    func awaitValue(
        _ key: Key,
        _ work: @escaping @Sendable () async throws(FSError) -> Value
    ) async throws(FSError) -> Value {
        while true {
            switch value(key, work) {
            case .ready(let value): return value
            case .failed(let error): throw error
            case .loading(let completion): await completion.wait()
            }
        }
    }
}

extension Completion {
    /// Suspends until it is finished.
    func wait() async {
        await withCheckedContinuation { continuation in
            whenFinished { continuation.resume() }
        }
    }
}
