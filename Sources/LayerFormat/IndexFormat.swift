public import BlockCodec

/// Where a layer's index came from, and with it how the layer's members are compressed (spec section 3).
public enum IndexFormat: UInt32, Sendable, CustomStringConvertible {
    /// The original stargz: footer of 47 bytes, no digests of chunks.
    case stargz = 1
    /// eStargz: footer of 51 bytes.
    case estargz = 2
    /// eStargz whose TOC stands in a second image: footer of 46 bytes.
    case estargzExternalTOC = 3
    /// zstd:chunked, of the containers tools or of stargz-snapshotter.
    case zstdChunked = 4

    /// How members are compressed: one gzip member or zstd frame, or several one behind the other.
    public var memberCompression: CompressionFormat {
        switch self {
        case .stargz, .estargz, .estargzExternalTOC: .gzip
        case .zstdChunked: .zstd
        }
    }

    /// The name that reports use.
    public var description: String {
        switch self {
        case .stargz: "stargz"
        case .estargz: "estargz"
        case .estargzExternalTOC: "estargz-external-toc"
        case .zstdChunked: "zstd-chunked"
        }
    }
}
