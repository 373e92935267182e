public import BlockCodec
internal import Glibc
public import OCIModel
internal import PosixIO

/// Where a plain layer's stream can be taken up, and what is known by then besides spans, marks and chunks.
public struct StreamPoint: Sendable, Equatable {
    /// Where it is in the blob: what stands before it was hashed.
    public var offset: UInt64
    /// Where it is in the uncompressed tar, in bytes.
    public var position: UInt64
    /// The hash of the blob up to `offset`.
    public var blobHash: SHA256State
    /// The hash of the tar up to `position`; of a bare tar, that of nothing.
    public var tarHash: SHA256State
    /// How many spans there are by then; of a compressed blob the last begins here.
    public var spanCount: Int
    /// How many marks there are by then.
    public var markCount: Int

    /// Gathers the parts.
    public init(
        offset: UInt64,
        position: UInt64,
        blobHash: SHA256State,
        tarHash: SHA256State,
        spanCount: Int,
        markCount: Int
    ) {
        self.offset = offset
        self.position = position
        self.blobHash = blobHash
        self.tarHash = tarHash
        self.spanCount = spanCount
        self.markCount = markCount
    }
}

/// How much of a blob was read when so much of its tar had come out; in bytes.
public struct StreamMark: Sendable, Equatable {
    /// Bytes of the tar.
    public var position: UInt64
    /// Bytes of the blob.
    public var offset: UInt64

    /// Gathers the parts.
    public init(position: UInt64, offset: UInt64) {
        self.position = position
        self.offset = offset
    }
}

/// What a journal knows of a stream that ended early (docs/stream-journal.md).
public struct SavedStream: Sendable {
    /// How the blob is compressed.
    public var format: IndexFormat
    /// Where to go on.
    public var point: StreamPoint
    /// Up to where the tar reader came: at or behind the point, between two entries or chunks.
    public var tarOffset: UInt64
    /// All spans up to the point.
    public var spans: [RestartSpan] = []
    /// All marks up to the point.
    public var marks: [StreamMark] = []
    /// The digests of all chunks up to `tarOffset`, in their order; holes are none.
    public var digests: [Digest] = []
    /// How many records there are.
    public var recordCount: Int { structures.count }
    /// Where the records' windows and pieces of the tar's structure stand in the file.
    var windows: [(at: UInt64, spans: Range<Int>)] = []
    var structures: [(at: UInt64, packed: Int, count: Int)] = []
}

extension SavedStream {
    /// Reads as many whole records as there are.
    ///
    /// - Returns: what they say, nil without any; and where the next one belongs.
    static func read(_ file: borrowing Descriptor, _ header: JournalHeader) -> (saved: SavedStream?, end: UInt64) {
        var end = UInt64(JournalHeader.byteCount)
        guard let format = header.format else { return (nil, end) }
        var saved: SavedStream?
        while let bytes = record(file, at: end) {
            let next = unsafe bytes.withUnsafeBytes { buffer in
                unsafe RecordReader(buffer, format, header.blobSize).apply(to: saved, at: end)
            }
            guard let next else { break }
            saved = next
            end += UInt64(bytes.count)
        }
        return (saved, end)
    }

    /// The bytes of the record at a place, if its checksum holds.
    private static func record(_ file: borrowing Descriptor, at offset: UInt64) -> [UInt8]? {
        guard let head = file.bytes(at: offset, count: JournalRecord.headBytes) else { return nil }
        let count = unsafe head.withUnsafeBytes { unsafe Int($0.loadUnaligned(as: UInt32.self)) }
        guard (JournalRecord.headBytes...JournalRecord.mostBytes).contains(count),
            let all = file.bytes(at: offset, count: count)
        else { return nil }
        let isSound = unsafe all.withUnsafeBytes { buffer in
            let body = unsafe UnsafeRawBufferPointer(rebasing: buffer[JournalRecord.checkedFrom...])
            return unsafe IndexBlocks.checksum(body)
                == buffer.loadUnaligned(fromByteOffset: JournalRecord.checksumAt, as: UInt32.self)
        }
        return isSound ? all : nil
    }
}

/// One record whose checksum holds. That says nothing of what it means: each part is held against the ones before.
@safe
private struct RecordReader {
    // SAFETY: callers keep the bytes for as long as this lives.
    private let bytes: UnsafeRawBufferPointer
    private let format: IndexFormat
    private let blobSize: UInt64

