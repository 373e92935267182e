internal import Glibc

/// Something that a test needs and that not every machine has.
///
/// A test is skipped with the reason where its requirement is not met; with `CRFS_REQUIRE_ROOT_TESTS=1` in the environment
/// it runs and fails with the reason instead, so that a CI run cannot pass by skipping. Use both halves:
///
///     @Suite(.enabled(if: Requirement.mounting.runs, Comment(rawValue: Requirement.mounting.reason)))
///     struct SomeTests {
///         init() throws { try Requirement.mounting.orFail() }
public struct Requirement: Sendable {
    /// What is missing and what to do; nil when the requirement is met.
    public let missing: String?

    /// Whether the test shall run: the requirement is met, or a missing one shall be a failure.
    public var runs: Bool { missing == nil || Requirement.missingIsFailure }

    /// The reason for a skipped test.
    public var reason: String { missing ?? "all requirements are met" }

    /// Throws the reason when the requirement is not met.
    public func orFail() throws {
        if let missing { throw CommandFailure(description: "requirement not met: \(missing)") }
    }

    /// Whether `CRFS_REQUIRE_ROOT_TESTS` is set to anything but nothing or 0.
    public static let missingIsFailure: Bool = {
        let value = environmentValue("CRFS_REQUIRE_ROOT_TESTS") ?? ""
        return value != "" && value != "0"
    }()

    /// The process runs as root.
    public static let root = Requirement(
        missing: isRoot ? nil : "needs root (mounts, device nodes, trusted.* xattrs): run as root"
    )

    /// The kernel's FUSE can be used.
    public static let fuse = Requirement(
        missing: hasFUSE ? nil : "needs /dev/fuse, which this machine does not have or does not let us open"
    )

    /// The programs with which images get into a registry.
    public static let registry = all(
        ["docker-registry", "skopeo", "python3", "openssl", "curl"].map { program($0) }
    )

    /// Root, FUSE and a registry.
    public static let mounting = all([root, fuse, registry])

    /// A program in PATH.
    public static func program(_ name: String) -> Requirement {
        Requirement(missing: hasProgram(name) ? nil : "needs the program \(name): run make deps")
    }

    /// All of `requirements`.
    public static func all(_ requirements: [Requirement]) -> Requirement {
        let missing = requirements.compactMap(\.missing)
        return Requirement(missing: missing.isEmpty ? nil : missing.joined(separator: "; "))
    }

    /// Whether the effective user is root.
    public static var isRoot: Bool { geteuid() == 0 }

    /// Whether /dev/fuse can be opened for reading and writing.
    public static let hasFUSE: Bool = unsafe access("/dev/fuse", R_OK | W_OK) == 0

    /// Whether PATH has an executable of that name.
    public static func hasProgram(_ name: String) -> Bool {
        (environmentValue("PATH") ?? "/usr/bin:/bin").split(separator: ":").contains { directory in
            unsafe access("\(directory)/\(name)", X_OK) == 0
        }
    }
}
