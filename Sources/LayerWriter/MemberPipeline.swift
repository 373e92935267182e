internal import BlockCodec
internal import OCIModel
internal import PosixIO

/// What becomes one gzip member, or with zstd:chunked one frame for the content and one for what follows it.
struct Member: Sendable {
    /// The bytes: a chunk of a file's content (or none), then what follows it in the tar stream.
    var bytes: [UInt8]
    /// How many bytes of it, from the start, are content.
    var payloadCount = 0
}

/// A compressed member.
struct PackedMember: Sendable {
    var bytes: [UInt8]
    /// Where in `bytes` what follows the content starts; the whole of it where that is in the same member.
    var contentEnd: Int
    /// How long the member was before.
    var inputCount: Int
    /// SHA-256 of its content; nil when it has none.
    var payloadDigest: Digest?
}

/// Compresses a member. One thread at a time.
private struct Packer: ~Copyable {
    private var deflater: Deflater?
    private var encoder: FrameEncoder?

    init(_ format: OutputFormat, level: Int) {
        if format == .zstdChunked {
            encoder = FrameEncoder(level: level)
        } else {
            deflater = Deflater(level: level)
        }
    }

    mutating func pack(_ member: Member) -> PackedMember {
        let bytes = unsafe member.bytes.span.bytes
        let content = bytes.extracting(..<member.payloadCount)
        let digest = member.payloadCount > 0 ? SHA256.digest(of: content) : nil
        guard let frame = encoder?.frame(member.payloadCount > 0 ? content : bytes) else {
            let packed = deflater?.gzip(bytes) ?? []
            return PackedMember(
                bytes: packed,
                contentEnd: packed.count,
                inputCount: member.bytes.count,
                payloadDigest: digest
            )
        }
        var packed = PackedMember(
            bytes: frame,
            contentEnd: frame.count,
            inputCount: member.bytes.count,
            payloadDigest: digest
        )
        // Readers of zstd:chunked take what is between two offsets for the chunk, and nothing else.
        if member.payloadCount > 0, member.payloadCount < member.bytes.count {
            packed.bytes += encoder?.frame(bytes.extracting(member.payloadCount...)) ?? []
        }
        return packed
    }
}

/// Compresses members on several threads and gives them back in the order in which they came.
///
/// Memory: the caller bounds it by collecting (`next`) before it submits more.
final class MemberPipeline: Sendable {
    private struct State: Sendable {
        var queue: [(number: Int, member: Member)] = []
        var head = 0
        var results: [Int: PackedMember] = [:]
        var closed = false

        mutating func take() -> (number: Int, member: Member)? {
            guard head < queue.count else { return nil }
            let job = queue[head]
            queue[head].member.bytes = []
            head += 1
            if head == queue.count {
                queue.removeAll(keepingCapacity: true)
                head = 0
            }
            return job
        }
    }

    private let monitor = Monitor(State())

    /// Starts the threads; they end after `close`.
    init(_ format: OutputFormat, threads: Int, level: Int) {
        for index in 0..<threads {
            let monitor = monitor
            startThread(named: "crfs-deflate-\(index)") { Self.work(monitor, format, level) }
        }
    }

    private static func work(_ monitor: Monitor<State>, _ format: OutputFormat, _ level: Int) {
        var packer = Packer(format, level: level)
        while true {
            let job = monitor.wait { state -> (number: Int, member: Member)?? in
                if let job = state.take() { return .some(job) }
                return state.closed ? .some(nil) : nil
            }
            guard let job else { return }
            let packed = packer.pack(job.member)
            monitor.withLock { $0.results[job.number] = packed }
        }
    }

    /// Queues the member of the given number.
    func submit(_ member: Member, number: Int) {
        monitor.withLock { $0.queue.append((number, member)) }
    }

    /// Waits for the member of the given number, which must have been submitted, and takes it out.
    func collect(_ number: Int) -> PackedMember {
        monitor.wait { $0.results.removeValue(forKey: number) }
    }

    /// Ends the threads once they have done what is queued.
    func close() {
        monitor.withLock { $0.closed = true }
    }
}
