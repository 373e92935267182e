import BlockCodec
import Glibc
import OCIModel
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import ChunkStore

/// Materialised files in a directory of their own.
@Suite final class FileStoreTests {
    private let directory: TemporaryDirectory
    private var path: String { directory.path + "/files" }

    init() throws { directory = try TemporaryDirectory("files") }

    private func open(capacity: Int = 64 << 20, account: DiskAccount = DiskAccount()) -> FileStore {
        let store = FileStore(directory: path, capacity: capacity, account: account) { bytes in
            account.files.add(bytes, ordering: .relaxed)
            return true
        }
        store.waitUntilIdle()
        return store
    }

    private func content(_ seed: UInt64, count: Int = 300_000) -> (key: FileKey, bytes: [UInt8]) {
        let bytes = makePayload(.noise, count: count, seed: seed)
        return (FileKey(content: unsafe SHA256.digest(of: bytes.span.bytes)), bytes)
    }

    private func write(_ store: FileStore, _ key: FileKey, _ bytes: [UInt8]) {
        store.materialise(key, size: UInt64(bytes.count)) { (writer) throws(SystemError) in
            try unsafe writer.append(bytes.span.bytes)
            return true
        }
        store.waitUntilIdle()
    }

    private func read(_ store: FileStore, _ key: FileKey, count: Int) throws -> [UInt8]? {
        guard let file = store.find(key, size: UInt64(count)) else { return nil }
        var bytes = [UInt8](repeating: 0, count: count + 1)
        let done = try unsafe bytes.withUnsafeMutableBytes { try unsafe file.descriptor.read(into: $0, at: 0) }
        return Array(bytes[..<done])
    }

    @Test func aFileIsThereAtOnceAfterItWasWrittenAndAfterTheStoreWasOpenedAgain() throws {
        let (key, bytes) = content(1)
        var store = open()
        #expect(try read(store, key, count: bytes.count) == nil)
        write(store, key, bytes)
        for _ in 0..<3 {
            #expect(try read(store, key, count: bytes.count) == bytes)
            #expect(store.statistics.files == 1)
            store = open()
        }
        #expect(try names(in: path) == [key.name, key.name + ".note"].sorted())
    }

    @Test func itSaysWhetherThereMayBeFiles() throws {
        let (key, bytes) = content(1)
        var store = open()
        #expect(!store.mayHaveFiles)
        _ = store.noteUse(key)
        #expect(!store.mayHaveFiles)
        write(store, key, bytes)
        #expect(store.mayHaveFiles)
        store = open()
        #expect(store.mayHaveFiles)
        #expect(store.prune(keeping: 0) == 0)
        #expect(!store.mayHaveFiles)
    }

    @Test func whoWaitsForTheThreadGivesUpInTime() {
        let store = open()
        let (key, bytes) = content(1)
        let mayEnd = Monitor(false)
        store.materialise(key, size: UInt64(bytes.count)) { _ in
            mayEnd.wait { $0 ? () : nil }
            return false
        }
        store.waitUntilIdle(nanoseconds: 1_000_000)
        #expect(store.find(key, size: UInt64(bytes.count)) == nil)
        mayEnd.withLock { $0 = true }
        store.waitUntilIdle()
        #expect(store.statistics.files == 0)
    }

