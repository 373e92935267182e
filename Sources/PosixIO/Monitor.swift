internal import Glibc

/// State behind a lock, with a condition to wait for. Not for hot paths: those use `Mutex`.
///
/// LOCK ORDER: a leaf; the closures call nothing that locks.
@safe
public final class Monitor<State>: @unchecked Sendable {
    // SAFETY: `state` is touched only with `mutex` held; both have the stable address that pthreads need.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var state: State

    /// A lock around `state`.
    public init(_ state: State) {
        self.state = state
        unsafe pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_cond_init(condition, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    /// Runs `body` with the lock held, and wakes those who wait.
    public func withLock<R>(_ body: (inout State) -> R) -> R {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        let result = body(&state)
        unsafe pthread_cond_broadcast(condition)
        return result
    }

    /// Waits until `body` gives a value. It runs with the lock held, at first and after each change.
    public func wait<R>(_ body: (inout State) -> R?) -> R {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&state) { return result }
            unsafe pthread_cond_wait(condition, mutex)
        }
    }

    /// The same, for at most so many nanoseconds; nil when that was not enough.
    public func wait<R>(nanoseconds: UInt64, _ body: (inout State) -> R?) -> R? {
        let end = monotonicNanoseconds() &+ nanoseconds
        var deadline = timespec(tv_sec: Int(end / 1_000_000_000), tv_nsec: Int(end % 1_000_000_000))
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&state) { return result }
            if unsafe pthread_cond_timedwait(condition, mutex, &deadline) == ETIMEDOUT { return body(&state) }
        }
    }
}
