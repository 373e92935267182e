/// A SHA-256 content digest (OCI image specification, "Digests").
///
/// The specification knows sha512 too; no registry serves it, and crfs refuses it with a clear error.
public struct Digest: Hashable, Sendable, CustomStringConvertible {
    /// The 32 bytes, eight at a time as they stand in memory.
    public let words: (UInt64, UInt64, UInt64, UInt64)

    /// How many bytes a digest has.
    public static let byteCount = 32

    /// Makes a digest from 32 bytes at `offset` of a span.
    public init(_ bytes: borrowing RawSpan, at offset: Int = 0) {
        words = unsafe (
            bytes.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self),
            bytes.unsafeLoadUnaligned(fromByteOffset: offset + 8, as: UInt64.self),
            bytes.unsafeLoadUnaligned(fromByteOffset: offset + 16, as: UInt64.self),
            bytes.unsafeLoadUnaligned(fromByteOffset: offset + 24, as: UInt64.self)
        )
    }

    /// Makes a digest from its four words in memory order.
    public init(words: (UInt64, UInt64, UInt64, UInt64)) {
        self.words = words
    }

    /// Parses 64 lower-case hexadecimal digits; nil for anything else.
    public init?(hex: borrowing Span<UInt8>) {
        guard hex.count == 64 else { return nil }
        var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        for word in 0..<4 {
            var value: UInt64 = 0
            for byte in 0..<8 {
                let index = word * 16 + byte * 2
                let high = hexDigitValue(hex[index])
                let low = hexDigitValue(hex[index + 1])
                if (high | low) > 15 { return nil }
                value |= UInt64(high << 4 | low) << (8 * UInt64(byte))
            }
            let stored = UInt64(littleEndian: value)
            switch word {
            case 0: words.0 = stored
            case 1: words.1 = stored
            case 2: words.2 = stored
            default: words.3 = stored
            }
        }
        self.words = words
    }

    /// Parses `sha256:<hex>`; nil for anything else.
    public init?(_ text: some StringProtocol) {
        self.init(text, prefix: "sha256:")
    }

    /// Parses `sha256-<hex>`, the form that the tree uses; nil for anything else.
    public init?(directoryName: some StringProtocol) {
        self.init(directoryName, prefix: "sha256-")
    }

    private init?(_ text: some StringProtocol, prefix: String) {
        let bytes = Array(text.utf8)
        guard bytes.count == prefix.utf8.count + 64, bytes.starts(with: prefix.utf8) else { return nil }
        self.init(hex: bytes.span.extracting(prefix.utf8.count..<bytes.count))
    }

    /// The 64 lower-case hexadecimal digits.
    public var hex: String {
        let digits = Array("0123456789abcdef".utf8)
        return unsafe String(unsafeUninitializedCapacity: 64) { buffer in
            for index in 0..<32 {
                let byte = self[index]
                unsafe buffer[index * 2] = digits[Int(byte >> 4)]
                unsafe buffer[index * 2 + 1] = digits[Int(byte & 15)]
            }
            return 64
        }
    }

    /// One of the 32 bytes.
    public subscript(index: Int) -> UInt8 {
        let word =
            switch index / 8 {
            case 0: words.0
            case 1: words.1
            case 2: words.2
            default: words.3
            }
        return UInt8(truncatingIfNeeded: word.littleEndian >> (8 * UInt64(index % 8)))
    }

    /// `sha256:<hex>`.
    public var description: String { "sha256:" + hex }

    /// `sha256-<hex>`.
    public var directoryName: String { "sha256-" + hex }

    /// Whether two digests are the same.
    @inlinable
    public static func == (a: Digest, b: Digest) -> Bool {
        a.words.0 == b.words.0 && a.words.1 == b.words.1 && a.words.2 == b.words.2 && a.words.3 == b.words.3
    }

    /// A digest is as good as random: its first word is its hash.
    @inlinable
    public func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
    }
}

@inline(__always)
private func hexDigitValue(_ digit: UInt8) -> UInt8 {
    switch digit {
    case 0x30...0x39: digit &- 0x30
    case 0x61...0x66: digit &- 0x61 &+ 10
    default: 0xff
    }
}
