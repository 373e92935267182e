internal import ChunkStore
internal import ImageFS
internal import Synchronization

/// How the open files of a mount are read, as far as there is a choice: the kernel lets an inode be open in one way only,
/// from its first open to its last release, and with one backing number (EIO for whoever comes in another way).
///
/// RELEASE comes after the kernel has let go of the way, so what this table remembers is never older than the kernel's.
///
/// LOCK ORDER: a leaf.
final class OpenFiles: Sendable {
    enum Mode: Sendable {
        /// Answered by the daemon, kept by the kernel in pages of the mount's own.
        case cached
        /// The same, spliced from a file.
        case spliced(MaterialisedFile)
        /// Read by the kernel from the file with this backing number. The file is kept for what it takes on disk.
        case passthrough(Int32, MaterialisedFile)
    }

    private struct Entry {
        var mode: Mode
        var count: Int
    }

    private let entries = Mutex<[NodeID: Entry]>([:])

    /// Set in the handles of files that are in the table.
    static let mark: UInt64 = 1 << 63

    /// Counts a further open of a node that is open, and tells its mode.
    func join(_ node: NodeID) -> Mode? {
        entries.withLock { entries in
            guard var entry = entries[node] else { return nil }
            entry.count += 1
            entries[node] = entry
            return entry.mode
        }
    }

    /// Counts an open; `mode` is for the first one. Tells the mode that it is open in.
    func open(_ node: NodeID, _ mode: Mode) -> Mode {
        entries.withLock { entries in
            var entry = entries[node] ?? Entry(mode: mode, count: 0)
            entry.count += 1
            entries[node] = entry
            return entry.mode
        }
    }

    /// The mode that a node is open in.
    func mode(_ node: NodeID) -> Mode? {
        entries.withLock { $0[node]?.mode }
    }

    /// Ends an open. The mode when it was the last one, for what has to be given back.
    func release(_ node: NodeID) -> Mode? {
        entries.withLock { entries in
            guard var entry = entries[node] else { return nil }
            entry.count -= 1
            if entry.count == 0 {
                entries[node] = nil
                return entry.mode
            }
            entries[node] = entry
            return nil
        }
    }
}
