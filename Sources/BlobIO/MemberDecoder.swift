internal import BlockCodec
internal import LayerFormat
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// What a member inflated to, and which payloads in it were checked.
struct DecodedMember: Sendable {
    struct Payload: Sendable {
        var innerOffset: UInt64
        var length: UInt32
        var digest: Digest?
        /// The file that it belongs to, and where it stands in it, for messages.
        var record: UInt32
        var fileOffset: UInt64
        /// It lies inside of the member and has its digest, where one is known and to be checked.
        var isGood: Bool
    }

    let bytes: SharedBytes
    /// By `innerOffset`. Not all of them, where payloads overlap so much that checking them all is out of proportion.
    let payloads: [Payload]
    let verifies: Bool

    /// Where a chunk's payload stands in `bytes`; nil when it is not what it must be.
    func payload(of chunk: Chunk) -> Range<Int>? {
        guard let range = DecodedMember.range(chunk.innerOffset, chunk.length, in: bytes.count) else { return nil }
        var low = 0
        var high = payloads.count
        while low < high {
            let middle = (low + high) / 2
            if payloads[middle].innerOffset < chunk.innerOffset { low = middle + 1 } else { high = middle }
        }
        while low < payloads.count, payloads[low].innerOffset == chunk.innerOffset {
            if payloads[low].length == chunk.length && payloads[low].digest == chunk.digest {
                return payloads[low].isGood ? range : nil
            }
            low += 1
        }
        return DecodedMember.isGood(bytes, range, chunk.digest, verifies: verifies) ? range : nil
    }

    /// The range as numbers of this machine; nil when it is not inside of `count` bytes.
    static func range(_ innerOffset: UInt64, _ length: UInt32, in count: Int) -> Range<Int>? {
        guard let start = Int(exactly: innerOffset) else { return nil }
        let end = start.addingReportingOverflow(Int(length))
        guard !end.overflow, end.partialValue <= count else { return nil }
        return start..<end.partialValue
    }

    static func isGood(_ bytes: SharedBytes, _ range: Range<Int>, _ digest: Digest?, verifies: Bool) -> Bool {
        guard verifies, let digest else { return true }
        return SHA256.digest(of: bytes.span.extracting(range)) == digest
    }
}

/// Inflates members (gzip members or zstd frames) and checks the payloads in them. Called by the threads of the decode pool.
///
/// LOCK ORDER: the lock is a leaf.
final class MemberDecoder: Sendable {
    /// The most that a member may inflate to, in bytes: a chunk of 32 MiB, and as much again for the padding and the
    /// headers that follow it.
    static let mostInflated = 64 << 20
    /// The most of a member that is fetched: what inflates to that, if nothing in it can be compressed.
    static let mostCompressed: UInt64 = 65 << 20
    /// Payloads of one member that are checked in advance.
    private static let mostPayloads = 65536

    private final class Box: @unchecked Sendable {
        // SAFETY: used by the one thread that took it out of `idle`.
        var inflater = Inflater()
        /// Made when the first zstd frame comes.
        var frames: FrameDecoder?

        func decode(
            _ bytes: borrowing RawSpan,
            _ format: CompressionFormat,
            wanted: Int
        ) throws(CodecError) -> UniqueBytes {
            guard format == .zstd else {
                return try inflater.inflate(bytes, wanted: wanted, limit: MemberDecoder.mostInflated)
            }
            var decoder = frames.take() ?? FrameDecoder()
            let result: UniqueBytes
            do throws(CodecError) {
                result = try decoder.decode(bytes, wanted: wanted, limit: MemberDecoder.mostInflated)
            } catch {
                frames = consume decoder
                throw error
            }
            frames = consume decoder
            return result
        }
    }

    /// Decoders that nobody uses now; no more than there are threads.
    private let idle = Mutex<[Box]>([])

    /// Inflates the member whose compressed bytes stand at `range` of `bytes`.
    func decode(
        _ layer: Layer,
        member offset: UInt64,
        _ bytes: SharedBytes,
        _ range: Range<Int>
    ) throws(CodecError) -> DecodedMember {
        var payloads = MemberDecoder.payloads(layer.index, member: offset)
        var wanted = 1
        for payload in payloads {
            let range = DecodedMember.range(payload.innerOffset, payload.length, in: MemberDecoder.mostInflated)
            if let range { wanted = max(wanted, range.upperBound) }
        }
        let box = idle.withLock { $0.popLast() } ?? Box()
        defer { idle.withLock { $0.append(box) } }
        let inflated = try box.decode(
            bytes.span.extracting(range),
            layer.index.format.memberCompression,
            wanted: wanted
        ).share()
        // Payloads that do not overlap fit into this; those beyond are checked when somebody asks for them.
        var budget = 2 * inflated.count
        var checked = 0
        while checked < payloads.count, budget > 0 {
            let payload = payloads[checked]
            if let range = DecodedMember.range(payload.innerOffset, payload.length, in: inflated.count) {
                budget -= range.count
                payloads[checked].isGood = DecodedMember.isGood(
                    inflated,
                    range,
                    payload.digest,
                    verifies: layer.verifiesChunks
                )
            }
            checked += 1
        }
        payloads.removeSubrange(checked...)
        payloads.sort { $0.innerOffset < $1.innerOffset }
        return DecodedMember(bytes: inflated, payloads: payloads, verifies: layer.verifiesChunks)
    }

    /// The payloads that the index says are in a member, each once.
    private static func payloads(_ index: LayerIndex, member offset: UInt64) -> [DecodedMember.Payload] {
        var result: [DecodedMember.Payload] = []
        var position = index.blobPosition(atOrAfter: offset)
        while position < index.chunkCount, result.count < mostPayloads {
            let chunk = index.chunk(index.chunkInBlobOrder(position))
            guard chunk.member.offset == offset else { break }
            position += 1
            if chunk.isZeros { continue }
            if let last = result.last, last.innerOffset == chunk.innerOffset, last.length == chunk.length,
                last.digest == chunk.digest
            {
                continue
            }
            result.append(
                DecodedMember.Payload(
                    innerOffset: chunk.innerOffset,
                    length: chunk.length,
                    digest: chunk.digest,
                    record: chunk.record,
                    fileOffset: chunk.fileOffset,
                    isGood: false
                )
            )
        }
        return result
    }
}
