internal import PosixIO
internal import Synchronization

/// What is to be done with members that have come. Those that a reader waits for are inflated at once, by threads of normal
/// priority. All else has time until the processor has: inflating what came along, and packing what was inflated into
/// the store. One thread in the background does that. Where it cannot keep up, the others help, so that memory stays bounded.
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

    /// Which threads have something to do now.
    struct Due: Equatable {
        /// Those that readers wait for.
        var urgent = false
        /// The one in the background.
        var background = false
    }

    private struct Landed: Sendable {
        let flight: Flight
        let member: DecodedMember
    }

    /// A member that nobody waited for when it came. It is not held: the table of flights has it until it is packed, and
    /// where a reader came for it, that can be long before its turn here.
    private struct Other {
        weak var flight: Flight?
        let bytes: Int
    }

    private struct State {
        var urgent = Line<Flight>()
        var others = Line<Other>()
        var landed = Line<Landed>()
        /// What `others` holds, as it came. What was promoted since counts until its turn comes.
        var bytesWaiting = 0
        /// What `landed` holds, inflated.
        var bytesUnpacked = 0
        /// Nothing is left for later.
        var isDraining = false

        var hasTooMuchWaiting: Bool { bytesWaiting > LandingQueue.mostWaiting || isDraining }
        var hasTooMuchUnpacked: Bool { bytesUnpacked > LandingQueue.mostUnpacked || isDraining }
    }

    /// Inflated bytes that may wait for being packed. Beyond it packing goes before what nobody waits for, and all threads
    /// do it; beyond twice of it it goes before everything.
    static let mostUnpacked = 8 << 20
    /// Bytes that may have come without anybody waiting for them before all threads inflate them.
    static let mostWaiting = 4 << 20

    /// How many members have come, and how many of them were packed or were damaged.
    private struct Counts {
        var come: UInt64 = 0
        var gone: UInt64 = 0
    }

    private let state = Mutex(State())
    private let counts = Monitor(Counts())

    /// Adds a flight whose bytes have come.
    func append(_ flight: Flight, _ arrival: Flight.Arrival) -> Due {
        counts.withLock { $0.come += 1 }
        flight.arrive(arrival)
        return state.withLock { state in
            if flight.isWanted {
                state.urgent.append(flight)
                return Due(urgent: true)
            }
            state.others.append(Other(flight: flight, bytes: arrival.bytes.count))
            state.bytesWaiting += arrival.bytes.count
            return Due(urgent: state.hasTooMuchWaiting, background: true)
        }
    }

    /// Adds a flight that has landed and is to be packed.
    func append(_ flight: Flight, landed member: DecodedMember) -> Due {
        state.withLock { state in
            state.landed.append(Landed(flight: flight, member: member))
            state.bytesUnpacked += member.bytes.count
            return Due(urgent: state.hasTooMuchUnpacked, background: true)
        }
    }

    /// A reader waits for the flight now.
    func promote(_ flight: Flight) -> Due {
        guard flight.want() else { return Due() }
        // It stays in the other line as well; who comes to it second finds nothing to do.
        return state.withLock { state in
            guard flight.hasArrived else { return Due() }
            state.urgent.append(flight)
            return Due(urgent: true)
        }
    }

    /// What came for a flight is packed, or was damaged.
    func noteGone() {
        counts.withLock { $0.gone += 1 }
    }

    /// From now on no thread leaves anything for later.
    func drain() {
        state.withLock { $0.isDraining = true }
    }

    /// Waits until what has come by now is packed, for at most so many nanoseconds.
    func waitUntilPacked(nanoseconds: UInt64) {
        let come = counts.withLock { $0.come }
        _ = counts.wait(nanoseconds: nanoseconds) { $0.gone >= come ? () : nil }
    }

    /// What a thread of normal priority is to do next; nil when all there is can wait.
    func next() -> Work? {
        state.withLock { state in
            if state.bytesUnpacked > 2 * LandingQueue.mostUnpacked, let work = LandingQueue.pack(&state) { return work }
            while let flight = state.urgent.popFirst() {
                if let arrival = flight.takeArrival() { return .inflate(flight, arrival) }
            }
            if state.hasTooMuchUnpacked, let work = LandingQueue.pack(&state) { return work }
            guard state.hasTooMuchWaiting else { return nil }
            return LandingQueue.popOther(&state) { $0.takeArrival() }
        }
    }

    /// What the thread in the background is to do next: nothing that a reader waits for.
    func nextInBackground() -> Work? {
        state.withLock { state in
            if state.bytesUnpacked > LandingQueue.mostUnpacked, let work = LandingQueue.pack(&state) { return work }
            return LandingQueue.popOther(&state) { $0.takeArrivalInBackground() } ?? LandingQueue.pack(&state)
        }
    }

    private static func popOther(_ state: inout State, _ take: (Flight) -> Flight.Arrival?) -> Work? {
        while let other = state.others.popFirst() {
            state.bytesWaiting -= other.bytes
            if let flight = other.flight, let arrival = take(flight) { return .inflate(flight, arrival) }
        }
        return nil
    }

    private static func pack(_ state: inout State) -> Work? {
        guard let landed = state.landed.popFirst() else { return nil }
        state.bytesUnpacked -= landed.member.bytes.count
        return .pack(landed.flight, landed.member)
    }
}
