import BlockCodec
import OCIModel
import PosixIO
import TestSupport

/// An eStargz layer made by hand, so that every detail of it can be wrong. Its members are gzip with stored blocks.
struct TestLayer {
    struct File {
        var name: String
        var content: [UInt8]
        /// Payload bytes in a chunk.
        var chunkSize = 4 << 20
        /// What the TOC says instead of the digest of this chunk.
        var wrongDigestInChunk: Int?
        /// Puts its (one) chunk into the member of the file before it.
        var sharesMember = false
    }

    private(set) var blob: [UInt8] = []
    private(set) var tocOffset = 0
    private(set) var toc: [UInt8] = []
    /// Where each member starts, in the order of the blob.
    private(set) var memberOffsets: [Int] = []
    let files: [File]

    init(_ files: [File], digests: Bool = true, tocPadding: Int = 0) {
        self.files = files
        var entries: [String] = []
        var member: [UInt8] = []
        func flush() {
            guard !member.isEmpty else { return }
            memberOffsets.append(blob.count)
            // What follows a payload in a member: padding and the next header.
            blob += gzip(member + [UInt8](repeating: 0, count: 700))
            member = []
        }
        for file in files {
            let whole = digests ? ",\"digest\":\"\(BlobIOTests.digest(of: file.content))\"" : ""
            if file.content.isEmpty {
                entries.append("{\"name\":\"\(file.name)\",\"type\":\"reg\",\"size\":0,\"mode\":420\(whole)}")
                continue
            }
            var position = 0
            var number = 0
            while position < file.content.count {
                if !file.sharesMember { flush() }
                let payload = Array(file.content[position..<min(position + file.chunkSize, file.content.count)])
                var entry = "{\"name\":\"\(file.name)\",\"offset\":\(blob.count)"
                if !member.isEmpty { entry += ",\"innerOffset\":\(member.count)" }
                if number == 0 {
                    entry += ",\"type\":\"reg\",\"size\":\(file.content.count),\"mode\":420\(whole)"
                } else {
                    entry += ",\"type\":\"chunk\",\"chunkOffset\":\(position)"
                }
                if file.content.count > file.chunkSize { entry += ",\"chunkSize\":\(payload.count)" }
                if digests {
                    let stated = file.wrongDigestInChunk == number ? [1, 2, 3] : payload
                    entry += ",\"chunkDigest\":\"\(BlobIOTests.digest(of: stated))\""
                }
                entries.append(entry + "}")
                member += payload
                position += payload.count
                number += 1
            }
        }
        flush()
        tocOffset = blob.count
        toc = Array("{\"version\":1,\"entries\":[\(entries.joined(separator: ","))]}".utf8)
        toc += [UInt8](repeating: UInt8(ascii: " "), count: tocPadding)
        blob += gzip(tarEntry("stargz.index.json", toc))
        blob += footer(tocOffset)
    }

    var digest: Digest { BlobIOTests.digest(of: blob) }
    var tocDigest: Digest { BlobIOTests.digest(of: toc) }

    /// As a manifest describes it.
    func descriptor(promised: Bool = true, mediaType: String = gzipLayer) -> ContentDescriptor {
        ContentDescriptor(
            mediaType: mediaType,
            digest: digest,
            size: UInt64(blob.count),
            annotations: promised ? ["containerd.io/snapshot/stargz/toc.digest": "\(tocDigest)"] : [:]
        )
    }
}

let gzipLayer = "application/vnd.oci.image.layer.v1.tar+gzip"

func digest(of bytes: [UInt8]) -> Digest {
    unsafe SHA256.digest(of: bytes.span.bytes)
}

/// Bytes without a pattern, the same for the same seed.
func noise(_ count: Int, seed: UInt64) -> [UInt8] {
    var generator = SeededGenerator(seed: seed)
    var result: [UInt8] = []
    result.reserveCapacity(count + 8)
    while result.count < count {
        let word = generator.next()
        for byte in 0..<8 { result.append(UInt8(truncatingIfNeeded: word >> (8 * UInt64(byte)))) }
    }
    result.removeLast(result.count - count)
    return result
}

/// A gzip member (RFC 1952) of stored blocks.
func gzip(_ content: [UInt8]) -> [UInt8] {
    var result: [UInt8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]
    var position = 0
    repeat {
        let size = min(65535, content.count - position)
        let isLast = position + size == content.count
        result += [isLast ? 1 : 0, UInt8(size & 255), UInt8(size >> 8), UInt8(~size & 255), UInt8(~size >> 8 & 255)]
        result += content[position..<position + size]
        position += size
    } while position < content.count
    return result + littleEndian(crc32(content)) + littleEndian(UInt32(content.count))
}

private func littleEndian(_ value: UInt32) -> [UInt8] {
    (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
}

private let crcTable: [UInt32] = (0..<256).map { byte in
    (0..<8).reduce(UInt32(byte)) { value, _ in value & 1 == 1 ? 0xedb8_8320 ^ (value >> 1) : value >> 1 }
}

private func crc32(_ bytes: [UInt8]) -> UInt32 {
    ~bytes.reduce(UInt32.max) { crcTable[Int(($0 ^ UInt32($1)) & 255)] ^ ($0 >> 8) }
}

/// A ustar entry: header, content, padding, end of archive.
private func tarEntry(_ name: String, _ content: [UInt8]) -> [UInt8] {
    var header = [UInt8](repeating: 0, count: 512)
    func put(_ text: String, at offset: Int) {
        for (index, byte) in text.utf8.enumerated() { header[offset + index] = byte }
    }
    func octal(_ value: Int, digits: Int) -> String {
        let text = String(value, radix: 8)
        return String(repeating: "0", count: digits - text.count) + text
    }
    put(name, at: 0)
    put("0000444", at: 100)
    put("0000000", at: 108)
    put("0000000", at: 116)
    put(octal(content.count, digits: 11), at: 124)
    put("00000000000", at: 136)
    put("        ", at: 148)
    put("0", at: 156)
    put("ustar\u{0}00", at: 257)
    put(octal(header.reduce(0) { $0 + Int($1) }, digits: 6) + "\u{0} ", at: 148)
    let padding = (512 - content.count % 512) % 512
    return header + content + [UInt8](repeating: 0, count: padding + 1024)
}

/// The 51-byte footer of eStargz.
private func footer(_ tocOffset: Int) -> [UInt8] {
    let hex = String(tocOffset, radix: 16)
    let text = String(repeating: "0", count: 16 - hex.count) + hex + "STARGZ"
    return [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, UInt8(ascii: "S"), UInt8(ascii: "G"), 22, 0]
        + Array(text.utf8)
        + [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]
}
