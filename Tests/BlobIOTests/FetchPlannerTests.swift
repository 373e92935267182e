import OCIModel
import OCIRegistry
import Testing

@testable import BlobIO

/// Members one behind the other; each holds one chunk.
struct MemberList: MemberMap {
    var ranges: [ByteRange]

    init(_ sizes: [UInt64], from start: UInt64 = 1000) {
        var offset = start
        ranges = sizes.map { size in
            defer { offset += size }
            return ByteRange(offset: offset, count: size)
        }
    }

    var positionCount: Int { ranges.count }
    func member(at position: Int) -> ByteRange { ranges[position] }

    func position(atOrAfter offset: UInt64) -> Int {
        var low = 0
        var high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].offset < offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    var end: UInt64 { ranges.last?.end ?? 0 }
}

@Suite struct FetchPlannerTests {
    private func following(
        _ list: MemberList,
        from position: Int,
        bytes: UInt64,
        largestFirst: UInt64 = 0,
        bridge: UInt64? = nil,
        present: Set<Int> = []
    ) -> FetchPlanner.Found {
        FetchPlanner.following(
            list,
            from: list.ranges[position].offset,
            bytes: bytes,
            largestFirst: largestFirst,
            bridge: bridge,
            reason: .near
        ) { position, _ in !present.contains(position) }
    }

    @Test func aWalkTakesAbsentMembersUpToItsBytes() {
        let list = MemberList([UInt64](repeating: 300, count: 20))
        let found = following(list, from: 5, bytes: 1000, present: [6])
        #expect(found.items.map(\.position) == [5, 7, 8])
        #expect(found.bytes == 900)
        #expect(found.end == list.ranges[8].end)
        #expect(following(list, from: 18, bytes: 10_000).items.map(\.position) == [18, 19])
    }

