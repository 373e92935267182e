public import BlockCodec
internal import Glibc
public import OCIModel
public import PosixIO

/// A part of a plain layer that is compressed: what can be fetched and inflated together (docs/restart-points.md).
public struct RestartSpan: Sendable, Equatable {
    /// Where it starts in the blob; unlike any other's.
    public var offset: UInt64
    /// Where it starts in the uncompressed tar.
    public var position: UInt64
    /// Up to where the blob must be read for `length` bytes.
    public var end: UInt64 = 0
    /// How many bytes of the tar, from `position` on, hold all chunks that start in the span; 0 when none does.
    public var length: UInt64 = 0
    /// Whether decompression can be taken up here; else at an earlier span only.
    public var isPoint: Bool
    /// gzip: how many bits of the byte in front of `offset` belong to the span, and that byte.
    public var bits: UInt8 = 0
    /// See `bits`.
    public var byte: UInt8 = 0
    /// gzip: where the window stands in the file, packed, and how many bytes it takes; 0 for an empty one.
    var windowAt: UInt64 = 0
    var windowCount: UInt32 = 0

    /// A span that starts so.
    public init(offset: UInt64, position: UInt64, isPoint: Bool) {
        self.offset = offset
        self.position = position
        self.isPoint = isPoint
    }

    static let byteCount = 48
}

/// Positions of the file (docs/restart-points.md). Little-endian.
enum RestartLayout {
    /// "crfsrest".
    static let magic: UInt64 = 0x7473_6572_7366_7263
    /// Raise it with every change of the layout or of what it means.
    static let version: UInt32 = 1
    static let headerBytes = 128
    static let versionAt = 8
    static let formatAt = 12
    static let fileBytesAt = 16
    static let spanCountAt = 24
    static let layerDigestAt = 32
    static let blobSizeAt = 64
    static let spansAtAt = 72
    static let spansChecksumAt = 120
    static let headerChecksumAt = 124
    /// The most spans: of 1 MiB each, 16 TiB.
    static let mostSpans = 1 << 24
}

/// The spans of a plain layer, and what is needed to take up decompression at them: the file beside the layer's index.
///
/// Whatever the file holds, an accessor gives something harmless: a window that is damaged is none.
@safe
public final class RestartTable: @unchecked Sendable {
    // SAFETY: `base` points to `count` immutable bytes that `mapping` or `memory` keeps alive.
    private let base: UnsafeRawPointer
    private let count: Int
    private let mapping: Mapping?
    private let memory: SharedBytes?
    /// By `offset` and by `position`, both of which ascend.
    public let spans: [RestartSpan]
    /// How the blob is compressed.
    public let format: IndexFormat

    /// Maps the file of a layer; `.staleIndex` when it cannot be that.
    public convenience init(path: String, layer: Digest) throws(LayerFormatError) {
        let mapping: Mapping
        do throws(SystemError) {
            mapping = try Mapping(try Descriptor.open(path))
        } catch {
            throw LayerFormatError(.system, "the restart points cannot be opened: \(error)")
        }
        let base = unsafe mapping.base
        try unsafe self.init(base, mapping.count, mapping, nil, layer)
    }

    /// Takes a file that is in memory.
    public convenience init(bytes: SharedBytes, layer: Digest) throws(LayerFormatError) {
        try unsafe self.init(bytes.base, bytes.count, nil, bytes, layer)
    }

    private init(
        _ base: UnsafeRawPointer,
        _ count: Int,
        _ mapping: consuming Mapping?,
        _ memory: SharedBytes?,
        _ layer: Digest
    ) throws(LayerFormatError) {
        let bytes = unsafe UnsafeRawBufferPointer(start: base, count: count)
        (format, spans) = try unsafe RestartTable.read(bytes, layer)
        unsafe self.base = base
        self.count = count
        self.mapping = mapping
        self.memory = memory
    }

    private static func stale(_ why: String) -> LayerFormatError {
        LayerFormatError(.staleIndex, "the file of restart points must be made anew: \(why)")
    }

