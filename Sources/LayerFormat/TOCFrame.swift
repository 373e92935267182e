internal import BlockCodec
internal import PosixIO

/// Where the TOC of a zstd:chunked layer stands in its blob: one zstd frame inside of a skippable frame.
public struct TOCFrame: Sendable, Hashable {
    /// Where the compressed TOC starts, behind the header of the skippable frame.
    public var offset: UInt64
    /// Its compressed bytes.
    public var compressedSize: UInt64
    /// Bytes of the JSON.
    public var uncompressedSize: UInt64

    /// Magic number and size of a skippable frame (RFC 8878, section 3.1.2).
    static let headerBytes: UInt64 = 8
    /// The only type of TOC that there is.
    private static let type: UInt64 = 1

    /// Makes a place from its parts.
    public init(offset: UInt64, compressedSize: UInt64, uncompressedSize: UInt64) {
        self.offset = offset
        self.compressedSize = compressedSize
        self.uncompressedSize = uncompressedSize
    }

    /// Parses the value of the annotation `manifest-position`: `offset:compressed:uncompressed:1`, decimal. Nil for anything
    /// else, and for another type than 1.
    public init?(annotation: String) {
        let parts = annotation.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        let numbers = parts.compactMap { part in
            part.utf8.allSatisfy { (0x30...0x39).contains($0) } ? UInt64(part) : nil
        }
        guard numbers.count == 4, numbers[3] == TOCFrame.type else { return nil }
        self.init(offset: numbers[0], compressedSize: numbers[1], uncompressedSize: numbers[2])
    }

    /// Where the skippable frame starts: payloads end before it.
    public var start: UInt64 { offset - min(offset, TOCFrame.headerBytes) }

    /// Throws unless the TOC lies inside of a blob of this size (`.corrupt`) and is of a size that crfs reads (`.tooLarge`).
    public func check(blobSize: UInt64) throws(LayerFormatError) {
        guard offset >= TOCFrame.headerBytes, offset <= blobSize, compressedSize > 0,
            compressedSize <= blobSize - offset
        else {
            throw LayerFormatError(
                .corrupt,
                "the TOC is said to be \(compressedSize) bytes at byte \(offset) of a blob of \(blobSize) bytes: outside of it"
            )
        }
        let limit = UInt64(FormatLimit.tocBytes)
        guard uncompressedSize <= limit, compressedSize <= limit + (1 << 20) else {
            throw LayerFormatError(.tooLarge, "the TOC is larger than 256 MiB")
        }
    }

    // MARK: Footer

    /// Payload bytes of a footer: with 64, where the tar-split data is stands between the type and the magic.
    private static let footerPayloads = [40, 64]
    /// `GNUlInUx`, the magic that the tools write, and `GnUlInUx`, that of their documentation.
    private static let magics = [Array("GNUlInUx".utf8), Array("GnUlInUx".utf8)]

    /// Reads the footer at the end of a blob: a skippable frame with little-endian numbers and a magic.
    ///
    /// - Returns: the place and how long the footer is; nil when there is no such footer.
    static func footer(_ bytes: Span<UInt8>) -> (frame: TOCFrame, byteCount: Int)? {
        for payload in footerPayloads {
            let start = bytes.count - payload - Int(headerBytes)
            guard start >= 0 else { continue }
            func number(_ at: Int, bytes count: Int) -> UInt64 {
                (0..<count).reduce(0) { $0 | UInt64(bytes[start + at + $1]) << (8 * UInt64($1)) }
            }
            // Any of the 16 magic numbers of skippable frames.
            guard number(0, bytes: 4) & 0xffff_fff0 == 0x184d_2a50, number(4, bytes: 4) == UInt64(payload),
                number(32, bytes: 8) == type
            else { continue }
            let magic = (0..<8).map { bytes[bytes.count - 8 + $0] }
            guard magics.contains(magic) else { continue }
            let frame = TOCFrame(
                offset: number(8, bytes: 8),
                compressedSize: number(16, bytes: 8),
                uncompressedSize: number(24, bytes: 8)
            )
            return (frame, payload + Int(headerBytes))
        }
        return nil
    }

    // MARK: JSON

    /// Decompresses the TOC's JSON out of its frame, with room for the walk's padding behind it.
    func decode(_ bytes: borrowing RawSpan) throws(LayerFormatError) -> UniqueBytes {
        guard let size = Int(exactly: uncompressedSize), size <= FormatLimit.tocBytes else {
            throw LayerFormatError(.tooLarge, "the TOC is larger than 256 MiB")
        }
        var decoder = FrameDecoder()
        // Memory follows what the frame really delivers, not what is announced.
        var wanted = min(size, 16 * bytes.byteCount + 1024)
        while true {
            let json: UniqueBytes
            do throws(CodecError) {
                json = try decoder.decode(bytes, wanted: max(wanted, 1), limit: max(size, 1) + 16 * 1024)
            } catch {
                throw TOCFrame.failure(error)
            }
            if json.count < size, wanted < size {
                wanted = min(size, max(json.count + 1, 4 * wanted))
                continue
            }
            guard json.count == size else { throw sizeMismatch(json.count) }
            return TOCFrame.padded(json)
        }
    }

    /// The same bytes with room for the walk's padding behind them.
    private static func padded(_ json: consuming UniqueBytes) -> UniqueBytes {
        if json.capacity - json.count >= TOCWalk.padding { return json }
        return TOCWalk.padded(json.span)
    }

    private func sizeMismatch(_ count: Int) -> LayerFormatError {
        LayerFormatError(.corrupt, "the TOC has \(count) bytes; \(uncompressedSize) were announced")
    }

    private static func failure(_ error: CodecError) -> LayerFormatError {
        switch error {
        case .corrupt: LayerFormatError(.corrupt, "the TOC's zstd frame is damaged")
        case .truncated: LayerFormatError(.corrupt, "the TOC's zstd frame ends too early")
        case .tooLarge: LayerFormatError(.corrupt, "the TOC's zstd frame holds more than was announced")
        case .outOfMemory(let bytes): LayerFormatError(.system, "no memory for a TOC of \(bytes) bytes")
        }
    }
}
