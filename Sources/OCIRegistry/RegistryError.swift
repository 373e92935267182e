/// A request to a registry that failed after all its retries.
public struct RegistryError: Error, Sendable, CustomStringConvertible {
    /// What the failure means to who asked.
    public enum Kind: Sendable, Equatable {
        /// 404.
        case notFound
        /// 401 or 403.
        case denied
        /// No progress within the deadline.
        case timedOut
        /// No connection, TLS failure, 5xx or 429 until the deadline; or the caller's task was cancelled.
        case unavailable
        /// An answer that the protocol does not allow, or content whose digest is wrong.
        case protocolViolation
    }

    /// What the failure means.
    public let kind: Kind
    /// What failed, on what, why, what to do: one sentence or two, without credentials.
    public let reason: String

    /// Makes an error from its parts.
    public init(_ kind: Kind, _ reason: String) {
        self.kind = kind
        self.reason = reason
    }

    /// The reason.
    public var description: String { reason }
}
