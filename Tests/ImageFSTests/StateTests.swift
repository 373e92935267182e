import Glibc
import OCIModel
import PosixIO
import Synchronization
import TestSupport
import Testing

@testable import ImageFS

@Suite("The cache directory")
struct StateDirectoryTests {
    @Test("is made private, and owned by one process at a time")
    func lock() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("cache")
        var owner: StateDirectory? = try StateDirectory(path: path)
        #expect(try FileStatus(path).mode == 0o700)
        let error = #expect(throws: StateDirectoryError.self) { _ = try StateDirectory(path: path) }
        #expect(error?.kind == .inUse(purpose: ""))
        #expect(error?.reason.contains("--cache-dir") == true)
        owner = nil
        _ = owner
        _ = try StateDirectory(path: path)
    }

    @Test("that others may enter is refused, with what to do")
    func mode() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.makeDirectory("cache", mode: 0o755)
        let error = #expect(throws: StateDirectoryError.self) { _ = try StateDirectory(path: path) }
        #expect(error?.kind == .refused)
        #expect(error?.reason.contains("chmod 700") == true)
    }

    @Test("loses temporary files of dead processes, and journals of streams that nobody goes on with")
    func leftovers() throws {
        let directory = try TemporaryDirectory()
        let state = try StateDirectory(path: directory.file("cache"))
        let layers = try directory.makeDirectory("cache/layers", mode: 0o700)
        for name in ["a.idx", "a.idx.tmp-1-2", "b.idx.tmp-\(getpid())-2", "c.part", "d.part"] {
            try writeFile("\(layers)/\(name)", "x")
        }
        try runChecked("touch", ["-d", "25 hours ago", "\(layers)/a.idx", "\(layers)/c.part"])
        try runChecked("touch", ["-d", "23 hours ago", "\(layers)/d.part"])
        #expect(state.removeLeftovers() == 2)
        #expect(namesInDirectory(layers) == ["a.idx", "b.idx.tmp-\(getpid())-2", "d.part"])
    }

    @Test("of another version is refused")
    func version() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.makeDirectory("cache", mode: 0o700)
        try unsafe replaceFile("\(path)/version", with: Array("crfs 999\n".utf8).span.bytes)
        let error = #expect(throws: StateDirectoryError.self) { _ = try StateDirectory(path: path) }
        #expect(error?.kind == .refused)
    }

    @Test("that is somebody else's directory is refused, without advice to close it")
    func foreign() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.makeDirectory("etc", mode: 0o755)
        try unsafe replaceFile("\(path)/passwd", with: [UInt8(1)].span.bytes)
        let error = #expect(throws: StateDirectoryError.self) { _ = try StateDirectory(path: path) }
        #expect(error?.kind == .refused)
        #expect(error?.reason.contains("chmod") == false)
        #expect(namesInDirectory(path) == ["passwd"])
    }

    @Test("that is a file is refused")
    func file() throws {
        let directory = try TemporaryDirectory()
        try unsafe replaceFile(directory.file("cache"), with: [UInt8(1)].span.bytes)
        #expect(throws: StateDirectoryError.self) { _ = try StateDirectory(path: directory.file("cache")) }
    }
}

@Suite("Numbers of layers and places")
struct NumberTableTests {
    @Test("stay the same when the file is read again")
    func stable() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("numbers")
        let keys = (0..<100).map { "D images/host/path\($0)" }
        let first = try NumberTable(path: path)
        let numbers = try keys.map { try first.number(for: $0) }
        #expect(Set(numbers).count == keys.count)
        #expect(try keys.map { try first.number(for: $0) } == numbers)
        let second = try NumberTable(path: path)
        #expect(try keys.reversed().map { try second.number(for: $0) } == numbers.reversed())
    }

    @Test("a file cut at any byte keeps all whole records and goes on after them")
    func cut() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("numbers")
        let keys = ["L sha256:a", "D images/x", "D layers/y"]
        let table = try NumberTable(path: path)
        let numbers = try keys.map { try table.number(for: $0) }
        let whole = try readFile(path, limit: 1 << 20).array
        var ends = [0]
        for (key, number) in zip(keys, numbers) {
            ends.append(ends[ends.count - 1] + NumberTable.encode(key, number: number).count)
        }
        for count in 0...whole.count {
            try unsafe replaceFile(path, with: Array(whole[..<count]).span.bytes)
            let kept = ends.lastIndex { $0 <= count } ?? 0
            let again = try NumberTable(path: path)
            for index in 0..<kept { #expect(try again.number(for: keys[index]) == numbers[index]) }
            let new = try again.number(for: "new")
            #expect(!numbers[..<kept].contains(new))
            let reopened = try NumberTable(path: path)
            #expect(try reopened.number(for: "new") == new)
        }
    }

    @Test("a flipped bit ends the file there, and nothing is given twice")
    func flipped() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("numbers")
        let table = try NumberTable(path: path)
        for index in 0..<4 { _ = try table.number(for: "key \(index)") }
        let whole = try readFile(path, limit: 1 << 20).array
        for position in whole.indices {
            var damaged = whole
            damaged[position] ^= 0x10
            try unsafe replaceFile(path, with: damaged.span.bytes)
            let again = try NumberTable(path: path)
            let numbers = try (0..<4).map { try again.number(for: "key \($0)") }
            #expect(Set(numbers).count == 4, "after a flip at \(position)")
        }
    }

    @Test("several threads get one number for one key, and different ones for different keys")
    func threads() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("numbers")
        let table = try NumberTable(path: path)
        let pool = WorkerPool(named: "numbers", threads: 4)
        let results = await withTaskGroup(of: [UInt32].self) { group in
            for _ in 0..<4 {
                group.addTask { await pool.run { (0..<200).map { (try? table.number(for: "key \($0)")) ?? 0 } } }
            }
            var results: [[UInt32]] = []
            for await numbers in group { results.append(numbers) }
            return results
        }
        for numbers in results { #expect(numbers == results[0]) }
        #expect(Set(results[0]).count == 200 && !results[0].contains(0))
        let again = try NumberTable(path: path)
        #expect(try (0..<200).map { try again.number(for: "key \($0)") } == results[0])
    }
}

