internal import BlockCodec
public import OCIModel
internal import PosixIO

/// What is known of a layer's TOC before it is read.
public struct TOCSource: Sendable {
    /// The digest of the layer's blob.
    public var layerDigest: Digest
    /// The size of the layer's blob in bytes.
    public var blobSize: UInt64
    /// Where the TOC's gzip member or skippable frame starts in the blob, or where payloads end if it is elsewhere.
    public var tocOffset: UInt64
    /// The digest that the manifest promises for the TOC's JSON; checked before the JSON is used.
    public var promisedDigest: Digest?
    /// The digest that the manifest promises for the compressed TOC (zstd:chunked); checked before it is decompressed.
    public var promisedFrameDigest: Digest?
    /// The layer's format.
    public var format: IndexFormat

    /// Gathers what is known.
    public init(
        layerDigest: Digest,
        blobSize: UInt64,
        tocOffset: UInt64,
        promisedDigest: Digest?,
        promisedFrameDigest: Digest? = nil,
        format: IndexFormat = .estargz
    ) {
        self.layerDigest = layerDigest
        self.blobSize = blobSize
        self.tocOffset = tocOffset
        self.promisedDigest = promisedDigest
        self.promisedFrameDigest = promisedFrameDigest
        self.format = format
    }
}

/// The JSON of a TOC inside of what its gzip member inflates to: a tar with the one entry `stargz.index.json`.
struct TOCMember: ~Copyable {
    /// The tar; allocated with the padding that the JSON walk needs behind the JSON.
    private(set) var tar: UniqueBytes
    /// Where the JSON stands in the tar, in bytes.
    let json: Range<Int>

    static let fileName = "stargz.index.json"

    /// Inflates the members at the start of `blob` until the whole of the JSON is there.
    init(inflating blob: borrowing RawSpan) throws(LayerFormatError) {
        var inflater = Inflater()
        // The padding of the walk, the tar header and its ending may come on top.
        let limit = FormatLimit.tocBytes + 64 * 1024
        var wanted = TOCMember.blockBytes
        while true {
            let tar: UniqueBytes
            do throws(CodecError) {
                tar = try inflater.inflate(
                    blob,
                    wanted: wanted,
                    limit: limit,
                    expected: blob.byteCount * TOCMember.usualRatio
                )
            } catch {
                throw TOCMember.failure(error)
            }
            let found = try TOCMember.find(in: tar)
            switch found {
            case .json(let range):
                json = range
                self.tar = TOCMember.padded(tar, after: range.upperBound)
                return
            case .more(let byteCount):
                // The header announces more than the first member held: it must come from further members, and what
                // it announces is bounded by `limit`, not allocated before it is delivered.
                guard byteCount <= limit else { throw TOCMember.tooLarge }
                wanted = try TOCMember.nextStep(from: tar.count, to: byteCount)
            }
        }
    }

    private static let blockBytes = 512
    /// JSON of a TOC takes a seventh or an eighth of its bytes compressed; half of it is digests. Memory that nothing is
    /// written into takes none.
    private static let usualRatio = 10
    private static let tooLarge = LayerFormatError(.tooLarge, "the TOC is larger than 256 MiB")

    /// At most four times what is there is asked for at once, so that memory follows what the blob really delivers.
    private static func nextStep(from count: Int, to wanted: Int) throws(LayerFormatError) -> Int {
        max(count + 1, min(wanted, count * 4))
    }

    private static func failure(_ error: CodecError) -> LayerFormatError {
        switch error {
        case .corrupt: LayerFormatError(.corrupt, "the TOC's gzip member is damaged")
        case .truncated: LayerFormatError(.corrupt, "the TOC's gzip member ends too early")
        case .tooLarge: tooLarge
        case .outOfMemory(let bytes): LayerFormatError(.system, "no memory for a TOC of \(bytes) bytes")
        }
    }

    /// The same bytes with room for the walk's padding behind `end`.
    private static func padded(_ tar: consuming UniqueBytes, after end: Int) -> UniqueBytes {
        if tar.capacity - end >= TOCWalk.padding { return tar }
        return TOCWalk.padded(tar.span)
    }

    private enum Found {
        case json(Range<Int>)
        /// So many bytes of the tar are needed to go on.
        case more(Int)
    }

    /// Looks for the entry; PAX and GNU records may stand before it.
    private static func find(in bytes: borrowing UniqueBytes) throws(LayerFormatError) -> Found {
        let tar = Span<UInt8>(_bytes: bytes.span)
        var at = 0
        // A handful of records is all that a writer puts there; the bound keeps a hostile tar short.
        for _ in 0..<64 {
            guard tar.count - at >= blockBytes else { return .more(at + blockBytes) }
            let header = tar.extracting(at..<at + blockBytes)
            guard hasGoodChecksum(header), let size = number(header.extracting(124..<136)) else {
                throw LayerFormatError(.corrupt, "the TOC's member does not hold a tar: bad header checksum or size")
            }
            guard size <= FormatLimit.tocBytes else { throw tooLarge }
            let start = at + blockBytes
            switch header[156] {
            case UInt8(ascii: "x"), UInt8(ascii: "g"), UInt8(ascii: "L"), UInt8(ascii: "K"):
                at = start + (size + blockBytes - 1) / blockBytes * blockBytes
            case 0, UInt8(ascii: "0"):
                guard isTOCName(header) else {
                    throw LayerFormatError(.corrupt, "the TOC's tar holds another file than \(fileName)")
                }
                return tar.count - start >= size ? .json(start..<start + size) : .more(start + size)
            default:
                throw LayerFormatError(.corrupt, "the TOC's tar holds something that is not a file")
            }
        }
        throw LayerFormatError(.corrupt, "the TOC's tar does not hold \(fileName)")
    }

    private static func isTOCName(_ header: Span<UInt8>) -> Bool {
        var at = 0
        if header[0] == UInt8(ascii: "."), header[1] == UInt8(ascii: "/") { at = 2 }
        for byte in fileName.utf8 {
            guard header[at] == byte else { return false }
            at += 1
        }
        return header[at] == 0
    }

    /// The sum of the header's bytes, its own field taken as spaces.
    private static func hasGoodChecksum(_ header: Span<UInt8>) -> Bool {
        var sum = 0
        for index in header.indices { sum += (148..<156).contains(index) ? 32 : Int(header[index]) }
        return number(header.extracting(148..<156)) == sum
    }

    /// A number field: octal digits ended by NUL or space, or base 256 with the top bit set.
    private static func number(_ field: Span<UInt8>) -> Int? {
        var value = 0
        if field[0] & 0x80 != 0 {
            for index in field.indices {
                let byte = index == 0 ? field[index] & 0x7f : field[index]
                guard value < 1 << 48 else { return nil }
                value = value << 8 | Int(byte)
            }
            return value
        }
        var digits = 0
        for index in field.indices {
            switch field[index] {
            case UInt8(ascii: "0")...UInt8(ascii: "7"):
                value = value << 3 | Int(field[index] & 7)
                digits += 1
            case UInt8(ascii: " ") where digits == 0: continue
            case 0, UInt8(ascii: " "): return digits > 0 ? value : nil
            default: return nil
            }
        }
        return digits > 0 ? value : nil
    }
}
