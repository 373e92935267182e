internal import BlockCodec
internal import Glibc
internal import OCIModel
public import PosixIO
internal import Synchronization

/// What tells that a file is the one that was hashed, and has not been changed since, as far as stat(2) shows.
struct FileIdentity: Equatable, Sendable {
    var device: UInt64
    var inode: UInt64
    var size: UInt64
    var modified: UInt64
    var changed: UInt64

    init(_ status: stat) {
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
        size = UInt64(clamping: status.st_size)
        modified = FileIdentity.nanoseconds(status.st_mtim)
        changed = FileIdentity.nanoseconds(status.st_ctim)
    }

    private static func nanoseconds(_ time: timespec) -> UInt64 {
        UInt64(truncatingIfNeeded: time.tv_sec &* 1_000_000_000 &+ time.tv_nsec)
    }
}

/// A materialised file that is open: the whole content of one file of an image, as it is.
public final class MaterialisedFile: Sendable {
    /// Open for reading.
    public let descriptor: Descriptor
    /// The file's size in bytes.
    public let count: UInt64
    let identity: FileIdentity
    private let account: DiskAccount
    /// What the file takes on disk, once it has no name any more: given back with the last user.
    private let bytesWithoutName = Atomic(0)

    init(_ descriptor: consuming Descriptor, _ identity: FileIdentity, account: DiskAccount) {
        self.descriptor = descriptor
        self.identity = identity
        self.account = account
        count = identity.size
    }

    deinit {
        account.files.subtract(bytesWithoutName.load(ordering: .relaxed), ordering: .relaxed)
    }

    /// Whether it still is what was hashed, as far as fstat(2) shows.
    public var isUnchanged: Bool {
        guard let status = try? descriptor.status() else { return false }
        return FileIdentity(status) == identity
    }

    /// The file was removed; it goes on taking `bytes` until nobody uses it here.
    func loseName(_ bytes: Int) { bytesWithoutName.store(bytes, ordering: .relaxed) }
}

/// The note beside a materialised file: what its content hashed to, and how the file looked then.
struct FileNote: Equatable {
    var digest: Digest
    var identity: FileIdentity
    /// /proc/sys/kernel/random/boot_id: a note of before a restart proves nothing.
    var boot: String

    /// The note's text (docs/cache-format.md).
    var text: String {
        "crfs file 1\n\(digest.hex)\n\(identity.device) \(identity.inode) \(identity.size) \(identity.modified)"
            + " \(identity.changed)\n\(boot)\n"
    }

    /// The digest that a note names, whatever else it says.
    static func digest(in text: String) -> Digest? {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.count > 1, lines[0] == "crfs file 1" else { return nil }
        return Digest(directoryName: "sha256-" + lines[1])
    }

    /// The present boot's name; empty where the system does not say, and then no note holds.
    static let currentBoot: String = {
        guard let text = try? readFile("/proc/sys/kernel/random/boot_id", limit: 256).array else { return "" }
        return String(decoding: text.prefix { $0 != 10 }, as: UTF8.self)
    }()
}

/// Takes the content of a file that is being materialised.
public struct FileWriter: ~Copyable {
    private let file: Descriptor
    private let limit: UInt64
    private var hash = SHA256()
    private(set) var position: UInt64 = 0

    init(_ file: consuming Descriptor, limit: UInt64) {
        self.file = file
        self.limit = limit
    }

    /// Appends bytes.
    public mutating func append(_ bytes: borrowing RawSpan) throws(SystemError) {
        guard UInt64(bytes.byteCount) <= limit - position else { throw SystemError(code: EFBIG, operation: "write") }
        try file.write(bytes, at: position)
        hash.update(bytes)
        position += UInt64(bytes.byteCount)
    }

    /// Appends zeros, as a hole.
    public mutating func append(zeros count: UInt64) throws(SystemError) {
        guard count <= limit - position else { throw SystemError(code: EFBIG, operation: "write") }
        let block = [UInt8](repeating: 0, count: 65536)
        var rest = count
        while rest > 0 {
            let size = Int(min(rest, 65536))
            unsafe hash.update(block.span.bytes.extracting(0..<size))
            rest -= UInt64(size)
        }
        position += count
    }

    /// Makes the file as long as what was appended and writes it to the disk; gives its digest.
    consuming func finish() throws(SystemError) -> Digest {
        try file.truncate(to: position)
        try file.synchronize()
        return hash.finish()
    }
}
