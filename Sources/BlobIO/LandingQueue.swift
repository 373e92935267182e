internal import PosixIO
internal import Synchronization

/// Members that have come and wait for a thread that inflates them: those first for which a reader waits.
///
/// LOCK ORDER: the queue's, then a flight's.
final class LandingQueue: Sendable {
    private struct Line {
        private var flights: [Flight] = []
        private var head = 0

        mutating func append(_ flight: Flight) { flights.append(flight) }

        mutating func popFirst() -> Flight? {
            guard head < flights.count else { return nil }
            let flight = flights[head]
            head += 1
            if head == flights.count || head >= 256 {
                flights.removeFirst(head)
                head = 0
            }
            return flight
        }
    }

    private struct State {
        var urgent = Line()
        var others = Line()
    }

    private let state = Mutex(State())

    /// Adds a flight whose bytes have come; `next` must be called once for each.
    func append(_ flight: Flight, _ arrival: Flight.Arrival) {
        flight.arrive(arrival)
        state.withLock { state in
            if flight.isWanted { state.urgent.append(flight) } else { state.others.append(flight) }
        }
    }

    /// A reader waits for the flight now.
    func promote(_ flight: Flight) {
        guard flight.want() else { return }
        // It stays in the other line as well; who comes to it second finds nothing to do.
        state.withLock { state in
            if flight.hasArrived { state.urgent.append(flight) }
        }
    }

    /// The flight whose turn it is, and what came for it.
    func next() -> (Flight, Flight.Arrival)? {
        state.withLock { state in
            while let flight = state.urgent.popFirst() ?? state.others.popFirst() {
                if let arrival = flight.takeArrival() { return (flight, arrival) }
            }
            return nil
        }
    }
}
