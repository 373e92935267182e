internal import LayerFormat
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// One member of a layer on its way: fetched, inflated and checked once, whoever waits. Its result stays for as long as
/// somebody holds the flight.
///
/// LOCK ORDER: the lock is a leaf; the completion is finished without it.
final class Flight: Sendable {
    /// Which member of which layer. A layer's address identifies it: its flights hold it.
    struct Key: Hashable, Sendable {
        let layer: ObjectIdentifier
        let offset: UInt64

        init(_ layer: Layer, _ offset: UInt64) {
            self.layer = ObjectIdentifier(layer)
            self.offset = offset
        }
    }

    enum State: Sendable {
        case flying
        case landed(DecodedMember)
        case failed(BlobError)
    }

    /// A member's bytes, as they came.
    struct Arrival: Sendable {
        let bytes: SharedBytes
        /// They were asked for once more, since the first ones were wrong.
        let isSecond: Bool
    }

    let layer: Layer
    /// Where the member is, and how much of it is fetched.
    let range: ByteRange
    /// Counts it for as long as it is on its way, where nobody had asked for it when it started.
    private let budget: AheadBudget?
    /// Finished when the state is final.
    let completion = Completion()
    private let current = Mutex(State.flying)
    private let arrival = Mutex<Arrival?>(nil)
    private let wanted: Atomic<Bool>
    private let whenGone: (@Sendable (Flight, BlobError?) -> Void)?

    /// - Parameters:
    ///   - budget: what it counts against, if nobody has asked for it.
    ///   - whenGone: called when it has left the table: its chunks are in the store, or it failed.
    init(
        _ layer: Layer,
        _ range: ByteRange,
        ahead budget: AheadBudget?,
        whenGone: (@Sendable (Flight, BlobError?) -> Void)? = nil
    ) {
        self.whenGone = whenGone
        self.layer = layer
        self.range = range
        self.budget = budget
        wanted = Atomic(budget == nil)
        budget?.take(layer, range.count)
    }

    var key: Key { Key(layer, range.offset) }
    var state: State { current.withLock { $0 } }
    /// Whether a reader waits for it, or did.
    var isWanted: Bool { wanted.load(ordering: .acquiring) }

    /// Notes that a reader waits for it; false when one did before.
    func want() -> Bool { !wanted.exchange(true, ordering: .acquiringAndReleasing) }

    // MARK: Between arrival and decoding

    var hasArrived: Bool { arrival.withLock { $0 != nil } }
    func arrive(_ arrival: Arrival) { self.arrival.withLock { $0 = arrival } }

    /// What came, for the first who asks.
    func takeArrival() -> Arrival? {
        arrival.withLock { arrival in
            defer { arrival = nil }
            return arrival
        }
    }

    /// Sets the final state and answers those who wait.
    func finish(_ state: State) {
        current.withLock { $0 = state }
        budget?.giveBack(layer, range.count)
        completion.finish()
    }

    /// Tells whoever started it that it is over.
    func leave(_ failure: BlobError?) { whenGone?(self, failure) }
}

/// The compressed bytes of a process that are on their way without having been asked for.
final class AheadBudget: Sendable {
    private let bytes = Atomic<Int>(0)

    /// How many there are now.
    var used: UInt64 { UInt64(max(0, bytes.load(ordering: .relaxed))) }

    func take(_ layer: Layer, _ count: UInt64) {
        bytes.add(Int(count), ordering: .relaxed)
        layer.bytesAhead.add(Int(count), ordering: .relaxed)
    }

    func giveBack(_ layer: Layer, _ count: UInt64) {
        bytes.subtract(Int(count), ordering: .relaxed)
        layer.bytesAhead.subtract(Int(count), ordering: .relaxed)
    }
}

/// The flights that are on their way.
///
/// LOCK ORDER: flights, then the chunk store's.
final class FlightTable: Sendable {
    private let flights = Mutex<[Flight.Key: Flight]>([:])

    /// Runs `body` with all flights.
    func withLock<R: Sendable>(_ body: (inout [Flight.Key: Flight]) -> R) -> R {
        flights.withLock { flights in body(&flights) }
    }

    /// Takes a flight out; a later one for the same member stays.
    func remove(_ flight: Flight) {
        let removed = flights.withLock { flights in
            flights[flight.key] === flight ? flights.removeValue(forKey: flight.key) : nil
        }
        // Released here, outside of the lock.
        _ = consume removed
    }

    var count: Int { flights.withLock { $0.count } }
}
