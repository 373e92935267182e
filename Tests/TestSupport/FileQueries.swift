internal import Glibc
public import PosixIO

/// What lstat(2) says about a path: a symbolic link is described, not followed.
public struct FileStatus: Sendable, Equatable {
    /// What a node is.
    public enum Kind: Sendable {
        /// Regular file.
        case file
        /// Directory.
        case directory
        /// Symbolic link.
        case symlink
        /// Character device.
        case characterDevice
        /// Block device.
        case blockDevice
        /// Named pipe.
        case fifo
        /// Anything else, or DT_UNKNOWN.
        case other
    }

    /// The node's type.
    public let kind: Kind
    /// The 07777 bits.
    public let mode: UInt32
    /// st_ino.
    public let inode: UInt64
    /// st_dev.
    public let device: UInt64
    /// st_nlink.
    public let linkCount: UInt64
    /// st_uid.
    public let uid: UInt32
    /// st_gid.
    public let gid: UInt32
    /// st_size in bytes.
    public let size: UInt64
    /// st_blocks, units of 512 bytes.
    public let blocks: UInt64
    /// st_rdev.
    public let rawDevice: UInt64

    /// lstat(2).
    public init(_ path: String) throws(SystemError) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else { throw SystemError.last("lstat", path: path) }
        kind =
            switch status.st_mode & S_IFMT {
            case S_IFREG: .file
            case S_IFDIR: .directory
            case S_IFLNK: .symlink
            case S_IFCHR: .characterDevice
            case S_IFBLK: .blockDevice
            case S_IFIFO: .fifo
            default: .other
            }
        mode = status.st_mode & 0o7777
        inode = UInt64(status.st_ino)
        device = UInt64(status.st_dev)
        linkCount = UInt64(status.st_nlink)
        uid = status.st_uid
        gid = status.st_gid
        size = UInt64(status.st_size)
        blocks = UInt64(status.st_blocks)
        rawDevice = UInt64(status.st_rdev)
    }
}

/// One name of a directory, as readdir(3) gave it, without asking for attributes.
public struct ListedName: Sendable, Equatable {
    /// The name.
    public let name: String
    /// d_ino.
    public let inode: UInt64
    /// d_type.
    public let kind: FileStatus.Kind
}

/// The names in a directory but `.` and `..`, in the order in which they came.
public func listDirectory(_ path: String) throws(SystemError) -> [ListedName] {
    guard let stream = unsafe opendir(path) else { throw SystemError.last("opendir", path: path) }
    defer { unsafe _ = closedir(stream) }
    var result: [ListedName] = []
    while true {
        errno = 0
        guard let entry = unsafe readdir(stream) else {
            if errno != 0 { throw SystemError.last("readdir", path: path) }
            return result
        }
        // SAFETY: the kernel's record is valid until the next readdir, and its name is terminated.
        let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
            unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
        }
        if name == "." || name == ".." { continue }
        let kind: FileStatus.Kind =
            switch unsafe Int(entry.pointee.d_type) {
            case Int(DT_REG): .file
            case Int(DT_DIR): .directory
            case Int(DT_LNK): .symlink
            case Int(DT_CHR): .characterDevice
            case Int(DT_BLK): .blockDevice
            case Int(DT_FIFO): .fifo
            default: .other
            }
        result.append(ListedName(name: name, inode: unsafe UInt64(entry.pointee.d_ino), kind: kind))
    }
}

/// The sorted names in a directory.
public func names(in path: String) throws(SystemError) -> [String] {
    try listDirectory(path).map(\.name).sorted()
}

/// The text of a symbolic link.
public func linkTarget(_ path: String) throws(SystemError) -> String {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = unsafe buffer.withUnsafeMutableBytes { bytes in
        unsafe bytes.withMemoryRebound(to: CChar.self) { characters -> Int in
            // SAFETY: the array is not empty, and readlink(2) writes at most the size given.
            guard let base = characters.baseAddress else { return -1 }
            return unsafe readlink(path, base, characters.count)
        }
    }
    guard count >= 0 else { throw SystemError.last("readlink", path: path) }
    return String(decoding: buffer[..<count], as: UTF8.self)
}

/// A file's bytes, 64 MiB at most.
public func contents(of path: String) throws(SystemError) -> [UInt8] {
    try readFile(path, limit: 64 << 20).array
}

/// A file's bytes as text.
public func text(of path: String) throws(SystemError) -> String {
    String(decoding: try contents(of: path), as: UTF8.self)
}

/// Makes a file hold `text`.
public func writeFile(_ path: String, _ text: String, mode: UInt32 = 0o644) throws(SystemError) {
    try unsafe replaceFile(path, with: Array(text.utf8).span.bytes, mode: mode)
}

/// The value of an extended attribute, of a symbolic link itself where `path` is one.
///
/// A Python child asks: Glibc's module has no xattr calls.
public func extendedAttribute(_ name: String, of path: String) throws(SystemError) -> [UInt8] {
    let program = """
        import os, sys
        try: sys.stdout.buffer.write(os.getxattr(sys.argv[1], sys.argv[2], follow_symlinks=False))
        except OSError as error: print(error.errno, file=sys.stderr); sys.exit(1)
        """
    let result = try run("python3", ["-c", program, path, name])
    if result.isSuccess { return result.output }
    let code = CInt(result.errorText.split(separator: "\n").first ?? "") ?? EIO
    throw SystemError(code: code, operation: "lgetxattr", path: path)
}

/// The error number that `body` throws as a `SystemError`; nil when it succeeds.
public func errorNumber(_ body: () throws(SystemError) -> Void) -> CInt? {
    do throws(SystemError) {
        try body()
        return nil
    } catch {
        return error.code
    }
}

/// The value of an environment variable; nil where it is not set.
public func environmentValue(_ name: String) -> String? {
    // SAFETY: tests never change their own environment, so the string stays.
    unsafe getenv(name).map { unsafe String(cString: $0) }
}
