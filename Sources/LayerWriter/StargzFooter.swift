/// The empty gzip member at the end of a blob, whose extra field says where the TOC's member starts.
enum StargzFooter {
    /// 51 bytes for eStargz, 47 for stargz.
    static func bytes(_ format: OutputFormat, tocOffset: UInt64) -> [UInt8] {
        let hex = String(tocOffset, radix: 16)
        let text = Array((String(repeating: "0", count: 16 - hex.utf8.count) + hex + "STARGZ").utf8)
        // RFC 1952 asks for subfields with identifier and length in the extra field; the original stargz has none.
        let extra: [UInt8] =
            switch format {
            case .estargz: Array("SG".utf8) + [UInt8(text.count), 0] + text
            case .stargz, .zstdChunked: text
            }
        let header: [UInt8] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, UInt8(extra.count), 0]
        // An empty stored block, the last one; CRC-32 and size of nothing.
        let emptyBlock: [UInt8] = [1, 0, 0, 0xff, 0xff]
        return header + extra + emptyBlock + [UInt8](repeating: 0, count: 8)
    }
}
