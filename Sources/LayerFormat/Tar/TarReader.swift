public import BlockCodec

/// Reads a tar archive as it streams by: v7, ustar, PAX, GNU and star headers, sparse files of all four GNU formats.
///
/// Call `next` for an entry, `read` for its content (what is left of it is skipped by the next `next`). One thread.
/// After an error it gives that error again. Memory: 64 KiB, 1 MiB of extension headers, 16 MiB for sparse maps.
public struct TarReader<Source: ByteSource & ~Copyable>: ~Copyable {
    /// The most bytes of extension headers that one entry may have.
    public static var extensionLimit: Int { 1 << 20 }

    var input: BlockBuffer<Source>
    var globals = PaxHeader()
    var content = Content()
    var lastPath: [UInt8]?
    var finished = false
    var failure: TarError?

    /// What is left of the current entry.
    struct Content {
        /// Bytes in the archive, padding not included.
        var stored: UInt64 = 0
        var padding: UInt64 = 0
        /// Where the reader stands in the file, and where it ends.
        var position: UInt64 = 0
        var size: UInt64 = 0
        var map: SparseMap?
        /// The segment of the map that `position` is in or before.
        var segment = 0
    }

    /// Reads from `source`, which it takes over.
    public init(_ source: consuming Source) {
        input = BlockBuffer(source)
    }

    /// Where the bytes come from.
    public var source: Source {
        _read { yield input.source }
    }

    /// How many bytes of the archive have been read.
    public var offset: UInt64 { input.offset }

    /// The next entry, or nil at the end of the archive: two zero blocks, or the end of the source between two entries.
    public mutating func next() throws(TarError) -> TarEntry? {
        if let failure { throw failure }
        if finished { return nil }
        do throws(TarError) {
            try skipContent()
            return try readEntry()
        } catch {
            failure = error
            throw error
        }
    }

    /// Reads the next bytes of the current entry's content, holes of a sparse file as zeros.
    ///
    /// - Returns: how many came; 0 at the end of the content (or for an empty buffer).
    public mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(TarError) -> Int {
        if let failure { throw failure }
        let left = content.size - content.position
        var limit = UInt64(buffer.count)
        limit = min(limit, left)
        if limit == 0 { return 0 }
        if let map = content.map {
            while content.segment < map.segments.count,
                map.segments[content.segment].offset + map.segments[content.segment].length <= content.position
            {
                content.segment += 1
            }
            let next = content.segment < map.segments.count ? map.segments[content.segment] : nil
            let dataStart = next?.offset ?? content.size
            if content.position < dataStart {
                let count = Int(min(limit, dataStart - content.position))
                unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]).initializeMemory(
                    as: UInt8.self,
                    repeating: 0
                )
                content.position += UInt64(count)
                return count
            }
            if let next { limit = min(limit, next.offset + next.length - content.position) }
        }
        let piece = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(limit)])
        let count = try withInput { (input) throws(ByteSourceError) in try unsafe input.take(into: piece) }
        guard count > 0 else { throw fail(.truncated, "the archive ends in the middle of a file") }
        content.position += UInt64(count)
        content.stored -= UInt64(count)
        return count
    }

    /// The run of the current entry's content that the reader stands at: bytes that the archive stores, which begin at
    /// `offset`, or a hole of a sparse file; nil at the end of the content.
    public mutating func run() -> TarRun? {
        let left = content.size - content.position
        guard failure == nil, left > 0 else { return nil }
        guard let map = content.map else { return TarRun(count: left, isHole: false) }
        while content.segment < map.segments.count,
            map.segments[content.segment].offset + map.segments[content.segment].length <= content.position
        {
            content.segment += 1
        }
        guard content.segment < map.segments.count else { return TarRun(count: left, isHole: true) }
        let segment = map.segments[content.segment]
        if content.position < segment.offset {
            return TarRun(count: segment.offset - content.position, isHole: true)
        }
        return TarRun(count: segment.offset + segment.length - content.position, isHole: false)
    }

    /// Goes over the hole that the reader stands at without giving its zeros.
    public mutating func skipHole() {
        guard let run = run(), run.isHole else { return }
        content.position += run.count
    }

    /// From `offset` on keeps all of the archive that is no file's content, so that another reader can be brought to where
    /// this one is by a source that gives only that.
    public mutating func keepStructure(from offset: UInt64) { input.keepStructure(from: offset) }

    /// How many bytes of structure were kept since they were taken last; nil when they were too many (16 MiB).
    public var structureCount: Int? { input.structureCount }

    /// The structure up to `offset` since the last call; nil when it was too much.
    public mutating func takeStructure() -> [UInt8]? { input.takeStructure() }

    /// Goes over the next bytes of a file's stored content, which the source leaves out.
    public mutating func leaveOut(_ count: UInt64) {
        input.leaveOut(count)
        content.position += count
        content.stored -= count
    }

    /// Reads the source to its end, so that checksums behind the archive are checked.
    ///
    /// - Returns: how many bytes stood behind the archive's end.
    public mutating func drain() throws(TarError) -> UInt64 {
        if let failure { throw failure }
        return try withInput { (input) throws(ByteSourceError) in try input.skip(.max) }
    }
}

extension TarReader where Source: ~Copyable {
    /// Records a failure that all later calls give again.
    mutating func fail(_ kind: TarError.Kind, _ reason: String, at offset: UInt64? = nil) -> TarError {
        let error = TarError(kind, offset: offset ?? input.offset, entry: lastPath, reason: reason)
        failure = error
        return error
    }

    private mutating func withInput<R>(
        _ body: (inout BlockBuffer<Source>) throws(ByteSourceError) -> R
    ) throws(TarError) -> R {
        do throws(ByteSourceError) {
            return try body(&input)
        } catch {
            throw fail(.source(error), error.description)
        }
    }

    mutating func takeBlock() throws(TarError) -> [UInt8] {
        try withInput { (input) throws(ByteSourceError) in try input.takeBlock() }
    }

    mutating func peekBlock() throws(TarError) -> [UInt8] {
        try withInput { (input) throws(ByteSourceError) in try input.peekBlock() }
    }

    private mutating func skipContent() throws(TarError) {
        let (stored, padding) = (content.stored, content.padding)
        try skip(stored, thenPadding: padding)
        content = Content()
    }

    mutating func skip(_ count: UInt64, thenPadding padding: UInt64) throws(TarError) {
        let skipped = try withInput { (input) throws(ByteSourceError) in try input.skip(count) }
        guard skipped == count else { throw fail(.truncated, "the archive ends in the middle of a file") }
        // The last block of an archive may lack its padding.
        _ = try withInput { (input) throws(ByteSourceError) in try input.skip(padding) }
    }

    /// Runs a parser and adds to its complaint where it was.
    mutating func parse<R>(at offset: UInt64, _ body: () throws(TarFault) -> R) throws(TarError) -> R {
        do throws(TarFault) {
            return try body()
        } catch {
            throw fail(error.kind, error.reason, at: offset)
        }
    }

    static func padding(_ size: UInt64) -> UInt64 {
        (512 - size % 512) % 512
    }
}
