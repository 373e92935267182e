internal import Glibc
internal import PosixIO
internal import Synchronization

/// All that the store does to its directory goes through here, so that tests can stop it after any byte.
///
/// LOCK ORDER: the lock is a leaf.
final class StoreFiles: Sendable {
    let directory: String
    /// Bytes that were read by read(2), for tests: opening must not read the data.
    let bytesRead = Atomic(0)
    /// What may still be written before the process "dies": a byte of a write counts 1, any other change 1. Nil in
    /// production.
    private let allowance: Mutex<Int?>

    init(directory: String, allowance: Int? = nil) {
        self.directory = directory
        self.allowance = Mutex(allowance)
    }

    /// Whether nothing may be written any more.
    var isExhausted: Bool { allowance.withLock { $0 == 0 } }

    /// Takes `wanted` from the allowance; returns how much of it is granted.
    private func spend(_ wanted: Int) -> Int {
        allowance.withLock { left in
            guard let rest = left else { return wanted }
            let granted = min(rest, wanted)
            left = rest - granted
            return granted
        }
    }

    private func spendOne(_ operation: String) throws(SystemError) {
        guard spend(1) == 1 else { throw SystemError(code: EIO, operation: operation) }
    }

    func path(_ name: String) -> String { "\(directory)/\(name)" }

    /// Makes a file with all of its space, or none.
    func create(_ name: String, size: Int) throws(SystemError) -> Descriptor {
        try spendOne("open")
        let path = path(name)
        let file = try Descriptor.open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW)
        do throws(SystemError) {
            try spendOne("posix_fallocate")
            try allocate(file, size: size)
        } catch {
            // A process that died removes nothing.
            if spend(1) == 1 { _ = unsafe unlink(path) }
            throw error
        }
        return file
    }

    /// Takes space for the first `size` bytes of a file.
    func allocate(_ file: borrowing Descriptor, size: Int) throws(SystemError) {
        while true {
            let code = posix_fallocate(file.raw, 0, off_t(size))
            if code == 0 { return }
            if code != EINTR { throw SystemError(code: code, operation: "posix_fallocate", path: directory) }
        }
    }

    func open(_ name: String) throws(SystemError) -> Descriptor {
        try Descriptor.open(path(name), O_RDWR | O_NOFOLLOW | O_NONBLOCK)
    }

    /// Writes all of `bytes`. The memory may be a mapping: a page that cannot be read is EFAULT.
    func write(_ file: borrowing Descriptor, _ bytes: borrowing RawSpan, at offset: Int) throws(SystemError) {
        let granted = spend(bytes.byteCount)
        try file.write(bytes.extracting(0..<granted), at: UInt64(offset))
        if granted < bytes.byteCount { throw SystemError(code: EIO, operation: "pwrite") }
    }

    /// Reads up to `buffer.count` bytes; returns how many there are.
    func read(
        _ file: borrowing Descriptor,
        into buffer: UnsafeMutableRawBufferPointer,
        at offset: Int
    ) throws(SystemError) -> Int {
        let count = try unsafe file.read(into: buffer, at: UInt64(offset))
        bytesRead.add(count, ordering: .relaxed)
        return count
    }

    func truncate(_ file: borrowing Descriptor, to size: Int) throws(SystemError) {
        try spendOne("ftruncate")
        try file.truncate(to: UInt64(size))
    }

    func remove(_ name: String) {
        guard spend(1) == 1 else { return }
        _ = unsafe unlink(path(name))
    }

    /// Bytes that this user can still write to the file system, and how many it has in all; nil when it does not say.
    var space: (free: Int, total: Int)? {
        var status = statvfs()
        guard unsafe statvfs(directory, &status) == 0 else { return nil }
        let free = status.f_bavail.multipliedReportingOverflow(by: status.f_frsize)
        let total = status.f_blocks.multipliedReportingOverflow(by: status.f_frsize)
        return (
            Int(clamping: free.overflow ? .max : free.partialValue),
            Int(clamping: total.overflow ? .max : total.partialValue)
        )
    }
}
