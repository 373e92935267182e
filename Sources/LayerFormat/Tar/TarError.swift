public import BlockCodec

/// Why a tar archive cannot be read on.
public struct TarError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The kind of failure.
    public enum Kind: Sendable, Equatable {
        /// The bytes did not arrive: a system call, a decompressor.
        case source(ByteSourceError)
        /// The archive ends in the middle of something.
        case truncated
        /// The bytes contradict the format.
        case corrupt
        /// A well-formed thing that no layer has: a volume of a multi-volume archive.
        case unsupported
        /// More than crfs reads: extension headers above 1 MiB, sparse maps above 1,000,000 segments.
        case tooLarge
    }

    /// The kind of failure.
    public let kind: Kind
    /// Where in the (uncompressed) archive, in bytes.
    public let offset: UInt64
    /// The entry that it happened in, or the last one before.
    public let entry: [UInt8]?
    /// What is wrong.
    public let reason: String

    /// Makes an error.
    public init(_ kind: Kind, offset: UInt64, entry: [UInt8]?, reason: String) {
        self.kind = kind
        self.offset = offset
        self.entry = entry
        self.reason = reason
    }

    /// What is wrong, where, in which entry.
    public var description: String {
        let place = entry.map { ", at entry \"\(printable($0))\"" } ?? ""
        return "\(reason) (byte \(offset) of the tar stream\(place))"
    }
}

/// What is wrong with a header; the reader adds where.
struct TarFault: Error, Equatable {
    let kind: TarError.Kind
    let reason: String

    init(_ kind: TarError.Kind, _ reason: String) {
        self.kind = kind
        self.reason = reason
    }

    init(_ reason: String) {
        self.init(.corrupt, reason)
    }
}
