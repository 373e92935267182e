internal import BlockCodec
internal import Glibc
internal import OCIModel
internal import PosixIO

/// A file that appears under its name only when it is complete: written under another name beside it, then renamed.
/// What was not committed is removed.
final class OutputFile {
    private static let bufferSize = 256 * 1024

    private let path: String
    private let temporary: String
    private let file: Descriptor
    private var buffer: [UInt8] = []
    private var hash = SHA256()
    private var committed = false
    /// How many bytes have been written.
    private(set) var offset: UInt64 = 0

    init(_ path: String) throws(ConvertError) {
        self.path = path
        temporary = "\(path).tmp-\(getpid())-\(monotonicNanoseconds())"
        do throws(SystemError) {
            file = try Descriptor.open(temporary, O_WRONLY | O_CREAT | O_EXCL, mode: 0o666)
        } catch {
            throw ConvertError(error, "\(path) cannot be written")
        }
        buffer.reserveCapacity(Self.bufferSize)
    }

    deinit {
        if !committed { _ = unsafe unlink(temporary) }
    }

    /// Appends bytes.
    func write(_ bytes: [UInt8]) throws(ConvertError) {
        unsafe hash.update(bytes.span.bytes)
        offset += UInt64(bytes.count)
        if buffer.count + bytes.count > Self.bufferSize { try flush() }
        if bytes.count >= Self.bufferSize {
            try write(through: bytes)
        } else {
            buffer += bytes
        }
    }

    private func flush() throws(ConvertError) {
        try write(through: buffer)
        buffer.removeAll(keepingCapacity: true)
    }

    private func write(through bytes: [UInt8]) throws(ConvertError) {
        do throws(SystemError) {
            try unsafe file.writeNext(bytes.span.bytes)
        } catch {
            throw ConvertError(error, "\(path) cannot be written")
        }
    }

    /// Gives the file its name. Returns its digest.
    func commit() throws(ConvertError) -> Digest {
        try flush()
        guard unsafe rename(temporary, path) == 0 else {
            throw ConvertError(SystemError.last("rename", path: path), "\(path) cannot be written")
        }
        committed = true
        return hash.finish()
    }
}
