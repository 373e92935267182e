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
        /// Read by the kernel from the file with this backing number. The file is kept for what it takes on disk.
        case passthrough(Int32, MaterialisedFile)
    }

    private struct Entry {
        var mode: Mode
        var count: Int
    }

    private struct State {
        var entries: [NodeID: Entry] = [:]
        /// How many of them are read by the kernel.
        var lent = 0
        /// What the kernel was ever given a file for.
        var given: Set<NodeID> = []
        /// Opens since the last one that gave it a file for the first time.
        var idle = 0
        /// Opens are not answered any more.
        var isOver = false
    }

    private let state = Mutex(State())

    /// Opens that may be answered one after the other without a gain: as many cost about what unpacking 50 MB does.
    static let patience = 1024

    /// Set in the handles of files that are in the table.
    static let mark: UInt64 = 1 << 63

    /// Counts a further open of a node that is open, and tells its mode.
    func join(_ node: NodeID) -> Mode? {
        state.withLock { state in
            guard var entry = state.entries[node] else { return nil }
            entry.count += 1
            state.entries[node] = entry
            return entry.mode
        }
    }

    /// Counts an open; `mode` is for the first one. Tells the mode that it is open in.
    func open(_ node: NodeID, _ mode: Mode) -> Mode {
        state.withLock { state in
            if var entry = state.entries[node] {
                entry.count += 1
                state.entries[node] = entry
                return entry.mode
            }
            var mode = mode
            if case .passthrough = mode {
                if state.isOver {
                    mode = .cached
                } else {
                    state.lent += 1
                    if state.given.insert(node).inserted { state.idle = 0 }
                }
            }
            state.entries[node] = Entry(mode: mode, count: 1)
            return mode
        }
    }

    /// Ends an open. The mode when it was the last one, for what has to be given back.
    func release(_ node: NodeID) -> Mode? {
        state.withLock { state in
            guard var entry = state.entries[node] else { return nil }
            entry.count -= 1
            if entry.count > 0 {
                state.entries[node] = entry
                return nil
            }
            state.entries[node] = nil
            if case .passthrough = entry.mode { state.lent -= 1 }
            return entry.mode
        }
    }

    /// Whether opens are not answered any more.
    var isOver: Bool { state.withLock { $0.isOver } }

    /// Whether an open that has come is still worth an answer (`OpenMode.auto`). Once it is not, none ever is again: the
    /// kernel remembers it for the mount.
    ///
    /// Not while the kernel reads a file by itself: who opens that one without an answer could not map it (ENODEV).
    ///
    /// - Parameter hasFiles: there may be files to give.
    func isWorthAnswering(hasFiles: Bool) -> Bool {
        state.withLock { state in
            if state.isOver { return false }
            state.idle += 1
            if state.lent > 0 || hasFiles && state.idle <= OpenFiles.patience { return true }
            state.isOver = true
            return false
        }
    }
}
