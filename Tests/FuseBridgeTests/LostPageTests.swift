import CFuse3
import CShims
import Glibc
import PosixIO
import TestSupport
import Testing

@Suite struct LostPageTests {
    /// A reply whose bytes are in a file that has been cut meanwhile.
    @Test func aReplyWhosePagesAreLostIsAnsweredWithEIO() throws {
        let directory = try TemporaryDirectory("lost")
        let file = try Descriptor.open(directory.file("segment"), O_RDWR | O_CREAT)
        try file.truncate(to: 8192)
        let address = unsafe mmap(nil, 8192, PROT_READ, MAP_SHARED, file.raw, 0)
        guard let pages = unsafe address, unsafe pages != MAP_FAILED else { throw SystemError.last("mmap") }
        defer { _ = unsafe munmap(pages, 8192) }
        var ends: [CInt] = [0, 0]
        try #require(unsafe socketpair(AF_UNIX, CInt(SOCK_SEQPACKET.rawValue), 0, &ends) == 0)
        let kernel = Descriptor(owning: ends[0])
        let daemon = Descriptor(owning: ends[1])

        // struct fuse_out_header: length, error, unique.
        var header = [UInt32](repeating: 0, count: 4)
        header[0] = 16 + 8192
        header[2] = 77
        func send() -> Int {
            unsafe header.withUnsafeMutableBytes { bytes in
                let parts = unsafe [
                    iovec(iov_base: bytes.baseAddress, iov_len: 16), iovec(iov_base: pages, iov_len: 8192),
                ]
                return unsafe crfs_fuse_write_reply(daemon.raw, parts, 2)
            }
        }
        func receive() throws -> [UInt32] {
            var answer = [UInt32](repeating: 0, count: 4096)
            let count = try unsafe answer.withUnsafeMutableBytes { try unsafe kernel.readNext(into: $0) }
            return Array(answer[..<(count / 4)])
        }
        #expect(send() == 16 + 8192)
        #expect(try receive().count == 4 + 2048)
        try file.truncate(to: 0)
        #expect(send() == 16)
        #expect(try receive() == [16, UInt32(bitPattern: -EIO), 77, 0])
    }
}
