/// What tells requests apart (struct fuse_in_header and struct fuse_read_in in linux/fuse.h).
struct RequestHead: Equatable {
    /// The thread that asks, in this process's name space; 0 where it is not in it, or the kernel asks for itself.
    let client: UInt32
    /// What a READ asks for, in bytes; 0 for all others.
    let readSize: UInt32

    private static let headerSize = 40
    private static let read: UInt32 = 15

    /// nil where there are fewer bytes than a header has.
    init?(_ request: UnsafeRawBufferPointer) {
        guard request.count >= Self.headerSize else { return nil }
        // SAFETY: within the header: `opcode` at 4, `pid` at 32.
        let opcode = unsafe request.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
        client = unsafe request.loadUnaligned(fromByteOffset: 32, as: UInt32.self)
        guard opcode == Self.read, request.count >= Self.headerSize + 20 else {
            readSize = 0
            return
        }
        // SAFETY: `size` comes after the handle and the offset, 8 bytes each.
        readSize = unsafe request.loadUnaligned(fromByteOffset: Self.headerSize + 16, as: UInt32.self)
    }
}
