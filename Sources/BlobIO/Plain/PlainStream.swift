internal import BlockCodec
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// A plain layer's blob as it streams by: what it hashes to, what it decompresses to, what that hashes to, and where
/// decompression could be taken up again. One thread.
final class PlainStream {
    /// About how far points are apart, in bytes of the tar. The measurements are in docs/decisions/0013-plain-layers.md.
    static let spacing: UInt64 = 2 << 20
    /// Where no point comes for so long, a span begins without one.
    static let mostSpan: UInt64 = 8 << 20
    /// How far the places are apart at which it is noted how much of the blob was read.
    private static let markSpacing: UInt64 = 64 << 10

    private let queue: ByteQueue
    /// How the blob is compressed, as its first bytes say.
    private(set) var format = CompressionFormat.none
    private var isStarted = false
    private var gzip: PointDecoder?
    private var zstd: StreamDecoder?
    private var blobHash: SHA256
    private var tarHash: SHA256
    /// Why the queue ended early.
    private(set) var failure: BlobError?

    private var piece = SharedBytes([])
    private var pieceAt = 0
    private var isOutputPending = false
    private var lastByte: UInt8 = 0
    /// Bytes of the blob that came, and of these how many were decompressed.
    private(set) var blobBytes: UInt64 = 0
    private var consumed: UInt64 = 0
    /// Bytes of the tar that came out.
    private(set) var tarBytes: UInt64 = 0

    /// Where the blob can be read from, once it has streamed by.
    private(set) var spans: [RestartSpan] = []
    private var marks: [StreamMark] = []
    private var writer: RestartWriter?
    /// Where it could be taken up that was come by last.
    private(set) var point: StreamPoint?

    /// - Parameters:
    ///   - queue: brings the blob.
    ///   - writer: keeps the windows of points; nil where points are not wanted.
    init(_ queue: ByteQueue, _ writer: consuming RestartWriter?) {
        self.queue = queue
        self.writer = writer
        blobHash = SHA256()
        tarHash = SHA256()
    }

    /// Goes on where the stream of another process was; the queue brings the blob from there. Nil when what was saved is
    /// damaged.
    init?(_ queue: ByteQueue, _ writer: consuming RestartWriter, _ journal: StreamJournal, _ saved: SavedStream) {
        guard let restored = journal.restore(saved, &writer) else { return nil }
        self.queue = queue
        isStarted = true
        format = saved.format.memberCompression
        blobHash = SHA256(resuming: saved.point.blobHash)
        tarHash = SHA256(resuming: saved.point.tarHash)
        switch format {
        case .gzip:
            guard let point = restored.point, let decoder = PointDecoder(from: point) else { return nil }
            gzip = consume decoder
        case .zstd: zstd = StreamDecoder(.zstd)
        case .none: break
        }
        spans = restored.spans
        marks = saved.marks
        lastByte = spans.last?.byte ?? 0
        blobBytes = saved.point.offset
        consumed = saved.point.offset
        tarBytes = saved.point.position
        self.writer = consume writer
    }

