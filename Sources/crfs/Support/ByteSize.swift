internal import ArgumentParser

/// A number of bytes on the command line: `1048576`, `64KiB`, `16MiB`, `2GiB` (also `K`, `M`, `G`, all of 1024).
struct ByteSize: ExpressibleByArgument, Equatable, CustomStringConvertible {
    /// The bytes.
    let bytes: Int

    init(bytes: Int) {
        self.bytes = bytes
    }

    init?(argument: String) {
        let units: [(String, Int)] = [
            ("KIB", 10), ("MIB", 20), ("GIB", 30), ("TIB", 40), ("K", 10), ("M", 20), ("G", 30), ("T", 40), ("B", 0),
            ("", 0),
        ]
        let text = argument.uppercased()
        guard let (suffix, shift) = units.first(where: { text.hasSuffix($0.0) }) else { return nil }
        guard let number = Int(text.dropLast(suffix.count)), number >= 0, number <= Int.max >> shift else { return nil }
        bytes = number << shift
    }

    var description: String {
        for (suffix, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        where bytes >= 1 << shift && bytes % (1 << shift) == 0 {
            return "\(bytes >> shift)\(suffix)"
        }
        return "\(bytes)"
    }

    var defaultValueDescription: String { description }
}
