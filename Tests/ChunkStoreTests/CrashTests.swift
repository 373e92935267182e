import Glibc
import PosixIO
import TestSupport
import Testing

@testable import ChunkStore

/// A directory that is in memory where there is such a file system: thousands of files are made in it.
private final class MemoryDirectory {
    let path: String

    init() throws {
        let parent = unsafe access("/dev/shm", W_OK) == 0 ? "/dev/shm" : environmentValue("TMPDIR") ?? "/tmp"
        path = "\(parent)/crfs-test-crash-\(getpid())-\(monotonicNanoseconds())"
        try makeDirectories(path)
    }

    deinit { removeTree(path) }
}

/// Whatever is in the directory, and wherever a writer stopped: what is found is right, the rest is not there.
@Suite struct CrashTests {
    /// Small segments, so that a scenario of a few kilobytes seals, evicts and moves.
    private func bench(
        directory: String? = nil,
        allowance: Int? = nil,
        segments: Int = 5
    ) throws -> DiskBench {
        try DiskBench(
            capacity: DiskStore.metadata + segments * 4096,
            segmentSize: 1024,
            directory: directory,
            allowance: allowance
        )
    }

    private static let chunks = (0...200).map { number in
        let kinds: [PayloadKind] = [.noise, .text, .zeros, .noise]
        return numbered(UInt64(number), kinds[number % 4], count: 40 + number * 37 % 200)
    }

    private func chunk(_ number: Int) -> (key: ChunkKey, payload: [UInt8]) { CrashTests.chunks[number] }

    private static let count = 32

    /// Inserts, and asks for one chunk again and again, so that it moves on.
    private func play(_ bench: DiskBench) {
        for number in 0..<CrashTests.count {
            let chunk = chunk(number)
            bench.store.insert(chunk.key, chunk.payload)
            _ = bench.store.find(self.chunk(1).key)
        }
    }

