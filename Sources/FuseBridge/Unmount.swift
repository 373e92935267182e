internal import CShims
internal import Glibc
internal import PosixIO

/// How a mount point is taken away.
public enum UnmountMode: Sendable {
    /// Only when nothing in it is in use.
    case plain
    /// From the tree at once; those who use it keep what they have open, and crfs serves them until they are done.
    case lazy
}

/// Unmounts the crfs file system at `path`, which any process may have mounted. Sends no request to it, so that it also
/// works when its daemon is dead or hangs.
public func unmount(path: String, _ mode: UnmountMode = .plain) throws(FuseError) {
    let path = try existingPath(path)
    guard let entry = try MountTable.current().top(at: path) else {
        throw FuseError(.notMounted, "nothing is mounted at \(path)")
    }
    guard entry.type == FuseOptions.fileSystemType else {
        throw FuseError(
            .foreign,
            "\(path) is not a crfs mount but \(entry.type) from \(entry.source): use umount(8) if you mean that one"
        )
    }
    try unmountCRFS(at: path, mode)
}

/// The path that mounts are listed under.
private func existingPath(_ path: String) throws(FuseError) -> String {
    do throws(SystemError) {
        return try resolvedPath(path)
    } catch {
        if error.code == ENOENT {
            throw FuseError(.missing, "mount point \(path) does not exist")
        }
        throw FuseError(.refused, "cannot find mount point \(path): \(error.reason)")
    }
}

/// The system call where permitted, else the helper that is set-user-id root.
func unmountCRFS(at path: String, _ mode: UnmountMode) throws(FuseError) {
    guard unsafe crfs_fuse_umount(path, mode == .lazy ? 1 : 0) != 0 else { return }
    let code = errno
    switch code {
    case EPERM: try unmountByHelper(path, mode)
    case EBUSY: throw busy(path)
    case EINVAL: throw FuseError(.notMounted, "nothing is mounted at \(path)")
    default: throw FuseError(.refused, "cannot unmount \(path): \(describeErrno(code))")
    }
}

private func busy(_ path: String) -> FuseError {
    FuseError(
        .busy,
        "\(path) is in use: end the programs that have files or their working directory in it, or use --lazy to detach "
            + "it now and serve them until they are done"
    )
}

private func unmountByHelper(_ path: String, _ mode: UnmountMode) throws(FuseError) {
    let arguments = ["fusermount3", "-u"] + (mode == .lazy ? ["-z"] : []) + ["--", path]
    let result: (status: CInt, errors: String)
    do throws(SystemError) {
        result = try runCapturingErrors(arguments)
    } catch {
        let remedy = error.code == ENOENT ? "install the package fuse3, or unmount as root" : "unmount as root"
        throw FuseError(
            .notPermitted,
            "cannot unmount \(path): not root, and fusermount3 cannot be run (\(error.reason)): \(remedy)"
        )
    }
    if result.status == 0 { return }
    if result.errors.contains("busy") { throw busy(path) }
    let reason = result.errors.isEmpty ? "fusermount3 gave no reason" : result.errors
    throw FuseError(.notPermitted, "cannot unmount \(path): \(reason)")
}

/// Runs a program of $PATH to its end. Gives its wait status and what it wrote to its standard error, as one
/// line.
func runCapturingErrors(_ arguments: [String]) throws(SystemError) -> (status: CInt, errors: String) {
    var ends: [CInt] = [-1, -1]
    // Not pipe(2): only this one sets close-on-exec in the same call, before another thread starts a program.
    let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    guard unsafe socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw SystemError.last("socketpair") }
    let reading = Descriptor(owning: ends[0])
    let child: pid_t
    do {
        let writing = Descriptor(owning: ends[1])
        child = try spawn(arguments, standardError: writing.raw)
    }
    var text: [UInt8] = []
    while try readPiece(reading, into: &text) > 0 {}
    var status: CInt = 0
    while unsafe waitpid(child, &status, 0) < 0 {
        guard errno == EINTR else { throw SystemError.last("waitpid") }
    }
    let lines = String(decoding: text, as: UTF8.self).split(separator: "\n")
    return (status, lines.joined(separator: "; "))
}

private func spawn(_ arguments: [String], standardError: CInt) throws(SystemError) -> pid_t {
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_adddup2(&actions, standardError, 2)
    var argv: [UnsafeMutablePointer<CChar>?] = unsafe arguments.map { unsafe strdup($0) }
    unsafe argv.append(nil)
    defer { unsafe argv.forEach { unsafe free($0) } }
    var child: pid_t = 0
    let code = unsafe posix_spawnp(&child, arguments[0], &actions, nil, argv, environ)
    guard code == 0 else { throw SystemError(code: code, operation: "posix_spawnp", path: arguments[0]) }
    return child
}
