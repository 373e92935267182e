import OCIModel
import OCIRegistry
import TestSupport
import Testing

@testable import BlobIO

/// Several layers on one server, many readers, failures: a simulated clock and network, in the order of `BlobIO.start`,
/// `BlobIO.demand` and `BlobIO.touch`, with the bounds of `HostQueue` left out (each request is sent at once). The link is
/// one pipe: a request's bytes stand behind those of all that were sent before.
private struct Fleet {
    /// A reader works through its steps one after the other, and tries again what failed.
    struct Reader {
        var steps: [(layer: Int, position: Int)]
        var next = 0
        var wakes = 0.0
    }

    private enum Member {
        case absent, present
        case flying(until: Double, fails: Bool, isAhead: Bool)
    }

    private struct LayerState {
        let list: MemberList
        var readAhead: ReadAhead
        var members: [Member]
        var isMarked: [Bool]
        var bytesAhead: UInt64 = 0
    }

    let link: LinkEstimate
    let limits: FetchLimits
    private var layers: [LayerState]
    private var generator: SeededGenerator
    private let failureShare: Double
    private var linkIsFree = 0.0
    private(set) var now = 0.0
    private var bytesAhead: UInt64 = 0
    private(set) var mostAhead: UInt64 = 0
    private(set) var demanded: UInt64 = 0
    private(set) var bytes: UInt64 = 0
    private(set) var requests = 0
    private(set) var failures = 0
    private(set) var askedTwice = 0
    /// By how much a reader waited longer than it may at most.
    private(set) var worstExcess = -Double.infinity
    /// What is on its way for readers, as of the time that it was sent.
    private var demandOnLink: [(until: Double, bytes: UInt64)] = []

    init(_ lists: [MemberList], _ link: LinkEstimate, _ limits: FetchLimits, seed: UInt64, failureShare: Double) {
        self.link = link
        self.limits = limits
        self.failureShare = failureShare
        generator = SeededGenerator(seed: seed)
        layers = lists.map { list in
            LayerState(
                list: list,
                readAhead: ReadAhead(end: list.end, limits: limits),
                members: Array(repeating: .absent, count: list.positionCount),
                isMarked: Array(repeating: false, count: list.positionCount)
            )
        }
    }

    /// Memory: what nobody waits for is bounded. A miss takes something along from before it, and its least widening
    /// however much is on its way; so some of that may come on top.
    static func mostAhead(_ limits: FetchLimits) -> UInt64 {
        limits.mostInFlight + limits.mostWidening / 4 + 16 * (limits.leastWidening + limits.leastWidening / 4)
    }

    private var roundTrip: Double { Double(link.roundTrip) / 1e9 }
    var flying: Int {
        layers.reduce(0) { sum, layer in
            sum
                + layer.members.count {
                    if case .flying = $0 { true } else { false }
                }
        }
    }
    var aheadNow: UInt64 { bytesAhead }

    /// Runs all readers to their ends; false when that takes more turns than it may.
    mutating func run(_ readers: [Reader]) -> Bool {
        var readers = readers
        for _ in 0..<2_000_000 {
            guard
                let index = readers.indices.filter({ readers[$0].next < readers[$0].steps.count }).min(by: {
                    readers[$0].wakes < readers[$1].wakes
                })
            else {
                now = .infinity
                land()
                return true
            }
            now = max(now, readers[index].wakes)
            land()
            let step = readers[index].steps[readers[index].next]
            let wait = read(step.layer, step.position)
            readers[index].wakes = wait.until
            if wait.isThere { readers[index].next += 1 }
        }
        return false
    }

    /// Takes in what has arrived by now.
    private mutating func land() {
        for layer in layers.indices {
            for position in layers[layer].members.indices {
                guard case .flying(let until, let fails, let isAhead) = layers[layer].members[position], until <= now
                else { continue }
                layers[layer].members[position] = fails ? .absent : .present
                if isAhead {
                    let count = layers[layer].list.ranges[position].count
                    bytesAhead -= count
                    layers[layer].bytesAhead -= count
                }
            }
        }
        demandOnLink.removeAll { $0.until <= now }
    }