    /// The next bytes of the tar.
    func read(into output: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int {
        if !isStarted { try start() }
        while true {
            if pieceAt == piece.count && !isOutputPending {
                guard try nextPiece() else {
                    try finish()
                    return 0
                }
            }
            let produced = try unsafe step(into: output)
            guard produced > 0 else { continue }
            tarBytes += UInt64(produced)
            if format != .none, tarBytes - (marks.last?.position ?? 0) >= PlainStream.markSpacing {
                marks.append(StreamMark(position: tarBytes, offset: consumed))
            }
            return produced
        }
    }

    /// The rest of the blob, for its digest only.
    func drain() {
        do throws(ByteSourceError) {
            repeat {
                blobHash.update(piece.span.extracting(pieceAt...))
            } while try nextPiece()
        } catch {
            // `failure` says why.
        }
    }

    /// The digests of the blob and of the tar; once, at the end.
    func digests() -> (blob: Digest, tar: Digest) {
        let blob = blobHash.finish()
        return (blob, format == .none ? blob : tarHash.finish())
    }

    /// Up to where the blob must be read for the first `position` bytes of the tar.
    func mark(_ position: UInt64) -> UInt64 {
        var low = 0
        var high = marks.count
        while low < high {
            let middle = (low + high) / 2
            if marks[middle].position < position { low = middle + 1 } else { high = middle }
        }
        return low < marks.count ? marks[low].offset : consumed
    }

    /// Keeps in a journal what it takes to go on at a point that was come by.
    func save(
        _ point: StreamPoint,
        in journal: StreamJournal,
        tarOffset: UInt64,
        digests: [Digest],
        structure: [UInt8]
    ) -> Bool {
        guard var writer = writer.take() else { return false }
        let isSaved = journal.append(
            indexFormat,
            point,
            tarOffset: tarOffset,
            spans: spans,
            marks: marks,
            writer: &writer,
            digests: digests,
            structure: structure
        )
        self.writer = consume writer
        return isSaved
    }

    /// What an index calls the format.
    var indexFormat: IndexFormat {
        switch format {
        case .none: .tar
        case .gzip: .tarGzip
        case .zstd: .tarZstd
        }
    }

    /// Gives the writer away.
    func takeWriter() -> RestartWriter? { writer.take() }

    // MARK: Steps

    private func start() throws(ByteSourceError) {
        isStarted = true
        guard try nextPiece() else { return }
        while piece.count < CompressionFormat.magicByteCount {
            let head = piece.array
            guard try nextPiece() else {
                piece = SharedBytes(head)
                break
            }
            piece = SharedBytes(head + piece.array)
        }
        pieceAt = 0
        format = CompressionFormat.detect(piece.span)
        switch format {
        case .gzip: gzip = PointDecoder()
        case .zstd:
            zstd = StreamDecoder(.zstd)
            spans.append(RestartSpan(offset: 0, position: 0, isPoint: true))
        case .none: break
        }
    }

    private func nextPiece() throws(ByteSourceError) -> Bool {
        do throws(BlobError) {
            guard let next = try queue.next() else {
                piece = SharedBytes([])
                pieceAt = 0
                return false
            }
            piece = next
        } catch {
            failure = error
            throw .stopped(error.reason)
        }
        pieceAt = 0
        blobBytes += UInt64(piece.count)
        return true
    }

    private func finish() throws(ByteSourceError) {
        switch format {
        case .gzip: try gzip?.finish()
        case .zstd: try zstd?.finish()
        case .none: break
        }
    }

    private func step(into output: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int {
        let input = unsafe UnsafeRawBufferPointer(start: piece.base + pieceAt, count: piece.count - pieceAt)
        let used: Int
        let produced: Int
        var bits: UInt8?
        var isFrameEnd = false
        switch format {
        case .none:
            let count = min(input.count, output.count)
            unsafe output.copyMemory(from: UnsafeRawBufferPointer(rebasing: input[..<count]))
            (used, produced) = (count, count)
        case .gzip:
            guard let step = try unsafe gzip?.step(input, into: output) else { return 0 }
            (used, produced, bits) = (step.consumed, step.produced, step.bits)
        case .zstd:
            guard let step = try unsafe zstd?.step(input, into: output) else { return 0 }
            (used, produced) = (step.consumed, step.produced)
            isFrameEnd = zstd?.isAtBoundary ?? false
        }
        if used > 0 { lastByte = unsafe input[used - 1] }
        blobHash.update(piece.span.extracting(pieceAt..<pieceAt + used))
        pieceAt += used
        consumed += UInt64(used)
        isOutputPending = produced == output.count && format != .none
        let position = tarBytes + UInt64(produced)
        if format != .none {
            let made = unsafe UnsafeRawBufferPointer(rebasing: output[..<produced])
            unsafe tarHash.update(made.bytes)
            noteSpan(at: position, bits: bits, isFrameEnd: isFrameEnd)
        } else if position - (point?.position ?? 0) >= PlainStream.spacing {
            notePoint(at: position)
        }
        return produced
    }

    private func notePoint(at position: UInt64) {
        point = StreamPoint(
            offset: consumed,
            position: position,
            blobHash: blobHash.state,
            tarHash: tarHash.state,
            spanCount: spans.count,
            markCount: marks.count
        )
    }

    /// Begins a span where one is due. Which spans there are depends on the blob alone, not on the pieces in which it comes.
    private func noteSpan(at position: UInt64, bits: UInt8?, isFrameEnd: Bool) {
        let isPoint = bits != nil || isFrameEnd
        while let last = spans.last, position - last.position > PlainStream.mostSpan {
            // No point came for so long: a span with an offset that only tells it apart.
            spans.append(
                RestartSpan(offset: last.offset + 1, position: last.position + PlainStream.mostSpan, isPoint: false)
            )
        }
        guard isPoint else { return }
        if let last = spans.last {
            guard consumed > last.offset, position - last.position >= PlainStream.spacing else { return }
        }
        var span = RestartSpan(offset: consumed, position: position, isPoint: true)
        if let bits, let window = gzip?.window() {
            writer?.add(GzipPoint(bits: bits, byte: lastByte, window: window), to: &span)
        }
        spans.append(span)
        notePoint(at: position)
    }
}
