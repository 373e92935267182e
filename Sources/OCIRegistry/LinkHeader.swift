/// Link headers (RFC 8288), as registries page with them.
enum LinkHeader {
    /// The target of the first link with `rel=next`, as it stands there: absolute or relative.
    static func next(_ lines: [String]) -> String? {
        for line in lines {
            var text = HeaderText(line)
            text.skipSeparators()
            while text.take("<") {
                let target = text.takeUntil { $0 == UInt8(ascii: ">") }
                guard text.take(">") else { return nil }
                if takeParameters(&text) { return target }
                text.skipSeparators()
            }
        }
        return nil
    }

    /// Takes the parameters of one link; true when its relation is `next`.
    private static func takeParameters(_ text: inout HeaderText) -> Bool {
        var isNext = false
        text.skipBlanks()
        while text.take(";") {
            text.skipBlanks()
            guard let name = text.token() else { continue }
            text.skipBlanks()
            var value = ""
            if text.take("=") {
                text.skipBlanks()
                value = text.value()
            }
            if name.lowercased() == "rel" {
                isNext = isNext || value.split(separator: " ").contains { $0.lowercased() == "next" }
            }
            text.skipBlanks()
        }
        return isNext
    }
}
