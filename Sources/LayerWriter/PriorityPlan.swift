internal import LayerFormat

/// Which entries come first in a blob, worked out from a list of paths and the entries of the layer.
///
/// An entry moves together with its parents and with what it is a hard link to. What occurs more than once in the layer
/// stays in its place, because there the last one counts: only directories may repeat.
struct PriorityPlan {
    private struct Occurrence {
        var first: Int
        var count = 1
        var allDirectories: Bool
        /// The cleaned path that a hard link names.
        var linkTarget: [UInt8]?
    }

    private var occurrences: [[UInt8]: Occurrence] = [:]
    private var chosen: Set<Int> = []
    private var entryCount = 0

    /// Numbers of entries, as they stand in the input, in the order in which they come first.
    private(set) var order: [Int] = []
    /// Paths that were asked for and do not move.
    private(set) var notMoved: [String] = []

    /// Takes note of the next entry of the input.
    mutating func scan(_ entry: TarEntry, cleaned: [UInt8]) {
        defer { entryCount += 1 }
        // Entries that are not copied keep their number, too.
        if ReservedName.contains(cleaned) { return }
        let isDirectory = entry.kind == .directory
        if var known = occurrences[cleaned] {
            known.count += 1
            known.allDirectories = known.allDirectories && isDirectory
            occurrences[cleaned] = known
        } else {
            occurrences[cleaned] = Occurrence(
                first: entryCount,
                allDirectories: isDirectory,
                linkTarget: entry.kind == .hardLink ? cleanedPath(entry.linkTarget) : nil
            )
        }
    }

    /// Chooses the entries for `paths`, once all entries are scanned.
    mutating func choose(_ paths: [String]) {
        for path in paths {
            guard let cleaned = cleanedPath(Array(path.utf8)), move(cleaned) else {
                notMoved.append(path)
                continue
            }
        }
    }

    /// Whether an entry is chosen.
    func isChosen(_ number: Int) -> Bool { chosen.contains(number) }

    private mutating func move(_ path: [UInt8]) -> Bool {
        // A chain of hard links, its end first; a target that is not in this layer ends it.
        var chain: [[UInt8]] = []
        var seen: Set<[UInt8]> = []
        var next: [UInt8]? = path
        while let link = next, occurrences[link] != nil, seen.insert(link).inserted {
            guard isMovable(link) else { return false }
            chain.append(link)
            next = occurrences[link]?.linkTarget
        }
        if chain.isEmpty { return false }
        for link in chain.reversed() {
            for parent in parents(of: link) { take(parent) }
            take(link)
        }
        return true
    }

    private func isMovable(_ path: [UInt8]) -> Bool {
        // PATH_MAX: what is longer names nothing that can be opened, and has too many parents to list.
        guard path.count < 4096 else { return false }
        guard let occurrence = occurrences[path], occurrence.count == 1 || occurrence.allDirectories else {
            return false
        }
        return parents(of: path).allSatisfy { occurrences[$0]?.allDirectories ?? true }
    }

    private mutating func take(_ path: [UInt8]) {
        guard let occurrence = occurrences[path], chosen.insert(occurrence.first).inserted else { return }
        order.append(occurrence.first)
    }

    /// The paths of all directories above, the root first.
    private func parents(of path: [UInt8]) -> [[UInt8]] {
        if path.isEmpty { return [] }
        let slashes = path.indices.filter { path[$0] == UInt8(ascii: "/") }
        return [[]] + slashes.map { Array(path[..<$0]) }
    }
}
