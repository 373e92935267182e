/// Reads header values that are made of tokens and quoted strings (RFC 9110, 5.6), byte by byte.
struct HeaderText {
    private let bytes: [UInt8]
    private(set) var position = 0

    init(_ text: String) { bytes = Array(text.utf8) }

    var isAtEnd: Bool { position >= bytes.count }

    var next: UInt8? { position < bytes.count ? bytes[position] : nil }

    mutating func skipBlanks() {
        while let byte = next, byte == 0x20 || byte == 0x09 { position += 1 }
    }

    /// Skips blanks and commas: list elements may be empty.
    mutating func skipSeparators() {
        while let byte = next, byte == 0x20 || byte == 0x09 || byte == UInt8(ascii: ",") { position += 1 }
    }

    /// Takes `byte` if it comes next.
    mutating func take(_ character: Unicode.Scalar) -> Bool {
        guard next == UInt8(ascii: character) else { return false }
        position += 1
        return true
    }

    /// Takes everything before the first byte that `stop` accepts.
    mutating func takeUntil(_ stop: (UInt8) -> Bool) -> String {
        let start = position
        while let byte = next, !stop(byte) { position += 1 }
        return String(decoding: bytes[start..<position], as: UTF8.self)
    }

    /// Takes a token; nil when none comes next.
    mutating func token() -> String? {
        let text = takeUntil { byte in
            byte <= 0x20 || byte >= 0x7f || "()<>@,;:\\\"/[]?={}".utf8.contains(byte)
        }
        return text.isEmpty ? nil : text
    }

    /// Takes a quoted string or a run up to a blank, comma or semicolon. An unfinished quotation ends with the text.
    mutating func value() -> String {
        guard take("\"") else {
            return takeUntil { $0 <= 0x20 || $0 == UInt8(ascii: ",") || $0 == UInt8(ascii: ";") }
        }
        var text: [UInt8] = []
        while let byte = next {
            position += 1
            if byte == UInt8(ascii: "\"") { break }
            if byte == UInt8(ascii: "\\"), let escaped = next {
                position += 1
                text.append(escaped)
            } else {
                text.append(byte)
            }
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// Goes back to a position.
    mutating func rewind(to position: Int) { self.position = position }
}
