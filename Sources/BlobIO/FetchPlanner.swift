internal import OCIModel
internal import OCIRegistry

/// Bounds of what is fetched without having been asked for, in compressed bytes.
struct FetchLimits: Sendable, Equatable {
    /// The least that a missing member is widened by.
    var leastWidening: UInt64 = 64 << 10
    /// The most that a missing member is widened by.
    var mostWidening: UInt64 = 8 << 20
    /// How far a stream of reads may be fetched ahead of.
    var mostAhead: UInt64 = 32 << 20
    /// The same while it is not certain that its readers use what was fetched.
    var mostTrial: UInt64 = 4 << 20
    /// What may be on its way, in the whole process, without having been asked for.
    var mostInFlight: UInt64 = 24 << 20

    /// Fetches what is asked for and nothing else.
    static let nothingAhead = FetchLimits(
        leastWidening: 0,
        mostWidening: 0,
        mostAhead: 0,
        mostTrial: 0,
        mostInFlight: 0
    )
    /// For a store of this many bytes: what was fetched ahead must still be there when its reader comes. A store keeps
    /// about a tenth of its room for what nobody has read yet.
    static func store(of bytes: UInt64) -> FetchLimits {
        var limits = FetchLimits()
        limits.mostAhead = min(limits.mostAhead, bytes / 16)
        limits.mostTrial = min(limits.mostTrial, limits.mostAhead)
        limits.mostInFlight = min(limits.mostInFlight, bytes / 16)
        limits.mostWidening = min(limits.mostWidening, max(limits.mostAhead, bytes / 64))
        limits.leastWidening = min(limits.leastWidening, limits.mostWidening)
        return limits
    }

    /// Beside a store on disk, which keeps what has come: memory, of which chunks may take this much, is for what is on its
    /// way alone.
    static func besideDisk(memory: UInt64) -> FetchLimits {
        var limits = FetchLimits.store(of: max(memory, 128 << 20))
        limits.mostWidening = min(limits.mostWidening, 4 << 20)
        // A layer's next request comes while the members of the one before are inflated.
        limits.mostInFlight = 12 << 20
        limits.mostAhead = 16 << 20
        return limits
    }
}

/// The members of a layer in the order of the blob, by position. Positions that follow each other can have the same
/// member; chunks for which nothing is stored have an empty one.
protocol MemberMap {
    /// Positions are below it.
    var positionCount: Int { get }
    /// The member at a position.
    func member(at position: Int) -> ByteRange
    /// The first position whose member starts at or after `offset`; `positionCount` when there is none.
    func position(atOrAfter offset: UInt64) -> Int
}

/// Decides what is fetched together. Pure functions: what they know is what they are given.
enum FetchPlanner {
    /// Why a member is fetched.
    enum Reason: Equatable {
        /// A reader waits for it.
        case demand
        /// It lies beside such a member, and comes in the same request.
        case near
        /// A stream of reads is expected to come there.
        case ahead
    }

    /// A member that is to be fetched.
    struct Item: Equatable {
        var range: ByteRange
        /// The first position of the member in blob order.
        var position: Int
        var reason: Reason
    }

    /// One request.
    struct Span: Equatable {
        /// What is asked for; between its items there can be bytes that nobody needs.
        var range: ByteRange
        /// Indexes into the items that were given.
        var items: Range<Int>
        /// Whether a reader waits for anything in it.
        var isDemand: Bool
    }

    /// Demanded members are joined into one request up to this many bytes; one that is larger goes alone.
    static let mostDemanded: UInt64 = 4 << 20
    /// Members that one step of planning looks at.
    private static let mostExamined = 16384
    /// What two cores inflate, check and pack, in compressed bytes a second: more need not come.
    private static let decodeRate: UInt64 = 100_000_000

    /// How many bytes could have come in the time that a new request takes to answer.
    static func roundTripWorth(_ link: LinkEstimate) -> UInt64 {
        let roundTrip = min(link.roundTrip, 2_000_000_000) / 1000
        return roundTrip * min(link.bytesPerSecond, decodeRate) / 1_000_000
    }

