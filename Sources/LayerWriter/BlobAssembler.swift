internal import BlockCodec
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// Makes a blob of entries: cuts the tar stream into members, has them compressed, writes them in order, and keeps the
/// TOC and the digests.
///
/// A member starts with each chunk of a file's content; what follows it in the tar stream (padding, headers up to the
/// next content) stays in the same member while it is short, so that whoever inflates a chunk inflates little else.
final class BlobAssembler {
    /// The most bytes after a chunk in its member.
    private static let tailLimit = 8 * 1024
    /// The most bytes of a member without content.
    private static let headerRunLimit = 256 * 1024
    /// What a member in flight costs beside its bytes.
    private static let memberCost = 1024
    private static let tooManyEntries = ConvertError(
        .tooLarge,
        "the layer has more entries than a TOC of 256 MiB holds: make several layers of it"
    )

    private let options: ConvertOptions
    private let output: OutputFile
    private let pipeline: MemberPipeline
    private let inFlightLimit: Int
    private var inFlight = 0
    private var submitted = 0
    private var collected = 0
    private var current = Member(bytes: [])
    private var toc: TOCWriter
    private var diffHash = SHA256()
    private var uncompressedSize: UInt64 = 0
    private var scratch = UniqueBytes(capacity: 256 * 1024)
    private var holes: UInt64 = 0
    /// How many entries were added.
    private(set) var entries = 0

    init(_ output: OutputFile, _ options: ConvertOptions) {
        self.options = options
        self.output = output
        pipeline = MemberPipeline(options.format, threads: options.threads, level: options.level)
        // What each thread works on, as much again for it to go on with, and one that is written.
        inFlightLimit = max(8 * 1024 * 1024, (2 * options.threads + 1) * (options.chunkSize + Self.tailLimit))
        toc = TOCWriter(format: options.format, chunkSize: options.chunkSize)
    }

    deinit {
        pipeline.close()
    }

    /// Reads the next bytes of an entry's content into a buffer; 0 at the end.
    typealias Content = (UnsafeMutableRawBufferPointer) throws(ConvertError) -> Int

    /// Adds an entry and its content.
    func append(_ entry: TarEntry, content: Content) throws(ConvertError) {
        entries += 1
        try appendHeader(TarHeaderEncoder.encode(entry))
        guard toc.byteCount <= TOCWriter.sizeLimit else { throw Self.tooManyEntries }
        guard entry.kind == .regular, entry.size > 0 else { return toc.add(entry, chunkCount: 0) }
        (holes, _) = holes.addingReportingOverflow(entry.holeBytes)
        guard entry.holeBytes <= options.holeLimit, holes <= options.holeLimit else {
            throw ConvertError(
                .tooLarge,
                "\(String(decoding: entry.path, as: UTF8.self)): its holes (\(entry.holeBytes) bytes) would be written "
                    + "out as zeros, more than the \(options.holeLimit) bytes allowed; leave the file out of the layer"
            )
        }
        let chunkSize = UInt64(options.chunkSize)
        let chunkCount = Int((entry.size - 1) / chunkSize) + 1
        toc.add(entry, chunkCount: chunkCount)
        var fileHash = SHA256()
        var left = entry.size
        while left > 0 {
            try submitCurrent()
            let count = Int(min(left, chunkSize))
            try unsafe fill(count, hashing: chunkCount > 1, &fileHash, content)
            left -= UInt64(count)
        }
        if chunkCount > 1 { toc.setFileDigest(fileHash.finish()) }
        current.bytes += [UInt8](repeating: 0, count: TarHeaderEncoder.padding(after: entry.size))
    }

    /// Adds an entry whose content is in memory.
    func append(_ entry: TarEntry, bytes: [UInt8]) throws(ConvertError) {
        var source = MemorySource(bytes)
        try unsafe append(entry) { (buffer) throws(ConvertError) in
            do throws(ByteSourceError) {
                return try unsafe source.read(into: buffer)
            } catch {
                throw ConvertError(.input, error.description)
            }
        }
    }

