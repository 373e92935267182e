internal import BlockCodec
internal import Glibc
internal import LayerFormat
public import OCIModel
internal import PosixIO

/// The formats that crfs writes.
public enum OutputFormat: Sendable, Equatable {
    /// eStargz: a digest for every chunk, a landmark, a 51-byte footer.
    case estargz
    /// The original stargz: a digest for every file, a 47-byte footer.
    case stargz
    /// zstd:chunked, for crfs, the containers tools and stargz-snapshotter (docs/decisions/0012-zstd-chunked.md).
    case zstdChunked

    /// The suffix of its files.
    public var fileSuffix: String {
        switch self {
        case .estargz: ".esgz"
        case .stargz: ".stargz"
        case .zstdChunked: ".chunked.tar.zst"
        }
    }

    /// The compression levels that can be asked for.
    public var levels: ClosedRange<Int> { self == .zstdChunked ? 1...19 : 1...12 }
}

/// How a layer is converted.
public struct ConvertOptions: Sendable {
    /// The chunk sizes that may be asked for, in bytes: above 32 MiB crfs itself reads a layer as a plain one.
    public static let chunkSizes = 4096...32 * 1024 * 1024

    /// What is written.
    public var format = OutputFormat.estargz
    /// How many bytes of a file one chunk has at most; one of `chunkSizes`.
    public var chunkSize = 4 * 1024 * 1024
    /// libdeflate's or libzstd's level, one of the format's `levels`. Why this default:
    /// docs/decisions/0004-layer-writer.md.
    public var level = 6
    /// How many threads compress.
    public var threads = availableProcessors()
    /// Paths that come first in the blob, in this order, each after its parents and after what it is a hard link to.
    public var prioritized: [String] = []
    /// The most bytes of holes of sparse files that are written out, over all files. A layer has no holes.
    public var holeLimit: UInt64 = 1 << 40

    /// The defaults.
    public init() {}
}

/// How many processors this process may use, at least 1.
public func availableProcessors() -> Int {
    max(1, Int(sysconf(CInt(_SC_NPROCESSORS_ONLN))))
}

/// How far a conversion is.
public struct ConvertProgress: Sendable, Equatable {
    /// Bytes of input that have been read. Each pass counts: with prioritized paths the input is read three times.
    public var done: UInt64
    /// Bytes of input that will have been read at the end.
    public var total: UInt64
}

/// What a conversion made.
public struct ConvertResult: Sendable, Equatable {
    /// Where the layer is.
    public var path: String
    /// What it is.
    public var format: OutputFormat
    /// SHA-256 of the TOC's JSON: the annotation `containerd.io/snapshot/stargz/toc.digest`.
    public var tocDigest: Digest
    /// SHA-256 of the tar stream that the blob inflates to: what an image configuration lists as DiffID.
    public var diffID: Digest
    /// SHA-256 of the blob.
    public var blobDigest: Digest
    /// The blob's size in bytes.
    public var blobSize: UInt64
    /// Bytes of the tar stream: the annotation `io.containers.estargz.uncompressed-size`.
    public var uncompressedSize: UInt64
    /// Where the TOC's member, or the skippable frame around it, starts in the blob.
    public var tocOffset: UInt64
    /// SHA-256 of the compressed TOC, zstd:chunked only.
    public var tocFrameDigest: Digest?
    /// Where the TOC is, zstd:chunked only: `offset:compressed:uncompressed:1`.
    public var tocFramePosition: String?
    /// How many entries of the input are in it.
    public var entries: Int
    /// Prioritized paths that are not in the layer, or that occur in it more than once and so must stay in their place.
    public var notMoved: [String]

    /// The media type of the layer in a manifest.
    public var mediaType: String {
        "application/vnd.oci.image.layer.v1.tar+" + (format == .zstdChunked ? "zstd" : "gzip")
    }

    /// The annotations that the layer's descriptor in a manifest needs, sorted by name: without them its content cannot be
    /// verified. None for stargz, whose readers know of none.
    public var annotations: [(name: String, value: String)] {
        if format == .stargz { return [] }
        var result = [
            (name: "containerd.io/snapshot/stargz/toc.digest", value: "\(tocDigest)"),
            (name: "io.containers.estargz.uncompressed-size", value: "\(uncompressedSize)"),
        ]
        // The containers tools read the older prefix or the newer one, by their age.
        for prefix in ["io.containers", "io.github.containers"] {
            if let tocFrameDigest {
                result.append((name: "\(prefix).zstd-chunked.manifest-checksum", value: "\(tocFrameDigest)"))
            }
            if let tocFramePosition {
                result.append((name: "\(prefix).zstd-chunked.manifest-position", value: tocFramePosition))
            }
        }
        return result
    }
}

/// Why a layer could not be converted.
public struct ConvertError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The kind of failure.
    public enum Kind: Sendable, Equatable {
        /// An option out of its bounds.
        case invalidOption
        /// What was asked for would harm: the output is the input.
        case refused
        /// The input cannot be read as a layer.
        case input
        /// More than crfs writes: a TOC above 256 MiB, terabytes of holes.
        case tooLarge
        /// A system call failed.
        case system
        /// The progress callback said stop.
        case cancelled
    }

    /// The kind of failure.
    public let kind: Kind
    /// What failed, on what, why, and what to do.
    public let description: String

    init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }

    init(_ error: SystemError, _ doing: String) {
        self.init(.system, "\(doing): \(error)")
    }

    init(_ error: TarError, input: String) {
        self.init(.input, "\(input) cannot be read as a layer: \(error)")
    }
}
