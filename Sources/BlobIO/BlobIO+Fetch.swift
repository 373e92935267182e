internal import BlockCodec
internal import ChunkStore
internal import HTTPTransport
internal import LayerFormat
internal import Logging
internal import OCIModel
internal import OCIRegistry
internal import PosixIO
internal import Synchronization

extension BlobIO {
    /// Starts or joins the flights that bring the missing chunks of a read; all at once.
    ///
    /// - Parameter trustingStore: chunks that have come into the store meanwhile count as there; so the answer can be
    ///   that there is nothing to wait for. Off when a read comes again: it waits then, and holds what comes.
    /// - Returns: the flights, sorted by offset.
    func start(_ request: ReadRequest, _ missing: [UInt32], trustingStore: Bool) -> [Flight] {
        let layer = request.layer
        let wanted = missing.map { layer.index.chunk($0) }
        let (joined, new) = flights.withLock { flights -> ([Flight], [Flight]) in
            var joined: [Flight] = []
            var new: [Flight] = []
            var seen: Set<UInt64> = []
            for chunk in wanted where seen.insert(chunk.member.offset).inserted {
                let key = Flight.Key(layer, chunk.member.offset)
                if let flight = flights[key] {
                    joined.append(flight)
                } else if !trustingStore || !store.contains(layer.key(chunk)) {
                    let flight = Flight(layer, chunk.member, ahead: nil)
                    flights[key] = flight
                    new.append(flight)
                }
            }
            return (joined, new)
        }
        for flight in joined { schedule(landing.promote(flight)) }
        demand(layer, new.filter { layer.isDirect($0.member) }.sorted { $0.range.offset < $1.range.offset })
        let indirect = new.filter { !layer.isDirect($0.member) }
        if !indirect.isEmpty { streamAgain(layer, indirect) }
        let fetched = Set(new.map(\.range.offset))
        for (number, chunk) in zip(missing, wanted) where layer.ahead.contains(number) {
            touch(layer, number, isThere: !fetched.contains(chunk.member.offset))
        }
        return (joined + new).sorted { $0.range.offset < $1.range.offset }
    }

    // MARK: What is fetched together

    /// Sends the requests for members that a reader waits for, widened to their neighbours, and those that run ahead.
    private func demand(_ layer: Layer, _ new: [Flight]) {
        guard let first = new.first, let last = new.last else { return }
        let link = layer.link
        let demanded = new.map { FetchPlanner.Item(range: $0.member, position: 0, reason: .demand) }
        let range = ByteRange(offset: first.member.offset, count: last.member.end - first.member.offset)
        guard let order = layer.streams.missed(range, link) else {
            return depart(layer, new, demanded, link, mostNear: 0)
        }
        let near = min(order.near, max(aheadRoom(layer), limits.leastWidening))
        let map = IndexMembers(index: layer.index)
        // What comes before the first one delays it, so there is little of that.
        let (before, flightsBefore) = claim(layer) { isAbsent in
            FetchPlanner.preceding(map, before: range.offset, bytes: near / 4, isAbsent: isAbsent)
        }
        var end = order.start
        let (after, flightsAfter) = claim(layer) { isAbsent in
            let found = FetchPlanner.following(
                map,
                from: order.start,
                bytes: near,
                largestFirst: 0,
                bridge: FetchPlanner.bridge(link),
                reason: .near,
                isAbsent: isAbsent
            )
            end = found.end
            return found.items
        }
        let widened = (before + after).reduce(0) { $0 + $1.range.count }
        counters.bytesWidened.add(widened, ordering: .relaxed)
        depart(layer, flightsBefore + new + flightsAfter, before + demanded + after, link, mostNear: near + near / 4)
        let rest = order.bytes - min(order.bytes, order.near)
        let ahead = runAhead(layer, from: end, bytes: rest, link)
        layer.streams.extended(order.stream, to: ahead.end, bytes: widened + ahead.bytes)
    }

