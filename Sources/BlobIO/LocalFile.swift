internal import BlockCodec
internal import Glibc
internal import OCIModel
internal import PosixIO

/// A layer in a local file: known by device, inode, size and times (spec section 1). When one of them changes, what was
/// known of its content is void.
final class LocalFile: Sendable {
    private struct Identity: Sendable, Equatable {
        var device: UInt64
        var inode: UInt64
        var size: UInt64
        var modified: [Int]
        var changed: [Int]

        init(_ status: stat) {
            device = UInt64(status.st_dev)
            inode = UInt64(status.st_ino)
            size = UInt64(max(0, status.st_size))
            modified = [status.st_mtim.tv_sec, status.st_mtim.tv_nsec]
            changed = [status.st_ctim.tv_sec, status.st_ctim.tv_nsec]
        }
    }

    /// As it was opened.
    let path: String
    private let descriptor: Descriptor
    private let identity: Identity

    /// Opens a regular file; anything else is EINVAL.
    init(_ path: String) throws(SystemError) {
        self.path = path
        // Without O_NONBLOCK, opening a fifo waits for a writer.
        descriptor = try Descriptor.open(path, O_RDONLY | O_NONBLOCK)
        let status = try descriptor.status()
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw SystemError(code: EINVAL, operation: "open as a layer", path: path)
        }
        identity = Identity(status)
    }

    /// The file's size in bytes.
    var size: UInt64 { identity.size }

    /// Stands for the layer's digest, which nobody knows without reading all of it: the SHA-256 of what the file is
    /// known by. No blob of a registry has it: such a blob would be that text, and the text is no layer.
    var digest: Digest {
        let text =
            "crfs local layer: device \(identity.device) inode \(identity.inode) size \(identity.size)"
            + " mtime \(identity.modified[0]).\(identity.modified[1])"
            + " ctime \(identity.changed[0]).\(identity.changed[1])"
        let bytes = Array(text.utf8)
        return unsafe SHA256.digest(of: bytes.span.bytes)
    }

    /// Whether the file is still the one that was opened; one fstat(2).
    var isUnchanged: Bool {
        do throws(SystemError) {
            return Identity(try descriptor.status()) == identity
        } catch {
            return false
        }
    }

    /// What a reader is told when it is not.
    var staleError: BlobError {
        BlobError(.stale, "\(path) changed since it was opened as a layer; look it up again")
    }

    /// Reads exactly `range`, which must lie inside of the file. May wait for the disk.
    func read(_ range: ByteRange) -> Result<SharedBytes, BlobError> {
        guard range.end <= size, let count = Int(exactly: range.count), var bytes = UniqueBytes(trying: count) else {
            return .failure(BlobError(.system(ENOMEM), "\(path): no memory to read \(range)"))
        }
        do throws(SystemError) {
            let done = try unsafe bytes.withUnsafeMutableBytes { (buffer) throws(SystemError) in
                try unsafe descriptor.read(into: buffer, at: range.offset)
            }
            // Compared after the read: bytes of a changed file never go out as those of this one.
            guard isUnchanged, done == count else { return .failure(staleError) }
            return .success(bytes.share())
        } catch {
            return .failure(BlobError(error, name: path))
        }
    }
}
