public import ChunkStore
internal import Synchronization

/// Figures of the read path since the process started.
public struct BlobIOStatistics: Sendable {
    /// Reads that the chunk store served at once.
    public var readsFromStore: UInt64 = 0
    /// Times that a read was parked.
    public var readsParked: UInt64 = 0
    /// Reads that were served after they had been parked.
    public var readsFromFlights: UInt64 = 0
    /// Reads that failed.
    public var readsFailed: UInt64 = 0
    /// Members that were fetched, or are being fetched.
    public var flights: UInt64 = 0
    /// Members that are on their way now.
    public var flightsNow: Int = 0
    /// Ranges that were asked for to read chunks.
    public var requests: UInt64 = 0
    /// Of these, ranges that a reader waited for.
    public var demandRequests: UInt64 = 0
    /// Compressed bytes of members that nobody had asked for and that came in requests that a reader waited for.
    public var bytesWidened: UInt64 = 0
    /// Compressed bytes of members that were fetched ahead of readers, in requests of their own.
    public var bytesAhead: UInt64 = 0
    /// Of `bytesWidened` and `bytesAhead`, what was read later; the rest has not been read until now.
    public var bytesAheadRead: UInt64 = 0
    /// Compressed bytes that came, with those between members.
    public var bytesFetched: UInt64 = 0
    /// Bytes that these inflated to.
    public var bytesInflated: UInt64 = 0
    /// Members that were wrong (damaged, or another digest than promised) when they came.
    public var mismatches: UInt64 = 0
    /// The chunk store's.
    public var store = ChunkStoreStatistics()
}

/// Counts for `BlobIOStatistics`.
final class Counters: Sendable {
    let readsFromStore = Atomic<UInt64>(0)
    let readsParked = Atomic<UInt64>(0)
    let readsFromFlights = Atomic<UInt64>(0)
    let readsFailed = Atomic<UInt64>(0)
    let flights = Atomic<UInt64>(0)
    let requests = Atomic<UInt64>(0)
    let demandRequests = Atomic<UInt64>(0)
    let bytesWidened = Atomic<UInt64>(0)
    let bytesAhead = Atomic<UInt64>(0)
    let bytesAheadRead = Atomic<UInt64>(0)
    let bytesFetched = Atomic<UInt64>(0)
    let bytesInflated = Atomic<UInt64>(0)
    let mismatches = Atomic<UInt64>(0)

    var statistics: BlobIOStatistics {
        var result = BlobIOStatistics()
        result.readsFromStore = readsFromStore.load(ordering: .relaxed)
        result.readsParked = readsParked.load(ordering: .relaxed)
        result.readsFromFlights = readsFromFlights.load(ordering: .relaxed)
        result.readsFailed = readsFailed.load(ordering: .relaxed)
        result.flights = flights.load(ordering: .relaxed)
        result.requests = requests.load(ordering: .relaxed)
        result.demandRequests = demandRequests.load(ordering: .relaxed)
        result.bytesWidened = bytesWidened.load(ordering: .relaxed)
        result.bytesAhead = bytesAhead.load(ordering: .relaxed)
        result.bytesAheadRead = bytesAheadRead.load(ordering: .relaxed)
        result.bytesFetched = bytesFetched.load(ordering: .relaxed)
        result.bytesInflated = bytesInflated.load(ordering: .relaxed)
        result.mismatches = mismatches.load(ordering: .relaxed)
        return result
    }
}
