internal import LayerFormat
internal import OCIModel

/// Writes a stream's journal every so often, and knows what is in it already.
struct StreamSaver {
    /// A record is written when so many bytes of the tar came since the last one.
    private let spacing: UInt64
    /// Or so many of its structure.
    private static let mostStructure = 1 << 20

    /// A record that waits for its chunks' digests, which other threads make.
    private struct Record {
        var point: StreamPoint
        var tarOffset: UInt64
        var structure: [UInt8]
        var chunkCount: Int
    }

    private var journal: StreamJournal?
    /// Up to where what came is known: the stream goes on behind it.
    let start: UInt64
    private let digests: [Digest]
    private var nextDigest = 0
    private var waiting: Record?
    /// Of the last record, be it written or waiting.
    private var lastOffset: UInt64
    private var lastTar: UInt64

    /// - Parameter journal: nil where none can be kept.
    init(_ journal: StreamJournal?, spacing: UInt64) {
        self.spacing = spacing
        self.journal = journal
        start = journal?.saved?.tarOffset ?? 0
        digests = journal?.saved?.digests ?? []
        lastOffset = journal?.saved?.point.offset ?? 0
        lastTar = start
    }

    /// Whether a journal is kept.
    var isActive: Bool { journal != nil }

    /// What became known before of a chunk.
    enum Knowledge {
        /// It comes by, now.
        case nothing
        /// It does not come, and this is its digest.
        case digest(Digest)
        /// The journal cannot be of this tar.
        case contradiction
    }

    /// What is known of the next chunk.
    mutating func knowledge(of range: Range<UInt64>) -> Knowledge {
        guard range.lowerBound < start else {
            return nextDigest == digests.count ? .nothing : .contradiction
        }
        guard range.upperBound <= start, nextDigest < digests.count else { return .contradiction }
        nextDigest += 1
        return .digest(digests[nextDigest - 1])
    }

    /// To be called between two entries or chunks: makes a record if it is time, and writes it when it is complete. One that
    /// cannot be written is the last.
    ///
    /// - Parameter blobSize: where the blob ends; nothing can be taken up there.
    mutating func save(
        _ reader: inout TarReader<PlainSource>,
        _ stream: PlainStream,
        _ ledger: ChunkLedger,
        blobSize: UInt64
    ) {
        if journal != nil, waiting == nil { makeRecord(&reader, stream, ledger, blobSize) }
        writeRecord(stream, ledger)
    }

    /// Writes the record that waits, after a stream that failed.
    mutating func finish(_ stream: PlainStream, _ ledger: ChunkLedger) {
        _ = ledger.settled()
        writeRecord(stream, ledger)
    }

    private mutating func writeRecord(_ stream: PlainStream, _ ledger: ChunkLedger) {
        guard let journal, let record = waiting,
            let digests = ledger.digests(journal.chunkCount..<record.chunkCount)
        else { return }
        waiting = nil
        let isSaved = stream.save(
            record.point,
            in: journal,
            tarOffset: record.tarOffset,
            digests: digests,
            structure: record.structure
        )
        if !isSaved { self.journal = nil }
    }

    private mutating func makeRecord(
        _ reader: inout TarReader<PlainSource>,
        _ stream: PlainStream,
        _ ledger: ChunkLedger,
        _ blobSize: UInt64
    ) {
        guard reader.offset >= start, let point = stream.point, point.offset > lastOffset, point.offset < blobSize,
            point.position <= reader.offset
        else { return }
        guard let structureCount = reader.structureCount else {
            // There is more structure than is worth keeping.
            journal = nil
            return
        }
        guard reader.offset - lastTar >= spacing || structureCount >= StreamSaver.mostStructure,
            let structure = reader.takeStructure()
        else { return }
        waiting = Record(
            point: point,
            tarOffset: reader.offset,
            structure: structure,
            chunkCount: ledger.count
        )
        lastOffset = point.offset
        lastTar = reader.offset
    }
}