    @Test func aWalkEndsAtAHoleThatIsLargerThanItsBridge() {
        let list = MemberList([100, 100, 100, 100, 100, 100, 100])
        #expect(
            following(list, from: 0, bytes: 1000, bridge: 100, present: [1, 3, 4]).items.map(\.position) == [0, 2]
        )
        #expect(
            following(list, from: 0, bytes: 1000, bridge: 200, present: [1, 3, 4]).items.map(\.position) == [
                0, 2, 5, 6,
            ]
        )
    }

    @Test func aFirstMemberMayBeLargerWhereThatIsAllowed() {
        let list = MemberList([5000, 10])
        #expect(following(list, from: 0, bytes: 100).items.isEmpty)
        #expect(following(list, from: 0, bytes: 100, largestFirst: 5000).items.map(\.position) == [0])
        #expect(following(list, from: 0, bytes: 100, largestFirst: 4999).items.isEmpty)
    }

    @Test func chunksOfOneMemberAndChunksOfZerosAreOneItemAndNone() {
        var list = MemberList([100, 100, 100, 100])
        list.ranges[2] = list.ranges[1]
        list.ranges[3] = ByteRange(offset: list.ranges[1].end, count: 50)
        list.ranges.insert(ByteRange(offset: 0, count: 0), at: 0)
        let found = FetchPlanner.following(
            list,
            from: 0,
            bytes: 1000,
            largestFirst: 0,
            bridge: nil,
            reason: .ahead
        ) { _, _ in true }
        #expect(found.items.map(\.position) == [1, 2, 4])
    }

    @Test func announcedSizesDoNotOverflow() {
        let list = MemberList([10, 10, UInt64.max - 2000])
        #expect(following(list, from: 0, bytes: .max / 2).items.map(\.position) == [0, 1])
    }

    @Test func whatStandsBeforeIsTakenWithoutHoles() {
        let list = MemberList([100, 100, 100, 100, 100])
        func before(_ bytes: UInt64, _ present: Set<Int> = []) -> [Int] {
            FetchPlanner.preceding(list, before: list.ranges[4].offset, bytes: bytes) { position, _ in
                !present.contains(position)
            }.map(\.position)
        }
        #expect(before(250) == [2, 3])
        #expect(before(1000) == [0, 1, 2, 3])
        #expect(before(1000, [2]) == [3])
        #expect(before(99) == [])
    }

    @Test func neighboursShareARequest() {
        func items(_ members: [(Int, Int)], _ reason: FetchPlanner.Reason = .demand) -> [FetchPlanner.Item] {
            members.map {
                FetchPlanner.Item(
                    range: ByteRange(offset: UInt64($0.0), count: UInt64($0.1)),
                    position: 0,
                    reason: reason
                )
            }
        }
        func spans(_ items: [FetchPlanner.Item], bridge: UInt64 = 0) -> [Range<Int>] {
            FetchPlanner.spans(items, bridge: bridge, streamSpan: 1 << 20, mostNear: 1000).map(\.items)
        }
        let members = [(0, 10), (10, 10), (25, 5), (30, 5 << 20), (30 + (5 << 20), 1)]
        #expect(spans(items(members)) == [0..<2, 2..<3, 3..<4, 4..<5])
        #expect(spans(items(members), bridge: 5) == [0..<3, 3..<4, 4..<5])
        #expect(spans([]) == [])
        #expect(spans(items((0..<10).map { ($0 << 20, 1 << 20) })) == [0..<4, 4..<8, 8..<10])
        let mixed = items([(0, 100)], .near) + items([(100, 100)]) + items([(200, 100)], .near)
        let result = FetchPlanner.spans(
            mixed + items([(300, 100), (400, 100)], .ahead),
            bridge: 0,
            streamSpan: 1 << 20,
            mostNear: 1000
        )
        #expect(result.map(\.items) == [0..<3, 3..<5])
        #expect(result.map(\.isDemand) == [true, false])
        #expect(result[0].range == ByteRange(offset: 0, count: 300))
    }

    @Test func wideningFollowsTheLinkWithinItsBounds() {
        func widening(_ milliseconds: UInt64, _ megabytes: UInt64, _ yield: Yield = Yield()) -> UInt64 {
            FetchPlanner.widening(
                LinkEstimate(roundTrip: milliseconds * 1_000_000, bytesPerSecond: megabytes * 1_000_000),
                yield,
                FetchLimits()
            )
        }
        // A round trip's worth, and what a request costs: half of it while little is known.
        #expect(widening(0, 1000) == 256 << 10)
        #expect(widening(4, 100) == (400_000 + (512 << 10)) / 2)
        // Of what is beyond 1 MiB only a third.
        #expect(widening(16, 100) == ((1 << 20) + (1_600_000 + (512 << 10) - (1 << 20)) / 3) / 2)
        #expect(widening(10_000, 10_000) == 8 << 20)
        #expect(widening(.max / 1_000_000, 1) <= 8 << 20)
        var useful = Yield()
        useful.fetch(2 << 20)
        #expect(widening(4, 100, useful) == (400_000 + (512 << 10)) / 4)
        useful.read(2 << 20)
        #expect(widening(4, 100, useful) == 400_000 + (512 << 10))
        #expect(FetchPlanner.widening(.unknown, Yield(), .nothingAhead) == 0)
        #expect(FetchPlanner.roundTripWorth(.unknown) == 256 << 10)
    }

    @Test func whatRunsAheadGoesInWholeRequestsOrWaits() {
        let span = FetchPlanner.streamSpan
        func step(_ wanted: UInt64, sent: UInt64 = 0, room: UInt64, _ limits: FetchLimits = FetchLimits()) -> UInt64? {
            FetchPlanner.streamStep(wanted: wanted, sent: sent, room: room, limits)
        }
        #expect(step(0, room: 100 << 20) == nil)
        #expect(step(100 << 20, room: 100 << 20) == span)
        #expect(step(100 << 20, room: span) == span)
        #expect(step(100 << 20, room: span - 1) == nil)
        #expect(step(1000, room: 1000) == 1000)
        #expect(step(1000, room: 999) == nil)
        // What is left of a large order waits for the next one where it is little.
        #expect(step(2 * span, sent: span, room: 100 << 20) == span)
        #expect(step(span + span / 2, sent: span, room: 100 << 20) == nil)
        #expect(step(span, sent: 2 * span, room: 100 << 20) == nil)
        #expect(step(1000, sent: 900, room: 100 << 20) == 100)
        // Of a store that allows little, half of what a layer may have on its way.
        let small = FetchLimits.store(of: 16 << 20)
        #expect(step(1 << 20, room: 384 << 10, small) == 384 << 10)
        #expect(step(1 << 20, room: 1 << 20, .nothingAhead) == nil)
    }

    @Test func aSmallStoreAllowsLittle() {
        #expect(FetchLimits.store(of: 0) == .nothingAhead)
        #expect(FetchLimits.store(of: 10 << 30) == FetchLimits())
        #expect(FetchLimits.store(of: 64 << 20).mostAhead == 4 << 20)
    }
}