    private mutating func read(_ layer: Int, _ position: Int) -> (until: Double, isThere: Bool) {
        let wasMarked = layers[layer].isMarked[position]
        if case .absent = layers[layer].members[position] { miss(layer, position) }
        if wasMarked, layers[layer].isMarked[position] {
            layers[layer].isMarked[position] = false
            let range = layers[layer].list.ranges[position]
            if let order = layers[layer].readAhead.touched(range, isThere: true) {
                let ahead = runAhead(layer, order.start, order.bytes)
                layers[layer].readAhead.extended(order.stream, to: ahead.end, bytes: ahead.bytes)
            }
        }
        guard case .flying(let until, let fails, _) = layers[layer].members[position] else { return (now, true) }
        // What it may wait for: a round trip, all that was sent for readers, and what may be ahead of it.
        let before = demandOnLink.reduce(0) { $0 + $1.bytes } + Fleet.mostAhead(limits)
        let bound = roundTrip + Double(before) / Double(link.bytesPerSecond)
        worstExcess = max(worstExcess, until - now - bound)
        return (until, !fails)
    }

    private mutating func miss(_ layer: Int, _ position: Int) {
        let range = layers[layer].list.ranges[position]
        let item = FetchPlanner.Item(range: range, position: position, reason: .demand)
        demanded += range.count
        guard let order = layers[layer].readAhead.missed(range, link) else { return send(layer, [item]) }
        let near = min(order.near, max(room(layer), limits.leastWidening))
        let members = layers[layer].members
        let isAbsent = { (position: Int, _: ByteRange) -> Bool in
            if case .absent = members[position] { true } else { false }
        }
        let list = layers[layer].list
        let before = FetchPlanner.preceding(list, before: range.offset, bytes: near / 4, isAbsent: isAbsent)
        let found = FetchPlanner.following(
            list,
            from: order.start,
            bytes: near,
            largestFirst: 0,
            bridge: FetchPlanner.bridge(link),
            reason: .near,
            isAbsent: isAbsent
        )
        send(layer, before + [item] + found.items)
        let widened = (before + found.items).reduce(0) { $0 + $1.range.count }
        let ahead = runAhead(layer, found.end, order.bytes - min(order.bytes, order.near))
        layers[layer].readAhead.extended(order.stream, to: ahead.end, bytes: widened + ahead.bytes)
    }

    private func room(_ layer: Int) -> UInt64 {
        let share = limits.mostInFlight * 3 / 4
        return min(
            limits.mostInFlight - min(limits.mostInFlight, bytesAhead),
            share - min(share, layers[layer].bytesAhead)
        )
    }

    private mutating func runAhead(_ layer: Int, _ start: UInt64, _ bytes: UInt64) -> (end: UInt64, bytes: UInt64) {
        var end = start
        var total: UInt64 = 0
        while total < bytes {
            let room = room(layer)
            guard let step = FetchPlanner.streamStep(wanted: bytes, sent: total, room: room, limits) else { break }
            let members = layers[layer].members
            let found = FetchPlanner.following(
                layers[layer].list,
                from: end,
                bytes: step,
                largestFirst: FetchPlanner.largestFirst(step: step, sent: total, room: room, limits),
                bridge: nil,
                reason: .ahead
            ) { position, _ in
                if case .absent = members[position] { true } else { false }
            }
            send(layer, found.items)
            total += found.bytes
            if found.end == end { break }
            end = found.end
        }
        return (end, total)
    }

    private mutating func send(_ layer: Int, _ items: [FetchPlanner.Item]) {
        let spans = FetchPlanner.spans(
            items,
            bridge: FetchPlanner.bridge(link),
            streamSpan: limits.mostWidening,
            mostNear: limits.mostWidening
        )
        for span in spans {
            requests += 1
            bytes += span.range.count
            // Few requests can all be lucky; where some are to fail, the first one does.
            let isFirst = requests == 1 && failureShare > 0
            let fails = Double.random(in: 0..<1, using: &generator) < failureShare || isFirst
            failures += fails ? 1 : 0
            let start = max(now + roundTrip, linkIsFree)
            linkIsFree = start + Double(span.range.count) / Double(link.bytesPerSecond)
            if span.isDemand { demandOnLink.append((linkIsFree, span.range.count)) }
            for item in items[span.items] {
                if case .absent = layers[layer].members[item.position] {} else { askedTwice += 1 }
                let isAhead = item.reason != .demand
                let behind = Double(item.range.end - span.range.offset) / Double(link.bytesPerSecond)
                layers[layer].members[item.position] = .flying(until: start + behind, fails: fails, isAhead: isAhead)
                layers[layer].isMarked[item.position] = isAhead
                guard isAhead else { continue }
                bytesAhead += item.range.count
                layers[layer].bytesAhead += item.range.count
                mostAhead = max(mostAhead, bytesAhead)
            }
        }
    }
}

