internal import Glibc
internal import OCIModel
internal import PosixIO
internal import Synchronization

/// What a check of all materialised files found.
public struct FileVerification: Sendable, Equatable {
    /// Files that were hashed.
    public var checked = 0
    /// Files whose bytes were not what they must be, or that could not be read; they are gone.
    public var damaged = 0

    /// Nothing was looked at.
    public init() {}
}

// What a user asks for. Who has a file open keeps it whatever happens here.

extension FileStore {
    /// What the files may take on disk, in bytes.
    public var limit: Int { capacity }

    /// Removes what was not used for the longest time until all take at most so many bytes. Returns what is left.
    func prune(keeping bytes: Int) -> Int {
        onThread { [self] in
            while true {
                let (taken, oldest) = state.withLock { state -> (Int, FileKey?) in
                    var taken = 0
                    var oldest: (key: FileKey, lastUse: UInt64)?
                    for (key, entry) in state.entries where entry.bytes > 0 {
                        taken += entry.bytes
                        if case .busy = entry.phase { continue }
                        if oldest.map({ entry.lastUse < $0.lastUse }) ?? true { oldest = (key, entry.lastUse) }
                    }
                    return (taken, oldest?.key)
                }
                guard taken > bytes, let oldest else { return taken }
                remove(oldest)
            }
        }
    }

    /// Hashes every file again; wrong ones go. Files are served meanwhile.
    ///
    /// - Parameter isCancelled: asked before each file.
    func verify(_ isCancelled: () -> Bool) -> FileVerification {
        var result = FileVerification()
        waitUntilIdle()
        let keys = state.withLock { state in
            state.entries.compactMap { key, entry -> FileKey? in
                switch entry.phase {
                case .found, .good: key
                case .busy, .absent: nil
                }
            }
        }
        for key in keys where !isCancelled() {
            guard let isSound = onThread({ [self] in recheck(key) }) else { continue }
            result.checked += 1
            if !isSound { result.damaged += 1 }
        }
        return result
    }

    /// Whether a file is what it must be, else it goes; nil where there is none any more. On the store's thread.
    private func recheck(_ key: FileKey) -> Bool? {
        do throws(SystemError) {
            _ = try hashed(key)
            return true
        } catch {
            if error.code == ENOENT { return nil }
            remove(key)
            return false
        }
    }

    /// Runs something on the store's thread and waits for it.
    private func onThread<Result: Sendable>(_ body: @escaping @Sendable () -> Result) -> Result {
        let result = Monitor<Result?>(nil)
        thread.submit {
            let value = body()
            result.withLock { $0 = value }
        }
        return result.wait { $0 }
    }
}

extension ChunkStore {
    /// Hashes every materialised file again; wrong ones go, and are made anew when they are used.
    ///
    /// - Parameter isCancelled: asked before each file.
    public func verifyFiles(_ isCancelled: () -> Bool) -> FileVerification {
        files?.verify(isCancelled) ?? FileVerification()
    }

    /// What all materialised files take on disk, in bytes; 0 where the store looks after none.
    public var fileBytes: Int { files?.statistics.bytes ?? 0 }
}
