internal import OCIModel

extension StatusReport {
    /// The numbers of the report as Prometheus wants them (text format 0.0.4): `crfs_` and the names of the members on the way,
    /// as docs/control-socket.md has them, joined by `_`. What there are several of has a label.
    var metrics: String {
        var samples = Samples()
        guard let report = try? JSONValue(json: stableJSON(self)) else {
            preconditionFailure("a report that cannot be read again")
        }
        samples.add(report, "crfs", [])
        samples.add(.integer(1), "crfs_info", [("version", version)])
        return samples.text
    }
}

/// Samples by the names of their metrics: those of one metric stand together.
private struct Samples {
    /// What tells the elements of a list apart.
    private static let labels = ["point", "name", "layer", "up_to_milliseconds"]

    private var lines: [String: [String]] = [:]

    mutating func add(_ value: JSONValue, _ name: String, _ labels: [(name: String, value: String)]) {
        switch value {
        case .integer(let number): line(name, labels, "\(number)")
        case .number(let number): line(name, labels, "\(number)")
        case .boolean(let isTrue): line(name, labels, isTrue ? "1" : "0")
        case .object(let members):
            for (key, member) in members { add(member, "\(name)_\(key)", labels) }
        case .array(let elements):
            for element in elements { addElement(element, name, labels) }
        case .string, .null: break
        }
    }

    private mutating func addElement(
        _ element: JSONValue,
        _ name: String,
        _ labels: [(name: String, value: String)]
    ) {
        var element = element
        var labels = labels
        for label in Samples.labels {
            guard let value = element[label] else { continue }
            if case .integer(let bound) = value { labels.append((label, "\(bound)")) }
            if let text = value.text { labels.append((label, text)) }
            element[label] = nil
            return add(element, name, labels)
        }
        // The last class of a histogram has no bound.
        add(element, name, labels + [("up_to_milliseconds", "+Inf")])
    }

    private mutating func line(_ name: String, _ labels: [(name: String, value: String)], _ value: String) {
        let list = labels.map { label in "\(label.name)=\"\(Samples.escaped(label.value))\"" }.joined(separator: ",")
        lines[name, default: []].append(list.isEmpty ? "\(name) \(value)" : "\(name){\(list)} \(value)")
    }

    private static func escaped(_ text: String) -> String {
        text.map { character in
            switch character {
            case "\\": "\\\\"
            case "\"": "\\\""
            case "\n": "\\n"
            default: String(character)
            }
        }.joined()
    }

    var text: String {
        lines.sorted { $0.key < $1.key }.map { name, lines in
            "# TYPE \(name) untyped\n" + lines.sorted().joined(separator: "\n") + "\n"
        }.joined()
    }
}
