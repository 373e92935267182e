internal import BlockCodec
internal import Glibc
internal import OCIModel
internal import PosixIO
internal import Synchronization

// What the store's own thread does.

extension FileStore {
    /// Reads the directory: what there is, what it takes, when it was used last. Removes what was left half done.
    func scan() {
        var unknown: Set<String> = []
        for name in namesInDirectory(directory) {
            let path = "\(directory)/\(name)"
            if name.contains(".tmp-") {
                _ = unsafe unlink(path)
            } else if name.hasSuffix(".note") {
                unknown.insert(String(name.dropLast(5)))
            } else if let key = FileKey(name: name) {
                var status = stat()
                guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { continue }
                unknown.remove(name)
                var note = stat()
                let lastUse = unsafe lstat(path + ".note", &note) == 0 ? note.st_mtim.tv_sec : 0
                enter(key, bytes: Int(status.st_blocks) * 512, lastUse: UInt64(clamping: lastUse) &* 1_000_000_000)
            }
        }
        // Names are sorted: a note comes after its file.
        for name in unknown where FileKey(name: name) != nil {
            if unsafe access("\(directory)/\(name)", F_OK) != 0 { _ = unsafe unlink("\(directory)/\(name).note") }
        }
        state.withLock { $0.isScanned = true }
        account.areFilesKnown.withLock { $0 = true }
        makeRoom(for: 0)
    }

    /// Takes in a file that was found, unless somebody has looked at it already.
    private func enter(_ key: FileKey, bytes: Int, lastUse: UInt64) {
        let isNew = state.withLock { state in
            guard state.entries[key] == nil else { return false }
            state.entries[key] = Entry(phase: .found, bytes: bytes, lastUse: lastUse)
            return true
        }
        if isNew { account.files.add(bytes, ordering: .relaxed) }
    }

    /// Hashes a file that has a key's name: it is good from now on, or it goes.
    func examine(_ key: FileKey) {
        do throws(SystemError) {
            let (digest, identity, bytes) = try hashed(key)
            try writeNote(key, digest, identity)
            settle(key, .good(identity), bytes: bytes)
        } catch {
            remove(key)
        }
    }

    /// Hashes the file that has a key's name: its digest, what it is, and the bytes that it takes on disk. One that is not
    /// what the key or its note says throws.
    func hashed(_ key: FileKey) throws(SystemError) -> (Digest, FileIdentity, bytes: Int) {
        let file = try Descriptor.open(path(key), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
        let before = FileIdentity(try file.status())
        let wanted = key.isContent ? key.digest : noteText(key).flatMap { FileNote.digest(in: $0) }
        guard let wanted, try hash(file) == wanted else { throw SystemError(code: EILSEQ, operation: "read") }
        let status = try file.status()
        guard FileIdentity(status) == before else { throw SystemError(code: EAGAIN, operation: "read") }
        return (wanted, before, Int(status.st_blocks) * 512)
    }

    private func hash(_ file: borrowing Descriptor) throws(SystemError) -> Digest {
        var hash = SHA256()
        var buffer = UniqueBytes(capacity: 1 << 20)
        var position: UInt64 = 0
        while true {
            let count = try unsafe buffer.withUnsafeMutableBytes { (bytes) throws(SystemError) in
                try unsafe file.read(into: bytes, at: position)
            }
            if count == 0 { return hash.finish() }
            hash.update(buffer.span.extracting(0..<count))
            position += UInt64(count)
        }
    }

    /// Writes a file: temporary, fsync, rename, note. The fsync is what tells that the disk took it; the directory's comes
    /// after the last of those that wait.
    func write(
        _ key: FileKey,
        size: UInt64,
        _ fill: (inout FileWriter) throws(SystemError) -> Bool
    ) {
        let wanted = Int(size) + DiskStore.metadata
        makeRoom(for: wanted)
        guard account.files.load(ordering: .relaxed) + wanted <= capacity, takeRoom(wanted) else {
            return settle(key, .absent, bytes: 0)
        }
        var isNamed = false
        do throws(SystemError) {
            let digest = try writeTemporary(key, size: size, fill)
            if let digest {
                guard unsafe rename(path(key) + ".tmp-", path(key)) == 0 else { throw SystemError.last("rename") }
                isNamed = true
                try finish(key, digest, size: size)
            }
        } catch {
            if isNamed { _ = unsafe unlink(path(key)) }
            isNamed = false
        }
        if !isNamed {
            _ = unsafe unlink(path(key) + ".tmp-")
            settle(key, .absent, bytes: 0)
        }
        // What was taken for it stands in its entry by now.
        account.files.subtract(wanted, ordering: .relaxed)
    }

    /// Nil when `fill` gave up, or gave something else than the key's content.
    private func writeTemporary(
        _ key: FileKey,
        size: UInt64,
        _ fill: (inout FileWriter) throws(SystemError) -> Bool
    ) throws(SystemError) -> Digest? {
        let temporary = path(key) + ".tmp-"
        _ = unsafe unlink(temporary)
        let file = try Descriptor.open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW)
        var writer = FileWriter(file, limit: size)
        guard try fill(&writer), writer.position == size else { return nil }
        let digest = try writer.finish()
        return key.isContent && digest != key.digest ? nil : digest
    }

    private func finish(_ key: FileKey, _ digest: Digest, size: UInt64) throws(SystemError) {
        let file = try Descriptor.open(path(key), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
        let status = try file.status()
        let identity = FileIdentity(status)
        guard identity.size == size else { throw SystemError(code: EIO, operation: "fstat") }
        try writeNote(key, digest, identity)
        settle(key, .good(identity), bytes: Int(status.st_blocks) * 512)
    }

    private func writeNote(_ key: FileKey, _ digest: Digest, _ identity: FileIdentity) throws(SystemError) {
        let note = FileNote(digest: digest, identity: identity, boot: FileNote.currentBoot)
        try unsafe replaceFile(path(key) + ".note", with: Array(note.text.utf8).span.bytes)
    }

    /// Notes the time of a use where a later process finds it.
    func touch(_ key: FileKey) {
        let path = path(key) + ".note"
        _ = unsafe utimensat(AT_FDCWD, path, nil, AT_SYMLINK_NOFOLLOW)
    }

    /// Removes what was not used for the longest time, until `bytes` more fit the bound of the files.
    private func makeRoom(for bytes: Int) {
        while account.files.load(ordering: .relaxed) + bytes > capacity {
            let oldest = state.withLock { state -> FileKey? in
                var oldest: (key: FileKey, lastUse: UInt64)?
                for (key, entry) in state.entries where entry.bytes > 0 {
                    if case .busy = entry.phase { continue }
                    if oldest.map({ entry.lastUse < $0.lastUse }) ?? true { oldest = (key, entry.lastUse) }
                }
                return oldest?.key
            }
            guard let oldest else { return }
            remove(oldest)
        }
    }

    /// Removes a file. Who has it open keeps it; it counts until the last user here is done.
    func remove(_ key: FileKey) {
        let (bytes, file) = state.withLock { state -> (Int, MaterialisedFile?) in
            let entry = state.entries[key]
            state.entries[key] = Entry(phase: .busy, bytes: 0, lastUse: 0)
            guard let file = entry?.file else { return (entry?.bytes ?? 0, nil) }
            state.open.removeAll { $0 === file }
            return (entry?.bytes ?? 0, file)
        }
        _ = unsafe unlink(path(key))
        _ = unsafe unlink(path(key) + ".note")
        if let file { file.loseName(bytes) } else { account.files.subtract(bytes, ordering: .relaxed) }
        settle(key, .absent, bytes: 0)
    }
}
