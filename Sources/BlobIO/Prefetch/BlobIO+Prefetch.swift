internal import ChunkStore
internal import HTTPTransport
internal import LayerFormat
internal import OCIModel
internal import OCIRegistry
internal import PosixIO
internal import Synchronization

extension BlobIO {
    /// A job for what a profile has of these layers and the store has not, in the profile's order.
    public func prefetchJob(_ kind: PrefetchKind, _ profile: Profile, of layers: [Layer]) -> PrefetchJob {
        let numbers = profile.layers.map { known in
            layers.firstIndex { ProfileLayer($0) == known }.map { UInt16(truncatingIfNeeded: $0) }
        }
        let places = profile.items.compactMap { item in
            numbers[Int(item.place.layer)].map { ProfilePlace(layer: $0, position: item.place.position) }
        }
        return PrefetchJob(kind, layers, .places(places))
    }

    /// A job for what the layers' authors marked as needed early: the range before `.prefetch.landmark`, where there is
    /// one.
    public func prefetchJob(_ kind: PrefetchKind, landmarksOf layers: [Layer]) -> PrefetchJob {
        let ranges = layers.map { layer in
            ByteRange(offset: 0, count: min(layer.index.prefetchEnd ?? 0, layer.index.tocOffset))
        }
        return PrefetchJob(kind, layers, .ranges(ranges))
    }

    /// A job for all of these layers, in the order of the blobs.
    ///
    /// - Parameter limit: the most compressed bytes.
    public func prefetchJob(_ kind: PrefetchKind, allOf layers: [Layer], limit: UInt64 = .max) -> PrefetchJob {
        let ranges = layers.map { ByteRange(offset: 0, count: $0.index.tocOffset) }
        return PrefetchJob(kind, layers, .ranges(ranges), limit: limit)
    }

    /// Begins with a job, behind those of its kind. Once for each.
    public func start(_ job: PrefetchJob) {
        prefetcher.add(job)
        wakePrefetcher()
    }

    /// What the store does not have of what a job is about, in compressed bytes. For a thread that may take some
    /// milliseconds.
    public func missingBytes(_ job: PrefetchJob) -> UInt64 {
        var total: UInt64 = 0
        switch job.source {
        case .places(let places):
            var seen = Set<[UInt64]>()
            for place in places {
                let candidate = candidate(job, place)
                guard let candidate, seen.insert([UInt64(place.layer), candidate.item.range.offset]).inserted,
                    isAbsent(job.layers[candidate.layer], candidate.item.position, candidate.item.range)
                else { continue }
                total += candidate.item.range.count
            }
        case .ranges(let ranges):
            for (number, range) in ranges.enumerated() {
                var offset = range.offset
                while offset < range.end {
                    let found = following(job.layers[number], from: offset, bytes: .max)
                    total += found.items.reduce(0) { $0 + ($1.range.offset < range.end ? $1.range.count : 0) }
                    if found.end <= offset { break }
                    offset = found.end
                }
            }
        }
        return total
    }

    /// What came by prefetches, by kind, and how much of it was read.
    public var prefetchStatistics: [PrefetchFigures] { prefetcher.statistics() }

    private func wakePrefetcher() {
        prefetcher.wake { [weak self] in self?.planPrefetch() }
    }

    // MARK: On the planning thread

    /// Sends requests for the jobs, the most urgent first, until as much is on its way as may be.
    private func planPrefetch() {
        while let job = prefetcher.first() {
            guard prefetcher.requests < PrefetchPlan.requests(job.kind) else { return }
            let link = job.layers.first?.link ?? .unknown
            let isQuiet = flights.count <= prefetcher.members
            let window = PrefetchPlan.window(job.kind, link, limits, isQuiet: isQuiet)
            let used = prefetcher.bytes
            // Not in drops: what goes out next goes when there is room for all of it.
            func hasRoom(_ bytes: UInt64) -> Bool { used == 0 || used + bytes <= window }
            if let next = job.nextPendingBytes {
                guard hasRoom(next) else { return }
                if let request = job.popPending() { send(job, request) }
            } else if case .places = job.source {
                plan(job, PrefetchPlan.horizon, PrefetchPlan.span(link), link)
            } else {
                let step = PrefetchPlan.step(window: window, planned: job.planned)
                guard hasRoom(step) else { return }
                plan(job, step, max(step, 1 << 20), link)
            }
            job.finishIfOver()
        }
    }

    /// Looks for the next `step` bytes that are missing, and makes requests of up to `span` bytes of them.
    private func plan(_ job: PrefetchJob, _ step: UInt64, _ span: UInt64, _ link: LinkEstimate) {
        var (next, offset) = job.cursor
        var found: [PrefetchJob.Candidate] = []
        var bytes: UInt64 = 0
        var isExhausted = false
        switch job.source {
        case .places(let places):
            var seen: Set<[UInt64]> = []
            while bytes < step, next < places.count {
                let place = places[next]
                next += 1
                guard !job.isFailed(Int(place.layer)), let candidate = candidate(job, place) else { continue }
                let range = candidate.item.range
                guard seen.insert([UInt64(place.layer), range.offset]).inserted,
                    isAbsent(job.layers[candidate.layer], candidate.item.position, range)
                else { continue }
                found.append(candidate)
                bytes += range.count
            }
            isExhausted = next == places.count
        case .ranges(let ranges):
            while bytes < step, next < ranges.count {
                let start = max(offset, ranges[next].offset)
                if start < ranges[next].end, !job.isFailed(next) {
                    let part = following(job.layers[next], from: start, bytes: step - bytes)
                    for item in part.items where item.range.offset < ranges[next].end {
                        found.append(PrefetchJob.Candidate(layer: next, item: item))
                        bytes += item.range.count
                    }
                    if part.end > start {
                        offset = part.end
                        continue
                    }
                }
                next += 1
                offset = 0
            }
            isExhausted = next == ranges.count
        }
        job.plan(requests(found, span, link), next: next, offset: offset, isExhausted: isExhausted)
    }

