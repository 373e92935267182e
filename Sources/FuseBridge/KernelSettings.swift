internal import Glibc

/// What is asked of the kernel for a mount. Each default is what measures best (docs/decisions/0016-kernel-settings.md);
/// the others are there to measure against.
public struct KernelSettings: Sendable, Equatable {
    /// Who opens directories, and who keeps their listings.
    public enum Directories: String, Sendable {
        /// The kernel opens them by itself, and keeps their listings (FUSE_NO_OPENDIR_SUPPORT).
        case kernel
        /// Each open is asked for; the kernel keeps listings.
        case kept
        /// Each open is asked for, and each listing.
        case asked
    }

    /// When a listing brings the attributes of its names.
    public enum ListedAttributes: String, Sendable {
        case always
        /// When the kernel thinks that they are wanted (FUSE_CAP_READDIRPLUS_AUTO).
        case auto
        case never
    }

    /// The read-ahead window in KiB, where the mount may set it (root).
    public var readAheadKiB = 1024
    /// Background requests (read-ahead) that the kernel may have on the way, 1 to 65,535. Unprivileged mounts are held
    /// to /sys/module/fuse/parameters/max_user_bgreq.
    public var maxBackground = 4096
    /// The most that one READ asks for, in KiB; at most 1024 (libfuse's buffers).
    public var requestKiB = 1024
    /// Several look-ups and listings of one directory at once (FUSE_PARALLEL_DIROPS).
    public var parallelLookups = true
    /// Who opens directories.
    public var directories = Directories.kernel
    /// When a listing brings attributes.
    public var listedAttributes = ListedAttributes.always
    /// The kernel keeps the text of symbolic links (FUSE_CACHE_SYMLINKS).
    public var keepsLinks = true
    /// The kernel keeps that a name is not there.
    public var keepsMissing = true
    /// The kernel knows ACLs, and so keeps that a file has none (FUSE_POSIX_ACL).
    public var acls = true
    /// How long a thread looks for the next request of a client that asks for one thing after the other, before it
    /// sleeps; in microseconds, 0 for never (`RequestWait`).
    public var waitMicroseconds = 50

    /// What a process asks for by itself.
    public init() {}

    /// The name of the environment variable that says otherwise, for measurements: `name=value` with commas between.
    public static let variable = "CRFS_KERNEL_SETTINGS"

    /// The defaults, and what the environment has instead.
    public static func fromEnvironment() throws(FuseError) -> KernelSettings {
        var settings = KernelSettings()
        guard let value = unsafe getenv(variable) else { return settings }
        // SAFETY: getenv(3) gives a string that ends with a 0; nothing in crfs changes the environment.
        let text = unsafe String(cString: value)
        for word in text.split(separator: ",") { try settings.set(word) }
        return settings
    }

    private mutating func set(_ word: Substring) throws(FuseError) {
        let parts = word.split(separator: "=", maxSplits: 1)
        guard parts.count == 2, change(String(parts[0]), String(parts[1])) else {
            let page = "docs/decisions/0016-kernel-settings.md"
            throw FuseError(.refused, "\(Self.variable): \(word) is no setting; see \(page)")
        }
    }

    /// False where there is no such setting or value.
    mutating func change(_ name: String, _ value: String) -> Bool {
        switch name {
        case "read-ahead": Self.assign(&readAheadKiB, Int(value))
        case "max-background": Self.assign(&maxBackground, Int(value))
        case "request": Self.assign(&requestKiB, Int(value))
        case "parallel": Self.assign(&parallelLookups, Self.switched(value))
        case "directories": Self.assign(&directories, Directories(rawValue: value))
        case "attributes": Self.assign(&listedAttributes, ListedAttributes(rawValue: value))
        case "links": Self.assign(&keepsLinks, Self.switched(value))
        case "missing": Self.assign(&keepsMissing, Self.switched(value))
        case "acl": Self.assign(&acls, Self.switched(value))
        case "wait": Self.assign(&waitMicroseconds, Int(value))
        default: false
        }
    }

    private static func assign<T>(_ place: inout T, _ value: T?) -> Bool {
        guard let value else { return false }
        place = value
        return true
    }

    private static func switched(_ value: String) -> Bool? {
        switch value {
        case "on": true
        case "off": false
        default: nil
        }
    }
}