    private func fill(
        _ count: Int,
        hashing: Bool,
        _ fileHash: inout SHA256,
        _ content: Content
    ) throws(ConvertError) {
        current.bytes.reserveCapacity(count + 2048)
        current.payloadCount = count
        while current.bytes.count < count {
            let wanted = min(scratch.capacity, count - current.bytes.count)
            try unsafe scratch.withUnsafeMutableCapacity { (buffer) throws(ConvertError) in
                let got = try unsafe content(UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted]))
                guard got > 0 else { throw ConvertError(.input, "a file's content ends before its size") }
                // SAFETY: `got` is at most `wanted`, which is at most the buffer's size.
                let piece = unsafe UnsafeRawBufferPointer(rebasing: buffer[..<got])
                if hashing { unsafe fileHash.update(RawSpan(_unsafeBytes: piece)) }
                unsafe current.bytes.append(contentsOf: piece)
            }
        }
    }

    private func appendHeader(_ header: [UInt8]) throws(ConvertError) {
        let tail = current.bytes.count - current.payloadCount
        let limit = current.payloadCount > 0 ? Self.tailLimit : Self.headerRunLimit
        if tail > 0 || current.payloadCount > 0, tail + header.count > limit { try submitCurrent() }
        current.bytes += header
    }

    private func submitCurrent() throws(ConvertError) {
        if current.bytes.isEmpty { return }
        var member = Member(bytes: [])
        swap(&member, &current)
        unsafe diffHash.update(member.bytes.span.bytes)
        uncompressedSize += UInt64(member.bytes.count)
        let cost = member.bytes.count + Self.memberCost
        while inFlight > 0 && inFlight + cost > inFlightLimit { try collect() }
        inFlight += cost
        pipeline.submit(member, number: submitted)
        submitted += 1
    }

    private func collect() throws(ConvertError) {
        let packed = pipeline.collect(collected)
        collected += 1
        inFlight -= packed.inputCount + Self.memberCost
        let offset = output.offset
        try output.write(packed.bytes)
        if let digest = packed.payloadDigest {
            toc.chunkWritten(at: offset, end: offset + UInt64(packed.contentEnd), digest: digest)
        }
    }

    /// What `finish` made.
    struct Summary {
        var tocDigest: Digest
        var diffID: Digest
        var tocOffset: UInt64
        var uncompressedSize: UInt64
        var frame: TOCFrame?
        var frameDigest: Digest?
    }

    /// Writes what is pending, the TOC and the footer.
    func finish() throws(ConvertError) -> Summary {
        if options.format == .zstdChunked {
            current.bytes += TarHeaderEncoder.endMarker
        }
        try submitCurrent()
        while collected < submitted { try collect() }
        pipeline.close()

        let json = toc.finish()
        guard json.count <= TOCWriter.sizeLimit else { throw Self.tooManyEntries }
        return options.format == .zstdChunked ? try finishFrames(json) : try finishMembers(json)
    }

    /// The TOC as the last entry of the tar, in a member of its own.
    private func finishMembers(_ json: [UInt8]) throws(ConvertError) -> Summary {
        var entry = TarEntry(path: Array(ReservedName.toc.utf8), kind: .regular)
        entry.mode = 0o444
        entry.size = UInt64(json.count)
        // One member: readers take the first one only.
        var tar = TarHeaderEncoder.encode(entry)
        tar += json
        tar += [UInt8](repeating: 0, count: TarHeaderEncoder.padding(after: entry.size))
        tar += TarHeaderEncoder.endMarker
        unsafe diffHash.update(tar.span.bytes)
        uncompressedSize += UInt64(tar.count)
        let tocOffset = output.offset
        var deflater = Deflater(level: options.level)
        try unsafe output.write(deflater.gzip(tar.span.bytes))
        try output.write(StargzFooter.bytes(options.format, tocOffset: tocOffset))
        return summary(json, tocOffset: tocOffset)
    }

    /// The TOC in a skippable frame, which is no part of the tar.
    private func finishFrames(_ json: [UInt8]) throws(ConvertError) -> Summary {
        let tocOffset = output.offset
        var encoder = FrameEncoder(level: options.level)
        let compressed = unsafe encoder.frame(json.span.bytes)
        let header = TOCFrame.skippableHeader(of: compressed.count)
        let frame = TOCFrame(
            offset: tocOffset + UInt64(header.count),
            compressedSize: UInt64(compressed.count),
            uncompressedSize: UInt64(json.count)
        )
        try output.write(header + compressed)
        try output.write(frame.footer)
        var result = summary(json, tocOffset: tocOffset)
        result.frame = frame
        result.frameDigest = unsafe SHA256.digest(of: compressed.span.bytes)
        return result
    }

    private func summary(_ json: [UInt8], tocOffset: UInt64) -> Summary {
        Summary(
            tocDigest: unsafe SHA256.digest(of: json.span.bytes),
            diffID: diffHash.finish(),
            tocOffset: tocOffset,
            uncompressedSize: uncompressedSize
        )
    }
}
