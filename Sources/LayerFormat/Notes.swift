/// Things about a layer that are worth a line in the log. A hostile TOC can hold a million of them: of each kind the
/// first few are kept, and the others counted.
struct Notes {
    enum Kind: Int, CaseIterable {
        case link, parent, whiteout, other

        fileprivate var plural: String {
            switch self {
            case .link: "hard links that cannot be shown"
            case .parent: "entries below something that is not a directory"
            case .whiteout: "names that are not valid whiteouts"
            case .other: "remarks"
            }
        }
    }

    private static let kept = 8
    private var lines: [String] = []
    private var counts = [Int](repeating: 0, count: Kind.allCases.count)

    mutating func add(_ kind: Kind, _ line: @autoclosure () -> String) {
        counts[kind.rawValue] += 1
        if counts[kind.rawValue] <= Notes.kept { lines.append(line()) }
    }

    /// Hands the lines out, one at a time, and says what was left out.
    func report(_ note: (String) -> Void) {
        for line in lines { note(line) }
        for kind in Kind.allCases where counts[kind.rawValue] > Notes.kept {
            note("\(counts[kind.rawValue] - Notes.kept) more \(kind.plural)")
        }
    }
}
