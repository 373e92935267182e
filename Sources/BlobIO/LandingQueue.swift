internal import PosixIO
internal import Synchronization

/// What the decode threads have to do: members that have come are inflated, those first for which a reader waits; members
/// that are inflated are packed into the store when nothing else is to be done, or when too many bytes wait for it.
///
/// LOCK ORDER: the queue's, then a flight's; the counts' is a leaf.
final class LandingQueue: Sendable {
    /// One step of work.
    enum Work {
        /// Inflate and check what came for the flight.
        case inflate(Flight, Flight.Arrival)
        /// Pack what the flight inflated to.
        case pack(Flight, DecodedMember)
    }

    private struct Line<Element> {
        private var items: [Element] = []
        private var head = 0

        mutating func append(_ item: Element) { items.append(item) }

        mutating func popFirst() -> Element? {
            guard head < items.count else { return nil }
            let item = items[head]
            head += 1
            if head == items.count || head >= 256 {
                items.removeFirst(head)
                head = 0
            }
            return item
        }
    }

    private struct Landed: Sendable {
        let flight: Flight
        let member: DecodedMember
    }

    private struct State {
        var urgent = Line<Flight>()
        var others = Line<Flight>()
        var landed = Line<Landed>()
        /// What `landed` holds, inflated.
        var bytesUnpacked = 0
    }

    /// Inflated bytes that may wait for being packed; beyond it packing goes before what nobody waits for, and beyond
    /// twice of it before everything.
    static let mostUnpacked = 8 << 20

    /// How many members have landed, and how many of them were packed.
    private struct Counts {
        var landed: UInt64 = 0
        var packed: UInt64 = 0
    }

    private let state = Mutex(State())
    private let counts = Monitor(Counts())

    /// Adds a flight whose bytes have come; `next` must be called once for each.
    func append(_ flight: Flight, _ arrival: Flight.Arrival) {
        flight.arrive(arrival)
        state.withLock { state in
            if flight.isWanted { state.urgent.append(flight) } else { state.others.append(flight) }
        }
    }

    /// Adds a flight that has landed and is to be packed; `next` must be called once for each.
    func append(_ flight: Flight, landed member: DecodedMember) {
        counts.withLock { $0.landed += 1 }
        state.withLock { state in
            state.landed.append(Landed(flight: flight, member: member))
            state.bytesUnpacked += member.bytes.count
        }
    }

    /// What `next` gave to pack is packed.
    func notePacked() {
        counts.withLock { $0.packed += 1 }
    }

    /// Waits until what has landed by now is packed, for at most so many nanoseconds.
    func waitUntilPacked(nanoseconds: UInt64) {
        let landed = counts.withLock { $0.landed }
        _ = counts.wait(nanoseconds: nanoseconds) { $0.packed >= landed ? () : nil }
    }

    /// A reader waits for the flight now.
    func promote(_ flight: Flight) {
        guard flight.want() else { return }
        // It stays in the other line as well; who comes to it second finds nothing to do.
        state.withLock { state in
            if flight.hasArrived { state.urgent.append(flight) }
        }
    }

    /// What is to be done next.
    func next() -> Work? {
        state.withLock { state in
            if state.bytesUnpacked > 2 * LandingQueue.mostUnpacked, let work = LandingQueue.pack(&state) { return work }
            while let flight = state.urgent.popFirst() {
                if let arrival = flight.takeArrival() { return .inflate(flight, arrival) }
            }
            if state.bytesUnpacked > LandingQueue.mostUnpacked, let work = LandingQueue.pack(&state) { return work }
            while let flight = state.others.popFirst() {
                if let arrival = flight.takeArrival() { return .inflate(flight, arrival) }
            }
            return LandingQueue.pack(&state)
        }
    }

    private static func pack(_ state: inout State) -> Work? {
        guard let landed = state.landed.popFirst() else { return nil }
        state.bytesUnpacked -= landed.member.bytes.count
        return .pack(landed.flight, landed.member)
    }
}
