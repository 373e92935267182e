/// Requests of one mount that could not be answered at once, and how long they waited.
public struct WaitStatistics: Sendable, Equatable {
    /// Upper ends of the classes of `counts`, in milliseconds; the last class has none.
    public static let bounds: [UInt64] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000]

    /// Requests that wait now.
    public var waitingNow = 0
    /// Requests that waited and were answered.
    public var waited: UInt64 = 0
    /// How long these waited together, in nanoseconds.
    public var nanoseconds: UInt64 = 0
    /// How many of these waited at most as long as the bound of the same place, and longer than the one before; one more
    /// for those beyond the last bound.
    public var counts = [UInt64](repeating: 0, count: WaitStatistics.bounds.count + 1)

    /// Nothing has waited.
    public init() {}

    /// Takes in one that was answered.
    mutating func note(nanoseconds duration: UInt64) {
        waited += 1
        nanoseconds &+= duration
        let milliseconds = (duration &+ 999_999) / 1_000_000
        counts[WaitStatistics.bounds.firstIndex { milliseconds <= $0 } ?? WaitStatistics.bounds.count] += 1
    }

    /// Adds another mount's.
    public mutating func add(_ other: WaitStatistics) {
        waitingNow += other.waitingNow
        waited += other.waited
        nanoseconds &+= other.nanoseconds
        for index in counts.indices { counts[index] += other.counts[index] }
    }
}
