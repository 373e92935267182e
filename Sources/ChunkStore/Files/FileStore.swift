internal import Glibc
internal import OCIModel
public import PosixIO
internal import Synchronization

/// Materialised files: whole files, not packed, under their content's digest, for the kernel to read by itself
/// (docs/cache-format.md). What is here is served without looking at its bytes only while a note says that they were
/// hashed since the last boot and the file has not been touched since; else it is hashed again first, in the background.
///
/// Writing, hashing and removing happen on one thread of its own, at low priority.
///
/// LOCK ORDER: `state` is a leaf, not held across a system call.
public final class FileStore: Sendable {
    enum Phase {
        /// It has a name in the directory; nothing else is known.
        case found
        /// Looked at by somebody, being hashed, or being written.
        case busy
        case good(FileIdentity)
        /// It has no name there.
        case absent
    }

    struct Entry {
        var phase: Phase
        /// What it takes on disk, in bytes.
        var bytes: Int
        /// CLOCK_REALTIME, in nanoseconds.
        var lastUse: UInt64
        weak var file: MaterialisedFile?
    }

    struct State {
        var entries: [FileKey: Entry] = [:]
        /// Files that stay open although nobody uses them now; the last used at the end.
        var open: [MaterialisedFile] = []
        /// Fingerprints of what was used, as long as they last.
        var seen: Set<UInt64> = []
        var isScanned = false
        /// Jobs that wait for the thread.
        var waiting = 0
    }

    /// Smaller files are not materialised: as files of their own they take more room, and gain little
    /// (docs/decisions/0017-opens-answered-while-they-help.md).
    public static let leastSize: UInt64 = 32 << 10
    /// Files that are kept open.
    static let mostOpen = 256
    /// Jobs that may wait; what is beyond is asked for again by its next use.
    static let mostWaiting = 1024

    let directory: String
    /// What the files may take on disk, in bytes.
    let capacity: Int
    let account: DiskAccount
    /// Makes room for so many bytes beside the chunks, and takes it; false when there is none.
    let takeRoom: @Sendable (Int) -> Bool
    let state = Mutex(State())
    let seenList: SeenList
    let thread = WorkerPool(named: "crfs-files", threads: 1)