    /// What a request costs both sides, whatever it asks for, in bytes that could have come meanwhile.
    private static let requestCost: UInt64 = 512 << 10

    /// What another request is worth: its round trip, and what it costs both sides.
    static func requestWorth(_ link: LinkEstimate) -> UInt64 { roundTripWorth(link) + requestCost }

    /// Of what is further away from a miss, less is read: of the bytes beyond this many only a third comes along.
    private static let denseWidening: UInt64 = 1 << 20

    /// How much a missing member is widened by: about what another request is worth, or a part of that while it is not
    /// known that what comes so is read.
    static func widening(_ link: LinkEstimate, _ yield: Yield, _ limits: FetchLimits) -> UInt64 {
        let worth = requestWorth(link)
        let bytes = (min(worth, denseWidening) + (worth - min(worth, denseWidening)) / 3) / yield.divisor
        return min(max(bytes, limits.leastWidening), limits.mostWidening)
    }

    /// How many bytes that nobody needs are taken along rather than making another request.
    static func bridge(_ link: LinkEstimate) -> UInt64 {
        min(max(roundTripWorth(link), 4 << 10), 128 << 10)
    }

    /// Bytes of a request that runs ahead of readers: large enough that neither its round trip matters nor what a server
    /// does for each request (docker-registry: 3 ms of processor, docs/decisions/0022-reading-everything.md).
    static let streamSpan: UInt64 = 4 << 20

    /// The bytes of the next request that runs ahead of readers; nil while there is room for a part of it only, or when
    /// what is left of a large order is little: that comes with the next one. It would be many small requests else, each for
    /// what has landed since the one before.
    ///
    /// - Parameters:
    ///   - wanted: how much is to be fetched ahead now.
    ///   - sent: of that, what was asked for.
    ///   - room: what may be sent for now.
    static func streamStep(wanted: UInt64, sent: UInt64, room: UInt64, _ limits: FetchLimits) -> UInt64? {
        let rest = wanted - min(wanted, sent)
        let most = min(streamSpan, limits.mostInFlight * 3 / 8)
        let step = min(rest, most)
        guard step > 0, step <= room, sent < most || step > most / 2 else { return nil }
        return step
    }

    /// Up to what size the first member of such a request is taken although it is larger than the step. Without one larger
    /// member there would be nothing ahead in a layer of large chunks, and one of 4 MiB that does not get smaller takes
    /// some bytes more than that.
    static func largestFirst(step: UInt64, sent: UInt64, room: UInt64, _ limits: FetchLimits) -> UInt64 {
        if sent == 0 { return min(max(2 * step, limits.mostWidening), room) }
        return step > streamSpan / 2 ? min(2 * step, room) : step
    }

    /// What a walk along the blob found.
    struct Found {
        var items: [Item] = []
        /// Up to where it looked.
        var end: UInt64
        var bytes: UInt64 = 0
    }

    /// The absent members from `offset` on, up to `bytes` of them.
    ///
    /// - Parameters:
    ///   - largestFirst: a first member up to this size is taken although it is larger than `bytes`.
    ///   - bridge: the walk ends at a hole that is larger; nil where holes do not matter.
    ///   - isAbsent: whether a member, given by its first position, is neither there nor on its way.
    static func following(
        _ map: some MemberMap,
        from offset: UInt64,
        bytes: UInt64,
        largestFirst: UInt64,
        bridge: UInt64?,
        reason: Reason,
        isAbsent: (_ position: Int, _ member: ByteRange) -> Bool
    ) -> Found {
        var found = Found(end: offset)
        var position = map.position(atOrAfter: offset)
        var needed = offset
        for _ in 0..<mostExamined where position < map.positionCount {
            let member = map.member(at: position)
            let first = position
            position += 1
            if member.count == 0 { continue }
            while position < map.positionCount, map.member(at: position).offset == member.offset { position += 1 }
            if member.offset < found.end { continue }
            if let bridge, member.offset - needed > bridge { break }
            if isAbsent(first, member) {
                let limit = found.items.isEmpty ? max(bytes, largestFirst) : bytes
                guard member.count <= limit - min(limit, found.bytes) else { break }
                found.items.append(Item(range: member, position: first, reason: reason))
                found.bytes += member.count
                needed = member.end
            }
            found.end = member.end
        }
        return found
    }

