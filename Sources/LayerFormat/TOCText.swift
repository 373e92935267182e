internal import OCIModel

/// A point in time as stat(2) shows it.
struct Timestamp: Equatable {
    var seconds: Int64
    var nanoseconds: UInt32
}

/// Texts of TOC fields.
enum TOCText {
    /// An RFC 3339 time (`2006-01-02T15:04:05.999999999Z`, or with `+01:00`); nil for anything else.
    static func time(_ text: Span<UInt8>) -> Timestamp? {
        guard text.count >= 20, text[4] == UInt8(ascii: "-"), text[7] == UInt8(ascii: "-"),
            text[10] | 0x20 == UInt8(ascii: "t"), text[13] == UInt8(ascii: ":"), text[16] == UInt8(ascii: ":"),
            let year = digits(text, 0, 4), let month = digits(text, 5, 2), let day = digits(text, 8, 2),
            let hour = digits(text, 11, 2), let minute = digits(text, 14, 2), let second = digits(text, 17, 2),
            (1...12).contains(month), (1...daysInMonth(month, year)).contains(day), hour < 24, minute < 60, second <= 60
        else { return nil }
        var at = 19
        guard let nanoseconds = fraction(text, &at), let shift = zone(text, &at), at == text.count else { return nil }
        let ofDay = Int64(hour * 3600 + minute * 60 + second)
        return Timestamp(seconds: daysSince1970(year, month, day) * 86400 + ofDay - shift, nanoseconds: nanoseconds)
    }

    private static func digits(_ text: Span<UInt8>, _ start: Int, _ count: Int) -> Int? {
        var value = 0
        for index in start..<start + count {
            let digit = text[index] &- 0x30
            guard digit < 10 else { return nil }
            value = value &* 10 &+ Int(digit)
        }
        return value
    }

    /// `.` and any number of digits, of which nine count; 0 where there is no dot.
    private static func fraction(_ text: Span<UInt8>, _ at: inout Int) -> UInt32? {
        guard text[at] == UInt8(ascii: ".") else { return 0 }
        at += 1
        var value: UInt32 = 0
        var weight: UInt32 = 100_000_000
        let start = at
        while at < text.count {
            let digit = text[at] &- 0x30
            guard digit < 10 else { break }
            value += UInt32(digit) * weight
            weight /= 10
            at += 1
        }
        return at > start ? value : nil
    }

    /// `Z` or `+hh:mm`, as seconds east of UTC.
    private static func zone(_ text: Span<UInt8>, _ at: inout Int) -> Int64? {
        guard at < text.count else { return nil }
        let sign = text[at]
        if sign | 0x20 == UInt8(ascii: "z") {
            at += 1
            return 0
        }
        guard sign == UInt8(ascii: "+") || sign == UInt8(ascii: "-"), text.count - at == 6,
            text[at + 3] == UInt8(ascii: ":"), let hours = digits(text, at + 1, 2),
            let minutes = digits(text, at + 4, 2), hours < 24, minutes < 60
        else { return nil }
        at += 6
        let shift = Int64(hours * 3600 + minutes * 60)
        return sign == UInt8(ascii: "-") ? -shift : shift
    }

    private static func daysInMonth(_ month: Int, _ year: Int) -> Int {
        switch month {
        case 4, 6, 9, 11: 30
        case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
        default: 31
        }
    }

