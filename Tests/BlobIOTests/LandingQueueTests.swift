import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

@Suite struct LandingQueueTests {
    private typealias Due = LandingQueue.Due

    private let layer = TestLayer([.init(name: "a", content: noise(1000, seed: 1))])

    /// Flights of a layer, one a byte; nobody waits for them.
    private func flights(_ count: Int) async throws -> [Flight] {
        let opened = try await Bench().open(layer, ScriptedSource(layer.blob))
        let budget = AheadBudget()
        return (0..<count).map { Flight(opened, ByteRange(offset: UInt64($0), count: 1), ahead: budget) }
    }

    private func zeros(_ count: Int) -> SharedBytes {
        unsafe UniqueBytes(copying: [UInt8](repeating: 0, count: count).span.bytes).share()
    }

    private func arrival(_ count: Int = 1) -> Flight.Arrival { Flight.Arrival(bytes: zeros(count), isSecond: false) }

    private func member(_ count: Int) -> DecodedMember {
        DecodedMember(bytes: zeros(count), payloads: [], verifies: false)
    }

    private func inflated(_ work: LandingQueue.Work?) -> (flight: Flight, arrival: Flight.Arrival)? {
        guard case .inflate(let flight, let arrival) = work else { return nil }
        return (flight, arrival)
    }

    private func packed(_ work: LandingQueue.Work?) -> Flight? {
        guard case .pack(let flight, _) = work else { return nil }
        return flight
    }

    @Test func whatNobodyWaitsForIsLeftToTheBackground() async throws {
        let queue = LandingQueue()
        let flight = try await flights(1)[0]
        #expect(queue.append(flight, arrival()) == Due(background: true))
        #expect(queue.next() == nil)
        #expect(inflated(queue.nextInBackground())?.flight === flight)
        #expect(queue.append(flight, landed: member(10)) == Due(background: true))
        #expect(queue.next() == nil)
        #expect(packed(queue.nextInBackground()) === flight)
        #expect(queue.nextInBackground() == nil)
    }

    /// Regression: up to 255 members that had been packed were held, and with them what they inflated to.
    @Test func whatWasTakenOutIsNotHeld() async throws {
        let queue = LandingQueue()
        let flights = try await flights(2)
        weak var first: SharedBytes?
        do {
            let landed = member(10)
            first = landed.bytes
            _ = queue.append(flights[0], landed: landed)
        }
        _ = queue.append(flights[1], landed: member(10))
        #expect(first != nil)
        #expect(packed(queue.nextInBackground()) === flights[0])
        #expect(first == nil)
        #expect(packed(queue.nextInBackground()) === flights[1])
    }

    /// Regression: a member that a reader had come for was held until its turn among the others, which does not come for as
    /// long as readers wait for something.
    @Test func whatAReaderCameForIsNotHeldUntilItsOtherTurn() async throws {
        let queue = LandingQueue()
        weak var first: Flight?
        do {
            let flight = try await flights(1)[0]
            first = flight
            _ = queue.append(flight, arrival())
            _ = queue.promote(flight)
            #expect(inflated(queue.next())?.flight === flight)
        }
        #expect(first == nil)
        #expect(queue.nextInBackground() == nil)
    }

    @Test func whatAReaderWaitsForIsNeverLeftToTheBackground() async throws {
        let queue = LandingQueue()
        let flights = try await flights(3)
        _ = queue.promote(flights[0])
        #expect(queue.append(flights[0], arrival()) == Due(urgent: true))
        // A reader comes while it waits for the background.
        #expect(queue.append(flights[1], arrival()) == Due(background: true))
        #expect(queue.promote(flights[1]) == Due(urgent: true))
        #expect(queue.promote(flights[1]) == Due())
        #expect(queue.nextInBackground() == nil)
        #expect(inflated(queue.next())?.flight === flights[0])
        #expect(inflated(queue.next())?.flight === flights[1])
        #expect(queue.next() == nil)
        // One for which nothing has come yet.
        #expect(queue.promote(flights[2]) == Due())
        #expect(queue.append(flights[2], arrival()) == Due(urgent: true))
    }

    /// The background may get no processor for long: a reader does not wait for what it has begun.
    @Test func aReaderDoesNotWaitForTheBackground() async throws {
        let queue = LandingQueue()
        let flight = try await flights(1)[0]
        _ = queue.append(flight, arrival())
        let begun = try #require(inflated(queue.nextInBackground()))
        #expect(queue.promote(flight) == Due(urgent: true))
        let urgent = try #require(inflated(queue.next()))
        #expect(urgent.arrival === begun.arrival)
        // Whoever is through first counts, the other one is dropped.
        #expect(urgent.arrival.decide())
        #expect(!begun.arrival.decide())
        // Once it is known what it is, nobody gets it any more.
        let second = try await flights(1)[0]
        _ = queue.append(second, arrival())
        let done = try #require(inflated(queue.nextInBackground()))
        second.dropArrival(done.arrival)
        #expect(queue.promote(second) == Due())
    }

    /// Memory is bounded although the background gets no processor: everybody helps.
    @Test func allThreadsHelpWhereTooMuchWaits() async throws {
        let queue = LandingQueue()
        let flights = try await flights(12)
        let mebibyte = 1 << 20
        for flight in flights[..<4] { #expect(queue.append(flight, arrival(mebibyte)) == Due(background: true)) }
        #expect(queue.append(flights[4], arrival(mebibyte)) == Due(urgent: true, background: true))
        #expect(inflated(queue.next())?.flight === flights[0])
        #expect(queue.next() == nil)

        for flight in flights[5..<7] { #expect(!queue.append(flight, landed: member(4 * mebibyte)).urgent) }
        #expect(queue.append(flights[7], landed: member(4 * mebibyte)).urgent)
        // A reader goes before packing, up to twice the bound.
        _ = queue.promote(flights[8])
        _ = queue.append(flights[8], arrival())
        #expect(inflated(queue.next())?.flight === flights[8])
        for flight in flights[9...10] { _ = queue.append(flight, landed: member(4 * mebibyte)) }
        _ = queue.promote(flights[11])
        _ = queue.append(flights[11], arrival())
        #expect(packed(queue.next()) === flights[5])
        #expect(inflated(queue.next())?.flight === flights[11])
        #expect(packed(queue.next()) === flights[6])
        #expect(packed(queue.next()) === flights[7])
        #expect(queue.next() == nil)
        // Before what nobody waits for is inflated, what is too much is packed.
        _ = queue.append(flights[11], landed: member(4 * mebibyte))
        #expect(packed(queue.nextInBackground()) === flights[9])
        #expect(inflated(queue.nextInBackground())?.flight === flights[1])
    }

    @Test func nothingIsLeftForLaterWhenItEnds() async throws {
        let queue = LandingQueue()
        let flights = try await flights(2)
        _ = queue.append(flights[0], arrival())
        _ = queue.append(flights[1], landed: member(10))
        #expect(queue.next() == nil)
        queue.drain()
        #expect(packed(queue.next()) === flights[1])
        #expect(inflated(queue.next())?.flight === flights[0])
        #expect(queue.append(flights[0], landed: member(10)).urgent)
        #expect(packed(queue.next()) === flights[0])
    }
}