    /// The absent members that end where `offset` starts, up to `bytes` of them, in the order of the blob.
    static func preceding(
        _ map: some MemberMap,
        before offset: UInt64,
        bytes: UInt64,
        isAbsent: (_ position: Int, _ member: ByteRange) -> Bool
    ) -> [Item] {
        var items: [Item] = []
        var start = offset
        var left = bytes
        while true {
            let position = map.position(atOrAfter: start)
            guard position > 0 else { break }
            let member = map.member(at: position - 1)
            guard member.count > 0, member.count <= left, member.end == start else { break }
            let first = map.position(atOrAfter: member.offset)
            guard isAbsent(first, member) else { break }
            items.append(Item(range: member, position: first, reason: .near))
            left -= member.count
            start = member.offset
        }
        return items.reversed()
    }

    /// Joins members into requests.
    ///
    /// - Parameters:
    ///   - items: distinct, sorted by offset.
    ///   - bridge: the largest hole inside of a request.
    ///   - streamSpan: the most bytes of a request that nobody waits for.
    ///   - mostNear: bytes that may ride along with a demanded member.
    static func spans(_ items: [Item], bridge: UInt64, streamSpan: UInt64, mostNear: UInt64) -> [Span] {
        var result: [Span] = []
        var start = 0
        for index in items.indices.dropFirst() {
            let before = items[index - 1]
            let item = items[index]
            let hole = item.range.offset - min(item.range.offset, before.range.end)
            let size = item.range.end - items[start].range.offset
            let isAhead = item.reason == .ahead
            let limit = isAhead ? streamSpan : mostDemanded + (item.reason == .near ? mostNear : 0)
            if hole > bridge || size > limit || isAhead != (before.reason == .ahead) {
                result.append(span(items, start..<index))
                start = index
            }
        }
        if start < items.count { result.append(span(items, start..<items.count)) }
        return result
    }

    private static func span(_ items: [Item], _ indexes: Range<Int>) -> Span {
        let first = items[indexes.lowerBound].range.offset
        return Span(
            range: ByteRange(offset: first, count: items[indexes.upperBound - 1].range.end - first),
            items: indexes,
            isDemand: items[indexes].contains { $0.reason == .demand }
        )
    }
}

/// How much of what was fetched without having been asked for was read in the end.
struct Yield: Sendable, Equatable {
    private(set) var fetched: UInt64 = 0
    private(set) var read: UInt64 = 0

    mutating func fetch(_ bytes: UInt64) {
        // What is long ago counts less.
        if fetched > 16 << 20 {
            fetched /= 2
            read /= 2
        }
        fetched += bytes
    }

    mutating func read(_ bytes: UInt64) { read += bytes }

    /// Whether at least three quarters were read of what was fetched, not counting what no reader has come to yet.
    func isMostlyRead(ahead: UInt64 = 0) -> Bool { read * 4 >= (fetched - min(fetched, ahead)) * 3 }

    /// Whether so much was fetched, and so much of it read, that all that follows will be read too.
    func isProven(ahead: UInt64 = 0) -> Bool {
        fetched >= 4 << 20 && read * 8 >= (fetched - min(fetched, ahead)) * 7
    }

    /// By what the worth of a round trip is divided: little is known yet of a layer's readers below 1 MiB.
    var divisor: UInt64 {
        if fetched < 1 << 20 { return 2 }
        if read * 4 >= fetched { return 1 }
        return read * 16 >= fetched ? 2 : 4
    }
}
