import Glibc
import PosixIO
import Synchronization
import Testing
import TestSupport

@Suite("Descriptors, files, mappings")
struct FileTests {
    @Test("a replaced file holds the new bytes and leaves nothing else behind")
    func replace() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/file"
        try unsafe replaceFile(path, with: Array("old".utf8).span.bytes)
        try unsafe replaceFile(path, with: Array("new one".utf8).span.bytes, durable: true)
        #expect(try readFile(path, limit: 100).array == Array("new one".utf8))
        #expect(namesInDirectory(directory.path) == ["file"])
    }

    @Test("a failed replacement leaves the old file and no temporary one")
    func failedReplacement() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/taken"
        try makeDirectories(path + "/full")
        #expect(throws: SystemError.self) { try unsafe replaceFile(path, with: Array("x".utf8).span.bytes) }
        #expect(namesInDirectory(directory.path) == ["taken"])
    }

    @Test("a file above the limit is refused")
    func limit() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/file"
        try unsafe replaceFile(path, with: [UInt8](repeating: 1, count: 11).span.bytes)
        #expect(throws: SystemError(code: EFBIG, operation: "read", path: path)) { try readFile(path, limit: 10) }
    }

    @Test("a mapping shows the file's bytes; an empty file cannot be mapped")
    func mapping() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/file"
        try unsafe replaceFile(path, with: Array("mapped".utf8).span.bytes)
        let file = try Descriptor.open(path)
        let mapping = try Mapping(file)
        #expect(mapping.count == 6)
        let bytes = unsafe mapping.span.withUnsafeBytes { unsafe Array($0) }
        #expect(bytes == Array("mapped".utf8))
        try unsafe replaceFile(path, with: [UInt8]().span.bytes)
        let empty = try Descriptor.open(path)
        #expect(throws: SystemError.self) { _ = try Mapping(empty) }
    }

    @Test("errors name the call, the path and the reason")
    func errorText() {
        let error = #expect(throws: SystemError.self) { _ = try Descriptor.open("/no/such/file") }
        #expect(error?.description == "open /no/such/file: No such file or directory")
    }

    @Test("a tree is removed whole, without following links")
    func remove() throws {
        let directory = try TemporaryDirectory()
        try makeDirectories(directory.path + "/keep")
        try makeDirectories(directory.path + "/tree/a/b")
        try unsafe replaceFile(directory.path + "/tree/a/file", with: [UInt8(1)].span.bytes)
        _ = unsafe symlink(directory.path + "/keep", directory.path + "/tree/link")
        PosixIO.removeTree(directory.path + "/tree")
        #expect(namesInDirectory(directory.path) == ["keep"])
    }
}

@Suite("Completions and worker pools")
struct CompletionTests {
    @Test("callbacks run once, those that come late at once, removed ones never")
    func callbacks() {
        let completion = Completion()
        let log = Mutex<[Int]>([])
        completion.whenFinished { log.withLock { $0.append(1) } }
        let removed = completion.whenFinished { log.withLock { $0.append(2) } }
        completion.remove(removed)
        #expect(log.withLock { $0 }.isEmpty)
        completion.finish()
        completion.finish()
        completion.whenFinished { log.withLock { $0.append(3) } }
        #expect(log.withLock { $0 } == [1, 3])
    }

    @Test("a pool runs every job, and its threads work side by side")
    func pool() async {
        let pool = WorkerPool(named: "test", threads: 2)
        // Each of two jobs waits for the other: one thread alone would never finish.
        let first = Completion()
        let second = Completion()
        async let a: Void = withCheckedContinuation { continuation in
            pool.submit {
                first.finish()
                second.whenFinished { continuation.resume() }
            }
        }
        async let b: Void = withCheckedContinuation { continuation in
            pool.submit {
                second.finish()
                first.whenFinished { continuation.resume() }
            }
        }
        _ = await (a, b)
        var sum = 0
        for value in 0..<1000 { sum += await pool.run { value } }
        #expect(sum == 499_500)
    }
}

@Suite("Worker pools")
struct WorkerPoolTests {
    @Test("a thread that had jobs tells when no more come, each time")
    func idleThreadsTell() async {
        let told = Mutex(0)
        let pool = WorkerPool(named: "idle", threads: 1, whenIdle: { told.withLock { $0 += 1 } })
        for round in 1...2 {
            #expect(await pool.run { round } == round)
            #expect(await eventually { told.withLock { $0 } == round })
        }
    }

    @Test("a pool has the threads that its jobs need, up to its number")
    func threadsStartWhenNeeded() async {
        let pool = WorkerPool(named: "lazy", threads: 3)
        #expect(threads("lazy-") == 0)
        await pool.run {}
        #expect(threads("lazy-") == 1)
        let gate = Completion()
        let running = Mutex(0)
        for _ in 0..<5 {
            pool.submit {
                running.withLock { $0 += 1 }
                let held = Monitor(false)
                gate.whenFinished { held.withLock { $0 = true } }
                held.wait { $0 ? () : nil }
            }
        }
        #expect(await eventually { running.withLock { $0 } == 3 })
        #expect(threads("lazy-") == 3)
        gate.finish()
        #expect(await eventually { running.withLock { $0 } == 5 })
    }

    /// How many threads of this process have a name that begins so.
    private func threads(_ prefix: String) -> Int {
        guard let directory = unsafe opendir("/proc/self/task") else { return -1 }
        defer { unsafe closedir(directory) }
        var count = 0
        while let entry = unsafe readdir(directory) {
            let number = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { name in
                unsafe String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
            }
            let name = try? readFile("/proc/self/task/\(number)/comm", limit: 64).array
            if let name, String(decoding: name, as: UTF8.self).hasPrefix(prefix) { count += 1 }
        }
        return count
    }
}

@Suite("Owned bytes")
struct BytesTests {
    @Test("what was written is what is shared")
    func share() {
        var unique = UniqueBytes(capacity: 8)
        unsafe unique.withUnsafeMutableBytes { buffer in
            for index in 0..<8 { unsafe buffer[index] = UInt8(index) }
        }
        unique.truncate(to: 3)
        #expect(unique.share().array == [0, 1, 2])
    }

    @Test("an announced size that the system cannot give is no crash")
    func hugeSize() {
        for size in [Int.max, -1] {
            if let bytes = UniqueBytes(trying: size) { Issue.record("\(bytes.count) bytes for \(size)") }
        }
    }
}
