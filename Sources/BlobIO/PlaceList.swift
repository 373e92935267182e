internal import HTTPTransport
internal import OCIModel
internal import Synchronization

/// The places that a layer can be read from, the first to be asked first. Places can be added while it is read, and while it is
/// being opened.
///
/// LOCK ORDER: the lock is a leaf.
final class PlaceList: Sendable {
    private let places: Mutex<[Place]>

    init(_ place: Place) { places = Mutex([place]) }

    /// Adds a place after those that are known.
    func add(_ place: Place) {
        places.withLock { places in
            if !places.contains(where: { $0.name == place.name }) { places.append(place) }
        }
    }

    /// The place that is asked first.
    var first: Place { places.withLock { $0[0] } }

    /// Hands over a range in order, as it comes, from the first place that gives it, and what one fails to give from the
    /// next; the error is the first place's.
    ///
    /// - Parameters:
    ///   - fresh: the last answer was wrong: begin with the next place where there is one, and ask anew.
    ///   - gate: holds bytes back while it is closed.
    ///   - take: gets the bytes, each once; false ends the call with an error.
    func stream(
        _ range: ByteRange,
        _ priority: TransferPriority,
        fresh: Bool,
        gate: FlowGate? = nil,
        take: @escaping @Sendable (borrowing RawSpan) -> Bool
    ) async throws(BlobError) {
        let progress = Progress()
        var asked: Set<String> = []
        var failure: BlobError?
        while let place = next(asked, skipsFirst: fresh && asked.isEmpty) {
            asked.insert(place.name)
            do throws(BlobError) {
                let taken = progress.taken.load(ordering: .acquiring)
                let rest = ByteRange(offset: range.offset + taken, count: range.count - taken)
                try await place.stream(rest, priority, fresh, gate) { progress.note($0, take($0)) }
                if progress.taken.load(ordering: .acquiring) == range.count { return }
                throw BlobError(.unavailable, "\(place.name) did not answer all of \(range)")
            } catch {
                if failure == nil { failure = error }
                if progress.isRefused.load(ordering: .acquiring) { break }
            }
        }
        throw failure ?? BlobError(.unavailable, "there is no place to read \(range) from")
    }

    private func next(_ asked: Set<String>, skipsFirst: Bool) -> Place? {
        places.withLock { places in
            let left = places.filter { !asked.contains($0.name) }
            return skipsFirst && left.count > 1 ? left[1] : left.first
        }
    }

    /// What came of a range over all places.
    private final class Progress: Sendable {
        let taken = Atomic<UInt64>(0)
        /// Whoever takes the bytes wants no more.
        let isRefused = Atomic(false)

        func note(_ bytes: borrowing RawSpan, _ isTaken: Bool) -> Bool {
            if isTaken {
                taken.add(UInt64(bytes.byteCount), ordering: .acquiringAndReleasing)
            } else {
                isRefused.store(true, ordering: .releasing)
            }
            return isTaken
        }
    }
}
