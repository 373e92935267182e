internal import CShims
public import Glibc

/// A file descriptor with one owner, closed when the owner goes.
public struct Descriptor: ~Copyable, Sendable {
    /// The number; valid for as long as this value lives.
    public let raw: CInt

    /// Takes over an open descriptor.
    public init(owning raw: CInt) {
        self.raw = raw
    }

    deinit {
        _ = Glibc.close(raw)
    }

    /// Gives up ownership without closing.
    public consuming func release() -> CInt {
        let raw = self.raw
        discard self
        return raw
    }

    /// open(2), always with O_CLOEXEC.
    public static func open(
        _ path: String,
        _ flags: CInt = O_RDONLY,
        mode: UInt32 = 0o600
    ) throws(SystemError) -> Descriptor {
        let raw = retryingInterrupts { unsafe Int(crfs_open(path, flags | O_CLOEXEC, mode)) }
        guard raw >= 0 else { throw SystemError.last("open", path: path) }
        return Descriptor(owning: CInt(raw))
    }

    /// fstat(2).
    public func status() throws(SystemError) -> stat {
        var result = stat()
        guard unsafe fstat(raw, &result) == 0 else { throw SystemError.last("fstat") }
        return result
    }

    /// Reads `buffer.count` bytes from `offset`, or fewer only where the file ends. Returns how many.
    public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) -> Int {
        guard let base = buffer.baseAddress else { return 0 }
        var done = 0
        while done < buffer.count {
            // SAFETY: `done < buffer.count`, so the range stays inside.
            let count = retryingInterrupts {
                unsafe pread(raw, base + done, buffer.count - done, off_t(offset) + off_t(done))
            }
            if count < 0 { throw SystemError.last("pread") }
            if count == 0 { break }
            done += count
        }
        return done
    }

    /// Exactly `count` bytes at `offset`; nil when there are fewer, when they cannot be read, or without memory for them.
    public func bytes(at offset: UInt64, count: Int) -> [UInt8]? {
        guard var bytes = UniqueBytes(trying: count) else { return nil }
        let came = try? unsafe bytes.withUnsafeMutableBytes { (buffer) throws(SystemError) in
            try unsafe read(into: buffer, at: offset)
        }
        return came == count ? unsafe bytes.span.withUnsafeBytes { unsafe [UInt8]($0) } : nil
    }

    /// Reads from where the descriptor stands, once; 0 at the end. Returns how many bytes came.
    public func readNext(into buffer: UnsafeMutableRawBufferPointer) throws(SystemError) -> Int {
        let count = retryingInterrupts { unsafe Glibc.read(raw, buffer.baseAddress, buffer.count) }
        if count < 0 { throw SystemError.last("read") }
        return count
    }

    /// Writes all of `bytes` at `offset`.
    public func write(_ bytes: borrowing RawSpan, at offset: UInt64) throws(SystemError) {
        try unsafe writeAll(bytes, "pwrite") { base, done, count in
            unsafe pwrite(raw, base + done, count, off_t(offset) + off_t(done))
        }
    }

    /// Writes all of `bytes` where the descriptor stands (at the end, if it was opened with O_APPEND).
    public func writeNext(_ bytes: borrowing RawSpan) throws(SystemError) {
        try unsafe writeAll(bytes, "write") { base, done, count in unsafe Glibc.write(raw, base + done, count) }
    }

    /// Calls `body` with the start of the bytes, how many are written and how many are not, until all are.
    private func writeAll(
        _ bytes: borrowing RawSpan,
        _ operation: String,
        _ body: (_ base: UnsafeRawPointer, _ done: Int, _ count: Int) -> Int
    ) throws(SystemError) {
        try unsafe bytes.withUnsafeBytes { (buffer) throws(SystemError) in
            guard let base = buffer.baseAddress else { return }
            var done = 0
            while done < buffer.count {
                // SAFETY: `done < buffer.count`, so the range stays inside.
                let count = retryingInterrupts { unsafe body(base, done, buffer.count - done) }
                if count < 0 { throw SystemError.last(operation) }
                done += count
            }
        }
    }

    /// fsync(2).
    public func synchronize() throws(SystemError) {
        guard retryingInterrupts({ Int(fsync(raw)) }) == 0 else { throw SystemError.last("fsync") }
    }

    /// ftruncate(2).
    public func truncate(to size: UInt64) throws(SystemError) {
        guard retryingInterrupts({ Int(ftruncate(raw, off_t(size))) }) == 0 else {
            throw SystemError.last("ftruncate")
        }
    }
}
