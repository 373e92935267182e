internal import Glibc
internal import PosixIO
internal import Synchronization

/// Waits a moment for the next request without going to sleep. Shared by the threads of a session, of which one at a time
/// waits so.
///
/// A thread that sleeps in read(2) on an idle processor is woken by an interrupt to a halted processor, which in a virtual
/// machine takes several times as long as the answer to a look-up (docs/decisions/0016-kernel-settings.md).
struct RequestWait: ~Copyable {
    private let isTaken = Atomic(false)

    /// Returns once there is a request, or after `nanoseconds`, or at once where another thread waits.
    func wait(_ descriptor: CInt, nanoseconds: UInt64) {
        guard !isTaken.exchange(true, ordering: .acquiring) else { return }
        defer { isTaken.store(false, ordering: .releasing) }
        let end = monotonicNanoseconds() &+ nanoseconds
        repeat {
            var one = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            if unsafe poll(&one, 1, 0) != 0 { return }
        } while monotonicNanoseconds() < end
    }
}
