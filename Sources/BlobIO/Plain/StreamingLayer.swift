public import OCIModel
internal import PosixIO
internal import Synchronization

/// A plain layer that is being streamed, at one moment.
public struct StreamingLayer: Sendable, Equatable {
    /// The layer's digest.
    public var digest: Digest
    /// Where it comes from: `host/repository`, or the path of a local file.
    public var place: String
    /// Bytes of the blob that have come.
    public var bytes: UInt64
    /// Bytes of the blob.
    public var size: UInt64
    /// Entries of the tar that have come.
    public var entries: UInt64
    /// Bytes of the blob a second, of late.
    public var bytesPerSecond: UInt64
    /// How long it has gone on, in seconds.
    public var seconds: Double
    /// How long it will go on at this rate, in seconds; nil while nothing comes.
    public var secondsLeft: Double?
    /// Whether it proves an index that came from elsewhere, rather than being waited for.
    public var isProof: Bool
}

/// How far the stream of a layer is.
///
/// LOCK ORDER: the lock is a leaf.
final class StreamProgress: Sendable {
    private struct Rate {
        var at: UInt64
        var bytes: UInt64 = 0
        var perSecond: UInt64 = 0
    }

    let digest: Digest
    let place: String
    let size: UInt64
    let isProof: Bool
    private let start = monotonicNanoseconds()
    private let byteCount = Atomic<UInt64>(0)
    private let entryCount = Atomic<UInt64>(0)
    private let rate: Mutex<Rate>

    init(_ digest: Digest, place: String, size: UInt64, isProof: Bool) {
        self.digest = digest
        self.place = place
        self.size = size
        self.isProof = isProof
        rate = Mutex(Rate(at: start))
    }

    func came(_ bytes: Int) { byteCount.add(UInt64(bytes), ordering: .relaxed) }
    func addEntry() { entryCount.add(1, ordering: .relaxed) }
    /// The stream begins, or goes on, at a byte of the blob.
    func begin(at offset: UInt64) {
        byteCount.store(offset, ordering: .relaxed)
        entryCount.store(0, ordering: .relaxed)
        rate.withLock { $0 = Rate(at: monotonicNanoseconds(), bytes: offset) }
    }

    /// The state now. The rate is that of the last second or more.
    var snapshot: StreamingLayer {
        let now = monotonicNanoseconds()
        let bytes = byteCount.load(ordering: .relaxed)
        let perSecond = rate.withLock { rate in
            let elapsed = now - min(now, rate.at)
            if elapsed >= 1_000_000_000 {
                let came = bytes - min(bytes, rate.bytes)
                rate = Rate(at: now, bytes: bytes, perSecond: UInt64(Double(came) * 1e9 / Double(elapsed)))
            }
            return rate.perSecond
        }
        let left = size - min(size, bytes)
        return StreamingLayer(
            digest: digest,
            place: place,
            bytes: bytes,
            size: size,
            entries: entryCount.load(ordering: .relaxed),
            bytesPerSecond: perSecond,
            seconds: Double(now - start) / 1e9,
            secondsLeft: perSecond > 0 ? Double(left) / Double(perSecond) : nil,
            isProof: isProof
        )
    }
}

/// The streams of plain layers that are under way.
///
/// LOCK ORDER: the lock is a leaf.
final class StreamRegister: Sendable {
    private let streams = Mutex<[ObjectIdentifier: StreamProgress]>([:])

    func add(_ progress: StreamProgress) { streams.withLock { $0[ObjectIdentifier(progress)] = progress } }

    func remove(_ progress: StreamProgress) {
        _ = streams.withLock { $0.removeValue(forKey: ObjectIdentifier(progress)) }
    }

    func contains(_ progress: StreamProgress) -> Bool { streams.withLock { $0[ObjectIdentifier(progress)] != nil } }

    /// All of them, by digest.
    var snapshot: [StreamingLayer] {
        streams.withLock { Array($0.values) }.map(\.snapshot).sorted { $0.digest.description < $1.digest.description }
    }
}