    /// The member of a chunk of a profile.
    private func candidate(_ job: PrefetchJob, _ place: ProfilePlace) -> PrefetchJob.Candidate? {
        let index = job.layers[Int(place.layer)].index
        guard Int(place.position) < index.chunkCount else { return nil }
        let chunk = index.chunk(index.chunkInBlobOrder(Int(place.position)))
        guard !chunk.isZeros, chunk.member.count > 0 else { return nil }
        let range = chunk.member
        let position = index.blobPosition(atOrAfter: range.offset)
        return PrefetchJob.Candidate(
            layer: Int(place.layer),
            item: FetchPlanner.Item(range: range, position: position, reason: .ahead)
        )
    }

    /// The members from `offset` on that the store has not, at least one, whatever is on its way.
    private func following(_ layer: Layer, from offset: UInt64, bytes: UInt64) -> FetchPlanner.Found {
        FetchPlanner.following(
            IndexMembers(index: layer.index),
            from: offset,
            bytes: bytes,
            largestFirst: MemberDecoder.mostCompressed,
            bridge: nil,
            reason: .ahead
        ) { position, member in isAbsent(layer, position, member) }
    }

    private func isAbsent(_ layer: Layer, _ position: Int, _ member: ByteRange) -> Bool {
        // What cannot be fetched by itself is not worth streaming all that stands before it.
        layer.isDirect(member)
            && IndexMembers(index: layer.index).containsChunk(of: member, from: position) {
                !store.contains(layer.key($0))
            }
    }

    /// Joins members into requests. Which request comes first follows from the first of its members that is used.
    private func requests(
        _ found: [PrefetchJob.Candidate],
        _ span: UInt64,
        _ link: LinkEstimate
    ) -> [[PrefetchJob.Candidate]] {
        var requests: [(rank: Int, members: [PrefetchJob.Candidate])] = []
        for (_, part) in Dictionary(grouping: found.enumerated(), by: \.element.layer) {
            let sorted = part.sorted { $0.element.item.range.offset < $1.element.item.range.offset }
            let spans = FetchPlanner.spans(
                sorted.map(\.element.item),
                bridge: FetchPlanner.bridge(link),
                streamSpan: span,
                mostNear: 0
            )
            for span in spans {
                let members = sorted[span.items]
                requests.append((members.map(\.offset).min() ?? 0, members.map(\.element)))
            }
        }
        return requests.sorted { $0.rank < $1.rank }.map(\.members)
    }

    /// Sends one request, for those of its members that are neither there nor on their way by now. The job waits for the
    /// latter too, whoever asked for them.
    private func send(_ job: PrefetchJob, _ members: [PrefetchJob.Candidate]) {
        guard let number = members.first?.layer, !job.isFailed(number) else { return }
        let layer = job.layers[number]
        let map = IndexMembers(index: layer.index)
        let items = members.map(\.item).filter { isAbsent(layer, $0.position, $0.range) }
        let kind = job.kind
        let (claimed, others) = flights.withLock { flights -> ([Flight], [Flight]) in
            var others: [Flight] = []
            let claimed = items.compactMap { item -> Flight? in
                let key = Flight.Key(layer, item.range.offset)
                if let other = flights[key] {
                    others.append(other)
                    return nil
                }
                let flight = Flight(layer, item.range, ahead: aheadBudget) { [weak self] flight, failure in
                    self?.land(job, number, flight, failure)
                }
                flights[key] = flight
                return flight
            }
            return (claimed, others)
        }
        // All of them before the first can land, which may be at once.
        job.depart(claimed.count + others.count)
        for flight in others { flight.completion.whenFinished { job.land(number, flight) } }
        guard let first = claimed.first, let last = claimed.last else { return }
        prefetcher.depart(claimed.reduce(0) { $0 + $1.range.count }, members: claimed.count)
        for flight in claimed {
            let bytes = flight.range.count
            flight.completion.whenFinished { [weak self] in
                self?.prefetcher.land(bytes)
                self?.wakePrefetcher()
            }
        }
        counters.flights.add(UInt64(claimed.count), ordering: .relaxed)
        for item in items {
            map.forEachChunk(of: item.range, from: item.position) { layer.usage.markAhead($0, kind) }
        }
        let end = claimed.reduce(last.range.end) { max($0, $1.range.end) }
        let range = ByteRange(offset: first.range.offset, count: end - first.range.offset)
        let request = assemble(range, claimed, isSecond: false)
        Task {
            await self.fly(layer, request, kind.priority, isSecond: false)
            self.prefetcher.endRequest()
            self.wakePrefetcher()
        }
    }

    /// A member has left the table: it is in the store, or failed.
    private func land(_ job: PrefetchJob, _ layer: Int, _ flight: Flight, _ failure: BlobError?) {
        prefetcher.leave(job.kind, flight.range.count, isThere: failure == nil)
        job.land(layer, flight.range.count, failure)
        wakePrefetcher()
    }
}