    /// A reader has come to a chunk that was fetched ahead: fetches on ahead of it, where that is due.
    ///
    /// - Parameter isThere: it is in the store or on its way; else it was evicted before anybody read it.
    func touch(_ layer: Layer, _ number: UInt32, isThere: Bool) {
        guard layer.ahead.remove(number) else { return }
        let member = layer.index.chunk(number).member
        let map = IndexMembers(index: layer.index)
        map.forEachChunk(of: member, from: map.position(atOrAfter: member.offset)) { _ = layer.ahead.remove($0) }
        if isThere { counters.bytesAheadRead.add(member.count, ordering: .relaxed) }
        guard let order = layer.streams.touched(member, isThere: isThere) else { return }
        let ahead = runAhead(layer, from: order.start, bytes: order.bytes, layer.link)
        layer.streams.extended(order.stream, to: ahead.end, bytes: ahead.bytes)
    }

    /// Fetches members from `offset` on that nobody has asked for, in large requests, within what may be on its way.
    ///
    /// - Returns: up to where, and how much of that was asked for.
    private func runAhead(
        _ layer: Layer,
        from offset: UInt64,
        bytes: UInt64,
        _ link: LinkEstimate
    ) -> (end: UInt64, bytes: UInt64) {
        let map = IndexMembers(index: layer.index)
        var end = offset
        var total: UInt64 = 0
        // A step that finds nothing new passes what is there.
        for _ in 0..<bytes / FetchPlanner.streamSpan + 4 where total < bytes {
            let room = aheadRoom(layer)
            guard let step = FetchPlanner.streamStep(wanted: bytes, sent: total, room: room, limits) else { break }
            var found = FetchPlanner.Found(end: end)
            let (items, flights) = claim(layer) { isAbsent in
                found = FetchPlanner.following(
                    map,
                    from: end,
                    bytes: step,
                    largestFirst: FetchPlanner.largestFirst(step: step, sent: total, room: room, limits),
                    bridge: nil,
                    reason: .ahead,
                    isAbsent: isAbsent
                )
                return found.items
            }
            depart(layer, flights, items, link, mostNear: 0)
            total += found.bytes
            if found.end == end { break }
            end = found.end
        }
        counters.bytesAhead.add(total, ordering: .relaxed)
        return (end, total)
    }

    /// How much more may be sent for without having been asked for. No layer takes the last quarter from the others.
    private func aheadRoom(_ layer: Layer) -> UInt64 {
        let most = limits.mostInFlight
        let own = UInt64(max(0, layer.bytesAhead.load(ordering: .relaxed)))
        return min(most - min(most, aheadBudget.used), most * 3 / 4 - min(most * 3 / 4, own))
    }

    /// Makes flights for members that are neither there nor on their way, as `plan` chooses them. Companions are
    /// not among them until some of their kind were read.
    private func claim(
        _ layer: Layer,
        _ plan: (_ isAbsent: (_ position: Int, _ member: ByteRange) -> Bool) -> [FetchPlanner.Item]
    ) -> ([FetchPlanner.Item], [Flight]) {
        let map = IndexMembers(index: layer.index)
        let takesAll = layer.readsAllCompanions
        let (items, claimed) = flights.withLock { flights -> ([FetchPlanner.Item], [Flight]) in
            let items = plan { position, member in
                guard flights[Flight.Key(layer, member.offset)] == nil, layer.isDirect(member) else { return false }
                if !takesAll, let kind = map.companion(at: position), !layer.reads(kind) { return false }
                return map.containsChunk(of: member, from: position) { !store.contains(layer.key($0)) }
            }
            let claimed = items.map { item in
                let flight = Flight(layer, item.range, ahead: aheadBudget)
                flights[flight.key] = flight
                return flight
            }
            return (items, claimed)
        }
        for item in items {
            map.forEachChunk(of: item.range, from: item.position) { _ = layer.ahead.insert($0) }
        }
        return (items, claimed)
    }

    // MARK: Requests

