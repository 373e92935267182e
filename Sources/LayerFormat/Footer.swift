/// Where a layer's TOC is, as its footer says (spec section 3).
///
/// A footer is an empty gzip member whose Extra field holds the TOC's offset as 16 hexadecimal digits and `STARGZ`, or says
/// that the TOC is elsewhere; or a skippable zstd frame (see `TOCFrame`).
public struct Footer: Sendable, Equatable {
    /// Which format the layer has: 47 bytes mean stargz (the Extra field is the bare text), 51 eStargz (the text is an RFC
    /// 1952 subfield named `SG`), 46 eStargz with the TOC in a second image, 48 or 72 zstd:chunked.
    public var kind: IndexFormat
    /// Where the TOC's gzip member or skippable frame starts in the blob; where the footer starts, if the TOC is elsewhere.
    public var tocOffset: UInt64
    /// How long the footer is in bytes.
    public var byteCount: Int
    /// Where the TOC is, zstd:chunked only.
    public var frame: TOCFrame?

    /// 10 bytes of gzip header, 2 of Extra's length, 22 of Extra, 5 of an empty stored block, 8 of CRC-32 and size.
    static let stargzByteCount = 47
    /// The same, and 4 bytes of subfield name and length.
    static let estargzByteCount = 51
    /// 10 + 2 + (4 + 17) + 5 + 8.
    static let externalByteCount = 46
    /// The empty stored deflate block, CRC-32 0 and size 0 that end each of them.
    private static let ending: [UInt8] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]

    /// Reads the footer at the end of `tail`, the last bytes of a blob of `blobSize` bytes.
    ///
    /// `.noIndex` when there is none that crfs knows, `.corrupt` when it announces an offset that cannot be.
    public init(tail: borrowing RawSpan, blobSize: UInt64) throws(LayerFormatError) {
        let bytes = Span<UInt8>(_bytes: copy tail)
        if let (frame, byteCount) = TOCFrame.footer(bytes) {
            try frame.check(blobSize: blobSize - min(blobSize, UInt64(byteCount)))
            self.init(kind: .zstdChunked, tocOffset: frame.start, byteCount: byteCount)
            self.frame = frame
            return
        }
        if Footer.isExternal(bytes) {
            guard blobSize > UInt64(Footer.externalByteCount) else {
                throw LayerFormatError(.corrupt, "the blob has \(blobSize) bytes: a footer and nothing else")
            }
            let end = blobSize - UInt64(Footer.externalByteCount)
            self.init(kind: .estargzExternalTOC, tocOffset: end, byteCount: Footer.externalByteCount)
            return
        }
        if let offset = try Footer.offset(in: bytes, byteCount: Footer.estargzByteCount, subfield: true) {
            self.init(kind: .estargz, tocOffset: offset, byteCount: Footer.estargzByteCount)
        } else if let offset = try Footer.offset(in: bytes, byteCount: Footer.stargzByteCount, subfield: false) {
            self.init(kind: .stargz, tocOffset: offset, byteCount: Footer.stargzByteCount)
        } else {
            throw LayerFormatError(
                .noIndex,
                "the layer has no footer of stargz, eStargz or zstd:chunked: it is a plain layer without an index"
            )
        }
        guard tocOffset < blobSize, blobSize - tocOffset > UInt64(byteCount) else {
            throw LayerFormatError(
                .corrupt,
                "the footer puts the TOC at byte \(tocOffset) of a blob of \(blobSize) bytes: outside of it"
            )
        }
    }

    private init(kind: IndexFormat, tocOffset: UInt64, byteCount: Int) {
        self.kind = kind
        self.tocOffset = tocOffset
        self.byteCount = byteCount
    }

    /// How many bytes to ask for at first for a layer of this size, so that footer and TOC usually come together.
    ///
    /// A TOC takes about 50 compressed bytes an entry: 0.5 % of a layer of large files, 2 % of one of small files, which
    /// are seldom large. So a 128th of the blob, between 256 KiB and 4 MiB, and never more than the blob.
    public static func tailGuess(blobSize: UInt64) -> UInt64 {
        min(blobSize, max(256 << 10, min(4 << 20, blobSize / 128)))
    }

    /// The gzip header up to Extra, with any time, level and system; nil when it is another one.
    private static func extra(of bytes: Span<UInt8>, byteCount: Int, extraCount: Int) -> Int? {
        let start = bytes.count - byteCount
        guard start >= 0, bytes[start] == 0x1f, bytes[start + 1] == 0x8b, bytes[start + 2] == 8, bytes[start + 3] == 4,
            bytes[start + 10] == UInt8(extraCount), bytes[start + 11] == 0
        else { return nil }
        for index in ending.indices where bytes[bytes.count - ending.count + index] != ending[index] { return nil }
        return start + 12
    }

    private static func matches(_ bytes: Span<UInt8>, at start: Int, _ text: StaticString) -> Bool {
        guard start >= 0, start + text.utf8CodeUnitCount <= bytes.count else { return false }
        // SAFETY: the index stays below the literal's length.
        for index in 0..<text.utf8CodeUnitCount where unsafe bytes[start + index] != text.utf8Start[index] {
            return false
        }
        return true
    }

    private static func offset(
        in bytes: Span<UInt8>,
        byteCount: Int,
        subfield: Bool
    ) throws(LayerFormatError) -> UInt64? {
        guard var at = extra(of: bytes, byteCount: byteCount, extraCount: subfield ? 26 : 22) else { return nil }
        if subfield {
            guard matches(bytes, at: at, "SG"), bytes[at + 2] == 22, bytes[at + 3] == 0 else { return nil }
            at += 4
        }
        guard matches(bytes, at: at + 16, "STARGZ") else { return nil }
        var value: UInt64 = 0
        for index in at..<at + 16 {
            guard let digit = hexDigit(bytes[index]) else { return nil }
            value = value << 4 | UInt64(digit)
        }
        return value
    }

    /// Whether the footer says that the TOC is in a second image.
    private static func isExternal(_ bytes: Span<UInt8>) -> Bool {
        guard let at = extra(of: bytes, byteCount: externalByteCount, extraCount: 21) else { return false }
        return matches(bytes, at: at, "SG") && bytes[at + 2] == 17 && bytes[at + 3] == 0
            && matches(bytes, at: at + 4, "STARGZEXTERNALTOC")
    }
}

/// The value of a hexadecimal digit of either case.
@inline(__always)
func hexDigit(_ digit: UInt8) -> UInt8? {
    switch digit {
    case 0x30...0x39: digit &- 0x30
    case 0x61...0x66: digit &- 0x61 &+ 10
    case 0x41...0x46: digit &- 0x41 &+ 10
    default: nil
    }
}
