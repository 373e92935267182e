internal import Glibc
internal import PosixIO

/// Why a cache directory cannot be used: one sentence that says what to do.
public struct StateDirectoryError: Error, Sendable, CustomStringConvertible {
    /// What is the matter.
    public enum Kind: Sendable, Equatable {
        /// Another crfs holds the lock; what it said that it does, like `mount` (empty: nothing).
        case inUse(purpose: String)
        /// Owner, mode or content is not what crfs trusts.
        case refused
        /// A system call failed.
        case system
    }
    /// What is the matter.
    public let kind: Kind
    /// The sentence.
    public let reason: String

    init(_ kind: Kind, _ reason: String) {
        self.kind = kind
        self.reason = reason
    }

    /// The sentence.
    public var description: String { reason }
}

/// The cache directory: who may use it, and what stands where in it (docs/cache-directory.md).
///
/// It is 0700 and belongs to the user that runs crfs; nobody else could otherwise be kept from changing what crfs
/// maps and trusts. One process owns it at a time, by flock(2) on `lock`.
public final class StateDirectory: Sendable {
    /// The absolute path.
    public let path: String
    private let lock: Descriptor

    /// Version of the layout below; a directory of a newer one is refused, not guessed at.
    static let layoutVersion = 1

    /// Creates or opens the directory and takes its lock.
    ///
    /// - Parameter purpose: what the process is going to do with it, one word, for those who find it locked.
    public init(path: String, purpose: String = "") throws(StateDirectoryError) {
        self.path = path
        do throws(SystemError) {
            try makeDirectories(path, mode: 0o700)
        } catch {
            throw StateDirectoryError(
                .system,
                "cannot create the cache directory: \(error); choose another with --cache-dir"
            )
        }
        try StateDirectory.checkOwner(of: path)
        lock = try StateDirectory.takeLock(path + "/lock", purpose)
        try StateDirectory.checkVersion(path + "/version")
        for name in ["chunks", "layers", "images", "manifests", "repositories", "profiles"] {
            do throws(SystemError) {
                try makeDirectories("\(path)/\(name)", mode: 0o700)
            } catch {
                throw StateDirectoryError(.system, "cannot prepare the cache directory: \(error)")
            }
        }
    }

    /// The chunk store's segments (docs/cache-format.md).
    public var chunkDirectory: String { path + "/chunks" }
    /// Materialised files (docs/cache-format.md).
    public var fileDirectory: String { path + "/files" }
    /// Layer indexes: `sha256-<layer hex>.idx`.
    public var layerIndexDirectory: String { path + "/layers" }
    /// Profiles of images and jobs (docs/profile-format.md).
    public var profileDirectory: String { StateDirectory.profileDirectory(of: path) }

    /// The same of a cache directory that another process may own.
    public static func profileDirectory(of path: String) -> String { path + "/profiles" }

    private var limitFile: String { path + "/limit" }

    /// The bound of the contents that the last process kept to that added to them, in bytes; nil where none has said it.
    public var contentLimit: Int? {
        guard let text = try? readFile(limitFile, limit: 64).array else { return nil }
        guard let bytes = Int(String(decoding: text.dropLast(), as: UTF8.self)), bytes > 0 else { return nil }
        return bytes
    }

    /// Notes the bound for those who come after: only they use it, so a failure does no harm here.
    public func note(contentLimit: Int) {
        guard contentLimit > 0, contentLimit != self.contentLimit else { return }
        try? unsafe replaceFile(limitFile, with: Array("\(contentLimit)\n".utf8).span.bytes)
    }

    /// Merged indexes: `sha256-<hex of the list of layers>.idx`.
    var imageIndexDirectory: String { path + "/images" }
    /// Manifests, indexes and configurations by content: `sha256-<hex>`.
    var manifestDirectory: String { path + "/manifests" }
    /// Tag targets and digests in use: `<host>/<repository>/_tags/<tag>`, `<host>/<repository>/_digests/<digest>`.
    var repositoryDirectory: String { path + "/repositories" }
    /// Numbers of layers and places.
    var numbersFile: String { path + "/numbers" }

