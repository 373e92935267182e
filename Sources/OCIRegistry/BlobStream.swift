internal import HTTPTransport
internal import OCIModel
internal import Synchronization

/// A range of a blob that is handed over as it comes, over any number of attempts.
final class BlobStream: Sendable {
    private let range: ByteRange
    private let take: @Sendable (borrowing RawSpan) -> Bool
    private let gate: FlowGate?
    private let count = Atomic<UInt64>(0)

    init(_ range: ByteRange, gate: FlowGate?, _ take: @escaping @Sendable (borrowing RawSpan) -> Bool) {
        self.range = range
        self.gate = gate
        self.take = take
    }

    /// Bytes that were handed over, from the range's start.
    var taken: UInt64 { count.load(ordering: .acquiring) }

    /// The sink of an attempt that asks for `rest`, with which the range ends.
    func sink(_ rest: ByteRange) -> BodySink {
        BodySink(
            begins: { status, headers in
                // The whole content: the transport cuts out what was asked for.
                if status != 206 { return status == 200 }
                guard let text = headers["content-range"], let served = ContentRange(text) else { return false }
                return served.first == rest.offset && served.last < rest.end
            },
            take: { bytes in
                guard self.take(bytes) else { return false }
                self.count.add(UInt64(bytes.byteCount), ordering: .acquiringAndReleasing)
                return true
            },
            gate: gate
        )
    }
}
