import Glibc
import PosixIO
import TestSupport
import Testing

@testable import ChunkStore

/// A file system of a few megabytes.
private final class SmallDisk {
    private let directory: TemporaryDirectory
    var path: String { directory.path }

    init(megabytes: Int) throws {
        let directory = try TemporaryDirectory("disk")
        _ = try runChecked("mount", ["-t", "tmpfs", "-o", "size=\(megabytes)m,mode=0700", "crfs-test", directory.path])
        self.directory = directory
    }

    var free: Int { StoreFiles(directory: path).space?.free ?? 0 }

    deinit {
        unsafe _ = umount2(directory.path, CInt(MNT_DETACH))
    }
}

@Suite(.enabled(if: Requirement.root.runs, Comment(rawValue: Requirement.root.reason)))
struct FullDiskTests {
    init() throws { try Requirement.root.orFail() }

    @Test func aFullDiskMeansMemoryAndIsSaidOnceAndTriedAgain() throws {
        let disk = try SmallDisk(megabytes: 32)
        let bench = try DiskBench(capacity: 16 << 20, directory: disk.path, retryAfter: 0, memory: 1 << 20)
        let other = try Descriptor.open("\(disk.path)/other", O_RDWR | O_CREAT)
        #expect(posix_fallocate(other.raw, 0, off_t(disk.free)) == 0)
        let chunks = (0..<100).map { numbered(UInt64($0), .noise, count: 60_000) }
        for chunk in chunks {
            bench.store.insert(chunk.key, chunk.payload)
            #expect(bench.has(chunk))
        }
        #expect(bench.reports.count == 1)
        #expect(bench.store.statistics.diskBytes == 0)
        #expect(bench.store.statistics.bytes > 500_000)

        try other.truncate(to: 0)
        for chunk in chunks {
            bench.store.insert(chunk.key, chunk.payload)
            #expect(bench.has(chunk))
        }
        #expect(bench.reports.count == 1)
        #expect(bench.store.statistics.diskBytes > 4 << 20)
    }

    @Test func theStoreLivesOnADiskThatIsSmallerThanItsBound() throws {
        let disk = try SmallDisk(megabytes: 8)
        let bench = try DiskBench(capacity: 32 << 20, directory: disk.path)
        for number: UInt64 in 0..<200 {
            let chunk = numbered(number, .noise, count: 60_000)
            bench.store.insert(chunk.key, chunk.payload)
            #expect(bench.has(chunk))
            // 5 % stays free.
            #expect(disk.free >= (8 << 20) / 20)
        }
        #expect(bench.reports.count == 0)
        #expect(bench.store.statistics.diskBytes > 4 << 20)
    }

    @Test func theStoreGivesWayWhenOthersFillTheDisk() throws {
        let disk = try SmallDisk(megabytes: 24)
        let bench = try DiskBench(capacity: 16 << 20, directory: disk.path, retryAfter: 0)
        for number: UInt64 in 0..<200 {
            let chunk = numbered(number, .noise, count: 60_000)
            bench.store.insert(chunk.key, chunk.payload)
        }
        let before = bench.store.statistics.diskBytes
        let other = try Descriptor.open("\(disk.path)/other", O_RDWR | O_CREAT)
        #expect(posix_fallocate(other.raw, 0, off_t(disk.free)) == 0)
        for number: UInt64 in 1000..<1200 {
            let chunk = numbered(number, .noise, count: 60_000)
            bench.store.insert(chunk.key, chunk.payload)
        }
        #expect(bench.store.statistics.diskBytes < before)
        for number: UInt64 in 0..<200 {
            let chunk = numbered(number, .noise, count: 60_000)
            #expect(bench.isNotWrong(chunk))
        }
    }
}