    /// What can be there before the version is written: a profile can be imported first.
    private static let earlyNames: Set<String> = ["lock", "crfs.log", "crfs.log.1", "profiles"]

    private static func checkOwner(of path: String) throws(StateDirectoryError) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else {
            throw StateDirectoryError(.system, "\(SystemError.last("lstat", path: path))")
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw StateDirectoryError(.refused, "\(path) is no directory; choose another with --cache-dir")
        }
        guard status.st_uid == geteuid() else {
            throw StateDirectoryError(
                .refused,
                "the cache directory \(path) belongs to user \(status.st_uid), not to \(geteuid()) who runs crfs; "
                    + "choose another with --cache-dir"
            )
        }
        let names = namesInDirectory(path)
        guard names.contains("version") || names.allSatisfy({ StateDirectory.earlyNames.contains($0) }) else {
            throw StateDirectoryError(
                .refused,
                "\(path) holds files that are not of crfs, so it is no cache directory; choose another with --cache-dir"
            )
        }
        guard status.st_mode & 0o077 == 0 else {
            throw StateDirectoryError(
                .refused,
                "others may enter the cache directory \(path); make it private with: chmod 700 \(path)"
            )
        }
    }

    private static func takeLock(_ path: String, _ purpose: String) throws(StateDirectoryError) -> Descriptor {
        let lock: Descriptor
        do throws(SystemError) {
            lock = try Descriptor.open(path, O_RDWR | O_CREAT | O_NOFOLLOW)
        } catch {
            throw StateDirectoryError(.system, "cannot open the lock of the cache directory: \(error)")
        }
        guard flock(lock.raw, LOCK_EX | LOCK_NB) == 0 else {
            let code = errno
            if code == EWOULDBLOCK {
                throw inUse(path)
            }
            throw StateDirectoryError(.system, "cannot lock \(path): \(describeErrno(code))")
        }
        note(purpose, in: lock)
        return lock
    }

    /// Only for the messages of others: who fails to write it holds the lock all the same.
    private static func note(_ purpose: String, in lock: borrowing Descriptor) {
        try? lock.truncate(to: 0)
        try? unsafe lock.write(Array("\(getpid()) \(purpose)\n".utf8).span.bytes, at: 0)
    }

    private static func inUse(_ path: String) -> StateDirectoryError {
        let text = (try? readFile(path, limit: 256)).map { String(decoding: $0.array, as: UTF8.self) } ?? ""
        let fields = text.split(whereSeparator: \.isWhitespace)
        let purpose = fields.count == 2 ? String(fields[1]) : ""
        let holder = fields.count == 2 ? "process \(fields[0]), crfs \(purpose)" : "another crfs"
        let directory = path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        return StateDirectoryError(
            .inUse(purpose: purpose),
            "the cache directory \(directory) is in use (\(holder)); wait for it to end, stop it, or choose another with "
                + "--cache-dir"
        )
    }

    private static func checkVersion(_ path: String) throws(StateDirectoryError) {
        do throws(SystemError) {
            let text = String(decoding: try readFile(path, limit: 64).array, as: UTF8.self)
            guard text == "crfs \(layoutVersion)\n" else {
                throw SystemError(code: EINVAL, operation: text, path: path)
            }
        } catch {
            if error.code == EINVAL {
                throw StateDirectoryError(
                    .refused,
                    "the cache directory of \(path) was made by another version of crfs; remove it or choose another "
                        + "with --cache-dir"
                )
            }
            guard error.code == ENOENT else { throw StateDirectoryError(.system, "\(error)") }
            do throws(SystemError) {
                try unsafe replaceFile(path, with: Array("crfs \(layoutVersion)\n".utf8).span.bytes)
            } catch {
                throw StateDirectoryError(.system, "cannot write to the cache directory: \(error)")
            }
        }
    }
}