    /// Sends the requests for flights that belong to `items`, both sorted by offset.
    private func depart(
        _ layer: Layer,
        _ flights: [Flight],
        _ items: [FetchPlanner.Item],
        _ link: LinkEstimate,
        mostNear: UInt64
    ) {
        guard !items.isEmpty else { return }
        counters.flights.add(UInt64(items.count), ordering: .relaxed)
        let spans = FetchPlanner.spans(
            items,
            bridge: limits.mostWidening > 0 ? FetchPlanner.bridge(link) : 0,
            streamSpan: max(FetchPlanner.streamSpan, limits.mostWidening),
            mostNear: mostNear
        )
        for span in spans {
            let members = Array(flights[span.items])
            let end = members.reduce(span.range.end) { max($0, $1.range.end) }
            let range = ByteRange(offset: span.range.offset, count: end - span.range.offset)
            let request = assemble(range, members, isSecond: false)
            Task { await self.fly(layer, request, span.isDemand ? .demand : .profile, isSecond: false) }
        }
    }

    /// What takes the bytes of one request, and hands each member to the workers when it is there.
    func assemble(_ range: ByteRange, _ flights: [Flight], isSecond: Bool) -> SpanAssembler {
        SpanAssembler(range, flights) { flight, bytes in
            self.schedule(self.landing.append(flight, Flight.Arrival(bytes: bytes, isSecond: isSecond)))
        }
    }

    /// Fetches the members of one request. Holds no flight beside `span`: each is memory until it is over.
    func fly(_ layer: Layer, _ span: SpanAssembler, _ priority: TransferPriority, isSecond: Bool) async {
        counters.requests.add(1, ordering: .relaxed)
        if priority == .demand { counters.demandRequests.add(1, ordering: .relaxed) }
        do throws(BlobError) {
            try await layer.fetch(span, priority, fresh: isSecond)
        } catch {
            for flight in span.unfinished { fail(flight, error) }
        }
        counters.bytesFetched.add(span.range.count - span.rest.count, ordering: .relaxed)
    }

    /// Asks once more for a member that came wrong.
    private func flyAgain(_ flight: Flight) {
        let request = assemble(flight.range, [flight], isSecond: true)
        Task { [layer = flight.layer] in await self.fly(layer, request, .demand, isSecond: true) }
    }

    /// Lets threads do what is due.
    private func schedule(_ due: LandingQueue.Due) {
        if due.urgent { workers.submit { self.work() } }
        if due.background { background.submit { self.workInBackground() } }
    }

    /// On a worker: does what is to be done next, and looks again. In between it is the turn of others that use the pool.
    private func work() {
        guard let next = landing.next() else { return }
        perform(next)
        workers.submit { self.work() }
    }

    private func workInBackground() {
        guard let next = landing.nextInBackground() else { return }
        perform(next)
        background.submit { self.workInBackground() }
    }

    private func perform(_ work: LandingQueue.Work) {
        switch work {
        case .inflate(let flight, let arrival): land(flight, arrival)
        case .pack(let flight, let member):
            pack(flight, member)
            landing.noteGone()
        }
    }

    /// Waits until what has come is in the store, for at most five seconds: members are packed after their readers were
    /// answered, and a process that ends before has to fetch them again. What is on its way is not waited for. Then, for
    /// at most two seconds, for files that are being materialised: where each job has a mount of its own, there is no
    /// other time for them.
    public func settle() {
        landing.drain()
        schedule(LandingQueue.Due(urgent: true, background: true))
        landing.waitUntilPacked(nanoseconds: 5_000_000_000)
        store.files?.waitUntilIdle(nanoseconds: 2_000_000_000)
    }

