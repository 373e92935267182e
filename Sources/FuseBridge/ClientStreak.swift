internal import Synchronization

/// Whether one thread asks for one thing after the other, each as soon as it has the answer to the one before. Shared by
/// the threads of a session.
struct ClientStreak: ~Copyable {
    /// From this many requests on it counts.
    static let long: UInt64 = 16
    /// From one answer to the next, in nanoseconds; a wake-up of a halted processor takes some 50,000.
    static let interval: UInt64 = 150_000
    /// A READ above this, in bytes, is read-ahead: the client does not wait for it alone.
    static let largeRead: UInt32 = 64 << 10

    /// The client (32 bits) above the length of its streak.
    private let client = Atomic<UInt64>(0)
    /// When the last answer was given.
    private let answered = Atomic<UInt64>(0)

    /// Notes a request that was answered. Of two threads that do so at once one may be overwritten: then a streak is longer
    /// or shorter by one, which is no matter.
    ///
    /// - Parameter now: CLOCK_MONOTONIC in nanoseconds.
    /// - Returns: whether the next request of the same client is to be expected at once.
    func note(_ head: RequestHead, at now: UInt64) -> Bool {
        // The kernel's own, such as FORGET, end no streak.
        guard head.client != 0 else { return false }
        let before = client.load(ordering: .relaxed)
        let last = answered.exchange(now, ordering: .relaxed)
        let goesOn = before >> 32 == head.client && head.readSize <= Self.largeRead && now &- last < Self.interval
        let new = goesOn ? min((before & 0xffff_ffff) + 1, Self.long) : 0
        client.store(UInt64(head.client) << 32 | new, ordering: .relaxed)
        return new == Self.long
    }
}
