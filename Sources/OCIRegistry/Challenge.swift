/// One challenge of a WWW-Authenticate header (RFC 9110, 11.6.1): how a registry wants to be asked.
struct Challenge: Equatable, Sendable {
    /// `bearer`, `basic`, …: lower case.
    var scheme: String
    /// Parameters; names in lower case, the first of a name counts.
    var parameters: [String: String] = [:]

    /// Parses all challenges of all lines; what cannot be one is skipped.
    static func parse(_ lines: [String]) -> [Challenge] {
        lines.flatMap { parse(line: $0) }
    }

    private static func parse(line: String) -> [Challenge] {
        var challenges: [Challenge] = []
        var text = HeaderText(line)
        text.skipSeparators()
        while !text.isAtEnd {
            guard let name = text.token() else {
                // Not a token: skipped up to the next element.
                _ = text.takeUntil { $0 == 0x20 || $0 == UInt8(ascii: ",") }
                text.skipSeparators()
                continue
            }
            let afterName = text.position
            text.skipBlanks()
            if text.take("="), !challenges.isEmpty {
                text.skipBlanks()
                let value = text.value()
                let last = challenges.count - 1
                if challenges[last].parameters[name.lowercased()] == nil {
                    challenges[last].parameters[name.lowercased()] = value
                }
            } else {
                text.rewind(to: afterName)
                _ = text.take("=")
                challenges.append(Challenge(scheme: name.lowercased()))
            }
            text.skipSeparators()
        }
        return challenges
    }
}
