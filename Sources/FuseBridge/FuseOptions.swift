/// Who answers when a file is opened.
public enum OpenMode: String, Sendable, CaseIterable {
    /// The kernel alone: it is told once that opens need no answer. Opening is as cheap as on a disk; passthrough, which
    /// an open asks for, is not to be had.
    case none
    /// The daemon, which can give the kernel a file to read from.
    case daemon
}

/// Whether the kernel may read materialised files by itself.
public enum PassthroughMode: String, Sendable, CaseIterable {
    /// Where kernel, user and cache directory allow it.
    case auto
    case off
}

/// How a file system is mounted and served.
public struct FuseOptions: Sendable {
    /// Absolute path of the directory to mount over.
    public var mountPoint: String
    /// What mount(8) shows as the source.
    public var fsName: String
    /// Whether users other than the one who mounts may enter.
    public var allowOther: Bool
    /// Whether the kernel checks permission bits. (It also does so because POSIX ACLs are negotiated.)
    public var defaultPermissions: Bool
    /// Whether set-user-id and set-group-id bits count.
    public var suid: Bool
    /// Whether device nodes work.
    public var dev: Bool
    /// Whether the kernel refuses writes before they reach crfs. Operations that modify are EROFS in any case.
    public var readOnly: Bool
    /// Whether libfuse logs each request, at debug level.
    public var debug: Bool
    /// How many threads talk to the kernel.
    public var threads: Int
    /// What is asked of the kernel at INIT.
    public var kernel: KernelSettings
    /// The mount's read-ahead window in KiB; nil leaves the kernel's 128. Needs root.
    public var readAheadKiB: Int?
    /// Who answers opens.
    public var openMode: OpenMode
    /// Whether the kernel may read materialised files by itself; only with `OpenMode.daemon`.
    public var passthrough: PassthroughMode

    /// The file-system type that mounts show, in `/proc/self/mountinfo` and elsewhere.
    public static let fileSystemType = "fuse.crfs"

    /// Defaults for a mount point: read-only, nosuid, nodev, for its owner only, two threads.
    public init(
        mountPoint: String,
        fsName: String = "crfs",
        allowOther: Bool = false,
        defaultPermissions: Bool = false,
        suid: Bool = false,
        dev: Bool = false,
        readOnly: Bool = true,
        debug: Bool = false,
        threads: Int = 2,
        kernel: KernelSettings = KernelSettings(),
        readAheadKiB: Int? = nil,
        openMode: OpenMode = .daemon,
        passthrough: PassthroughMode = .auto
    ) {
        self.mountPoint = mountPoint
        self.fsName = fsName
        self.allowOther = allowOther
        self.defaultPermissions = defaultPermissions
        self.suid = suid
        self.dev = dev
        self.readOnly = readOnly
        self.debug = debug
        self.threads = threads
        self.kernel = kernel
        self.readAheadKiB = readAheadKiB
        self.openMode = openMode
        self.passthrough = passthrough
    }

    /// Whether the kernel is asked for passthrough.
    var wantsPassthrough: Bool { openMode == .daemon && passthrough == .auto }

    /// The arguments of fuse_session_new(3), program name first.
    var arguments: [String] {
        var options = [
            "fsname=\(Self.escaped(fsName))", "subtype=crfs",
            readOnly ? "ro" : "rw", suid ? "suid" : "nosuid", dev ? "dev" : "nodev",
        ]
        if allowOther { options.append("allow_other") }
        if defaultPermissions { options.append("default_permissions") }
        if debug { options.append("debug") }
        return ["crfs", "-o", options.joined(separator: ",")]
    }

    /// A value in an option list, where a comma ends it and a backslash escapes.
    static func escaped(_ value: String) -> String {
        var result = ""
        for character in value {
            if character == "," || character == "\\" { result.append("\\") }
            result.append(character)
        }
        return result
    }
}
