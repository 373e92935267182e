/// JSON (RFC 8259) that is written from front to back.
struct JSONText {
    private(set) var bytes: [UInt8] = []

    /// Appends text as it is.
    mutating func raw(_ text: String) {
        bytes.append(contentsOf: text.utf8)
    }

    /// Appends a string with its quotes. Each byte that is not part of a UTF-8 sequence becomes U+FFFD, as in the TOCs
    /// that Go programs write.
    mutating func string(_ text: [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        var index = 0
        while index < text.count {
            let byte = text[index]
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                bytes.append(UInt8(ascii: "\\"))
                bytes.append(byte)
                index += 1
            case 0..<0x20, 0x7f:
                let digits = Array("0123456789abcdef".utf8)
                raw("\\u00")
                bytes.append(digits[Int(byte >> 4)])
                bytes.append(digits[Int(byte & 15)])
                index += 1
            case 0x20..<0x80:
                bytes.append(byte)
                index += 1
            default:
                let length = Self.sequenceLength(text, at: index)
                if length == 0 {
                    raw("\u{fffd}")
                    index += 1
                } else {
                    bytes.append(contentsOf: text[index..<index + length])
                    index += length
                }
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }

    /// How many bytes the well-formed UTF-8 sequence of two to four bytes at `index` has; 0 when there is none
    /// (The Unicode Standard, table 3-7).
    private static func sequenceLength(_ text: [UInt8], at index: Int) -> Int {
        let length: Int
        var second: ClosedRange<UInt8> = 0x80...0xbf
        switch text[index] {
        case 0xc2...0xdf: length = 2
        case 0xe0: (length, second) = (3, 0xa0...0xbf)
        case 0xed: (length, second) = (3, 0x80...0x9f)
        case 0xe1...0xef: length = 3
        case 0xf0: (length, second) = (4, 0x90...0xbf)
        case 0xf1...0xf3: length = 4
        case 0xf4: (length, second) = (4, 0x80...0x8f)
        default: return 0
        }
        guard index + length <= text.count, second.contains(text[index + 1]) else { return 0 }
        for position in index + 2..<max(index + 2, index + length) where !(0x80...0xbf).contains(text[position]) {
            return 0
        }
        return length
    }

    /// Appends base64 (RFC 4648, section 4) with padding, without quotes.
    mutating func base64(_ data: [UInt8]) {
        let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        for start in stride(from: 0, to: data.count, by: 3) {
            let group = data[start..<min(start + 3, data.count)]
            var bits: UInt32 = 0
            for index in 0..<3 { bits = bits << 8 | (index < group.count ? UInt32(group[start + index]) : 0) }
            for index in 0..<4 {
                let digit = digits[Int(bits >> UInt32(18 - 6 * index) & 63)]
                bytes.append(index <= group.count ? digit : UInt8(ascii: "="))
            }
        }
    }

    /// A time as RFC 3339 writes it, in UTC, with a fraction where there is one; nil for 1970-01-01T00:00:00Z, which a
    /// TOC says by leaving it out. Years that RFC 3339 cannot write become the nearest that it can.
    static func time(_ seconds: Int64, _ nanoseconds: UInt32) -> String? {
        if seconds == 0 && nanoseconds == 0 { return nil }
        let seconds = min(max(seconds, -62_167_219_200), 253_402_300_799)
        var day = seconds / 86400
        if seconds % 86400 < 0 { day -= 1 }
        let second = seconds - day * 86400

        // Days are counted from 0000-03-01, so that a leap day ends its year; 400 years have 146,097 days.
        day += 719_468
        let era = (day >= 0 ? day : day - 146_096) / 146_097
        let dayOfEra = day - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)

        var text = padded(year, 4) + "-" + padded(month, 2) + "-"
        text += padded(dayOfYear - (153 * shiftedMonth + 2) / 5 + 1, 2)
        text += "T" + padded(second / 3600, 2) + ":" + padded(second / 60 % 60, 2) + ":" + padded(second % 60, 2)
        if nanoseconds > 0 {
            text += "." + padded(Int64(nanoseconds), 9)
            while text.hasSuffix("0") { text.removeLast() }
        }
        return text + "Z"
    }

    private static func padded(_ value: Int64, _ width: Int) -> String {
        let digits = String(value)
        return String(repeating: "0", count: max(0, width - digits.utf8.count)) + digits
    }
}
