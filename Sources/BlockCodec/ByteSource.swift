internal import Glibc
public import PosixIO

/// Why a byte source cannot go on.
public enum ByteSourceError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A system call failed.
    case system(SystemError)
    /// Compressed data that cannot be what it must be, and about where in the compressed stream (a byte offset).
    case codec(CodecError, format: CompressionFormat, offset: UInt64)
    /// The data asks for a window above 128 MiB, more than crfs spends on a stream.
    case windowTooLarge(offset: UInt64)
    /// Whoever feeds the source gave up: a download that failed, a cancelled job.
    case stopped(String)

    /// What is wrong, and where.
    public var description: String {
        switch self {
        case .system(let error): error.description
        case .codec(let error, let format, let offset): "\(format) data: \(error) at about byte \(offset)"
        case .windowTooLarge(let offset):
            "zstd data: the frame at about byte \(offset) needs a window above 128 MiB; compress it without --ultra or --long"
        case .stopped(let reason): reason
        }
    }
}

/// Bytes that come one after another and are read once, by one thread.
public protocol ByteSource: ~Copyable {
    /// Reads the next bytes.
    ///
    /// - Parameter buffer: where they go; not empty.
    /// - Returns: how many came, at least 1, or 0 at the end.
    mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int
}

/// A file, from where its descriptor stands to its end.
public struct FileSource: ~Copyable, ByteSource {
    private let file: Descriptor
    /// How many bytes have been read so far.
    public private(set) var position: UInt64 = 0

    /// Reads from `file`, which it takes over.
    public init(_ file: consuming Descriptor) {
        self.file = file
    }

    /// Reads the next bytes: read(2).
    public mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int {
        do throws(SystemError) {
            let count = try unsafe file.readNext(into: buffer)
            position += UInt64(count)
            return count
        } catch {
            throw .system(error)
        }
    }
}

/// Bytes in memory.
public struct MemorySource: ByteSource {
    private let bytes: [UInt8]
    private let pieceSize: Int
    /// How many bytes have been read so far.
    public private(set) var position = 0

    /// Reads `bytes`, at most `pieceSize` of them at a time.
    public init(_ bytes: [UInt8], pieceSize: Int = .max) {
        precondition(pieceSize > 0)
        self.bytes = bytes
        self.pieceSize = pieceSize
    }

    /// Copies the next bytes.
    public mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ByteSourceError) -> Int {
        let count = min(buffer.count, pieceSize, bytes.count - position)
        let start = position
        // SAFETY: `count` is bounded by both sides.
        unsafe bytes.withUnsafeBytes { source in
            unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: source[start..<start + count]))
        }
        position += count
        return count
    }
}