@Suite struct FleetSimulationTests {
    private static let links = [
        LinkEstimate(roundTrip: 1_000_000, bytesPerSecond: 1_000_000_000),
        LinkEstimate(roundTrip: 15_000_000, bytesPerSecond: 125_000_000),
        LinkEstimate(roundTrip: 50_000_000, bytesPerSecond: 25_000_000),
    ]

    private func lists(_ generator: inout SeededGenerator) -> [MemberList] {
        (0..<5).map { _ in
            MemberList(
                (0..<Int.random(in: 50...200, using: &generator)).map { _ in
                    Int.random(in: 0..<20, using: &generator) == 0
                        ? UInt64.random(in: 200_000...1_500_000, using: &generator)
                        : UInt64.random(in: 200...30_000, using: &generator)
                }
            )
        }
    }

    /// Some walk, some jump, each through layers of its own choice.
    private func readers(_ lists: [MemberList], _ generator: inout SeededGenerator) -> [Fleet.Reader] {
        (0..<8).map { number in
            var steps: [(layer: Int, position: Int)] = []
            for _ in 0..<3 {
                let layer = Int.random(in: lists.indices, using: &generator)
                let count = lists[layer].positionCount
                if number % 2 == 0 {
                    let start = Int.random(in: 0..<count, using: &generator)
                    steps += (start..<min(count, start + 120)).map { (layer, $0) }
                } else {
                    steps += (0..<40).map { _ in (layer, Int.random(in: 0..<count, using: &generator)) }
                }
            }
            return Fleet.Reader(steps: steps)
        }
    }

    @Test(arguments: [0, 0.1])
    func manyReadersOfManyLayersKeepToAllBounds(_ failureShare: Double) {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for round in 0..<6 {
            let limits = round % 2 == 0 ? FetchLimits() : .store(of: 64 << 20)
            let lists = lists(&generator)
            let link = FleetSimulationTests.links[round % 3]
            let readers = readers(lists, &generator)
            var fleet = Fleet(lists, link, limits, seed: seed &+ UInt64(round), failureShare: failureShare)
            let isFinished = fleet.run(readers)
            #expect(isFinished, "round \(round), seed \(seed): does not end")
            // One flight a member, however many wait; nothing is left, and the budget is given back.
            #expect(fleet.askedTwice == 0, "round \(round), seed \(seed)")
            #expect(fleet.flying == 0, "round \(round), seed \(seed)")
            #expect(fleet.aheadNow == 0, "round \(round), seed \(seed)")
            #expect(fleet.mostAhead <= Fleet.mostAhead(limits), "round \(round), seed \(seed): \(fleet.mostAhead)")
            // A reader waits for a round trip, for other readers, and for no more than what may be ahead.
            #expect(fleet.worstExcess <= 0.01, "round \(round), seed \(seed): \(fleet.worstExcess)")
            let all = lists.reduce(0) { $0 + $1.ranges.reduce(0) { $0 + $1.count } }
            if failureShare == 0 {
                let holes = UInt64(fleet.requests) * FetchPlanner.bridge(link)
                #expect(fleet.bytes <= all + holes, "round \(round), seed \(seed)")
            } else {
                #expect(fleet.failures > 0)
            }
        }
    }

    /// However much one layer is read ahead, the first miss of another one waits for no more than the bound.
    @Test func aStreamOfOneLayerLeavesRoomForTheOthers() {
        let link = FleetSimulationTests.links[1]
        let limits = FetchLimits()
        let long = MemberList([UInt64](repeating: 100_000, count: 1000))
        let short = MemberList([UInt64](repeating: 5_000, count: 100))
        var fleet = Fleet([long, short], link, limits, seed: 1, failureShare: 0)
        let finished = fleet.run([
            Fleet.Reader(steps: (0..<1000).map { (0, $0) }),
            Fleet.Reader(steps: [(1, 50)], wakes: 0.3),
        ])
        #expect(finished)
        #expect(fleet.mostAhead <= Fleet.mostAhead(limits))
        #expect(fleet.worstExcess <= 0)
    }
}
