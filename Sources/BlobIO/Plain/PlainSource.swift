internal import BlockCodec
internal import LayerFormat

/// The tar that a plain stream decompresses to. One that goes on in the middle begins with what a journal has of the tar in
/// front of it: its structure, without files' contents.
struct PlainSource: ByteSource {
    private let stream: PlainStream
    private let journal: StreamJournal?
    /// Where the journal ends in the tar, and the stream takes over.
    private let start: UInt64
    private var structureNumber = 0
    private var structure: [UInt8] = []
    private var structureAt = 0

    /// - Parameter journal: has what was saved of the stream; nil for a stream from the start.
    init(_ stream: PlainStream, _ journal: StreamJournal?) {
        self.stream = stream
        self.journal = journal
        start = journal?.saved?.tarOffset ?? 0
    }

    mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int {
        let count = try unsafe readStructure(into: buffer)
        guard count == 0 else { return count }
        while true {
            let before = stream.tarBytes
            let produced = try unsafe stream.read(into: buffer)
            guard produced > 0, before < start else { return produced }
            // The point is in front of where the journal ends: what lies between is known.
            guard stream.tarBytes > start else { continue }
            let skip = Int(start - before)
            // SAFETY: both ranges lie inside of the buffer; copyMemory allows them to overlap.
            unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[skip..<produced]))
            return produced - skip
        }
    }

    private mutating func readStructure(into buffer: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int {
        guard let journal, let saved = journal.saved else { return 0 }
        while structureAt == structure.count {
            guard structureNumber < saved.recordCount else { return 0 }
            guard let next = journal.structure(structureNumber) else {
                throw .stopped("what was saved of the stream is damaged")
            }
            structureNumber += 1
            (structure, structureAt) = (next, 0)
        }
        let count = min(buffer.count, structure.count - structureAt)
        unsafe structure[structureAt..<structureAt + count].withUnsafeBytes { unsafe buffer.copyMemory(from: $0) }
        structureAt += count
        return count
    }
}
