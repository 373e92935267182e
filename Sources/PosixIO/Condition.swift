internal import Glibc

/// A lock with a condition to wait for, whose deadlines are of CLOCK_MONOTONIC (pthread_cond_timedwait(3),
/// pthread_condattr_setclock(3)). What it guards is its owner's.
@safe
struct Condition: ~Copyable, @unchecked Sendable {
    // SAFETY: pthreads may be used from any thread, and need a stable address, which a heap allocation gives.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
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

    func lock() { unsafe pthread_mutex_lock(mutex) }

    func unlock() { unsafe pthread_mutex_unlock(mutex) }

    /// Wakes one of those who wait.
    func signal() { unsafe pthread_cond_signal(condition) }

    /// Wakes all who wait.
    func broadcast() { unsafe pthread_cond_broadcast(condition) }

    /// Waits for a wake-up, with the lock held, which is given up meanwhile. It may come for no reason.
    func wait() { unsafe pthread_cond_wait(condition, mutex) }

    /// The same, up to a time in nanoseconds; false when that has come.
    func wait(until end: UInt64) -> Bool {
        var deadline = timespec(tv_sec: Int(end / 1_000_000_000), tv_nsec: Int(end % 1_000_000_000))
        return unsafe pthread_cond_timedwait(condition, mutex, &deadline) != ETIMEDOUT
    }
}
