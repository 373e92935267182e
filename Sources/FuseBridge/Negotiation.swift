internal import CFuse3
internal import CShims
internal import Logging

/// What is asked of the kernel at INIT (design.md section 6), where it offers it.
enum Negotiation {
    /// - async read: several requests of one reader at once;
    /// - readdirplus for every listing, not as the kernel guesses (no FUSE_CAP_READDIRPLUS_AUTO): attributes are known;
    /// - parallel directory operations: libfuse 3.14 needs the shim's help to ask for them;
    /// - cached symlinks: a node's target never changes;
    /// - POSIX ACLs: the kernel keeps what it learned of a node's ACLs.
    ///
    /// Not asked for: FUSE_CAP_ASYNC_DIO (a reader with O_DIRECT then waits without any INTERRUPT: killed, it stays
    /// until its answer comes), FUSE_CAP_AUTO_INVAL_DATA (content never changes under a node, and it looks at
    /// attributes before each read), FUSE_CAP_NO_OPEN_SUPPORT (the kernel takes ENOSYS without it, see
    /// `OpenMode.none`), splicing (no answer comes from a file),
    /// FUSE_CAP_EXPORT_SUPPORT (look-ups of "." and ".."), FUSE_CAP_ATOMIC_O_TRUNC and whatever serves writing.
    static func wanted(_ kernel: KernelSettings) -> Int32 {
        var flags = FUSE_CAP_ASYNC_READ
        switch kernel.listedAttributes {
        case .always: flags |= FUSE_CAP_READDIRPLUS
        case .auto: flags |= FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO
        case .never: break
        }
        if kernel.parallelLookups { flags |= FUSE_CAP_PARALLEL_DIROPS }
        if kernel.keepsLinks { flags |= FUSE_CAP_CACHE_SYMLINKS }
        if kernel.acls { flags |= FUSE_CAP_POSIX_ACL }
        return flags
    }

    /// Fills in libfuse's proposal. From max_write follows how much one READ may ask for; max_readahead stays the
    /// kernel's, which only sysfs can raise.
    static func apply(_ kernel: KernelSettings, to connection: inout fuse_conn_info) {
        connection.want = UInt32(bitPattern: wanted(kernel)) & connection.capable
        connection.max_write = UInt32(clamping: min(max(kernel.requestKiB, 4), 1024) << 10)
        // libfuse takes three quarters of it as the congestion threshold.
        connection.max_background = UInt32(clamped(kernel.maxBackground))
    }

    /// The kernel takes 16 bits; 0 would mean its default.
    private static func clamped(_ value: Int) -> Int { min(max(value, 1), Int(UInt16.max)) }
}
