internal import LayerFormat
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// The layers that are open or being opened: single flight per layer, and a layer lives for as long as somebody uses it.
///
/// LOCK ORDER: the table's, then an opening's. Nothing is opened or answered under either.
final class LayerTable: Sendable {
    /// What a layer is known by. With the TOC digests that its manifest promises: a layer that was opened on another
    /// promise, or on none, must not pass for it.
    struct Key: Hashable, Sendable {
        var digest: Digest
        var promise: TOCPromise
    }

    /// A layer on its way.
    private final class Opening: Sendable {
        /// Where it is read from. Who waits adds a place.
        let places: PlaceList
        private let completion = Completion()
        private let result = Mutex<Result<Layer, BlobError>?>(nil)

        init(_ place: Place) { places = PlaceList(place) }

        func finish(_ result: Result<Layer, BlobError>) {
            self.result.withLock { $0 = result }
            completion.finish()
        }

        func value() async -> Result<Layer, BlobError> {
            await withCheckedContinuation { continuation in
                completion.whenFinished { continuation.resume() }
            }
            return result.withLock { $0 } ?? .failure(BlobError(.unavailable, "the layer was not opened"))
        }
    }

    private enum Entry: Sendable {
        case opening(Opening)
        case open(Weak)
        case failed(BlobError, until: UInt64)
    }

    private struct Weak: Sendable {
        weak let layer: Layer?
    }

    private enum Step {
        case done(Result<Layer, BlobError>)
        case wait(Opening)
        /// The index that the cache has is known to be damaged, or not.
        case start(Opening, isDamaged: Bool)
    }

    private let entries = Mutex<[Key: Entry]>([:])
    private let failureMemory: UInt64?

    /// - Parameter failureMemory: nanoseconds; nil for the usual times.
    init(failureMemory: UInt64?) {
        self.failureMemory = failureMemory
    }

    /// The open layer, or what `start` gives; a layer whose index proved damaged is opened anew. Callers that come while it
    /// runs get the same; each adds its place to the layer's, also while that is being opened. What is cancelled is the
    /// waiting, never the opening.
    func open(
        _ key: Key,
        at place: Place,
        _ start: @escaping @Sendable (_ places: PlaceList, _ isDamaged: Bool) async -> Result<Layer, BlobError>
    ) async throws(BlobError) -> Layer {
        switch entries.withLock({ LayerTable.step(&$0, key, place) }) {
        case .done(let result):
            let layer = try result.get()
            layer.places.add(place)
            return layer
        case .wait(let opening):
            opening.places.add(place)
            return try await opening.value().get()
        case .start(let opening, let isDamaged):
            Task {
                let result = await start(opening.places, isDamaged)
                self.note(key, result)
                opening.finish(result)
            }
            return try await opening.value().get()
        }
    }

    private static func step(_ entries: inout [Key: Entry], _ key: Key, _ place: Place) -> Step {
        var isDamaged = false
        switch entries[key] {
        case .opening(let opening): return .wait(opening)
        case .open(let weak):
            if let layer = weak.layer, !layer.isRefuted {
                if !layer.index.isDamaged { return .done(.success(layer)) }
                isDamaged = true
            }
        case .failed(let error, let until):
            if monotonicNanoseconds() < until { return .done(.failure(error)) }
        case nil: break
        }
        let opening = Opening(place)
        entries[key] = .opening(opening)
        return .start(opening, isDamaged: isDamaged)
    }

    private func note(_ key: Key, _ result: Result<Layer, BlobError>) {
        let now = monotonicNanoseconds()
        entries.withLock { entries in
            // Entries of what is gone go when a new one comes.
            entries = entries.filter { _, entry in
                switch entry {
                case .opening: true
                case .open(let weak): weak.layer != nil
                case .failed(_, let until): now < until
                }
            }
            switch result {
            case .success(let layer): entries[key] = .open(Weak(layer: layer))
            case .failure(let error): entries[key] = .failed(error, until: now &+ memory(of: error))
            }
        }
    }

    /// How long an error stands, in nanoseconds: what a layer is does not change, what a network does may.
    private func memory(of error: BlobError) -> UInt64 {
        if error.isPlainLayer { return 0 }
        if let failureMemory { return failureMemory }
        switch error.kind {
        case .unsupported: return 60_000_000_000
        case .corrupt: return 5_000_000_000
        default: return 1_000_000_000
        }
    }
}
