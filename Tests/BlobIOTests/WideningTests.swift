import HTTPTransport
import OCIModel
import OCIRegistry
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import BlobIO

/// A place that delivers a first part of each range, then waits until it may go on.
private final class TricklingSource: Sendable {
    private let blob: [UInt8]
    private let state: Mutex<(first: Int, gate: Completion, ranges: [ByteRange])>

    init(_ blob: [UInt8], first: Int) {
        self.blob = blob
        state = Mutex((first, Completion(), []))
    }

    var ranges: [ByteRange] { state.withLock { $0.ranges } }
    func release() { state.withLock { $0.gate }.finish() }

    var place: Place {
        let source = ScriptedSource(blob)
        var place = source.place
        let read = place.read
        place.stream = { (range, priority, fresh, _, take) throws(BlobError) in
            let bytes = try await read(range, priority, fresh)
            let (first, gate) = self.state.withLock { state in
                state.ranges.append(range)
                return (min(state.first, bytes.count), state.gate)
            }
            // In pieces that know nothing of members.
            guard take(bytes.span.extracting(..<(first / 3))), take(bytes.span.extracting(first / 3..<first)) else {
                throw BlobError(.unavailable, "not taken")
            }
            await wait(for: gate)
            guard take(bytes.span.extracting(first...)) else { throw BlobError(.unavailable, "not taken") }
        }
        return place
    }
}

@Suite struct WideningTests {
    private let layer = TestLayer(
        (0..<60).map { .init(name: "f\($0)", content: noise(3000 + $0 * 10, seed: UInt64($0))) }
    )

    @Test func aReadIsAnsweredWhenItsOwnMemberIsThere() async throws {
        let bench = try Bench(limits: FetchLimits())
        let source = TricklingSource(layer.blob, first: 5000)
        let opened = try await bench.blobIO.open(layer.descriptor(), at: source.place)
        // Its own member has come; the request goes on.
        #expect(try await bench.read(opened, "f0") == layer.files[0].content)
        #expect(bench.blobIO.statistics.flightsNow > 0)
        let other = try bench.begin(opened, "f1")
        #expect(other.isParked)
        #expect(source.ranges.count == 1)
        source.release()
        #expect(try await bench.finish(bench.blobIO, other) == layer.files[1].content)
        #expect(source.ranges.count == 1)
    }

    @Test func smallFilesComeTogetherAndOnce() async throws {
        let bench = try Bench(limits: FetchLimits())
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        for file in layer.files {
            #expect(try await bench.read(opened, file.name) == file.content)
        }
        #expect(await bench.settled())
        #expect(source.requestCount <= 3)
        #expect(source.ranges.reduce(0) { $0 + $1.count } == UInt64(layer.tocOffset))
        let statistics = bench.blobIO.statistics
        #expect(statistics.flights == 60)
        #expect(statistics.bytesFetched == UInt64(layer.tocOffset))
        #expect(statistics.demandRequests >= 1)
        // All but the first file were fetched before anybody asked, and read.
        #expect(statistics.bytesAheadRead == statistics.bytesWidened + statistics.bytesAhead)
        #expect(statistics.bytesAheadRead > UInt64(layer.tocOffset) * 9 / 10)
        #expect(opened.bytesAhead.load(ordering: .relaxed) == 0)
        #expect(bench.blobIO.aheadBudget.used == 0)
    }

