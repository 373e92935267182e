internal import Glibc

/// Reads a whole file, or the error; a file above `limit` bytes is EFBIG. Files of procfs, whose size is said to be 0,
/// are read to their end too.
public func readFile(_ path: String, limit: Int) throws(SystemError) -> SharedBytes {
    let file = try Descriptor.open(path)
    let size = Int(try file.status().st_size)
    guard size <= limit else { throw SystemError(code: EFBIG, operation: "read", path: path) }
    // One byte more than there should be: the read that finds the end is the one that fills the buffer.
    var capacity = max(size + 1, 4096)
    while true {
        var bytes = UniqueBytes(capacity: capacity)
        let count = try unsafe bytes.withUnsafeMutableBytes { (buffer) throws(SystemError) in
            try unsafe file.read(into: buffer, at: 0)
        }
        guard count <= limit else { throw SystemError(code: EFBIG, operation: "read", path: path) }
        if count < capacity {
            bytes.truncate(to: count)
            return bytes.share()
        }
        capacity *= 2
    }
}

/// Makes `path` hold exactly `bytes`, or leaves it as it was: temporary file in the same directory, then rename(2).
///
/// - Parameter durable: also fsync(2) the file before the rename, so that a power loss leaves the old or the new one.
public func replaceFile(
    _ path: String,
    with bytes: borrowing RawSpan,
    mode: UInt32 = 0o600,
    durable: Bool = false
) throws(SystemError) {
    let temporary = "\(path).tmp-\(getpid())-\(monotonicNanoseconds())"
    do throws(SystemError) {
        let file = try Descriptor.open(temporary, O_WRONLY | O_CREAT | O_EXCL, mode: mode)
        try file.write(bytes, at: 0)
        if durable { try file.synchronize() }
        guard unsafe rename(temporary, path) == 0 else { throw SystemError.last("rename", path: path) }
    } catch {
        _ = unsafe unlink(temporary)
        throw error
    }
}

/// Creates a directory and its missing parents with the given mode; one that exists is left as it is.
public func makeDirectories(_ path: String, mode: UInt32 = 0o700) throws(SystemError) {
    if unsafe mkdir(path, mode) == 0 || errno == EEXIST { return }
    guard errno == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex else {
        throw SystemError.last("mkdir", path: path)
    }
    try makeDirectories(String(path[..<slash]), mode: mode)
    if unsafe mkdir(path, mode) == 0 || errno == EEXIST { return }
    throw SystemError.last("mkdir", path: path)
}

/// Names in a directory, sorted, without "." and ".."; none when it cannot be read.
public func namesInDirectory(_ path: String) -> [String] {
    guard let stream = unsafe opendir(path) else { return [] }
    defer { _ = unsafe closedir(stream) }
    var names: [String] = []
    // SAFETY: the entry is valid until the next readdir on this stream, which only this thread uses.
    while let entry = unsafe readdir(stream) {
        let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
            unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
        }
        if name != "." && name != ".." { names.append(name) }
    }
    return names.sorted()
}

/// Removes a file, or a directory and all below it; what cannot be removed stays.
public func removeTree(_ path: String) {
    var status = stat()
    guard unsafe lstat(path, &status) == 0 else { return }
    guard status.st_mode & S_IFMT == S_IFDIR else {
        _ = unsafe unlink(path)
        return
    }
    for name in namesInDirectory(path) { removeTree("\(path)/\(name)") }
    _ = unsafe rmdir(path)
}