@Suite("What is remembered of repositories")
struct RepositoryStoreTests {
    private func repository(_ path: String) throws -> Repository {
        let host = try #require(RegistryHost("localhost:5000"))
        return try #require(Repository(host: host, path: path))
    }

    @Test("that a name is no tag is kept where the name is a directory, and is no tag, repository or child of its own")
    func missingTags() throws {
        let directory = try TemporaryDirectory()
        let store = RepositoryStore(directory: directory.path)
        let (parent, nested) = try (repository("a/b"), repository("a/b/c"))
        store.setMissingTag(parent, "c", checkedAt: 1234)
        #expect(store.missingTag(parent, "c") == nil && !store.isKnown(parent.host, "a"))
        store.addDigest(nested, try #require(Digest("sha256:" + String(repeating: "ab", count: 32))))
        store.setMissingTag(parent, "c", checkedAt: 1234)
        #expect(store.missingTag(parent, "c") == 1234)
        #expect(store.tags(parent) == [] && !store.isRepository(parent) && store.children(parent.host, "a/b") == ["c"])
    }

    @Test("tags and digests come back, and make their repository known, with its prefixes")
    func roundTrip() throws {
        let directory = try TemporaryDirectory()
        let store = RepositoryStore(directory: directory.path)
        let nested = try repository("a/b/c")
        let digest = try #require(Digest("sha256:" + String(repeating: "ab", count: 32)))
        #expect(store.tag(nested, "v1") == nil)
        #expect(!store.isKnown(nested.host, "a"))
        store.setTag(nested, "v1", .init(target: digest, checkedAt: 1234))
        store.addDigest(nested, digest)
        #expect(store.tag(nested, "v1") == .init(target: digest, checkedAt: 1234))
        #expect(store.tags(nested) == ["v1"])
        #expect(store.digests(nested) == [digest])
        #expect(store.hasDigest(nested, digest))
        #expect(store.isKnown(nested.host, "a") && store.isKnown(nested.host, "a/b/c"))
        #expect(try store.isRepository(nested) && !store.isRepository(repository("a")))
        #expect(store.children(nested.host, "") == ["a"])
        #expect(store.children(nested.host, "a/b") == ["c"])
        #expect(store.children(nested.host, "a/b/c") == [])
        #expect(store.hosts() == ["localhost:5000"])
        store.removeTag(nested, "v1")
        #expect(store.tag(nested, "v1") == nil)
    }

    @Test("a damaged tag file is no tag", arguments: ["", "sha256:00 1\n", "garbage", "sha256: 5\n", "\u{0}"])
    func damaged(text: String) throws {
        let directory = try TemporaryDirectory()
        let store = RepositoryStore(directory: directory.path)
        let app = try repository("app")
        try makeDirectories(directory.file("localhost:5000/app/_tags"))
        try unsafe replaceFile(directory.file("localhost:5000/app/_tags/v1"), with: Array(text.utf8).span.bytes)
        #expect(store.tag(app, "v1") == nil)
    }

    @Test("a document that was damaged on disk is absent")
    func content() throws {
        let directory = try TemporaryDirectory()
        let store = ContentStore(directory: directory.path)
        let empty = try #require(
            Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        )
        #expect(store.read(empty) == nil)
        store.write([], digest: empty)
        #expect(store.read(empty) == [])
        try unsafe replaceFile(directory.file(empty.directoryName), with: [UInt8(1)].span.bytes)
        #expect(store.read(empty) == nil)
    }
}
