/// Why a layer cannot be read.
public struct LayerFormatError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What the caller may do about it.
    public enum Kind: Sendable, Equatable {
        /// The blob has no index that crfs can read (no known footer): a plain layer.
        case noIndex
        /// Footer, TOC, member or index contradicts the format.
        case corrupt
        /// A digest that was promised does not hold.
        case digestMismatch
        /// More than crfs reads (TOC above 256 MiB, chunk above 32 MiB, …).
        case tooLarge
        /// An index file of another version, or damaged: build it anew.
        case staleIndex
        /// A system call failed.
        case system
    }
    /// What the caller may do about it.
    public let kind: Kind
    /// One sentence: what is wrong, where.
    public let reason: String

    /// Makes an error from its parts.
    public init(_ kind: Kind, _ reason: String) {
        self.kind = kind
        self.reason = reason
    }

    /// The reason.
    public var description: String { reason }
}
