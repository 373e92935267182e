import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

/// A layer, a link and readers without any of the real ones: time is a number. What is decided comes from `FetchPlanner`
/// and `ReadAhead`, in the order of `BlobIO.demand` and `BlobIO.touch`.
private struct Simulation {
    struct Request {
        var range: ByteRange
        var isDemand: Bool
    }

    let list: MemberList
    let link: LinkEstimate
    let limits: FetchLimits
    private var readAhead: ReadAhead
    /// When each member that was asked for is there, in seconds.
    private var arrival: [Double?]
    private var isMarked: [Bool]
    /// Which members are companions, and how many of each kind were read.
    private let companions: [Companion?]
    private var companionsRead: [Companion: Int] = [:]
    private(set) var misses = 0
    private(set) var requests: [Request] = []
    private(set) var fetchedTwice = 0
    /// Bytes that one miss brought in all, at most.
    private(set) var mostForOneMiss: UInt64 = 0
    private var linkIsFree = 0.0
    var now = 0.0

    init(
        _ list: MemberList,
        _ link: LinkEstimate,
        _ limits: FetchLimits = FetchLimits(),
        companions: [Companion?] = []
    ) {
        self.companions = companions.isEmpty ? Array(repeating: nil, count: list.positionCount) : companions
        self.list = list
        self.link = link
        self.limits = limits
        readAhead = ReadAhead(end: list.end, limits: limits)
        arrival = Array(repeating: nil, count: list.positionCount)
        isMarked = Array(repeating: false, count: list.positionCount)
    }

    var bytesRequested: UInt64 { requests.reduce(0) { $0 + $1.range.count } }
    var memberBytes: UInt64 { list.ranges.reduce(0) { $0 + $1.count } }
    /// One request for everything.
    var download: Double { roundTrip + Double(memberBytes) / Double(link.bytesPerSecond) }
    private var roundTrip: Double { Double(link.roundTrip) / 1e9 }

    /// Makes members present, as an earlier mount would.
    mutating func keep(_ positions: [Int]) {
        for position in positions { arrival[position] = 0 }
    }

    /// Reads a member; a reader that `waits` goes on when it is there.
    mutating func read(_ position: Int) {
        if let kind = companions[position] { companionsRead[kind, default: 0] += 1 }
        if arrival[position] == nil { miss(position) }
        if isMarked[position] {
            isMarked[position] = false
            if let order = readAhead.touched(list.ranges[position], isThere: true) {
                let ahead = runAhead(order.start, order.bytes)
                readAhead.extended(order.stream, to: ahead.end, bytes: ahead.bytes)
            }
        }
        now = max(now, arrival[position] ?? .infinity)
    }

    private var inFlight: UInt64 {
        var bytes: UInt64 = 0
        for position in arrival.indices {
            if let time = arrival[position], time > now { bytes += list.ranges[position].count }
        }
        return bytes
    }

    private mutating func miss(_ position: Int) {
        let before = bytesRequested
        misses += 1
        let range = list.ranges[position]
        var items = [FetchPlanner.Item(range: range, position: position, reason: .demand)]
        if let order = readAhead.missed(range, link) {
            let isAbsent = isAbsent
            let found = FetchPlanner.following(
                list,
                from: order.start,
                bytes: order.near,
                largestFirst: 0,
                bridge: FetchPlanner.bridge(link),
                reason: .near,
                isAbsent: isAbsent
            )
            items =
                FetchPlanner.preceding(list, before: range.offset, bytes: order.near / 4, isAbsent: isAbsent)
                + items + found.items
            let widened = items.reduce(0) { $0 + $1.range.count } - range.count
            send(items)
            let ahead = runAhead(found.end, order.bytes - order.near)
            readAhead.extended(order.stream, to: ahead.end, bytes: ahead.bytes + widened)
        } else {
            send(items)
        }
        mostForOneMiss = max(mostForOneMiss, bytesRequested - before)
    }

    /// As `BlobIO.claim` and `Layer.reads` have it.
    private var isAbsent: (_ position: Int, _ member: ByteRange) -> Bool {
        let (present, companions, counts) = (arrival, companions, companionsRead)
        return { position, _ in
            present[position] == nil && companions[position].map { counts[$0, default: 0] >= 3 } != false
        }
    }