    @Test func keysOfChunksDifferInEveryPart() {
        let digest = Digest(words: (1, 2, 3, 4))
        func key(_ chunks: [ChunkKey], zeros: UInt32 = 0) -> FileKey {
            var hash = FileKeyHash()
            for chunk in chunks { hash.add(chunk) }
            if zeros > 0 { hash.add(zeros: zeros) }
            return hash.finish()
        }
        let first = ChunkKey(content: digest, length: 7)
        let keys = [
            key([first]), key([first, first]), key([first], zeros: 1), key([first], zeros: 2),
            key([ChunkKey(content: digest, length: 8)]),
            key([ChunkKey(layer: digest, offset: 0, innerOffset: 0, length: 7)]),
            key([ChunkKey(layer: digest, offset: 1, innerOffset: 0, length: 7)]),
            key([ChunkKey(layer: digest, offset: 0, innerOffset: 1, length: 7)]),
            FileKey(content: digest),
        ]
        #expect(Set(keys).count == keys.count)
        for key in keys { #expect(FileKey(name: key.name) == key) }
        for name in ["sha256-ab", keys[0].name + ".note", "chunks_" + keys[0].name.dropFirst(7), ""] {
            #expect(FileKey(name: name) == nil)
        }
    }

    @Test func contentThatIsNotTheKeysIsNotKept() throws {
        let (key, bytes) = content(2)
        let store = open()
        write(store, key, bytes.reversed())
        #expect(try read(store, key, count: bytes.count) == nil)
        // Too short, too long, given up.
        write(store, key, Array(bytes.dropLast()))
        for give in [Array(bytes + [1]), []] {
            store.materialise(key, size: UInt64(bytes.count)) { (writer) throws(SystemError) in
                try unsafe writer.append(give.span.bytes)
                return !give.isEmpty
            }
            store.waitUntilIdle()
        }
        #expect(try read(store, key, count: bytes.count) == nil)
        #expect(try names(in: path).isEmpty)
        #expect(store.statistics.bytes == 0)
        write(store, key, bytes)
        #expect(try read(store, key, count: bytes.count) == bytes)
    }

    /// What can happen to a file behind the store's back.
    static let damages: [String] = ["truncate", "flip", "replace", "extend", "remove", "directory", "link"]

    @Test(arguments: damages, [false, true])
    func aFileThatWasTouchedIsNeverServedWrong(_ damage: String, whileOpen: Bool) throws {
        let (key, bytes) = content(3)
        var store = open()
        write(store, key, bytes)
        let file = "\(path)/\(key.name)"
        if whileOpen { #expect(try read(store, key, count: bytes.count) == bytes) } else { store = open() }
        switch damage {
        case "truncate": try Descriptor.open(file, O_RDWR).truncate(to: 1000)
        case "flip":
            let flipped = bytes[77] ^ 1
            try unsafe Descriptor.open(file, O_RDWR).write([flipped].span.bytes, at: 77)
        case "replace":
            let other = content(4).bytes
            try unsafe replaceFile(file, with: other.span.bytes)
        case "extend": try Descriptor.open(file, O_RDWR).truncate(to: UInt64(bytes.count) + 1)
        case "remove": #expect(unsafe unlink(file) == 0)
        case "link":
            #expect(unsafe unlink(file) == 0 && symlink("/etc/passwd", file) == 0)
        default:
            #expect(unsafe unlink(file) == 0 && mkdir(file, 0o700) == 0)
        }
        for _ in 0..<3 {
            // The open one may still be served, when it is what it was.
            let found = try read(store, key, count: bytes.count)
            #expect(found == nil || found == bytes)
            store.waitUntilIdle()
        }
    }

    @Test(arguments: ["missing", "boot", "text"])
    func whatNoNoteHoldsForIsHashedFirst(_ damage: String) throws {
        let (key, bytes) = content(5)
        write(open(), key, bytes)
        let note = "\(path)/\(key.name).note"
        switch damage {
        case "missing": #expect(unsafe unlink(note) == 0)
        case "boot":
            let text = try text(of: note)
            #expect(text.contains(FileNote.currentBoot))
            try writeFile(note, text.split(separator: "\n").dropLast().joined(separator: "\n") + "\nanother-boot\n")
        default: try writeFile(note, "crfs file 2\n")
        }
        var store = open()
        #expect(try read(store, key, count: bytes.count) == nil)
        store.waitUntilIdle()
        #expect(try read(store, key, count: bytes.count) == bytes)
        // And once more: the note holds again.
        store = open()
        #expect(try read(store, key, count: bytes.count) == bytes)
    }

    @Test func aFileOfChunksWithoutANoteIsGivenUp() throws {
        var hash = FileKeyHash()
        hash.add(zeros: 5)
        let key = hash.finish()
        let bytes = content(6).bytes
        write(open(), key, bytes)
        #expect(unsafe unlink("\(path)/\(key.name).note") == 0)
        let store = open()
        #expect(try read(store, key, count: bytes.count) == nil)
        store.waitUntilIdle()
        #expect(try read(store, key, count: bytes.count) == nil)
        #expect(try names(in: path).isEmpty)
    }

    @Test func whatWasUsedLongestAgoGoesAndTheBoundHolds() throws {
        let account = DiskAccount()
        let size = 256 << 10
        var store = open(capacity: size * 5, account: account)
        let files = (0..<6).map { content(UInt64(10 + $0), count: size) }
        for file in files[..<4] { write(store, file.key, file.bytes) }
        // The first is used once more, and stays open.
        let held = try #require(store.find(files[0].key, size: UInt64(size)))
        for file in files[4...] {
            write(store, file.key, file.bytes)
            #expect(account.files.load(ordering: .relaxed) <= size * 5)
        }
        #expect(try read(store, files[0].key, count: size) == files[0].bytes)
        #expect(try read(store, files[1].key, count: size) == nil)
        #expect(try read(store, files[5].key, count: size) == files[5].bytes)
        let named = try names(in: path).filter { FileKey(name: $0) != nil }
        let bytes = try named.reduce(0) { try $0 + Int(FileStatus("\(path)/\($1)").blocks) * 512 }
        #expect(account.files.load(ordering: .relaxed) == bytes)
        // One that goes while it is open counts until it is closed, and can be read until then.
        store.remove(files[0].key)
        #expect(account.files.load(ordering: .relaxed) == bytes)
        var first = [UInt8](repeating: 0, count: 16)
        _ = try unsafe first.withUnsafeMutableBytes { try unsafe held.descriptor.read(into: $0, at: 0) }
        #expect(first == Array(files[0].bytes[..<16]))
        store = open(capacity: size * 5)
        #expect(store.statistics.bytes == bytes - Int(size))
    }

    @Test func whatAWriterLeftBehindGoes() throws {
        let (key, bytes) = content(7)
        write(open(), key, bytes)
        try writeFile("\(path)/\(key.name).tmp-", "half")
        try writeFile("\(path)/sha256-\(String(repeating: "0", count: 64)).note", "of nothing")
        try writeFile("\(path)/something else", "not ours")
        let store = open()
        #expect(try read(store, key, count: bytes.count) == bytes)
        #expect(try Set(names(in: path)) == [key.name, key.name + ".note", "something else"])
    }

    @Test func useIsRememberedByTheNextStore() {
        let key = content(8).key
        var store = open()
        #expect(!store.noteUse(key))
        #expect(store.noteUse(key))
        store.waitUntilIdle()
        store = open()
        #expect(store.noteUse(key))
        #expect(!store.noteUse(content(9).key))
    }

    @Test func filesAndChunksShareOneBound() throws {
        let capacity = 16 << 20
        let chunks = directory.path + "/chunks"
        try makeDirectories(chunks)
        let store = ChunkStore(
            directory: chunks,
            fileDirectory: path,
            capacity: capacity,
            memory: 0
        ) { _ in }
        for seed in 0..<24 {
            let payload = makePayload(.noise, count: 1 << 20, seed: UInt64(seed))
            let digest = unsafe SHA256.digest(of: payload.span.bytes)
            unsafe store.insert(ChunkKey(content: digest, length: UInt32(payload.count)), payload.span.bytes)
            if seed % 4 == 3 {
                let file = content(UInt64(100 + seed), count: 1 << 20)
                write(try #require(store.files), file.key, file.bytes)
                #expect(try read(#require(store.files), file.key, count: 1 << 20) == file.bytes)
            }
            #expect(store.statistics.bytes <= capacity)
        }
        #expect(try #require(store.files).statistics.files == 3)
    }
}
