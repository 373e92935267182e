import CFuse3
import CShims
import Glibc
import PosixIO
import Testing

@testable import FuseBridge

/// The kernel's side of a libfuse session, played over a socket pair: requests go in and replies come out as the bytes
/// that /dev/fuse would carry.
@safe
final class Wire {
    /// A reply: fuse_out_header and what follows.
    struct Answer: Equatable {
        var unique: UInt64
        /// 0 or an error number, positive.
        var error: CInt
        var body: [UInt8]
    }

    enum Opcode: UInt32 {
        case lookup = 1
        case getattr = 3
        case setattr = 4
        case symlink = 6
        case mknod = 8
        case mkdir = 9
        case unlink = 10
        case rmdir = 11
        case rename = 12
        case link = 13
        case open = 14
        case write = 16
        case setxattr = 21
        case removexattr = 24
        case initialise = 26
        case create = 35
        case interrupt = 36
        case fallocate = 43
    }

    /// FUSE_PARALLEL_DIROPS and FUSE_INIT_EXT of the kernel's header.
    static let parallelDirops: UInt64 = 1 << 18
    static let initExt: UInt64 = 1 << 30

    /// What the shim told when the INIT reply was written.
    private(set) var served: (offered: UInt64, chosen: UInt64, maxPages: UInt32)?
    /// Where test callbacks put the duties that they keep.
    var kept: Reply?
    /// Numbers that an INTERRUPT came for.
    var interrupts: [UInt64] = []

    private let session: OpaquePointer
    private let link: OpaquePointer
    private let kernel: Descriptor
    private var buffer = unsafe fuse_buf()

    init(_ table: fuse_lowlevel_ops = fuse_lowlevel_ops(), wantsParallelLookups: Bool = true) throws {
        var ends: [CInt] = [-1, -1]
        // Each message is read whole, as from /dev/fuse.
        let type = CInt(SOCK_SEQPACKET.rawValue | SOCK_CLOEXEC.rawValue)
        try #require(unsafe socketpair(AF_UNIX, type, 0, &ends) == 0)
        kernel = Descriptor(owning: ends[0])
        unsafe link = try #require(
            unsafe crfs_fuse_link_new { owner, offered, chosen, maxPages in
                unsafe Wire.at(owner)?.served = (offered, chosen, maxPages)
            }
        )
        if wantsParallelLookups { unsafe crfs_fuse_link_want_parallel_lookups(link) }
        var table = table
        var arguments: [UnsafePointer<CChar>?] = unsafe [UnsafePointer(strdup("test"))]
        defer { unsafe free(UnsafeMutablePointer(mutating: arguments[0])) }
        unsafe session = try #require(unsafe crfs_fuse_session_new(1, &arguments, &table, link))
        // libfuse takes a descriptor that is open already in this form, and closes it in the end.
        try #require(unsafe fuse_session_mount(session, "/dev/fd/\(ends[1])") == 0)
        try #require(unsafe crfs_fuse_session_attach(session) == 0)
        unsafe crfs_fuse_link_set_owner(link, Unmanaged.passUnretained(self).toOpaque())
    }

    deinit {
        kept.take()?.error(0)
        unsafe fuse_session_destroy(session)
        unsafe crfs_fuse_link_free(link)
        unsafe free(buffer.mem)
    }

    /// The wire that a request came over.
    static func of(_ request: fuse_req_t?) -> Wire? {
        guard let request = unsafe request else { return nil }
        return unsafe at(crfs_fuse_request_owner(request))
    }

    private static func at(_ owner: UnsafeMutableRawPointer?) -> Wire? {
        unsafe owner.map { unsafe Unmanaged<Wire>.fromOpaque($0).takeUnretainedValue() }
    }

    /// Sends a request and has it processed on this thread.
    func send(_ opcode: Opcode, unique: UInt64, node: UInt64 = 1, thread: pid_t = 0, _ body: [UInt8] = []) throws {
        var message: [UInt8] = []
        message += littleEndian(UInt32(40 + body.count)) + littleEndian(opcode.rawValue)
        message += littleEndian(unique) + littleEndian(node)
        message += littleEndian(UInt32(0)) + littleEndian(UInt32(0)) + littleEndian(UInt32(thread))
        message += littleEndian(UInt32(0)) + body
        try unsafe kernel.writeNext(message.span.bytes)
        try #require(unsafe crfs_fuse_serve_one(session, &buffer) == 1)
    }

    /// What was answered first and not looked at yet; nil when nothing was.
    func receive() throws -> Answer? {
        var waiting = pollfd(fd: kernel.raw, events: Int16(POLLIN), revents: 0)
        guard unsafe poll(&waiting, 1, 0) == 1 else { return nil }
        var bytes = UniqueBytes(capacity: 1 << 20)
        let count = try unsafe bytes.withUnsafeMutableBytes { (buffer) throws(SystemError) in
            try unsafe kernel.readNext(into: buffer)
        }
        bytes.truncate(to: count)
        let all = copyBytes(bytes.span)
        try #require(all.count >= 16)
        let error = CInt(truncatingIfNeeded: number(all, at: 4, size: 4))
        return Answer(unique: number(all, at: 8, size: 8), error: -error, body: Array(all[16...]))
    }

    /// The first exchange of every connection; gives the flags of the reply.
    @discardableResult
    func initialise(flags: UInt64) throws -> UInt64 {
        let flags = flags | Self.initExt
        var body = littleEndian(UInt32(7)) + littleEndian(UInt32(45)) + littleEndian(UInt32(131_072))
        body += littleEndian(UInt32(truncatingIfNeeded: flags)) + littleEndian(UInt32(flags >> 32))
        body += [UInt8](repeating: 0, count: 44)
        try send(.initialise, unique: 2, node: 0, body)
        let answer = try #require(try receive())
        try #require(answer.error == 0 && answer.body.count == 64)
        return number(answer.body, at: 12, size: 4) | number(answer.body, at: 32, size: 4) << 32
    }
}

func littleEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
    (0..<(T.bitWidth / 8)).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
}

func number(_ bytes: [UInt8], at offset: Int, size: Int) -> UInt64 {
    bytes[offset..<(offset + size)].reversed().reduce(0) { $0 << 8 | UInt64($1) }
}
