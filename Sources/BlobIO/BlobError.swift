internal import LayerFormat
internal import OCIModel
internal import OCIRegistry
internal import PosixIO

/// How chunks are checked (spec section 4).
public enum VerifyMode: String, Sendable, CaseIterable {
    /// By digest where the manifest promises the TOC's digest; a layer without one is mounted with what it has (chunk
    /// digests of its own TOC, the checksums of its members), and the log says so once.
    case auto
    /// As `auto`, but a layer without a promised TOC digest is refused.
    case require
    /// By the checksums of members only: gzip's CRC-32, zstd's content checksum.
    case off
}

/// Why a layer cannot be opened or a read cannot be served. ImageFS maps the kind to an errno; nobody else does.
public struct BlobError: Error, Sendable, CustomStringConvertible {
    /// What went wrong, as far as it matters to the reader.
    public enum Kind: Sendable, Equatable {
        /// The registry does not have it (404).
        case notFound
        /// The registry does not give it (401, 403).
        case denied
        /// No progress within the deadline.
        case timedOut
        /// The registry cannot be reached, or fails.
        case unavailable
        /// Wrong digest, corrupt member, contradictory TOC.
        case corrupt
        /// The layer is of a kind that this version does not read.
        case unsupported
        /// The file behind a local layer changed.
        case stale
        /// The cache directory or a local file failed.
        case system(CInt)
    }

    /// What went wrong.
    public let kind: Kind
    /// One sentence: what failed, on what, why, what to do.
    public let reason: String

    /// Makes an error from its parts.
    public init(_ kind: Kind, _ reason: String) {
        self.kind = kind
        self.reason = reason
    }

    /// The reason.
    public var description: String { reason }

    /// A registry's error about a layer.
    init(_ error: RegistryError, layer: Digest) {
        let kind: Kind =
            switch error.kind {
            case .notFound: .notFound
            case .denied: .denied
            case .timedOut: .timedOut
            case .unavailable: .unavailable
            case .protocolViolation: .corrupt
            }
        self.init(kind, "cannot read layer \(layer): \(error.reason)")
    }

    /// A layer's format error; `name` says which layer.
    init(_ error: LayerFormatError, name: String) {
        switch error.kind {
        case .noIndex:
            self.init(
                .unsupported,
                "\(name) cannot be read lazily: \(error.reason); this version reads eStargz, stargz and zstd:chunked:"
                    + " convert it with `crfs convert`"
            )
        case .tooLarge:
            self.init(.unsupported, "\(name) is beyond what this version reads: \(error.reason)")
        case .corrupt, .digestMismatch, .staleIndex:
            self.init(.corrupt, "\(name) is damaged: \(error.reason)")
        case .system:
            self.init(.system(5), "\(name): \(error.reason)")
        }
    }

    /// A system call's error about a layer or file.
    init(_ error: SystemError, name: String) {
        self.init(.system(error.code), "\(name): \(error)")
    }
}
