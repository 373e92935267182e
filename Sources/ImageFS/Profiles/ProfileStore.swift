public import BlobIO
internal import Glibc
public import OCIModel
public import PosixIO

/// Why a profile cannot be kept or read: one sentence.
public struct ProfileStoreError: Error, Sendable, CustomStringConvertible {
    /// The sentence.
    public let description: String

    init(_ description: String) { self.description = description }
}

/// The profiles of a cache directory, one file for each image manifest and job key (docs/profile-format.md). Files are
/// replaced whole, so any process may read and replace them, whoever owns the cache.
public struct ProfileStore: Sendable {
    /// Which profile.
    public struct Key: Hashable, Sendable {
        /// The image manifest's digest.
        public var manifest: Digest
        /// The job key; empty without one.
        public var job: String

        /// Makes a key from its parts.
        public init(manifest: Digest, job: String) {
            self.manifest = manifest
            self.job = job
        }
    }

    /// Where the files are: `<cache>/profiles`.
    public let directory: String

    /// The largest file that is read.
    private static let limit = 16 << 20

    /// The profiles in a directory, which need not exist.
    public init(directory: String) { self.directory = directory }

    /// The profile of a key; nil where there is none, or none that can be used.
    public func read(_ key: Key) -> Profile? {
        guard let profile = try? load(key), profile.manifest == key.manifest, profile.job == key.job else {
            return nil
        }
        return profile
    }

    /// The same with the reason.
    public func load(_ key: Key) throws(ProfileStoreError) -> Profile {
        try ProfileStore.load(path(key))
    }

    /// Reads a profile from any file.
    public static func load(_ path: String) throws(ProfileStoreError) -> Profile {
        let bytes: [UInt8]
        do throws(SystemError) {
            bytes = try readFile(path, limit: limit).array
        } catch {
            throw ProfileStoreError("cannot read the profile: \(error)")
        }
        do throws(ProfileError) {
            return try Profile(decoding: bytes)
        } catch {
            throw ProfileStoreError("cannot use the profile \(path): \(error)")
        }
    }

    /// Keeps a profile under its key, in place of an older one.
    public func write(_ profile: Profile) throws(SystemError) {
        try makeDirectories(directory, mode: 0o700)
        let path = path(Key(manifest: profile.manifest, job: profile.job))
        try unsafe replaceFile(path, with: profile.encoded.span.bytes)
    }

    /// Removes a profile; false where there was none.
    public func remove(_ key: Key) throws(SystemError) -> Bool {
        let path = path(key)
        if unsafe unlink(path) == 0 { return true }
        guard errno == ENOENT else { throw SystemError.last("unlink", path: path) }
        return false
    }

    /// The keys of all profiles, by digest and job.
    public func keys() -> [Key] {
        namesInDirectory(directory).compactMap { ProfileStore.key(fileName: $0) }
    }

    private func path(_ key: Key) -> String { "\(directory)/\(ProfileStore.fileName(key))" }

    /// `sha256-<hex>`, or `sha256-<hex>~<job>` with all but letters, digits, `.`, `_` and `-` as `%XX`.
    static func fileName(_ key: Key) -> String {
        guard !key.job.isEmpty else { return key.manifest.directoryName }
        var name = key.manifest.directoryName + "~"
        for byte in key.job.utf8 {
            if isPlain(byte) {
                name.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                let hex = String(byte, radix: 16, uppercase: true)
                name += hex.utf8.count == 1 ? "%0\(hex)" : "%\(hex)"
            }
        }
        return name
    }

    /// The key of a file's name; nil for any other file.
    static func key(fileName: String) -> Key? {
        let parts = fileName.split(separator: "~", maxSplits: 1, omittingEmptySubsequences: false)
        guard let manifest = Digest(directoryName: parts[0]) else { return nil }
        guard parts.count == 2 else { return Key(manifest: manifest, job: "") }
        let key = Key(manifest: manifest, job: String(parts[1]).percentDecoded)
        return Profile.isJobKey(key.job) && ProfileStore.fileName(key) == fileName ? key : nil
    }

    private static func isPlain(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
            true
        default: false
        }
    }
}
