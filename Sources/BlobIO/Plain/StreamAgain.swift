internal import BlockCodec
internal import ChunkStore
internal import HTTPTransport
internal import LayerFormat
internal import Logging
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// The flights of a layer for which it has to stream by once more: its chunks were evicted, and nothing says how to take up
/// decompression near them (zstd frames of any size, blocks of deflate without an end). One stream serves all of them.
///
/// LOCK ORDER: the lock is a leaf.
final class StreamAgain: Sendable {
    private struct State {
        var waiting: [UInt64: Flight] = [:]
        var isRunning = false
    }

    private let state = Mutex(State())

    /// Adds flights; true when the caller must start a stream.
    func add(_ flights: [Flight]) -> Bool {
        state.withLock { state in
            for flight in flights { state.waiting[flight.member.offset] = flight }
            if state.isRunning { return false }
            state.isRunning = true
            return true
        }
    }

    /// Where the first flight is that waits; nil when none does, and the stream is over then.
    func first() -> UInt64? {
        state.withLock { state in
            let first = state.waiting.keys.min()
            if first == nil { state.isRunning = false }
            return first
        }
    }

    /// Whether a flight waits for something at or after a place in the blob.
    func waits(from offset: UInt64) -> Bool { state.withLock { $0.waiting.keys.contains { $0 >= offset } } }

    /// The flight that waits for a span.
    func take(_ offset: UInt64) -> Flight? { state.withLock { $0.waiting.removeValue(forKey: offset) } }

    /// All flights that wait.
    func takeAll() -> [Flight] {
        state.withLock { state in
            defer { state.waiting = [:] }
            return Array(state.waiting.values)
        }
    }
}

extension BlobIO {
    /// Lets the layer stream by for flights that cannot be fetched by themselves.
    func streamAgain(_ layer: Layer, _ flights: [Flight]) {
        guard layer.again.add(flights) else { return }
        Task {
            var fresh = false
            while let first = layer.again.first() {
                do throws(BlobError) {
                    try await pass(layer, from: first, fresh: fresh)
                    fresh = false
                } catch {
                    if error.kind == .corrupt && !fresh {
                        fresh = true
                        continue
                    }
                    for flight in layer.again.takeAll() { fail(flight, error) }
                    fresh = false
                }
            }
        }
    }

    /// One stream, from the last frame that starts before the first flight up to the end of the last.
    private func pass(_ layer: Layer, from first: UInt64, fresh: Bool) async throws(BlobError) {
        guard let restarts = layer.restarts, let number = restarts.span(at: first) else {
            throw BlobError(.corrupt, "the index of \(layer.name) contradicts its restart points")
        }
        // A frame of zstd needs nothing of what stands before it.
        let start = restarts.format == .tarZstd ? restarts.spans[...number].lastIndex { $0.isPoint } ?? 0 : 0
        let from = start == 0 ? 0 : restarts.spans[start].offset
        guard layer.index.blobSize > from else {
            throw BlobError(.corrupt, "the index of \(layer.name) contradicts its restart points")
        }
        let queue = ByteQueue()
        counters.requests.add(1, ordering: .relaxed)
        let result = await again.run { [self] () -> Result<Void, BlobError> in
            Task {
                await PlainOpener.fetch(
                    layer.places,
                    ByteRange(offset: from, count: layer.index.blobSize - from),
                    .demand,
                    fresh: fresh,
                    into: queue
                ) { [counters] in counters.bytesFetched.add(UInt64($0), ordering: .relaxed) }
            }
            defer { queue.close() }
            do throws(BlobError) {
                var replay = PlainReplay(queue, restarts, start: start)
                try replay.run(self, layer)
                return .success(())
            } catch {
                return .failure(error)
            }
        }
        try result.get()
    }

