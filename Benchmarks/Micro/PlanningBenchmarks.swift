// Range planning: what a missing chunk is fetched together with. The planner is internal to BlobIO, where the compiler
// fits it to the index; to measure the same here, its sources are compiled into this target (the links in Planning/).

import Benchmark
import OCIModel
import OCIRegistry

/// A missing chunk and its neighbours, as one request; every third member is in the store already.
private func planDemand(_ map: IndexMembers, at position: Int, _ link: LinkEstimate) -> Int {
    let limits = FetchLimits()
    let member = map.member(at: position)
    let near = FetchPlanner.widening(link, Yield(), limits)
    let isAbsent = { (position: Int, _: ByteRange) in position % 3 != 0 }
    let before = FetchPlanner.preceding(map, before: member.offset, bytes: near / 16, isAbsent: isAbsent)
    let after = FetchPlanner.following(
        map,
        from: member.end,
        bytes: near,
        largestFirst: 0,
        bridge: FetchPlanner.bridge(link),
        reason: .near,
        isAbsent: isAbsent
    )
    let demanded = FetchPlanner.Item(range: member, position: position, reason: .demand)
    return spans(before + [demanded] + after.items, link, limits, near)
}

/// What a stream of reads runs ahead of: `bytes` from a place on, in large requests.
private func planAhead(_ map: IndexMembers, at position: Int, bytes: UInt64, _ link: LinkEstimate) -> Int {
    let found = FetchPlanner.following(
        map,
        from: map.member(at: position).offset,
        bytes: bytes,
        largestFirst: 0,
        bridge: nil,
        reason: .ahead
    ) { _, _ in true }
    return spans(found.items, link, FetchLimits(), 0)
}

private func spans(_ items: [FetchPlanner.Item], _ link: LinkEstimate, _ limits: FetchLimits, _ near: UInt64) -> Int {
    FetchPlanner.spans(
        items,
        bridge: FetchPlanner.bridge(link),
        streamSpan: max(FetchPlanner.streamSpan(link), limits.mostWidening),
        mostNear: near + near / 16
    ).count
}

/// On the index of a TOC; members of about 1.6 kB.
func measurePlanning(_ json: [UInt8]) {
    let map = IndexMembers(index: openIndex(json))
    for (name, milliseconds) in [("0.3 ms", UInt64(300_000)), ("15 ms", 15_000_000)] {
        let link = LinkEstimate(roundTrip: milliseconds, bytesPerSecond: 100_000_000)
        Benchmark("plan a missing chunk, round trip of \(name)", configuration: .init(scalingFactor: .kilo)) {
            benchmark in
            // Far apart, as misses are.
            var position = 0
            for _ in benchmark.scaledIterations {
                position = (position + 7_919) % map.positionCount
                blackHole(planDemand(map, at: position, link))
            }
        }
    }
    let link = LinkEstimate(roundTrip: 15_000_000, bytesPerSecond: 100_000_000)
    Benchmark("plan 4 MiB ahead of a stream") { benchmark in
        for _ in benchmark.scaledIterations {
            blackHole(planAhead(map, at: map.positionCount / 3, bytes: 4 << 20, link))
        }
    }
}
