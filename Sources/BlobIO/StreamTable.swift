internal import OCIModel
internal import OCIRegistry
internal import Synchronization

/// The streams of reads of a layer, for all threads. Used only where chunks are missing, and where one that was fetched
/// ahead is read for the first time.
///
/// LOCK ORDER: the lock is a leaf.
final class StreamTable: Sendable {
    private let state: Mutex<ReadAhead>

    init(end: UInt64, limits: FetchLimits) {
        state = Mutex(ReadAhead(end: end, limits: limits))
    }

    /// See `ReadAhead.missed`.
    func missed(_ range: ByteRange, _ link: LinkEstimate) -> ReadAhead.Extension? {
        state.withLock { $0.missed(range, link) }
    }

    /// See `ReadAhead.touched`.
    func touched(_ member: ByteRange, isThere: Bool) -> ReadAhead.Extension? {
        state.withLock { $0.touched(member, isThere: isThere) }
    }

    /// See `ReadAhead.extended`.
    func extended(_ id: UInt64, to frontier: UInt64, bytes: UInt64) {
        state.withLock { $0.extended(id, to: frontier, bytes: bytes) }
    }
}
