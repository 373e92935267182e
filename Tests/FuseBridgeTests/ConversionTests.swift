import CFuse3
import Glibc
import Testing

@testable import FuseBridge
@testable import ImageFS

@Suite struct `Attribute conversion` {
    @Test(arguments: [(UInt64(0), 0), (1, 1), (512, 1), (513, 2), (1 << 40, 1 << 31)])
    func `blocks are sizes rounded up to 512 bytes`(size: UInt64, blocks: Int) {
        let status = makeStatus(Attributes(inode: 7, mode: 0o106755, size: size))
        #expect(status.st_blocks == blocks)
        #expect(status.st_size == Int(size))
        #expect(status.st_blksize == 4096)
    }

    @Test func `sizes beyond what the kernel takes do not trap`() {
        #expect(makeStatus(Attributes(inode: 7, mode: 0o100644, size: .max)).st_size == .max)
    }

    @Test func `all three times are the modification time, with its fraction`() {
        let status = makeStatus(
            Attributes(inode: 7, mode: 0o100644, mtimeSeconds: -5, mtimeNanoseconds: 123_456_789)
        )
        for time in [status.st_atim, status.st_mtim, status.st_ctim] {
            #expect(time.tv_sec == -5)
            #expect(time.tv_nsec == 123_456_789)
        }
    }

    @Test func `statistics show a full file system`() {
        let result = makeStatistics(FileSystemStatistics(bytes: 4097, nodes: 3))
        #expect(result.f_blocks == 2)
        #expect(result.f_bfree == 0)
        #expect(result.f_files == 3)
        #expect(result.f_namemax == 255)
    }
}

/// `#expect` cannot look into a value that is not copyable.
private final class Listing {
    private var buffer = ListingBuffer()
    init(size: Int) { buffer.begin(size: size) }
    func restart(size: Int) { buffer.begin(size: size) }
    func append(_ name: String, _ listed: ListedName, plus: Bool) -> Bool {
        unsafe buffer.append(Array(name.utf8).span.bytes, listed, plus: plus)
    }
    var used: Int { buffer.used }
    var isFull: Bool { buffer.isFull }
    var counted: [NodeID] { buffer.counted }
    var uncounted: [NodeID] { buffer.uncounted }
    var bytes: [UInt8] {
        unsafe buffer.withBytes { base, count in
            unsafe UnsafeRawBufferPointer(start: base, count: count).map { $0 }
        }
    }
}

@Suite struct `Listings` {
    private static let attributes = Attributes(inode: 42, mode: 0o040755)

    // S_IFDIR, which two of the imported modules declare.
    private static let directory: UInt32 = 0o040000

    private func append(
        _ listing: Listing,
        _ name: String,
        node: UInt64?,
        plus: Bool,
        next: UInt64 = 9
    ) -> Bool {
        let entry = node.map {
            Entry(
                node: NodeID(rawValue: $0),
                attributes: $0 == 0 ? nil : Self.attributes,
                entryTimeout: 1,
                attributeTimeout: 1
            )
        }
        let listed = ListedName(inode: 42, type: Self.directory, entry: entry, nextOffset: next)
        return listing.append(name, listed, plus: plus)
    }

    @Test func `a plain name is a fuse_dirent, padded to 8 bytes`() {
        let listing = Listing(size: 4096)
        #expect(append(listing, "abc", node: nil, plus: false, next: 0xFFFF_FFFF_FFFF_FFF0))
        let expected: [UInt8] =
            littleEndian(UInt64(42)) + littleEndian(UInt64(0xFFFF_FFFF_FFFF_FFF0)) + littleEndian(UInt32(3))
            + littleEndian(Self.directory >> 12) + Array("abc".utf8) + [0, 0, 0, 0, 0]
        #expect(listing.bytes == expected)
        #expect(listing.counted.isEmpty)
    }

    @Test func `a resolved name counts as a look-up of its node`() {
        let listing = Listing(size: 4096)
        #expect(append(listing, "abc", node: 5, plus: true))
        let all = listing.bytes
        #expect(all.count == 160)
        #expect(number(all, at: 0, size: 8) == 5)
        #expect(number(all, at: 128, size: 8) == 42)
        #expect(listing.counted == [NodeID(rawValue: 5)])
    }

    @Test(arguments: [".", "..", "unresolved"])
    func `dots and unresolved names have node 0, their inode and type, and count for nothing`(name: String) {
        let listing = Listing(size: 4096)
        #expect(append(listing, name, node: name == "unresolved" ? 0 : 5, plus: true))
        let all = listing.bytes
        #expect(number(all, at: 0, size: 8) == 0)
        #expect(number(all, at: 128, size: 8) == 42)
        #expect(number(all, at: 148, size: 4) == UInt64(Self.directory >> 12))
        #expect(listing.counted.isEmpty)
    }

    @Test func `a name that does not fit is refused, and nothing is stored`() {
        let listing = Listing(size: 64)
        #expect(append(listing, "12345678", node: nil, plus: false))
        #expect(append(listing, "12345678", node: nil, plus: false))
        #expect(!append(listing, "1", node: nil, plus: false))
        #expect(listing.used == 64)
        #expect(listing.isFull)
        listing.restart(size: 64)
        #expect(listing.used == 0)
        #expect(!listing.isFull)
    }

    @Test func `a name longer than the kernel takes is passed over`() {
        let listing = Listing(size: 1 << 20)
        #expect(append(listing, String(repeating: "x", count: 1025), node: 5, plus: true))
        #expect(listing.used == 0)
        // The file system counted it, and has to be told that the kernel does not.
        #expect(listing.uncounted == [NodeID(rawValue: 5)])
        #expect(append(listing, String(repeating: "x", count: 1024), node: 6, plus: true))
        #expect(listing.counted == [NodeID(rawValue: 6)])
    }

    @Test func `room may grow from one listing to the next, up to a limit`() {
        let listing = Listing(size: .max)
        var count = 0
        while append(listing, "name", node: nil, plus: false) { count += 1 }
        #expect(count == ListingBuffer.limit / 32)
        listing.restart(size: -1)
        #expect(!append(listing, "name", node: nil, plus: false))
    }
}

@Suite struct `Segments` {
    @Test(arguments: [0, 1, 1023, 1024, 5000])
    func `any number of segments becomes at most 1,023, with the same bytes`(count: Int) {
        let bytes = (0..<(count * 3)).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        unsafe bytes.withUnsafeBytes { all in
            let pieces = unsafe (0..<count).map {
                unsafe UnsafeRawBufferPointer(rebasing: all[($0 * 3)..<($0 * 3 + 3)])
            }
            var list = SegmentList()
            unsafe pieces.withUnsafeBufferPointer { unsafe list.set($0) }
            #expect(unsafe list.segments.count == min(count, 1023))
            var joined: [UInt8] = []
            for index in 0..<(unsafe list.segments.count) {
                let segment = unsafe list.segments[index]
                unsafe joined += UnsafeRawBufferPointer(start: segment.iov_base, count: segment.iov_len)
            }
            #expect(joined == bytes)
        }
    }
}
