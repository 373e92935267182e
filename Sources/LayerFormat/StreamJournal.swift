public import BlockCodec
internal import Glibc
public import OCIModel
internal import PosixIO

/// The head of a journal's file (docs/stream-journal.md).
struct JournalHeader {
    static let byteCount = 128
    /// "crfspart".
    private static let magic: UInt64 = 0x7472_6170_7366_7263
    /// Raise it with every change of the layout, of how a tar is read, and of where spans begin.
    private static let version: UInt32 = 1
    private static let checksumAt = 124

    var layer: Digest
    var blobSize: UInt64
    /// Nil until the first record is written.
    var format: IndexFormat?

    var bytes: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: JournalHeader.byteCount)
        bytes.put(JournalHeader.magic, at: 0)
        bytes.put(JournalHeader.version, at: 8)
        bytes.put(format?.rawValue ?? 0, at: 12)
        bytes.put(blobSize, at: 16)
        let words = layer.words
        for (index, word) in [words.0, words.1, words.2, words.3].enumerated() { bytes.put(word, at: 24 + 8 * index) }
        let checksum = unsafe bytes[..<JournalHeader.checksumAt].withUnsafeBytes { unsafe IndexBlocks.checksum($0) }
        bytes.put(checksum, at: JournalHeader.checksumAt)
        return bytes
    }

    /// The format that a file's head says, when the rest of it is what is expected of this layer.
    func readFormat(_ head: [UInt8]) -> IndexFormat? {
        guard head.count == JournalHeader.byteCount else { return nil }
        let value = unsafe head.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: 12, as: UInt32.self) }
        guard let format = IndexFormat(rawValue: value), format.isPlain else { return nil }
        var expected = self
        expected.format = format
        return expected.bytes == head ? format : nil
    }
}

/// Positions in a record's head (docs/stream-journal.md). Little-endian.
enum JournalRecord {
    static let headBytes = 272
    static let mostBytes = 256 << 20
    static let checksumAt = 4
    static let checkedFrom = 8
    static let offsetAt = 8
    static let positionAt = 16
    static let tarOffsetAt = 24
    static let spanCountAt = 32
    static let markCountAt = 36
    static let digestCountAt = 40
    static let windowBytesAt = 44
    static let structurePackedAt = 48
    static let structureBytesAt = 52
    static let blobHashAt = 64
    static let tarHashAt = 168
}

/// Keeps, while a plain layer streams by, all that another process needs to go on in the middle. One thread.
///
/// A record is appended every so often. Whoever reads the file takes as many records as are whole; so it is never wrong, only
/// behind. It says nothing of the layer to anybody: only the digests at the end of the stream do.
public final class StreamJournal {
    /// What an earlier process left; nil for nothing.
    public let saved: SavedStream?

    private let file: Descriptor
    private let path: String
    private var header: JournalHeader
    private var end: UInt64
    private var spanCount: Int
    private var markCount: Int
    private var digestCount: Int
    private var encoder = FrameEncoder(level: 1)

    /// Opens the journal of a layer; nil where there can be none: the directory takes no file, or another stream of the same
    /// layer has it.
    ///
    /// - Parameter anew: what is there is dropped.
    public init?(path: String, layer: Digest, blobSize: UInt64, anew: Bool) {
        guard let file = try? Descriptor.open(path, O_RDWR | O_CREAT | O_NOFOLLOW),
            flock(file.raw, LOCK_EX | LOCK_NB) == 0
        else { return nil }
        var header = JournalHeader(layer: layer, blobSize: blobSize)
        var (saved, end): (SavedStream?, UInt64) = (nil, UInt64(JournalHeader.byteCount))
        if !anew, let head = file.bytes(at: 0, count: JournalHeader.byteCount) {
            header.format = header.readFormat(head)
            (saved, end) = SavedStream.read(file, header)
        }
        // Without a whole record it begins anew, with its head.
        if saved == nil { header.format = nil }
        guard (try? file.truncate(to: saved == nil ? 0 : end)) != nil else { return nil }
        self.file = file
        self.path = path
        self.header = header
        self.saved = saved
        self.end = end
        spanCount = saved?.spans.count ?? 0
        markCount = saved?.marks.count ?? 0
        digestCount = saved?.digests.count ?? 0
    }

    /// Removes the file.
    public func remove() { _ = unsafe unlink(path) }

    // MARK: What was left

