internal import CFuse3
internal import CShims
internal import Glibc
public import PosixIO

/// A mount that is made and not served yet: the descriptor of /dev/fuse, and what is needed to find it again.
///
/// The process that mounts and the one that serves may be two (docs/control-socket.md): a mount belongs to the mount
/// name space and the rights of the one, requests come to whoever reads the descriptor.
public struct FuseMount: ~Copyable {
    /// The open /dev/fuse of this mount.
    public let descriptor: Descriptor
    /// Where it is mounted, with symlinks resolved.
    public let mountPoint: String
    /// The mount's `major:minor`.
    public let device: String

    /// Checks and mounts, by mount(2) as root, else by fusermount3. The error is one sentence for the user.
    public init(_ options: FuseOptions) throws(FuseError) {
        FuseLog.install()
        var options = options
        let isRoot = geteuid() == 0
        let configuration = try? readProcFile("/etc/fuse.conf")
        try MountChecks.permissions(options, isRoot: isRoot, configuration: configuration)
        options.mountPoint = try MountChecks.mountPoint(options.mountPoint, in: try MountTable.current())
        try MountChecks.device(isRoot: isRoot)
        let mounted = try FuseMount.mount(options)
        guard let device = try? MountTable.current().top(at: options.mountPoint)?.device else {
            throw FuseError(.refused, "cannot mount \(options.mountPoint): it is not among the mounts afterwards")
        }
        self.init(mounted, options.mountPoint, device)
    }

    /// A mount that another process made and handed over.
    ///
    /// - Parameters:
    ///   - descriptor: must be an open /dev/fuse.
    ///   - device: as `device`; what is no such text is refused.
    public init(adopting descriptor: consuming Descriptor, mountPoint: String, device: String) throws(FuseError) {
        let status = try? descriptor.status()
        let numbers = device.split(separator: ":", omittingEmptySubsequences: false)
        guard let status, status.st_mode & S_IFMT == S_IFCHR, crfs_major(UInt64(status.st_rdev)) == FuseMount.fuseMajor,
            crfs_minor(UInt64(status.st_rdev)) == FuseMount.fuseMinor, mountPoint.hasPrefix("/"),
            numbers.count == 2, numbers.allSatisfy({ UInt32($0).map { "\($0)" } == String($0) })
        else {
            throw FuseError(.refused, "cannot serve \(mountPoint): what came with the request is no FUSE mount")
        }
        self.init(descriptor, mountPoint, device)
    }

    private init(_ descriptor: consuming Descriptor, _ mountPoint: String, _ device: String) {
        self.descriptor = descriptor
        self.mountPoint = mountPoint
        self.device = device
    }

    /// /dev/fuse (Documentation/admin-guide/devices.txt of Linux).
    private static let fuseMajor: UInt32 = 10
    private static let fuseMinor: UInt32 = 229

    /// Takes the mount out of the tree, for one that is not to be served after all.
    public consuming func abandon() {
        guard (try? MountTable.current().top(at: mountPoint)?.device) == device else { return }
        try? unmountCRFS(at: mountPoint, .lazy)
    }

    /// libfuse mounts with a session; what stays of that one is the descriptor.
    private static func mount(_ options: FuseOptions) throws(FuseError) -> Descriptor {
        let (handle, complaints) = unsafe FuseLog.capturing { () -> OpaquePointer? in
            var operations = fuse_lowlevel_ops()
            return unsafe makeSession(options, &operations, nil)
        }
        guard let handle = unsafe handle else { throw FuseError(.refused, failure(options.mountPoint, complaints)) }
        defer { unsafe fuse_session_destroy(handle) }
        let (result, reasons) = FuseLog.capturing { unsafe fuse_session_mount(handle, options.mountPoint) }
        guard result == 0 else { throw FuseError(.notPermitted, failure(options.mountPoint, reasons)) }
        let copy = crfs_fcntl_int(unsafe fuse_session_fd(handle), F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else {
            let code = errno
            unsafe fuse_session_unmount(handle)
            throw FuseError(.refused, "cannot mount \(options.mountPoint): \(describeErrno(code))")
        }
        return Descriptor(owning: copy)
    }

    /// A session of libfuse with the mount options of `options`; nil when libfuse refuses, which it says in the log.
    static func makeSession(
        _ options: FuseOptions,
        _ operations: inout fuse_lowlevel_ops,
        _ link: OpaquePointer?
    ) -> OpaquePointer? {
        var arguments = unsafe options.arguments.map { unsafe UnsafePointer(strdup($0)) }
        defer { unsafe arguments.forEach { unsafe free(UnsafeMutablePointer(mutating: $0)) } }
        return unsafe crfs_fuse_session_new(CInt(arguments.count), &arguments, &operations, link)
    }

    static func failure(_ mountPoint: String, _ messages: [String]) -> String {
        let reason = messages.isEmpty ? "fusermount3 or the kernel refused" : messages.joined(separator: "; ")
        return "cannot mount \(mountPoint): \(reason)"
    }
}
