internal import CFuse3
internal import CShims
internal import Logging

/// What is asked of the kernel at INIT (design.md section 6), where it offers it.
enum Negotiation {
    /// - async read: several requests of one reader at once;
    /// - splice write, move: answers from files without a copy;
    /// - readdirplus for every listing, not as the kernel guesses (no FUSE_CAP_READDIRPLUS_AUTO): attributes are known;
    /// - parallel directory operations: libfuse 3.14 needs the shim's help to ask for them;
    /// - cached symlinks: a node's target never changes;
    /// - POSIX ACLs: the kernel keeps what it learned of a node's ACLs.
    ///
    /// Not asked for: FUSE_CAP_ASYNC_DIO (a reader with O_DIRECT then waits without any INTERRUPT: killed, it stays
    /// until its answer comes), FUSE_CAP_AUTO_INVAL_DATA (content never changes under a node, and it looks at
    /// attributes before each read), FUSE_CAP_NO_OPEN_SUPPORT (the kernel takes ENOSYS without it, see
    /// `OpenMode.none`), FUSE_CAP_EXPORT_SUPPORT (look-ups of "." and ".."), FUSE_CAP_ATOMIC_O_TRUNC and whatever serves writing.
    static let wanted =
        FUSE_CAP_ASYNC_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_READDIRPLUS
        | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_POSIX_ACL

    /// Fills in libfuse's proposal. max_write stays libfuse's 1 MiB, from which follows how much one READ may ask for;
    /// max_readahead stays the kernel's, which only sysfs can raise.
    static func apply(_ options: FuseOptions, to connection: inout fuse_conn_info) {
        connection.want = UInt32(bitPattern: wanted) & connection.capable
        connection.max_background = UInt32(clamped(options.maxBackground))
        connection.congestion_threshold = UInt32(clamped(options.congestionThreshold))
    }

    /// The kernel takes 16 bits; 0 would mean its default.
    private static func clamped(_ value: Int) -> Int { min(max(value, 1), Int(UInt16.max)) }
}