    private static func read(
        _ bytes: UnsafeRawBufferPointer,
        _ layer: Digest
    ) throws(LayerFormatError) -> (IndexFormat, [RestartSpan]) {
        guard bytes.count >= RestartLayout.headerBytes else { throw stale("it is too short") }
        func get<T: BitwiseCopyable>(_ at: Int, _: T.Type) -> T {
            // SAFETY: callers stay inside of the file.
            unsafe bytes.loadUnaligned(fromByteOffset: at, as: T.self)
        }
        guard get(0, UInt64.self) == RestartLayout.magic,
            get(RestartLayout.versionAt, UInt32.self) == RestartLayout.version
        else { throw stale("it is none, or of another version of crfs") }
        let head = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<RestartLayout.headerChecksumAt])
        guard unsafe IndexBlocks.checksum(head) == get(RestartLayout.headerChecksumAt, UInt32.self) else {
            throw stale("its checksum does not hold")
        }
        guard get(RestartLayout.fileBytesAt, UInt64.self) == UInt64(bytes.count),
            Digest(words: get(RestartLayout.layerDigestAt, (UInt64, UInt64, UInt64, UInt64).self)) == layer,
            let format = IndexFormat(rawValue: get(RestartLayout.formatAt, UInt32.self)), format.isPlain
        else { throw stale("it is of another layer, or cut") }
        let spanCount = Int(get(RestartLayout.spanCountAt, UInt32.self))
        let start = get(RestartLayout.spansAtAt, UInt64.self)
        guard spanCount <= RestartLayout.mostSpans, start <= UInt64(bytes.count),
            UInt64(bytes.count) - start == UInt64(spanCount * RestartSpan.byteCount)
        else { throw stale("its spans lie outside of it") }
        let records = unsafe UnsafeRawBufferPointer(rebasing: bytes[Int(start)...])
        guard unsafe IndexBlocks.checksum(records) == get(RestartLayout.spansChecksumAt, UInt32.self) else {
            throw stale("the checksum of its spans does not hold")
        }
        let blobSize = get(RestartLayout.blobSizeAt, UInt64.self)
        var spans: [RestartSpan] = []
        spans.reserveCapacity(spanCount)
        for number in 0..<spanCount {
            let span = unsafe RestartSpan(records, at: number * RestartSpan.byteCount)
            let previous = spans.last
            guard span.offset <= span.end, span.end <= blobSize, span.windowAt <= start,
                UInt64(span.windowCount) <= start - span.windowAt, span.bits < 8, span.length <= 1 << 40,
                previous.map({ $0.offset < span.offset && $0.position < span.position }) ?? (span.position == 0)
            else { throw stale("span \(number) contradicts the file") }
            spans.append(span)
        }
        guard spans.first?.isPoint ?? true else { throw stale("its first span is no point") }
        return (format, spans)
    }

    /// The number of the span that starts at a place in the blob; nil when none does.
    public func span(at offset: UInt64) -> Int? {
        var low = 0
        var high = spans.count
        while low < high {
            let middle = (low + high) / 2
            if spans[middle].offset < offset { low = middle + 1 } else { high = middle }
        }
        return low < spans.count && spans[low].offset == offset ? low : nil
    }

    /// What inflation of a gzip layer needs at a span; nil when it cannot be taken up there, or the window is damaged.
    public func point(_ number: Int) -> GzipPoint? {
        let span = spans[number]
        guard format == .tarGzip, span.isPoint else { return nil }
        let packed = unsafe UnsafeRawBufferPointer(start: base + Int(span.windowAt), count: Int(span.windowCount))
        return unsafe span.point(packed.bytes)
    }

    /// Bytes of the file.
    public var byteCount: Int { count }

    /// Calls `body` with all bytes of the file.
    public func withBytes<R>(_ body: (borrowing RawSpan) -> R) -> R {
        let span = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(start: base, count: count))
        return body(span)
    }
}

extension RestartSpan {
    init(_ bytes: UnsafeRawBufferPointer, at start: Int) {
        func get<T: BitwiseCopyable>(_ at: Int, _: T.Type) -> T {
            // SAFETY: the caller's record lies inside of the bytes.
            unsafe bytes.loadUnaligned(fromByteOffset: start + at, as: T.self)
        }
        self.init(offset: get(0, UInt64.self), position: get(8, UInt64.self), isPoint: get(46, UInt8.self) & 1 != 0)
        end = get(16, UInt64.self)
        length = get(24, UInt64.self)
        windowAt = get(32, UInt64.self)
        windowCount = get(40, UInt32.self)
        bits = get(44, UInt8.self)
        byte = get(45, UInt8.self)
    }

    /// What inflation needs at this span; nil when its packed window is damaged.
    func point(_ packed: borrowing RawSpan) -> GzipPoint? {
        var window: [UInt8] = []
        if packed.byteCount > 0 {
            var inflater = Inflater()
            guard let bytes = try? inflater.inflate(packed, wanted: 1, limit: 32 << 10) else { return nil }
            window = unsafe bytes.span.withUnsafeBytes { unsafe [UInt8]($0) }
        }
        return GzipPoint(bits: bits, byte: byte, window: window)
    }

    func append(to bytes: inout [UInt8]) {
        for value in [offset, position, end, length, windowAt] { bytes.appendLittleEndian(value) }
        bytes.appendLittleEndian(windowCount)
        bytes += [bits, byte, isPoint ? 1 : 0, 0]
    }
}

extension [UInt8] {
    mutating func appendLittleEndian(_ value: some FixedWidthInteger) {
        for index in 0..<(value.bitWidth / 8) { append(UInt8(truncatingIfNeeded: value >> (8 * index))) }
    }

    mutating func put(_ value: some FixedWidthInteger, at start: Int) {
        for index in 0..<(value.bitWidth / 8) { self[start + index] = UInt8(truncatingIfNeeded: value >> (8 * index)) }
    }
}

