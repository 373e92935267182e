/// Why a request over the control socket came to nothing.
public struct ControlError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What kind of trouble it is.
    public enum Kind: Sendable, Equatable {
        /// Nobody listens.
        case unreachable
        /// The owner is about to end: try again, with the lock first.
        case ending
        /// The owner speaks other versions of the protocol only.
        case version([Int])
        /// The owner says no.
        case refused
        /// The connection ended before there was an answer, or the request was cancelled.
        case lost
        /// What came is not of the protocol.
        case malformed
    }

    /// What kind of trouble it is.
    public let kind: Kind
    /// One sentence for the user.
    public let description: String
    /// The exit code that a command ends with.
    public let code: Int32

    /// Makes an error from its parts.
    public init(_ kind: Kind, _ description: String, code: Int32 = 1) {
        self.kind = kind
        self.description = description
        self.code = code
    }
}