    /// Opens the store in a directory, which is made if it is missing.
    init(
        directory: String,
        capacity: Int,
        account: DiskAccount,
        takeRoom: @escaping @Sendable (Int) -> Bool
    ) {
        self.directory = directory
        self.capacity = capacity
        self.account = account
        self.takeRoom = takeRoom
        seenList = SeenList(path: directory + "/used")
        try? makeDirectories(directory, mode: 0o700)
        let seen = seenList.read()
        state.withLock { $0.seen = seen }
        account.areFilesKnown.withLock { $0 = false }
        thread.submit { [self] in
            _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 10)
            scan()
        }
    }

    /// Waits until the thread has done what it was given so far, or until the time is over.
    public func waitUntilIdle(nanoseconds: UInt64 = .max) {
        let isDone = Monitor(false)
        thread.submit { isDone.withLock { $0 = true } }
        // Further ahead than any clock that counts in signed seconds.
        _ = isDone.wait(nanoseconds: min(nanoseconds, 1 << 60)) { $0 ? () : nil }
    }

    /// Whether there may be any file now. As long as the directory was not read it goes by what was used earlier.
    public var mayHaveFiles: Bool {
        state.withLock { $0.isScanned ? account.files.load(ordering: .relaxed) > 0 : !$0.seen.isEmpty }
    }

    func path(_ key: FileKey) -> String { "\(directory)/\(key.name)" }

    // MARK: Looking up

    private enum Step {
        case have(MaterialisedFile)
        case open(FileIdentity)
        case look
        case nothing
    }

    /// The file of a key, open, if it is there and can be trusted. Reads nothing of it. One that cannot be trusted yet is
    /// hashed in the background, and is there later.
    public func find(_ key: FileKey, size: UInt64) -> MaterialisedFile? {
        let now = FileStore.now()
        let step = state.withLock { state -> Step in
            guard var entry = state.entries[key] else {
                if state.isScanned { return .nothing }
                state.entries[key] = Entry(phase: .busy, bytes: 0, lastUse: now)
                return .look
            }
            switch entry.phase {
            case .absent, .busy: return .nothing
            case .found:
                entry.phase = .busy
                state.entries[key] = entry
                return .look
            case .good(let identity):
                entry.lastUse = now
                state.entries[key] = entry
                return entry.file.map { .have($0) } ?? .open(identity)
            }
        }
        var file: MaterialisedFile?
        switch step {
        case .nothing: return nil
        case .have(let found): file = found
        case .open(let identity): file = open(key, identity)
        case .look: file = look(key)
        }
        guard let file, file.count == size, file.isUnchanged else {
            if file != nil || isGood(step) { distrust(key) }
            return nil
        }
        keepOpen(key, file)
        return file
    }

    private func isGood(_ step: Step) -> Bool {
        if case .open = step { return true }
        return false
    }

    private func open(_ key: FileKey, _ identity: FileIdentity) -> MaterialisedFile? {
        guard let descriptor = try? Descriptor.open(path(key), O_RDONLY | O_NOFOLLOW | O_NONBLOCK) else { return nil }
        return MaterialisedFile(descriptor, identity, account: account)
    }

    /// Opens what has the key's name, and says what its note makes of it.
    private func look(_ key: FileKey) -> MaterialisedFile? {
        guard let descriptor = try? Descriptor.open(path(key), O_RDONLY | O_NOFOLLOW | O_NONBLOCK),
            let status = try? descriptor.status(), status.st_mode & S_IFMT == S_IFREG
        else {
            settle(key, .absent, bytes: 0)
            return nil
        }
        let identity = FileIdentity(status)
        let bytes = Int(status.st_blocks) * 512
        guard noteHolds(key, identity) else {
            settle(key, .busy, bytes: bytes)
            thread.submit { [self] in examine(key) }
            return nil
        }
        settle(key, .good(identity), bytes: bytes)
        touch(key)
        return MaterialisedFile(descriptor, identity, account: account)
    }

    private func noteHolds(_ key: FileKey, _ identity: FileIdentity) -> Bool {
        guard let note = noteText(key), !FileNote.currentBoot.isEmpty else { return false }
        guard let digest = key.isContent ? key.digest : FileNote.digest(in: note) else { return false }
        return note == FileNote(digest: digest, identity: identity, boot: FileNote.currentBoot).text
    }

    /// What the note beside a file says.
    func noteText(_ key: FileKey) -> String? {
        (try? readFile(path(key) + ".note", limit: 1024).array).map { String(decoding: $0, as: UTF8.self) }
    }

    private func keepOpen(_ key: FileKey, _ file: MaterialisedFile) {
        let released = state.withLock { state -> MaterialisedFile? in
            state.entries[key]?.file = file
            if let at = state.open.lastIndex(where: { $0 === file }) {
                if at != state.open.count - 1 { state.open.append(state.open.remove(at: at)) }
                return nil
            }
            state.open.append(file)
            return state.open.count > FileStore.mostOpen ? state.open.removeFirst() : nil
        }
        _ = consume released
    }

    /// The file is not what it was: it is looked at anew, and served by nobody meanwhile.
    private func distrust(_ key: FileKey) {
        let released = state.withLock { state -> [MaterialisedFile] in
            guard var entry = state.entries[key], case .good = entry.phase else { return [] }
            entry.phase = .busy
            let file = entry.file
            entry.file = nil
            state.entries[key] = entry
            let released = state.open.filter { $0 === file }
            state.open.removeAll { $0 === file }
            return released
        }
        _ = consume released
        thread.submit { [self] in examine(key) }
    }

    /// Notes what a key's file is now, and what it takes.
    func settle(_ key: FileKey, _ phase: Phase, bytes: Int) {
        let before = state.withLock { state -> Int in
            let before = state.entries[key]?.bytes ?? 0
            state.entries[key] = Entry(phase: phase, bytes: bytes, lastUse: FileStore.now())
            return before
        }
        account.files.add(bytes - before, ordering: .relaxed)
    }

    // MARK: Use

    /// Notes that a file was used, and tells whether it had been before, now or by an earlier process.
    public func noteUse(_ key: FileKey) -> Bool {
        let fingerprint = key.fingerprint
        let (isNew, list) = state.withLock { state -> (Bool, [UInt64]) in
            guard state.seen.insert(fingerprint).inserted else { return (false, []) }
            if state.seen.count < SeenList.most { return (true, []) }
            // It was long ago that most of these were used.
            state.seen = [fingerprint]
            return (true, [fingerprint])
        }
        guard isNew else { return true }
        thread.submit { [self] in
            if list.isEmpty { seenList.append(fingerprint) } else { seenList.replace(list) }
        }
        return false
    }

    /// Has `fill` write a file's content on the store's thread, unless it is there or on its way, or does not fit.
    ///
    /// - Parameter fill: false gives it up: the file is not made.
    public func materialise(
        _ key: FileKey,
        size: UInt64,
        _ fill: @escaping @Sendable (inout FileWriter) throws(SystemError) -> Bool
    ) {
        guard size >= FileStore.leastSize, size <= UInt64(capacity / 2) else { return }
        let starts = state.withLock { state -> Bool in
            guard state.waiting < FileStore.mostWaiting else { return false }
            switch state.entries[key]?.phase {
            case nil where state.isScanned, .absent:
                state.entries[key] = Entry(phase: .busy, bytes: 0, lastUse: FileStore.now())
                state.waiting += 1
                return true
            default: return false
            }
        }
        guard starts else { return }
        thread.submit { [self] in
            write(key, size: size, fill)
            let isLast = state.withLock { state in
                state.waiting -= 1
                return state.waiting == 0
            }
            // One for many: a name that is lost with the system's power only costs its file's being made again.
            if isLast { try? Descriptor.open(directory, O_RDONLY | O_DIRECTORY).synchronize() }
        }
    }

    /// How many files can be served now, and what all take on disk.
    public var statistics: (files: Int, bytes: Int) {
        let files = state.withLock { state in
            state.entries.values.reduce(0) { count, entry in
                if case .good = entry.phase { return count + 1 }
                return count
            }
        }
        return (files, account.files.load(ordering: .relaxed))
    }

    static func now() -> UInt64 {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(truncatingIfNeeded: time.tv_sec &* 1_000_000_000 &+ time.tv_nsec)
    }
}