    private mutating func runAhead(_ start: UInt64, _ bytes: UInt64) -> (end: UInt64, bytes: UInt64) {
        var end = start
        var total: UInt64 = 0
        while total < bytes {
            let room = limits.mostInFlight - min(limits.mostInFlight, inFlight)
            guard let step = FetchPlanner.streamStep(wanted: bytes, sent: total, room: room, limits) else { break }
            let found = FetchPlanner.following(
                list,
                from: end,
                bytes: step,
                largestFirst: FetchPlanner.largestFirst(step: step, sent: total, room: room, limits),
                bridge: nil,
                reason: .ahead,
                isAbsent: isAbsent
            )
            send(found.items)
            total += found.bytes
            if found.end == end { break }
            end = found.end
        }
        return (end, total)
    }

    /// The link carries one request after the other, each a round trip after it was sent at the soonest.
    private mutating func send(_ items: [FetchPlanner.Item]) {
        let spans = FetchPlanner.spans(
            items,
            bridge: FetchPlanner.bridge(link),
            streamSpan: limits.mostWidening,
            mostNear: limits.mostWidening
        )
        for span in spans {
            requests.append(Request(range: span.range, isDemand: span.isDemand))
            let start = max(now + roundTrip, linkIsFree)
            linkIsFree = start + Double(span.range.count) / Double(link.bytesPerSecond)
            for item in items[span.items] {
                if arrival[item.position] != nil { fetchedTwice += 1 }
                isMarked[item.position] = item.reason != .demand
                let behind = Double(item.range.end - span.range.offset)
                arrival[item.position] = start + behind / Double(link.bytesPerSecond)
            }
        }
    }
}

@Suite struct PlannerSimulationTests {
    /// 15 ms, 1 Gbit/s.
    private let link = LinkEstimate(roundTrip: 15_000_000, bytesPerSecond: 125_000_000)

    private func smallFiles(_ count: Int, _ generator: inout SeededGenerator) -> MemberList {
        MemberList((0..<count).map { _ in UInt64.random(in: 200...24_000, using: &generator) })
    }

    private func seeded(_ name: String = #function) -> (UInt64, SeededGenerator) {
        let seed = UInt64.random(in: 0 ... .max)
        print("\(name): seed \(seed)")
        return (seed, SeededGenerator(seed: seed))
    }

    @Test func readingAllSmallFilesIsOneDownload() {
        var (seed, generator) = seeded()
        let list = smallFiles(8000, &generator)
        var simulation = Simulation(list, link)
        for position in list.ranges.indices { simulation.read(position) }
        #expect(simulation.now <= 1.3 * simulation.download, "seed \(seed)")
        #expect(simulation.bytesRequested == simulation.memberBytes, "seed \(seed)")
        #expect(simulation.fetchedTwice == 0, "seed \(seed)")
        #expect(simulation.requests.count <= 100, "seed \(seed)")
    }

    /// Directories in the blob as `tar` writes them, read as `find` walks: each directory's files come in pieces, between
    /// its sub-directories.
    @Test func treeOrderIsNotFarFromOneDownload() {
        var (seed, generator) = seeded()
        let list = smallFiles(8000, &generator)
        var order: [Int] = []
        var start = 0
        while start < list.positionCount {
            let end = min(list.positionCount, start + Int.random(in: 10...400, using: &generator))
            // The files of the directory itself stand before those of its sub-directories.
            let own = Array(start..<start + (end - start) / 3)
            let below = Array(start + (end - start) / 3..<end)
            let cut = Int.random(in: 0...own.count, using: &generator)
            order += own[..<cut] + below + own[cut...]
            start = end
        }
        var simulation = Simulation(list, link)
        for position in order { simulation.read(position) }
        #expect(simulation.now <= 1.5 * simulation.download, "seed \(seed)")
        #expect(simulation.fetchedTwice == 0, "seed \(seed)")
    }

