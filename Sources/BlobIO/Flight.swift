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
    final class Arrival: Sendable {
        let bytes: SharedBytes
        /// They were asked for once more, since the first ones were wrong.
        let isSecond: Bool
        private let isDecided = Atomic(false)

        init(bytes: SharedBytes, isSecond: Bool) {
            self.bytes = bytes
            self.isSecond = isSecond
        }

        /// Whether what the caller made of the bytes counts: true for the first who asks.
        func decide() -> Bool { !isDecided.exchange(true, ordering: .acquiringAndReleasing) }
    }

    /// What came, until it is known what it is.
    private struct Landing: Sendable {
        var arrival: Arrival?
        /// The background inflates it. A reader does not wait for that: it can be taken once more.
        var isInBackground = false
    }

    let layer: Layer
    /// Where the member is.
    let member: ByteRange
    /// What is fetched for it: a part of a huge one; more than it where payloads reach beyond it (plain layers).
    let range: ByteRange
    /// Counts it for as long as it is on its way, where nobody had asked for it when it started.
    private let budget: AheadBudget?
    /// Finished when the state is final.
    let completion = Completion()
    private let current = Mutex(State.flying)
    private let landing = Mutex(Landing())
    private let wanted: Atomic<Bool>
    private let whenGone: (@Sendable (Flight, BlobError?) -> Void)?

    /// - Parameters:
    ///   - budget: what it counts against, if nobody has asked for it.
    ///   - whenGone: called once when it is over: its chunks are in the store, or it failed.
    init(
        _ layer: Layer,
        _ member: ByteRange,
        ahead budget: AheadBudget?,
        whenGone: (@Sendable (Flight, BlobError?) -> Void)? = nil
    ) {
        let range = layer.fetchRange(member)
        self.whenGone = whenGone
        self.layer = layer
        self.member = member
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

    var hasArrived: Bool { landing.withLock { $0.arrival != nil } }
    func arrive(_ arrival: Arrival) { landing.withLock { $0 = Landing(arrival: arrival) } }

    /// What came, for a thread that inflates it at once. Nobody is given it afterwards.
    func takeArrival() -> Arrival? {
        landing.withLock { landing in
            defer { landing.arrival = nil }
            return landing.arrival
        }
    }

    /// What came, for a thread that has no hurry; nil when a reader waits for it or it was taken.
    func takeArrivalInBackground() -> Arrival? {
        if isWanted { return nil }
        return landing.withLock { landing in
            if landing.isInBackground { return nil }
            landing.isInBackground = true
            return landing.arrival
        }
    }

    /// Lets go of what came, now that it is known what it is.
    func dropArrival(_ arrival: Arrival) {
        landing.withLock { landing in
            if landing.arrival === arrival { landing.arrival = nil }
        }
    }

    /// Sets the final state and answers those who wait.
    func finish(_ state: State) {
        current.withLock { $0 = state }
        budget?.giveBack(layer, range.count)
        completion.finish()
        if case .failed(let error) = state { whenGone?(self, error) }
    }

    /// Its chunks are in the store, if it landed.
    func leave() {
        if let whenGone, case .landed = state { whenGone(self, nil) }
    }
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
        flight.leave()
    }

    var count: Int { flights.withLock { $0.count } }
}