    /// What came of a span: answers who waits for it, and keeps what the store lacks.
    fileprivate func landAgain(_ layer: Layer, _ span: RestartSpan, _ bytes: borrowing RawSpan) throws(BlobError) {
        let flight = layer.again.take(span.offset)
        let map = IndexMembers(index: layer.index)
        let isWanted = map.containsChunk(
            of: ByteRange(offset: span.offset, count: 1),
            from: map.position(atOrAfter: span.offset)
        ) { !store.contains(layer.key($0)) }
        guard flight != nil || isWanted else { return }
        let member = decoder.check(layer, member: span.offset, UniqueBytes(copying: bytes).share())
        counters.bytesInflated.add(UInt64(member.bytes.count), ordering: .relaxed)
        flight?.finish(.landed(member))
        keep(layer, span.offset, member)
        if let flight { flights.remove(flight) }
    }
}

/// Decompresses a plain layer's blob once more, span by span. One thread.
private struct PlainReplay: ~Copyable {
    private let stream: PlainStream
    private let restarts: RestartTable
    private var number: Int
    /// What came out and is still needed: `count` bytes from `start` of the tar on.
    private var buffer = UniqueBytes(capacity: 1 << 20)
    private var count = 0
    private var start: UInt64

    /// - Parameter start: the span with which the queue begins.
    init(_ queue: ByteQueue, _ restarts: RestartTable, start: Int) {
        stream = PlainStream(queue, nil)
        self.restarts = restarts
        number = start
        self.start = restarts.spans[start].position
    }

    /// Goes on for as long as somebody waits for something that comes.
    mutating func run(_ io: BlobIO, _ layer: Layer) throws(BlobError) {
        while number < restarts.spans.count, layer.again.waits(from: restarts.spans[number].offset) {
            let span = restarts.spans[number]
            try drop(before: span.position, layer)
            if span.length > 0 {
                guard span.length <= UInt64(MemberDecoder.mostInflated) else {
                    throw BlobError(.unsupported, "\(layer.name) has a span of \(span.length) bytes")
                }
                try fill(Int(span.length), layer)
                try io.landAgain(layer, span, buffer.span.extracting(..<Int(span.length)))
            }
            number += 1
        }
        if number == restarts.spans.count, let offset = layer.again.first(), layer.again.waits(from: offset),
            restarts.span(at: offset) == nil
        {
            throw BlobError(.corrupt, "the index of \(layer.name) contradicts its restart points")
        }
    }

    private mutating func drop(before position: UInt64, _ layer: Layer) throws(BlobError) {
        while start + UInt64(count) < position {
            start += UInt64(count)
            count = 0
            try fill(1, layer)
        }
        let skip = Int(position - start)
        let left = count - skip
        unsafe buffer.withUnsafeMutableCapacity { bytes in
            // SAFETY: both ranges lie inside of the buffer; copyMemory allows them to overlap.
            unsafe bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[skip..<skip + left]))
        }
        start = position
        count = left
    }

    private static func grown(_ old: borrowing UniqueBytes, _ count: Int, to capacity: Int) -> UniqueBytes {
        var larger = UniqueBytes(capacity: capacity)
        unsafe larger.withUnsafeMutableCapacity { target in
            unsafe old.span.extracting(..<count).withUnsafeBytes { unsafe target.copyMemory(from: $0) }
        }
        return larger
    }

    /// Reads until there are `wanted` bytes.
    private mutating func fill(_ wanted: Int, _ layer: Layer) throws(BlobError) {
        if wanted > buffer.capacity {
            buffer = PlainReplay.grown(buffer, count, to: wanted)
        }
        while count < wanted {
            let produced: Int
            do throws(ByteSourceError) {
                let at = count
                produced = try unsafe buffer.withUnsafeMutableCapacity { (bytes) throws(ByteSourceError) in
                    try unsafe stream.read(into: UnsafeMutableRawBufferPointer(rebasing: bytes[at...]))
                }
            } catch {
                throw stream.failure ?? BlobError(.corrupt, "\(layer.name) is damaged: \(error)")
            }
            guard produced > 0 else { throw BlobError(.corrupt, "\(layer.name) ends before its index does") }
            count += produced
        }
    }
}