    @Test func aWriterMayBeKilledAfterAnyByte() throws {
        let whole = try bench(segments: 4)
        play(whole)
        #expect(whole.store.statistics.evictions > 0)
        #expect(whole.has(chunk(1)), "the scenario is to move a chunk on")
        let directory = try MemoryDirectory()
        var allowance = 0
        while true {
            for name in namesInDirectory(directory.path) { removeTree("\(directory.path)/\(name)") }
            let killed = try bench(directory: directory.path, allowance: allowance, segments: 4)
            play(killed)
            let finished = killed.reports.count == 0 && !killed.files.isExhausted
            let kept = (0..<CrashTests.count).filter { killed.store.contains(chunk($0).key) }
            let next = try bench(directory: directory.path, segments: 4)
            for number in 0..<CrashTests.count {
                let chunk = chunk(number)
                let found = next.payload(chunk.key)
                try #require(found == nil || found == chunk.payload, "killed after \(allowance): chunk \(number)")
                // The kernel keeps what was written: nothing is lost that the other process still had.
                if kept.contains(number) { try #require(found != nil, "killed after \(allowance): chunk \(number)") }
            }
            try #require(next.store.statistics.damaged <= 1, "killed after \(allowance)")
            try #require(next.allocated <= next.options.capacity, "killed after \(allowance)")
            // And it goes on.
            let fresh = chunk(200)
            next.store.insert(fresh.key, fresh.payload)
            try #require(next.has(fresh), "killed after \(allowance)")
            if finished { break }
            allowance += 1
        }
        #expect(allowance > 2000, "\(allowance)")
    }

    /// A directory with sealed segments and one that was not.
    private func filled() throws -> (bench: DiskBench, files: [String: [UInt8]], numbers: [Int]) {
        let bench = try bench(segments: 16)
        for number in 0..<14 {
            let chunk = chunk(number)
            bench.store.insert(chunk.key, chunk.payload)
        }
        let files = try bench.save()
        #expect(files.count >= 3)
        let numbers = (0..<14).filter { bench.store.contains(chunk($0).key) }
        #expect(numbers.count == 14)
        return (bench, files, numbers)
    }

    private func expectNothingWrong(_ bench: DiskBench, _ what: @autoclosure () -> String) throws -> Int {
        var found = 0
        for number in 0..<14 {
            let chunk = chunk(number)
            guard let payload = bench.payload(chunk.key) else { continue }
            try #require(payload == chunk.payload, "\(what()): chunk \(number)")
            found += 1
        }
        return found
    }

    @Test func aFlippedByteAnywhereCostsNoMoreThanWhatStandsThere() throws {
        let (bench, saved, _) = try filled()
        var worst = 14
        for (name, bytes) in saved {
            for position in 0..<bytes.count {
                var damaged = saved
                damaged[name]?[position] ^= UInt8(1 << (position % 8)) | UInt8(position & 0xF0)
                try bench.restore(damaged)
                bench.reopen()
                worst = min(worst, try expectNothingWrong(bench, "\(name) at \(position)"))
            }
        }
        // A segment's header is worth the segment; nothing is worth more.
        #expect(worst >= 7)
    }

    @Test func aRecordThatIsDamagedWhileTheStoreIsOpenIsNotServed() throws {
        let (bench, saved, _) = try filled()
        for (name, bytes) in saved {
            let file = try Descriptor.open("\(bench.directory)/\(name)", O_WRONLY)
            let inverted = bytes.map { ~$0 }
            try unsafe file.write(inverted.span.bytes, at: 0)
        }
        #expect(try expectNothingWrong(bench, "all bytes inverted") == 0)
        #expect(bench.store.statistics.damaged == 14)
        #expect(bench.store.statistics.chunks == 0)
    }

    @Test func aSegmentMayBeCutAnywhere() throws {
        let (bench, saved, _) = try filled()
        for (name, bytes) in saved {
            for length in stride(from: 0, to: bytes.count, by: 3) {
                var damaged = saved
                damaged[name] = Array(bytes[..<length])
                try bench.restore(damaged)
                bench.reopen()
                _ = try expectNothingWrong(bench, "\(name) cut to \(length)")
                let fresh = chunk(200)
                bench.store.insert(fresh.key, fresh.payload)
                try #require(bench.has(fresh), "\(name) cut to \(length)")
            }
        }
    }

    @Test(arguments: [UInt64(1), 2, UInt64.random(in: 3 ... .max)])
    func randomDamageDoesNoHarm(seed: UInt64) throws {
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let (bench, saved, _) = try filled()
        let names = saved.keys.sorted()
        for round in 0..<150 {
            var damaged = saved
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                let name = names[Int.random(in: 0..<names.count, using: &generator)]
                guard var bytes = damaged[name], bytes.count > 64 else { continue }
                let start = Int.random(in: 0..<bytes.count, using: &generator)
                let end = min(bytes.count, start + Int.random(in: 1...300, using: &generator))
                switch Int.random(in: 0..<3, using: &generator) {
                case 0: for index in start..<end { bytes[index] = UInt8.random(in: 0...255, using: &generator) }
                case 1: for index in start..<end { bytes[index] = 0 }
                default:
                    // A piece of one segment in another.
                    let other = saved[names[Int.random(in: 0..<names.count, using: &generator)]] ?? []
                    let from = Int.random(in: 0..<other.count, using: &generator) / 8 * 8
                    let at = start / 8 * 8
                    for index in 0..<min(end - at, other.count - from) { bytes[at + index] = other[from + index] }
                }
                damaged[name] = bytes
            }
            try bench.restore(damaged)
            bench.reopen()
            _ = try expectNothingWrong(bench, "seed \(seed) round \(round)")
        }
    }

    // MARK: Other files