    /// Copies the windows of the saved spans to another file, to which the spans then refer.
    ///
    /// - Returns: the spans, and what inflation needs at the last of them; nil when a window is damaged.
    public func restore(
        _ saved: SavedStream,
        _ writer: inout RestartWriter
    ) -> (spans: [RestartSpan], point: GzipPoint?)? {
        var spans = saved.spans
        var last: [UInt8] = []
        for (start, numbers) in saved.windows {
            var at = start
            for number in numbers {
                let count = Int(spans[number].windowCount)
                last = []
                guard count > 0 else { continue }
                guard let packed = file.bytes(at: at, count: count) else { return nil }
                writer.add(packed: packed, to: &spans[number])
                at += UInt64(count)
                last = packed
            }
        }
        guard saved.format == .tarGzip else { return (spans, nil) }
        guard let span = spans.last, let point = unsafe span.point(last.span.bytes) else { return nil }
        return (spans, point)
    }

    /// The next piece of the tar's structure; nil behind the last, or when it is damaged.
    public func structure(_ number: Int) -> [UInt8]? {
        guard let saved, number < saved.structures.count else { return nil }
        let (at, packed, count) = saved.structures[number]
        guard count > 0 else { return [] }
        guard let bytes = file.bytes(at: at, count: packed) else { return nil }
        var decoder = FrameDecoder()
        guard let structure = try? unsafe decoder.decode(bytes.span.bytes, wanted: count, limit: count) else {
            return nil
        }
        return unsafe structure.span.withUnsafeBytes { unsafe [UInt8]($0) }
    }

    // MARK: Writing

    /// How many chunks the records know.
    public var chunkCount: Int { digestCount }

    /// Appends a record.
    ///
    /// - Parameters:
    ///   - point: where to take the stream up.
    ///   - tarOffset: up to where the tar reader came.
    ///   - spans: all there are.
    ///   - marks: all there are.
    ///   - writer: has the spans' windows.
    ///   - digests: of the chunks that no record knows yet.
    ///   - structure: of the tar, since the record before.
    /// - Returns: false when it could not be written; what is there stays.
    public func append(
        _ format: IndexFormat,
        _ point: StreamPoint,
        tarOffset: UInt64,
        spans: [RestartSpan],
        marks: [StreamMark],
        writer: inout RestartWriter,
        digests: [Digest],
        structure: [UInt8]
    ) -> Bool {
        var windows: [UInt8] = []
        let newSpans = spans[spanCount..<point.spanCount]
        for span in newSpans {
            guard let window = writer.packed(span) else { return false }
            windows += window
        }
        let newMarks = marks[markCount..<point.markCount]
        let packed = structure.isEmpty ? [] : unsafe encoder.frame(structure.span.bytes)
        var record = [UInt8](repeating: 0, count: JournalRecord.headBytes)
        record.put(point.offset, at: JournalRecord.offsetAt)
        record.put(point.position, at: JournalRecord.positionAt)
        record.put(tarOffset, at: JournalRecord.tarOffsetAt)
        record.put(UInt32(newSpans.count), at: JournalRecord.spanCountAt)
        record.put(UInt32(newMarks.count), at: JournalRecord.markCountAt)
        record.put(UInt32(digests.count), at: JournalRecord.digestCountAt)
        record.put(UInt32(windows.count), at: JournalRecord.windowBytesAt)
        record.put(UInt32(packed.count), at: JournalRecord.structurePackedAt)
        record.put(UInt32(structure.count), at: JournalRecord.structureBytesAt)
        record.replaceSubrange(
            JournalRecord.blobHashAt..<JournalRecord.headBytes,
            with: point.blobHash.bytes + point.tarHash.bytes
        )
        for span in newSpans { span.append(to: &record) }
        for mark in newMarks {
            record.appendLittleEndian(mark.position)
            record.appendLittleEndian(mark.offset)
        }
        for digest in digests {
            let words = digest.words
            for word in [words.0, words.1, words.2, words.3] { record.appendLittleEndian(word) }
        }
        record += windows
        record += packed
        record.put(UInt32(record.count), at: 0)
        let checksum = unsafe record[JournalRecord.checkedFrom...].withUnsafeBytes { unsafe IndexBlocks.checksum($0) }
        record.put(checksum, at: JournalRecord.checksumAt)
        guard write(record, format) else { return false }
        spanCount = point.spanCount
        markCount = point.markCount
        digestCount += digests.count
        return true
    }

    private func write(_ record: [UInt8], _ format: IndexFormat) -> Bool {
        guard record.count <= JournalRecord.mostBytes else { return false }
        do throws(SystemError) {
            if header.format == nil {
                header.format = format
                try unsafe file.write(header.bytes.span.bytes, at: 0)
            }
            try unsafe file.write(record.span.bytes, at: end)
        } catch {
            return false
        }
        end += UInt64(record.count)
        return true
    }
}