    init(_ bytes: UnsafeRawBufferPointer, _ format: IndexFormat, _ blobSize: UInt64) {
        unsafe self.bytes = bytes
        self.format = format
        self.blobSize = blobSize
    }

    private func get<T: BitwiseCopyable>(_ at: Int, _: T.Type) -> T {
        // SAFETY: callers stay inside of the record.
        unsafe bytes.loadUnaligned(fromByteOffset: at, as: T.self)
    }

    private func hash(_ at: Int) -> SHA256State? {
        unsafe SHA256State([UInt8](UnsafeRawBufferPointer(rebasing: bytes[at..<at + SHA256State.byteCount])))
    }

    /// What is known with this record; nil when it cannot follow.
    func apply(to before: SavedStream?, at offset: UInt64) -> SavedStream? {
        let spanCount = Int(get(JournalRecord.spanCountAt, UInt32.self))
        let markCount = Int(get(JournalRecord.markCountAt, UInt32.self))
        let digestCount = Int(get(JournalRecord.digestCountAt, UInt32.self))
        let windowBytes = Int(get(JournalRecord.windowBytesAt, UInt32.self))
        let packed = Int(get(JournalRecord.structurePackedAt, UInt32.self))
        let count = Int(get(JournalRecord.structureBytesAt, UInt32.self))
        let spansAt = JournalRecord.headBytes
        let marksAt = spansAt + spanCount * RestartSpan.byteCount
        let digestsAt = marksAt + markCount * 16
        let windowsAt = digestsAt + digestCount * 32
        guard unsafe windowsAt + windowBytes + packed == bytes.count, count <= JournalRecord.mostBytes,
            let blobHash = hash(JournalRecord.blobHashAt), let tarHash = hash(JournalRecord.tarHashAt)
        else { return nil }
        let start = StreamPoint(
            offset: get(JournalRecord.offsetAt, UInt64.self),
            position: get(JournalRecord.positionAt, UInt64.self),
            blobHash: blobHash,
            tarHash: tarHash,
            spanCount: (before?.spans.count ?? 0) + spanCount,
            markCount: (before?.marks.count ?? 0) + markCount
        )
        let tarOffset = get(JournalRecord.tarOffsetAt, UInt64.self)
        var saved = before ?? SavedStream(format: format, point: start, tarOffset: tarOffset)
        guard start.offset < blobSize, start.position <= tarOffset,
            before.map({ $0.point.offset < start.offset && $0.tarOffset <= tarOffset }) ?? (start.offset > 0)
        else { return nil }
        saved.point = start
        saved.tarOffset = tarOffset
        guard appendSpans(spanCount, at: spansAt, windowBytes, to: &saved) else { return nil }
        for number in 0..<markCount {
            let at = marksAt + 16 * number
            saved.marks.append(StreamMark(position: get(at, UInt64.self), offset: get(at + 8, UInt64.self)))
        }
        for number in 0..<digestCount {
            let words = get(digestsAt + 32 * number, (UInt64, UInt64, UInt64, UInt64).self)
            saved.digests.append(Digest(words: words))
        }
        saved.windows.append(
            (offset + UInt64(windowsAt), saved.spans.count - spanCount..<saved.spans.count)
        )
        saved.structures.append((offset + UInt64(windowsAt + windowBytes), packed, count))
        return saved
    }

    private func appendSpans(_ count: Int, at start: Int, _ windowBytes: Int, to saved: inout SavedStream) -> Bool {
        var left = windowBytes
        for number in 0..<count {
            let span = unsafe RestartSpan(bytes, at: start + number * RestartSpan.byteCount)
            if let last = saved.spans.last {
                guard last.offset < span.offset, last.position < span.position else { return false }
            } else {
                guard span.position == 0, span.isPoint else { return false }
            }
            guard span.bits < 8, Int(span.windowCount) <= left else { return false }
            left -= Int(span.windowCount)
            saved.spans.append(span)
        }
        guard left == 0 else { return false }
        guard format != .tar else { return saved.spans.isEmpty }
        guard let last = saved.spans.last else { return false }
        return last.isPoint && last.offset == saved.point.offset && last.position == saved.point.position
    }
}