    @Test func foreignFilesAreLeftAloneAndThoseThatPassForSegmentsDoNoHarm() throws {
        let (bench, _, _) = try filled()
        let directory = bench.directory
        func write(_ name: String, _ bytes: [UInt8]) throws {
            try unsafe replaceFile("\(directory)/\(name)", with: bytes.span.bytes)
        }
        let first = try #require(bench.segments.first)
        let copy = try readFile("\(directory)/\(first)", limit: 1 << 20).array
        try write("README", Array("mine".utf8))
        try write("1.seg", copy)
        try write("00000000000000AB.seg", copy)
        try write("ffffffffffffffff.seg", copy)
        let passing = ["00000000000000a0.seg", "00000000000000a1.seg", "00000000000000a2.seg", "3fffffffffffffff.seg"]
        try write(passing[0], [])
        try write(passing[1], Array(repeating: 0xA5, count: 5000))
        // The number in it is another.
        try write(passing[2], copy)
        try write(passing[3], copy)
        #expect(unsafe symlink("/etc/passwd", "\(directory)/00000000000000b0.seg") == 0)
        #expect(unsafe mkfifo("\(directory)/00000000000000b1.seg", 0o600) == 0)
        #expect(unsafe mkdir("\(directory)/00000000000000b2.seg", 0o700) == 0)
        bench.reopen()
        #expect(try expectNothingWrong(bench, "foreign files") == 14)
        let names = namesInDirectory(directory)
        for name in ["README", "1.seg", "00000000000000AB.seg", "ffffffffffffffff.seg"] {
            #expect(names.contains(name))
        }
        for name in passing { #expect(!names.contains(name)) }
        let fresh = chunk(200)
        bench.store.insert(fresh.key, fresh.payload)
        #expect(bench.has(fresh))
        #expect(bench.reports.count == 0)
    }

    @Test func aSegmentOfANewerVersionIsNotRead() throws {
        let (bench, saved, _) = try filled()
        var newer = saved
        for (name, bytes) in saved {
            var bytes = bytes
            bytes[8] = 2
            let crc = unsafe bytes.withUnsafeBytes {
                unsafe MappedMemory.crc32(UnsafeRawBufferPointer(rebasing: $0[..<60]))
            }
            for index in 0..<4 { bytes[60 + index] = UInt8(truncatingIfNeeded: crc >> (8 * UInt32(index))) }
            newer[name] = bytes
        }
        try bench.restore(newer)
        bench.reopen()
        #expect(bench.store.statistics.chunks == 0)
        #expect(bench.segments.isEmpty)
        let fresh = chunk(200)
        bench.store.insert(fresh.key, fresh.payload)
        #expect(bench.has(fresh))
    }

    // MARK: SIGBUS

    @Test(arguments: [PayloadKind.text, .noise, .zeros])
    func aSegmentThatIsCutWhileItIsMappedIsNotThere(_ kind: PayloadKind) throws {
        let bench = try DiskBench(capacity: 64 << 20)
        let seen = numbered(1, kind, count: 300_000)
        let unseen = numbered(2, kind, count: 300_000)
        bench.store.insert(seen.key, seen.payload)
        bench.store.insert(unseen.key, unseen.payload)
        let record = try #require(bench.store.find(seen.key))
        for name in bench.segments { try Descriptor.open("\(bench.directory)/\(name)", O_RDWR).truncate(to: 0) }
        #expect(unpack(record) == nil)
        #expect(bench.store.find(seen.key) == nil)
        #expect(bench.store.find(unseen.key) == nil)
        #expect(!bench.store.contains(unseen.key))
        #expect(bench.store.statistics.damaged == 2)
    }

    @Test func moreThanOneThreadMayMeetAMissingPage() async throws {
        let bench = try DiskBench(capacity: 64 << 20)
        let chunks = (0..<64).map { numbered(UInt64($0), .noise, count: 70_000) }
        for chunk in chunks { bench.store.insert(chunk.key, chunk.payload) }
        for name in bench.segments { try Descriptor.open("\(bench.directory)/\(name)", O_RDWR).truncate(to: 0) }
        let store = bench.store
        let found = Counter()
        let pool = WorkerPool(named: "bus-test", threads: 4)
        await withTaskGroup(of: Void.self) { group in
            for worker in 0..<4 {
                group.addTask {
                    await pool.run {
                        for chunk in chunks[(worker * 16)...] where store.find(chunk.key) != nil { found.increment() }
                    }
                }
            }
        }
        #expect(found.count == 0)
    }
}
