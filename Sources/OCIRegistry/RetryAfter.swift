/// Retry-After (RFC 9110, 10.2.3): a number of seconds or a date.
enum RetryAfter {
    /// How many seconds to wait, counted from `now` (seconds since 1970); nil for what is neither.
    static func seconds(_ value: String, now: Int64) -> Double? {
        if !value.isEmpty, value.utf8.allSatisfy({ (0x30...0x39).contains($0) }) {
            return min(Double(value) ?? 0, 1e9)
        }
        guard let date = parseDate(value) else { return nil }
        return Double(max(0, date - now))
    }

    /// Any of the three forms of an HTTP date (RFC 9110, 5.6.7) as seconds since 1970.
    static func parseDate(_ text: String) -> Int64? {
        var month: Int64?
        var clock: Int64?
        var day: Int64?
        var year: Int64?
        for part in text.split(whereSeparator: { $0 == " " || $0 == "," || $0 == "-" }) {
            if part.contains(":") {
                clock = parseClock(part)
            } else if let index = months.firstIndex(of: part.prefix(3).lowercased()), part.utf8.count == 3 {
                month = Int64(index + 1)
            } else if let number = Int64(part), number >= 0 {
                if part.utf8.count == 4 {
                    year = number
                } else if part.utf8.count <= 2 {
                    // Two digits after the day are the year of the obsolete form.
                    if day == nil { day = number } else { year = number + (number >= 70 ? 1900 : 2000) }
                }
            }
        }
        guard let month, let clock, let day, let year, (1...31).contains(day), year >= 1970 else { return nil }
        return daysSince1970(year: year, month: month, day: day) * 86_400 + clock
    }

    private static let months = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ]

    private static func parseClock(_ text: Substring) -> Int64? {
        let parts = text.split(separator: ":").compactMap { Int64($0) }
        guard parts.count == 3, (0..<24).contains(parts[0]), (0..<60).contains(parts[1]), (0...60).contains(parts[2])
        else { return nil }
        return parts[0] * 3600 + parts[1] * 60 + parts[2]
    }

    /// Days of the Gregorian calendar: years counted from March, so that the leap day is a year's last.
    private static func daysSince1970(year: Int64, month: Int64, day: Int64) -> Int64 {
        let shifted = month <= 2 ? year - 1 : year
        let monthFromMarch = (month + 9) % 12
        let dayOfYear = (153 * monthFromMarch + 2) / 5 + day - 1
        let leapDays = shifted / 4 - shifted / 100 + shifted / 400
        return shifted * 365 + leapDays + dayOfYear - 719_468
    }
}