    @Test func testSuitesComeAlongOnlyWhereSomeOfThemAreRead() async throws {
        let layer = TestLayer(
            (0..<20).map {
                .init(name: "p\($0 / 2)/\($0 % 2 == 0 ? "" : "tests/")f", content: noise(3000, seed: UInt64($0)))
            }
        )
        let bench = try Bench(limits: FetchLimits())
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        #expect(try await bench.read(opened, "p0/f") == layer.files[0].content)
        #expect(bench.blobIO.statistics.flights == 10)
        #expect(try await bench.read(opened, "p7/tests/f") == layer.files[15].content)
        #expect(try await bench.read(opened, "p5/tests/f") == layer.files[11].content)
        #expect(bench.blobIO.statistics.flights == 12)
        #expect(try await bench.read(opened, "p0/tests/f") == layer.files[1].content)
        #expect(bench.blobIO.statistics.flights == 20)
        for file in layer.files { #expect(try await bench.read(opened, file.name) == file.content) }
        #expect(bench.blobIO.statistics.flights == 20)
    }

    /// A directory with `__pycache__` has sources that the interpreter does not read; one without has none.
    @Test func compiledSourcesComeAlongOnlyWhereSomeOfThemAreRead() async throws {
        let names = (0..<5).flatMap {
            ["p\($0)/__pycache__/m.pyc", "p\($0)/m.py", "p\($0)/m.pyi", "q\($0)/m.py", "q\($0)/py"]
        }
        let layer = TestLayer(
            names.enumerated().map { .init(name: $1, content: noise(3000, seed: UInt64($0))) }
        )
        let bench = try Bench(limits: FetchLimits())
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        #expect(try await bench.read(opened, names[0]) == layer.files[0].content)
        #expect(bench.blobIO.statistics.flights == 15)
        for number in [16, 12] {
            #expect(try await bench.read(opened, names[number]) == layer.files[number].content)
        }
        #expect(bench.blobIO.statistics.flights == 17)
        // The third says that somebody reads sources.
        #expect(try await bench.read(opened, names[1]) == layer.files[1].content)
        #expect(try await bench.read(opened, names[2]) == layer.files[2].content)
        #expect(bench.blobIO.statistics.flights == 25)
        for (number, name) in names.enumerated() {
            #expect(try await bench.read(opened, name) == layer.files[number].content)
        }
        #expect(bench.blobIO.statistics.flights == 25)
    }

    @Test func whatIsThereIsNotFetchedAgain() async throws {
        let narrow = try Bench()
        let bench = try Bench(indexDirectory: narrow.indexDirectory, limits: FetchLimits())
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        // The last files come first; then all of the others in one go, up to them.
        #expect(try await bench.read(opened, "f59") == layer.files[59].content)
        #expect(await bench.settled())
        source.forgetRequests()
        for file in layer.files { #expect(try await bench.read(opened, file.name) == file.content) }
        let end = layer.memberOffsets[59]
        #expect(source.ranges.allSatisfy { $0.end <= UInt64(end) })
    }

    @Test func aDamagedNeighbourDoesNotHarmTheReader() async throws {
        let bench = try Bench(limits: FetchLimits())
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.failAlways(.flips(layer.memberOffsets[3] + 100))
        #expect(try await bench.read(opened, "f0") == layer.files[0].content)
        #expect(await bench.settled())
        #expect(try await bench.read(opened, "f4") == layer.files[4].content)
        let error = await #expect(throws: BlobError.self) { try await bench.read(opened, "f3") }
        #expect(error?.kind == .corrupt)
        source.failAlways(nil)
        #expect(try await bench.read(opened, "f3") == layer.files[3].content)
    }

    @Test func aFailedRequestFailsWhoeverWaitsAndNobodyElse() async throws {
        let bench = try Bench(limits: FetchLimits())
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.script(.fails(.unavailable))
        await #expect(throws: BlobError.self) { try await bench.read(opened, "f0") }
        #expect(await bench.settled())
        #expect(bench.blobIO.aheadBudget.used == 0)
        for file in layer.files { #expect(try await bench.read(opened, file.name) == file.content) }
    }

    @Test func aStoreThatKeepsNothingStillServes() async throws {
        let bench = try Bench(cacheBytes: 0, limits: FetchLimits())
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        for file in layer.files { #expect(try await bench.read(opened, file.name) == file.content) }
        #expect(await bench.settled())
    }

    /// Regression: a request held all its flights until its end, and with them what the first ones had inflated to.
    @Test func aRequestDoesNotHoldTheFlightsThatItHandedOver() async throws {
        let bench = try Bench()
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        weak var first: Flight?
        let span: SpanAssembler
        do {
            let flights = [0, 100].map { Flight(opened, ByteRange(offset: $0, count: 100), ahead: nil) }
            first = flights[0]
            span = SpanAssembler(ByteRange(offset: 0, count: 200), flights) { _, _ in }
        }
        #expect(first != nil)
        let isTaken = span.take(SharedBytes([UInt8](repeating: 0, count: 150)).span)
        #expect(isTaken)
        #expect(first == nil)
        #expect(span.unfinished.map(\.range.offset) == [100])
    }

    @Test func bytesAreCutIntoMembersWhereverTheyAreSplit() async throws {
        let bench = try Bench()
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<50 {
            let range = ByteRange(offset: 10, count: 5000)
            var flights: [Flight] = []
            var offset: UInt64 = 10
            while offset < 4500 {
                offset += UInt64.random(in: 0...200, using: &generator)
                let count = UInt64.random(in: 1...400, using: &generator)
                guard offset + count <= range.end else { break }
                flights.append(Flight(opened, ByteRange(offset: offset, count: count), ahead: nil))
                offset += count
            }
            let arrived = Mutex<[(UInt64, [UInt8])]>([])
            let span = SpanAssembler(range, flights) { flight, bytes in
                arrived.withLock { $0.append((flight.range.offset, bytes.array)) }
            }
            while span.rest.count > 0 {
                let count = min(span.rest.count, UInt64.random(in: 1...900, using: &generator))
                let piece = SharedBytes(Array(layer.blob[Int(span.rest.offset)..<Int(span.rest.offset + count)]))
                let isTaken = span.take(piece.span)
                #expect(isTaken, "seed \(seed)")
            }
            let isTooMuchTaken = span.take(SharedBytes([1]).span)
            #expect(!isTooMuchTaken)
            #expect(span.unfinished.isEmpty)
            let expected = flights.map { flight in
                Array(layer.blob[Int(flight.range.offset)..<Int(flight.range.end)])
            }
            #expect(arrived.withLock { $0.map(\.0) } == flights.map(\.range.offset), "seed \(seed)")
            #expect(arrived.withLock { $0.map(\.1) } == expected, "seed \(seed)")
        }
    }
}