    /// Days from 1970-01-01 in the proleptic Gregorian calendar. Years are counted from March, so that the leap day
    /// is a year's last one.
    private static func daysSince1970(_ year: Int, _ month: Int, _ day: Int) -> Int64 {
        let marchYear = month > 2 ? year : year - 1
        let marchMonth = (month + 9) % 12
        // Floor division: year 0 before March is year -1.
        let era = (marchYear >= 0 ? marchYear : marchYear - 399) / 400
        let yearOfEra = marchYear - era * 400
        let dayOfYear = (153 * marchMonth + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return Int64(era * 146_097 + dayOfEra - 719_468)
    }

    /// `sha256:` and 64 hexadecimal digits; nil for anything else.
    static func digest(_ text: Span<UInt8>) -> Digest? {
        guard text.count == 71, text[0] == UInt8(ascii: "s"), text[1] == UInt8(ascii: "h"),
            text[2] == UInt8(ascii: "a"), text[3] == UInt8(ascii: "2"), text[4] == UInt8(ascii: "5"),
            text[5] == UInt8(ascii: "6"), text[6] == UInt8(ascii: ":")
        else { return nil }
        var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        let good = unsafe text.withUnsafeBytes { bytes in
            unsafe hexWord(bytes, 7, &words.0) && hexWord(bytes, 23, &words.1) && hexWord(bytes, 39, &words.2)
                && hexWord(bytes, 55, &words.3)
        }
        return good ? Digest(words: words) : nil
    }

    /// 16 lower-case hexadecimal digits as the eight bytes that they stand for, in their order.
    @inline(__always)
    private static func hexWord(_ text: UnsafeRawBufferPointer, _ at: Int, _ word: inout UInt64) -> Bool {
        guard let first = unsafe hexHalf(text.loadUnaligned(fromByteOffset: at, as: UInt64.self)),
            let second = unsafe hexHalf(text.loadUnaligned(fromByteOffset: at + 8, as: UInt64.self))
        else { return false }
        word = first | second << 32
        return true
    }

    /// Eight digits at once, the first in the lowest byte; their four bytes in the same order.
    @inline(__always)
    private static func hexHalf(_ digits: UInt64) -> UInt64? {
        let ones: UInt64 = 0x0101_0101_0101_0101
        let tops = ones << 7
        // Additions that reach the top bit of a byte tell on which side of a bound it is; ASCII leaves that bit free.
        guard digits & tops == 0 else { return nil }
        let isLetter = (digits + ones * (0x80 - 0x61)) & tops
        let aboveF = (digits + ones * (0x80 - 0x67)) & tops
        let isDigit = (digits + ones * (0x80 - 0x30)) & ~(digits + ones * (0x80 - 0x3a)) & tops
        guard aboveF == 0, isLetter | isDigit == tops else { return nil }
        // 0x61 is 10 and 0x30 is 0: the low four bits, and 9 more for letters.
        let values = (digits & (ones * 0x0f)) + (isLetter >> 7) * 9
        // Pairs of digits to bytes, then the four bytes together.
        let pairs = (values << 4 | values >> 8) & 0x00ff_00ff_00ff_00ff
        let halves = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff
        return (halves | halves >> 16) & 0xffff_ffff
    }

    /// Appends what `text` encodes in base64 (RFC 4648, padded; line ends are skipped as other readers do). False when
    /// it is not base64.
    static func decodeBase64(_ text: Span<UInt8>, into out: inout [UInt8]) -> Bool {
        var bits: UInt32 = 0
        var count = 0
        var padding = 0
        for index in text.indices {
            let symbol = text[index]
            if symbol == 0x0a || symbol == 0x0d { continue }
            if symbol == UInt8(ascii: "=") {
                padding += 1
            } else {
                guard padding == 0, let value = base64Value(symbol) else { return false }
                bits = bits << 6 | UInt32(value)
            }
            count += 1
            guard count % 4 == 0, padding == 0 else { continue }
            out.append(UInt8(truncatingIfNeeded: bits >> 16))
            out.append(UInt8(truncatingIfNeeded: bits >> 8))
            out.append(UInt8(truncatingIfNeeded: bits))
        }
        guard count % 4 == 0, padding <= 2 else { return false }
        if padding == 1 {
            out.append(UInt8(truncatingIfNeeded: bits >> 10))
            out.append(UInt8(truncatingIfNeeded: bits >> 2))
        } else if padding == 2 {
            out.append(UInt8(truncatingIfNeeded: bits >> 4))
        }
        return true
    }

    private static func base64Value(_ symbol: UInt8) -> UInt8? {
        switch symbol {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): symbol - 0x41
        case UInt8(ascii: "a")...UInt8(ascii: "z"): symbol - 0x61 + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): symbol - 0x30 + 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }
}