    @Test func readingEverythingInAnyOrderIsNoCatastrophe() {
        var (seed, generator) = seeded()
        let list = smallFiles(8000, &generator)
        var simulation = Simulation(list, link)
        for position in list.ranges.indices.shuffled(using: &generator) { simulation.read(position) }
        // Four times the download of what is left is spent before it shows; then the rest comes.
        #expect(simulation.now <= 4 * simulation.download, "seed \(seed)")
        #expect(simulation.fetchedTwice == 0, "seed \(seed)")
    }

    @Test func aLargeFileIsOneDownload() {
        let list = MemberList([UInt64](repeating: 1_500_000, count: 64))
        var simulation = Simulation(list, link)
        for position in list.ranges.indices { simulation.read(position) }
        #expect(simulation.now <= 1.3 * simulation.download)
        #expect(simulation.bytesRequested == simulation.memberBytes)
    }

    /// Regression: a chunk of 4 MiB that does not get smaller is a member of some bytes more, and was never fetched ahead of
    /// its reader, who waited a round trip for each.
    @Test func aFileOfTheLargestUsualChunksIsOneDownload() {
        let list = MemberList([UInt64](repeating: (4 << 20) + 368, count: 64))
        var simulation = Simulation(list, link, .besideDisk(memory: 64 << 20))
        for position in list.ranges.indices { simulation.read(position) }
        #expect(simulation.now <= 1.3 * simulation.download)
        #expect(simulation.bytesRequested == simulation.memberBytes)
    }

    /// A request costs a server the same whatever it asks for.
    @Test func whoReadsEverythingIsFetchedAheadOfInLargeRequests() {
        var (seed, generator) = seeded()
        let list = smallFiles(8000, &generator)
        var simulation = Simulation(list, link, .besideDisk(memory: 64 << 20))
        for position in list.ranges.indices { simulation.read(position) }
        let ahead = simulation.requests.filter { !$0.isDemand }.map(\.range.count)
        let proven = ahead.drop { $0 < FetchPlanner.streamSpan * 9 / 10 }.dropLast()
        #expect(proven.count > 10, "seed \(seed)")
        // One or two are smaller while the window grows.
        #expect(proven.count { $0 < FetchPlanner.streamSpan * 9 / 10 } <= 2, "seed \(seed): \(ahead)")
    }

    @Test func singleReadsCostNoMoreThanTheirWidening() {
        var (seed, generator) = seeded()
        for _ in 0..<20 {
            let list = smallFiles(8000, &generator)
            var simulation = Simulation(list, link)
            for _ in 0..<4 {
                simulation.read(Int.random(in: 0..<list.positionCount, using: &generator))
                simulation.now += 1
            }
            let bound = FetchPlanner.roundTripWorth(link)
            #expect(simulation.mostForOneMiss <= bound + bound / 4 + 24_000, "seed \(seed)")
        }
    }

    /// Whatever is there already: each member is asked for once, and a request takes along what nobody needs only in holes
    /// that are cheaper than a request.
    @Test func aPartlyFilledStoreIsNotFetchedAgain() {
        var (seed, generator) = seeded()
        for _ in 0..<20 {
            let list = smallFiles(3000, &generator)
            var simulation = Simulation(list, link)
            var present: [Int] = []
            while (present.last ?? 0) < 2900 {
                let start = (present.last ?? 0) + Int.random(in: 1...60, using: &generator)
                present += start..<start + Int.random(in: 1...40, using: &generator)
            }
            present.removeAll { $0 >= list.positionCount }
            simulation.keep(present)
            let isPresent = Set(present)
            for position in list.ranges.indices where position % 3 != 0 { simulation.read(position) }
            #expect(simulation.fetchedTwice == 0, "seed \(seed)")
            for request in simulation.requests {
                var hole: UInt64 = 0
                var position = list.position(atOrAfter: request.range.offset)
                #expect(!isPresent.contains(position), "seed \(seed)")
                while position < list.positionCount, list.ranges[position].offset < request.range.end {
                    hole = isPresent.contains(position) ? hole + list.ranges[position].count : 0
                    #expect(hole <= FetchPlanner.bridge(link), "seed \(seed)")
                    position += 1
                }
                #expect(hole == 0, "seed \(seed)")
            }
        }
    }

