internal import LayerFormat
internal import OCIModel
public import PosixIO
internal import Synchronization

/// Something to fetch that nobody waits for. It ends when all of it is in the store, or cannot be fetched.
///
/// LOCK ORDER: the lock is a leaf.
public final class PrefetchJob: Sendable {
    /// What is to be fetched: chunks in their order, or ranges of blobs.
    enum Source: Sendable {
        case places([ProfilePlace])
        case ranges([ByteRange])
    }

    /// A member that may be missing.
    struct Candidate: Sendable {
        var layer: Int
        var item: FetchPlanner.Item
    }

    private struct State: Sendable {
        /// Which place or range is next.
        var next = 0
        /// Up to where the range that is next was looked through.
        var offset: UInt64 = 0
        var planned: UInt64 = 0
        /// Requests that are planned and not sent yet, the first one last.
        var pending: [[Candidate]] = []
        var inFlight = 0
        var isExhausted = false
        var fetched: UInt64 = 0
        var failedLayers: Set<Int> = []
        var failure: BlobError?
    }

    /// Why.
    public let kind: PrefetchKind
    /// Finished when the job is.
    public let completion = Completion()
    let layers: [Layer]
    let source: Source
    /// The most compressed bytes to fetch.
    let limit: UInt64
    private let state = Mutex(State())

    init(_ kind: PrefetchKind, _ layers: [Layer], _ source: Source, limit: UInt64 = .max) {
        self.kind = kind
        self.layers = layers
        self.source = source
        self.limit = limit
    }

    /// Compressed bytes that are in the store by now.
    public var fetched: UInt64 { state.withLock { $0.fetched } }
    /// The first failure.
    public var failure: BlobError? { state.withLock { $0.failure } }

    /// Fetches nothing more; what is on its way comes.
    public func cancel() {
        let isOver = state.withLock { state in
            state.isExhausted = true
            state.pending = []
            return state.inFlight == 0
        }
        if isOver { completion.finish() }
    }

    // MARK: For the one thread that plans

    var planned: UInt64 { state.withLock { $0.planned } }
    var cursor: (next: Int, offset: UInt64) { state.withLock { ($0.next, $0.offset) } }
    var hasMore: Bool { state.withLock { !$0.isExhausted || !$0.pending.isEmpty } }

    func isFailed(_ layer: Int) -> Bool { state.withLock { $0.failedLayers.contains(layer) } }

    /// Notes how far planning came, and what it gave.
    func plan(_ requests: [[Candidate]], next: Int, offset: UInt64, isExhausted: Bool) {
        state.withLock { state in
            // Cancelled meanwhile.
            guard !state.isExhausted else { return }
            state.next = next
            state.offset = offset
            state.pending = requests.reversed()
            state.planned += requests.joined().reduce(0) { $0 + $1.item.range.count }
            state.isExhausted = isExhausted || state.planned >= limit
        }
    }

    /// The bytes of the next request that was planned; nil when there is none.
    var nextPendingBytes: UInt64? { state.withLock { $0.pending.last?.reduce(0) { $0 + $1.item.range.count } } }

    /// The next request that was planned.
    func popPending() -> [Candidate]? { state.withLock { $0.pending.popLast() } }

    // MARK: What becomes of it

    func depart(_ count: Int) { state.withLock { $0.inFlight += count } }

    /// A member is in the store, or failed.
    func land(_ layer: Int, _ bytes: UInt64, _ failure: BlobError?) {
        state.withLock { state in
            state.inFlight -= 1
            if let failure {
                state.failure = state.failure ?? failure
                // One failure says that the layer cannot be had now; readers still try.
                state.failedLayers.insert(layer)
                state.pending.removeAll { $0.first?.layer == layer }
            } else {
                state.fetched += bytes
            }
        }
        finishIfOver()
    }

    /// The same for a member that was on its way for somebody else. Until the store has it, its flight is found.
    func land(_ layer: Int, _ other: Flight) {
        switch other.state {
        case .failed(let error): land(layer, other.range.count, error)
        case .flying, .landed: land(layer, other.range.count, nil)
        }
    }

    func finishIfOver() {
        let isOver = state.withLock { $0.isExhausted && $0.pending.isEmpty && $0.inFlight == 0 }
        if isOver { completion.finish() }
    }
}