/// Writes the file of restart points while a layer streams by: windows as they come, the spans at the end. They go to a
/// temporary file, or where that cannot be made or grows no more, nowhere: points without a window are no points then.
public struct RestartWriter: ~Copyable {
    private let path: String?
    private let temporary: String
    private var file: Descriptor?
    /// What has come, where there is no file to be written.
    private var memory: [UInt8] = []
    private var end = UInt64(RestartLayout.headerBytes)
    private var deflater = Deflater(level: 6)
    /// Bytes of windows that are kept in memory at most.
    private static let mostInMemory = 4 << 20

    /// - Parameter path: what the file will be called; nil to keep it in memory.
    public init(path: String?) {
        self.path = path
        temporary = path.map { "\($0).tmp-\(getpid())-\(monotonicNanoseconds())" } ?? ""
        if path != nil { file = try? Descriptor.open(temporary, O_RDWR | O_CREAT | O_EXCL) }
    }

    deinit {
        if path != nil { _ = unsafe unlink(temporary) }
    }

    /// Keeps a point's window and makes `span` refer to it.
    public mutating func add(_ point: GzipPoint, to span: inout RestartSpan) {
        span.bits = point.bits
        span.byte = point.byte
        guard !point.window.isEmpty else { return }
        let packed = unsafe deflater.gzip(point.window.span.bytes)
        add(packed: packed, to: &span)
    }

    /// Keeps a window that is packed already.
    mutating func add(packed: [UInt8], to span: inout RestartSpan) {
        guard write(packed) else {
            span.isPoint = false
            return
        }
        span.windowAt = end
        span.windowCount = UInt32(packed.count)
        end += UInt64(packed.count)
    }

    private mutating func write(_ bytes: [UInt8]) -> Bool {
        if let descriptor = file.take() {
            do throws(SystemError) {
                try unsafe descriptor.write(bytes.span.bytes, at: end)
                file = consume descriptor
                return true
            } catch {
                file = consume descriptor
                return false
            }
        }
        guard memory.count + bytes.count <= RestartWriter.mostInMemory else { return false }
        memory += bytes
        return true
    }

    /// The packed window of a span, as it was kept; nil when it cannot be had.
    mutating func packed(_ span: RestartSpan) -> [UInt8]? {
        let count = Int(span.windowCount)
        guard count > 0 else { return [] }
        guard let descriptor = file.take() else {
            let start = Int(span.windowAt) - RestartLayout.headerBytes
            guard start >= 0, start + count <= memory.count else { return nil }
            return Array(memory[start..<start + count])
        }
        let bytes = descriptor.bytes(at: span.windowAt, count: count)
        file = consume descriptor
        return bytes
    }

    /// Writes spans and header, and gives the table: mapped where it is a file.
    public consuming func finish(
        _ spans: [RestartSpan],
        layer: Digest,
        blobSize: UInt64,
        format: IndexFormat
    ) throws(LayerFormatError) -> RestartTable {
        var records: [UInt8] = []
        records.reserveCapacity(spans.count * RestartSpan.byteCount)
        for span in spans { span.append(to: &records) }
        var header = [UInt8](repeating: 0, count: RestartLayout.headerBytes)
        header.put(RestartLayout.magic, at: 0)
        header.put(RestartLayout.version, at: RestartLayout.versionAt)
        header.put(format.rawValue, at: RestartLayout.formatAt)
        header.put(end + UInt64(records.count), at: RestartLayout.fileBytesAt)
        header.put(UInt32(spans.count), at: RestartLayout.spanCountAt)
        let words = layer.words
        for (index, word) in [words.0, words.1, words.2, words.3].enumerated() {
            header.put(word, at: RestartLayout.layerDigestAt + 8 * index)
        }
        header.put(blobSize, at: RestartLayout.blobSizeAt)
        header.put(end, at: RestartLayout.spansAtAt)
        let spansChecksum = unsafe records.withUnsafeBytes { unsafe IndexBlocks.checksum($0) }
        header.put(spansChecksum, at: RestartLayout.spansChecksumAt)
        let checksum = unsafe header[..<RestartLayout.headerChecksumAt].withUnsafeBytes {
            unsafe IndexBlocks.checksum($0)
        }
        header.put(checksum, at: RestartLayout.headerChecksumAt)
        if let path, let descriptor = file.take() {
            do throws(SystemError) {
                try unsafe descriptor.write(records.span.bytes, at: end)
                try unsafe descriptor.write(header.span.bytes, at: 0)
                guard unsafe rename(temporary, path) == 0 else { throw SystemError.last("rename", path: path) }
            } catch {
                throw LayerFormatError(.system, "the restart points cannot be written: \(error)")
            }
            return try RestartTable(path: path, layer: layer)
        }
        return try RestartTable(bytes: SharedBytes(header + memory + records), layer: layer)
    }
}