    @Test func whatIsOnItsWayIsBounded() {
        let slow = LinkEstimate(roundTrip: 200_000_000, bytesPerSecond: 1_000_000_000)
        let list = MemberList([UInt64](repeating: 10_000, count: 20_000))
        var simulation = Simulation(list, slow)
        for position in list.ranges.indices { simulation.read(position) }
        #expect(simulation.bytesRequested == simulation.memberBytes)
        #expect(simulation.fetchedTwice == 0)
        #expect(simulation.requests.allSatisfy { $0.range.count <= 12 << 20 })
    }

    @Test func withoutLimitsForItNothingIsFetchedAhead() {
        let list = MemberList([100, 100, 100])
        var simulation = Simulation(list, link, .nothingAhead)
        simulation.read(1)
        #expect(simulation.bytesRequested == 100)
        #expect(simulation.requests.count == 1)
        #expect(simulation.requests.allSatisfy { $0.isDemand })
    }
}

/// The reads of a real job: `python3 -c 'import numpy, scipy.stats, pandas'` on the image of the comparison (Benchmarks).
private struct RecordedJob {
    struct Layer {
        var list: MemberList
        var companions: [Companion?]
    }

    var layers: [Layer] = []
    var reads: [(layer: Int, position: Int)] = []

    /// Tests/Corpus/python-job.bin: LEB128 numbers. The number of layers; for each the number of members, and for each of these
    /// four times its size, and 1 more where it belongs to a test suite, 2 where it is a compiled source; then the number of
    /// reads, and for each the layer and the member.
    init() throws {
        let file = try readFile("\(Corpus.directory)/python-job.bin", limit: 1 << 20)
        let bytes = unsafe file.span.withUnsafeBytes { unsafe [UInt8]($0) }
        var position = 0
        func next() throws -> Int {
            var value = 0
            var shift = 0
            while true {
                let byte = try #require(position < bytes.count ? bytes[position] : nil)
                position += 1
                value |= Int(byte & 0x7f) << shift
                shift += 7
                if byte < 0x80 { return value }
            }
        }
        for _ in 0..<(try next()) {
            let members = try (0..<(try next())).map { _ in try next() }
            let kinds: [Companion?] = [nil, .test, .source]
            layers.append(
                Layer(
                    list: MemberList(members.map { UInt64($0 / 4) }),
                    companions: members.map { kinds[$0 % 4] }
                )
            )
        }
        reads = try (0..<(try next())).map { _ in (try next(), try next()) }
    }

    /// What becomes of the reads over a link.
    func replay(_ link: LinkEstimate) -> (misses: Int, requests: Int, bytes: UInt64) {
        let limits = FetchLimits.besideDisk(memory: 64 << 20)
        var simulations = layers.map { Simulation($0.list, link, limits, companions: $0.companions) }
        var now = 0.0
        for (layer, position) in reads {
            simulations[layer].now = now
            simulations[layer].read(position)
            now = simulations[layer].now
        }
        return (
            simulations.reduce(0) { $0 + $1.misses }, simulations.reduce(0) { $0 + $1.requests.count },
            simulations.reduce(0) { $0 + $1.bytesRequested }
        )
    }
}

@Suite struct RecordedJobTests {
    /// 62.8 MB of members are read. What is fetched beside them costs the processor, what is not costs round trips.
    @Test(arguments: [(8, 60, 135, 87), (23, 50, 105, 90), (58, 50, 105, 96)])
    func aRealJobIsFetchedInFewRequestsAndNotMuchMoreThanItReads(
        roundTrip: Int,
        misses: Int,
        requests: Int,
        megabytes: UInt64
    ) throws {
        let job = try RecordedJob()
        #expect(job.reads.count == 1121)
        let result = job.replay(
            LinkEstimate(roundTrip: UInt64(roundTrip) * 1_000_000, bytesPerSecond: 200_000_000)
        )
        print("round trip \(roundTrip) ms: \(result)")
        #expect(result.misses <= misses)
        #expect(result.requests <= requests)
        #expect(result.bytes <= megabytes * 1_000_000)
    }
}
