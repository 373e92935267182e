internal import OCIModel
internal import OCIRegistry

/// What the reads of a layer look like, and how far ahead of them to fetch. A value without clock or lock; see
/// `StreamTable` for its use by many threads.
///
/// Reads that follow each other in blob order, across files and not without gaps, are a stream. What is fetched ahead of
/// one doubles each time that its readers have come to the middle of it and have used most of what is behind them: up to a
/// first bound, and up to a second one when much was used. So reading everything soon is one pass with large requests, and
/// a single read costs no more than its widening.
struct ReadAhead: Sendable {
    /// An order to fetch.
    struct Extension: Equatable {
        var stream: UInt64
        /// From where on.
        var start: UInt64
        var bytes: UInt64
        /// How many of these ride along with the demanded member.
        var near: UInt64
    }

    private struct Stream {
        var id: UInt64
        /// What is in between was fetched, or was there.
        var start: UInt64
        var frontier: UInt64
        var window: UInt64
        var yield = Yield()
        /// Somebody extends it now.
        var isExtending = false
    }

    private static let most = 16

    private let limits: FetchLimits
    /// Where the layer's members end.
    private let end: UInt64
    /// Most recently used last.
    private var streams: [Stream] = []
    private var nextID: UInt64 = 0
    /// How often a reader had to wait for a new request, and what was asked for in all.
    private var misses: UInt64 = 0
    private var asked: UInt64 = 0
    private(set) var yield = Yield()

    init(end: UInt64, limits: FetchLimits) {
        self.end = end
        self.limits = limits
    }

    /// Whether waiting for single members has taken four times as long by now as all the rest would take to come: then the
    /// layer's readers want much of it, in whatever order.
    func isBroad(_ link: LinkEstimate) -> Bool {
        let rest = end - min(end, asked)
        return misses >= 32 && misses * FetchPlanner.roundTripWorth(link) >= 4 * rest
    }

    /// The most that a stream may be fetched ahead of, when so many bytes are before its readers.
    private func most(_ stream: Stream, ahead: UInt64) -> UInt64 {
        stream.yield.isProven(ahead: ahead) ? limits.mostAhead : limits.mostTrial
    }

    /// A reader misses what stands at `range`, which is fetched now.
    mutating func missed(_ range: ByteRange, _ link: LinkEstimate) -> Extension? {
        guard limits.mostWidening > 0 else { return nil }
        misses += 1
        asked += range.count
        let near = FetchPlanner.widening(link, yield, limits)
        var stream = takeStream(at: range, slack: near) ?? makeStream(at: range)
        // A trial cannot show that members are read in order which are larger than it. Missing one after the other does.
        if range.offset == stream.frontier, range.count > limits.mostTrial {
            stream.yield.fetch(range.count)
            stream.yield.read(range.count)
        }
        if stream.window == 0 {
            stream.window = min(near, limits.mostAhead)
        } else if stream.yield.isMostlyRead() {
            stream.window = max(stream.window, min(stream.window * 2, most(stream, ahead: 0)))
        }
        if isBroad(link) { stream.window = limits.mostAhead }
        stream.frontier = max(stream.frontier, range.end)
        stream.isExtending = true
        streams.append(stream)
        return Extension(stream: stream.id, start: range.end, bytes: max(near, stream.window), near: near)
    }

    /// A reader has come to a member that was fetched ahead.
    ///
    /// - Parameter isThere: it is there or on its way; else it was evicted before anybody read it.
    mutating func touched(_ member: ByteRange, isThere: Bool) -> Extension? {
        guard isThere else { return nil }
        yield.read(member.count)
        guard let index = streams.lastIndex(where: { $0.start <= member.offset && member.offset < $0.frontier }) else {
            return nil
        }
        streams[index].yield.read(member.count)
        let stream = streams[index]
        let left = stream.frontier - min(stream.frontier, member.end)
        guard !stream.isExtending, stream.frontier < end, left <= stream.window / 2,
            stream.yield.isMostlyRead(ahead: left)
        else { return nil }
        let window = min(stream.window * 2, most(stream, ahead: left))
        guard window > left else { return nil }
        streams[index].window = window
        streams[index].isExtending = true
        streams.append(streams.remove(at: index))
        return Extension(stream: stream.id, start: stream.frontier, bytes: window - left, near: 0)
    }

    /// An order was carried out, as far as it could be.
    ///
    /// - Parameters:
    ///   - frontier: up to where the stream's members are there or on their way now.
    ///   - bytes: what was asked for.
    mutating func extended(_ id: UInt64, to frontier: UInt64, bytes: UInt64) {
        asked += bytes
        yield.fetch(bytes)
        guard let index = streams.lastIndex(where: { $0.id == id }) else { return }
        streams[index].frontier = max(streams[index].frontier, frontier)
        streams[index].yield.fetch(bytes)
        streams[index].isExtending = false
    }

    /// Takes out the stream that a miss at `range` belongs to: it lies inside, or not far beyond.
    private mutating func takeStream(at range: ByteRange, slack: UInt64) -> Stream? {
        let index = streams.lastIndex { stream in
            let slack = max(slack, stream.window)
            let after = stream.frontier.addingReportingOverflow(slack)
            return stream.start <= range.offset && (after.overflow || range.offset <= after.partialValue)
        }
        return index.map { streams.remove(at: $0) }
    }

    private mutating func makeStream(at range: ByteRange) -> Stream {
        if streams.count >= ReadAhead.most { streams.removeFirst() }
        nextID += 1
        return Stream(id: nextID, start: range.offset, frontier: range.end, window: 0)
    }
}
