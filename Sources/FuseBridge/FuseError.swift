/// Why a mount point cannot be mounted, served or unmounted.
public struct FuseError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What kind of trouble it is.
    public enum Kind: Sendable, Equatable {
        /// The mount point does not exist.
        case missing
        /// The mount point is not a directory.
        case notADirectory
        /// The user may not do this.
        case notPermitted
        /// A crfs file system is mounted there already, alive or dead.
        case alreadyMounted
        /// What is mounted there lost its daemon.
        case dead
        /// Something in the mount is in use.
        case busy
        /// Nothing is mounted there.
        case notMounted
        /// What is mounted there is not crfs.
        case foreign
        /// This machine has no FUSE.
        case unavailable
        /// Anything else that the kernel or libfuse refused.
        case refused
    }

    /// What kind of trouble it is.
    public let kind: Kind
    /// One sentence: what failed, on what, why, and what to do.
    public let description: String

    /// Makes an error from its parts.
    public init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }
}
