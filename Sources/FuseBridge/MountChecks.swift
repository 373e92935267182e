// For struct stat, which libfuse's header declares once more.
internal import CFuse3
internal import Glibc
internal import PosixIO

/// What is looked at before mounting, for errors that say what to do.
enum MountChecks {
    /// Gives the mount point as mounts are listed, or says why it cannot serve as one.
    static func mountPoint(_ path: String, in table: MountTable) throws(FuseError) -> String {
        let resolved: String
        do throws(SystemError) {
            resolved = try resolvedPath(path)
        } catch {
            throw mountPointError(path, error)
        }
        // Without asking the mount itself: it may be of this process, or hang.
        if let entry = table.top(at: resolved), entry.type == FuseOptions.fileSystemType {
            throw FuseError(
                .alreadyMounted,
                "\(path) is a crfs mount already, perhaps of a process that is gone: run 'crfs umount \(path)' first"
            )
        }
        var status = stat()
        guard unsafe stat(resolved, &status) == 0 else { throw mountPointError(path, SystemError.last("stat")) }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw mountPointError(path, SystemError(code: ENOTDIR, operation: "stat"))
        }
        return resolved
    }

    /// Whether the options are for this user.
    static func permissions(_ options: FuseOptions, isRoot: Bool, configuration: String?) throws(FuseError) {
        if isRoot { return }
        if options.allowOther, !allowsOther(configuration ?? "") {
            throw FuseError(
                .notPermitted,
                "other users may not be let in: put the line user_allow_other into /etc/fuse.conf, mount as root, or "
                    + "leave out --allow-other"
            )
        }
        if options.suid || options.dev {
            throw FuseError(
                .notPermitted,
                "--suid and --dev need root: mount as root, or leave them out"
            )
        }
    }

    /// Whether fuse.conf(5) has its user_allow_other line.
    static func allowsOther(_ configuration: String) -> Bool {
        configuration.split(separator: "\n").contains { line in
            line.split(whereSeparator: { $0 == " " || $0 == "\t" }).elementsEqual(["user_allow_other"])
        }
    }

    /// Whether this machine and user have FUSE at all.
    static func device(isRoot: Bool) throws(FuseError) {
        if unsafe access("/dev/fuse", R_OK | W_OK) != 0 {
            let code = errno
            if code == ENOENT {
                throw FuseError(
                    .unavailable,
                    "this system has no /dev/fuse: load the kernel module fuse, or start the container with "
                        + "--device /dev/fuse"
                )
            }
            throw FuseError(.notPermitted, "/dev/fuse cannot be opened: \(describeErrno(code))")
        }
        if !isRoot, !isInPath("fusermount3") {
            throw FuseError(
                .notPermitted,
                "mounting needs root or the program fusermount3, which is not installed: install the package fuse3"
            )
        }
    }

    /// Whether $PATH has a program of that name.
    static func isInPath(_ program: String) -> Bool {
        let path = unsafe getenv("PATH").map { unsafe String(cString: $0) } ?? "/usr/bin:/bin"
        return path.split(separator: ":").contains { unsafe access("\($0)/\(program)", X_OK) == 0 }
    }

    private static func mountPointError(_ path: String, _ error: SystemError) -> FuseError {
        switch error.code {
        case ENOENT: FuseError(.missing, "mount point \(path) does not exist: create it with mkdir")
        case ENOTDIR: FuseError(.notADirectory, "mount point \(path) is not a directory")
        case EACCES: FuseError(.notPermitted, "mount point \(path) cannot be reached: permission denied")
        case ENOTCONN:
            FuseError(
                .dead,
                "what is mounted at \(path) lost its daemon: run 'crfs umount \(path)' or 'fusermount3 -u \(path)' "
                    + "first"
            )
        default: FuseError(.refused, "mount point \(path) cannot be used: \(error.reason)")
        }
    }
}