    /// Inflates and checks a member and answers those who wait. Its chunks are packed later: LZ4 and the disk take longer
    /// than all before, and the next reader waits for another member.
    ///
    /// Two threads can do that with the same bytes at a time, where a reader came while it was done in the background: the
    /// first one that is through counts.
    private func land(_ flight: Flight, _ arrival: Flight.Arrival) {
        let layer = flight.layer
        let isSecond = arrival.isSecond
        let bytes = arrival.bytes
        let decoded = Result { () throws(CodecError) in
            try decoder.decode(layer, member: flight.range.offset, bytes, 0..<bytes.count)
        }
        guard arrival.decide() else { return }
        flight.dropArrival(arrival)
        let member: DecodedMember
        switch decoded {
        case .success(let intact): member = intact
        case .failure(let error):
            landing.noteGone()
            return landDamaged(flight, error, isSecond: isSecond)
        }
        counters.bytesInflated.add(UInt64(member.bytes.count), ordering: .relaxed)
        if let bad = member.payloads.first(where: { !$0.isGood }) {
            counters.mismatches.add(1, ordering: .relaxed)
            logMismatch(layer, bad, flight.range.offset, isSecond: isSecond)
            if !isSecond || layer.restarts != nil {
                landing.noteGone()
                return isSecond ? streamAgain(layer, [flight]) : flyAgain(flight)
            }
        }
        flight.finish(.landed(member))
        schedule(landing.append(flight, landed: member))
    }

    /// Packs a member's chunks into the store. The flight leaves the table last, so that a reader finds the chunks in one
    /// or the other.
    private func pack(_ flight: Flight, _ member: DecodedMember) {
        keep(flight.layer, flight.range.offset, member)
        flights.remove(flight)
    }

    /// Puts the checked payloads of a member into the store.
    func keep(_ layer: Layer, _ offset: UInt64, _ member: DecodedMember) {
        for payload in member.payloads where payload.isGood {
            guard let range = DecodedMember.range(payload.innerOffset, payload.length, in: member.bytes.count) else {
                continue
            }
            let key = layer.key(
                payload.digest,
                member: offset,
                innerOffset: payload.innerOffset,
                length: payload.length
            )
            store.insert(key, member.bytes.span.extracting(range))
        }
    }

    /// A member that cannot be inflated: asked for once more, then an error for those who wait.
    private func landDamaged(_ flight: Flight, _ error: CodecError, isSecond: Bool) {
        counters.mismatches.add(1, ordering: .relaxed)
        let layer = flight.layer
        let files = firstFile(layer, member: flight.range.offset)
        let failure = BlobError(.corrupt, "\(layer.name): the member at \(flight.range)\(files) is damaged: \(error)")
        if isSecond { return layer.restarts == nil ? fail(flight, failure) : streamAgain(layer, [flight]) }
        log(.warning, cause: "damaged \(layer.digest)") { "\(failure.reason); asking for it once more" }
        flyAgain(flight)
    }

    private func firstFile(_ layer: Layer, member offset: UInt64) -> String {
        let position = layer.index.blobPosition(atOrAfter: offset)
        guard position < layer.index.chunkCount else { return "" }
        let chunk = layer.index.chunk(layer.index.chunkInBlobOrder(position))
        return " (\(layer.index.path(chunk.record)) at \(chunk.fileOffset))"
    }

    private func logMismatch(_ layer: Layer, _ payload: DecodedMember.Payload, _ member: UInt64, isSecond: Bool) {
        log(isSecond ? .error : .warning, cause: "mismatch \(isSecond) \(layer.digest)") {
            "\(layer.name): the chunk of \(layer.index.path(payload.record)) at \(payload.fileOffset)"
                + " (member at \(member)) does not have"
                + " \(payload.digest.map { "its digest \($0)" } ?? "the \(payload.length) bytes that it must have");"
                + (isSecond ? " readers get an error" : " asking for it once more")
        }
    }

    /// The error goes to all who wait, and the next read starts anew.
    func fail(_ flight: Flight, _ error: BlobError) {
        flights.remove(flight)
        log(.error, cause: "fetch \(error.kind) \(flight.layer.digest)") { error.reason }
        flight.finish(.failed(error))
    }
}
