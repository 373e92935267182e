internal import FoundationEssentials

/// Bytes that nobody else may see: a password, a token. No description, debug description or mirror shows them, so that
/// neither an interpolation nor `dump` can bring them into a log; they come out only where a request is made.
struct Secret: Sendable, Hashable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    private let bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    init(_ text: String) { bytes = Array(text.utf8) }

    var isEmpty: Bool { bytes.isEmpty }

    var description: String { "(secret)" }
    var debugDescription: String { description }
    var customMirror: Mirror { Mirror(self, children: []) }

    /// The value as the end of a header line; nil when it holds bytes that would end the line.
    func headerText(after prefix: String = "") -> String? {
        guard bytes.allSatisfy({ $0 >= 0x20 && $0 != 0x7f }) else { return nil }
        return prefix + String(decoding: bytes, as: UTF8.self)
    }

    /// The value as part of a form.
    func formText() -> String { percentEncode(bytes) }

    /// What comes after `Basic ` (RFC 7617).
    func basic(user: String) -> String {
        Data(Array(user.utf8) + [UInt8(ascii: ":")] + bytes).base64EncodedString()
    }
}

/// Everything but the unreserved characters of RFC 3986 and `:`, `/`, `,`, which a query may have.
func percentEncode(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789ABCDEF".utf8)
    var result: [UInt8] = []
    for byte in bytes {
        switch byte {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a: result.append(byte)
        case _ where "-._~:/,".utf8.contains(byte): result.append(byte)
        default: result += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
    }
    return String(decoding: result, as: UTF8.self)
}
