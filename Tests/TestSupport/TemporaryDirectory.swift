internal import Glibc
public import PosixIO

/// A directory of its own for one test, removed with everything in it when its owner goes.
///
/// What is mounted below it must be unmounted before: the removal stays on one file system and leaves the rest.
public struct TemporaryDirectory: ~Copyable, Sendable {
    /// The absolute path, without symbolic links and without a slash at the end.
    public let path: String

    /// Makes `$TMPDIR/crfs-test-<label>.XXXXXX` (`/tmp` where TMPDIR is not set), mode 0700.
    public init(_ label: String = "dir") throws(SystemError) {
        let parent = environmentValue("TMPDIR") ?? "/tmp"
        var template = Array("\(parent)/crfs-test-\(label).XXXXXX".utf8CString)
        let made = unsafe template.withUnsafeMutableBufferPointer { buffer -> String? in
            // SAFETY: the template is terminated, and mkdtemp(3) changes only its last six characters.
            guard let base = buffer.baseAddress, let result = unsafe mkdtemp(base) else { return nil }
            return unsafe String(cString: result)
        }
        guard let made else { throw SystemError.last("mkdtemp", path: parent) }
        path = made
    }

    deinit {
        removeOnOneFileSystem(path)
    }

    /// The path of `name` in this directory.
    public func file(_ name: String) -> String { "\(path)/\(name)" }

    /// Makes a directory in this one, with missing parents, and returns its path.
    public func makeDirectory(_ name: String, mode: UInt32 = 0o755) throws(SystemError) -> String {
        let path = file(name)
        try makeDirectories(path, mode: mode)
        return path
    }
}

/// Removes a file or a directory with all that is in it. Stays on one file system, never follows a symbolic link;
/// what cannot be removed is left.
func removeOnOneFileSystem(_ path: String) {
    guard let top = try? FileStatus(path) else { return }
    removeOnOneFileSystem(path, status: top, device: top.device)
}

private func removeOnOneFileSystem(_ path: String, status: FileStatus, device: UInt64) {
    guard status.kind == .directory else {
        _ = unsafe unlink(path)
        return
    }
    guard status.device == device else { return }
    for entry in (try? listDirectory(path)) ?? [] {
        let child = "\(path)/\(entry.name)"
        if let status = try? FileStatus(child) { removeOnOneFileSystem(child, status: status, device: device) }
    }
    _ = unsafe rmdir(path)
}
