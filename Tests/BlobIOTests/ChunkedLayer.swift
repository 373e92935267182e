import OCIModel

/// A zstd:chunked layer made by hand, of zstd frames with raw blocks.
struct ChunkedLayer {
    enum Piece {
        case data([UInt8])
        /// Stored as several frames behind one another.
        case split([[UInt8]])
        case zeros(Int)

        var content: [UInt8] {
            switch self {
            case .data(let bytes): bytes
            case .split(let parts): parts.flatMap { $0 }
            case .zeros(let count): [UInt8](repeating: 0, count: count)
            }
        }
    }

    struct File {
        var name: String
        var pieces: [Piece]
        /// Bytes of headers that follow it in frames of their own.
        var headersBehind = 600

        var content: [UInt8] { pieces.flatMap(\.content) }
    }

    private(set) var blob: [UInt8] = []
    private(set) var toc: [UInt8] = []
    private(set) var frame: (offset: Int, compressed: Int) = (0, 0)
    let files: [File]

    /// - Parameter footerPayload: 40, or 64 for a layer with tar-split data.
    init(_ files: [File], footerPayload: Int = 40, digests: Bool = true) {
        self.files = files
        var entries: [String] = []
        blob += zstd([UInt8](repeating: 1, count: 512))
        for file in files {
            var position = 0
            var own: [String] = []
            for piece in file.pieces {
                let content = piece.content
                var entry = "\"name\":\"\(file.name)\",\"offset\":\(blob.count),\"chunkSize\":\(content.count)"
                if position > 0 { entry += ",\"chunkOffset\":\(position)" }
                if case .zeros = piece { entry += ",\"chunkType\":\"zeros\"" }
                if digests { entry += ",\"chunkDigest\":\"\(BlobIOTests.digest(of: content))\"" }
                own.append(entry)
                switch piece {
                // Writers store the zeros as well.
                case .data, .zeros: blob += zstd(content)
                case .split(let parts): for part in parts { blob += zstd(part) }
                }
                position += content.count
            }
            for (number, entry) in own.enumerated() {
                let more =
                    number == 0
                    ? "\"type\":\"reg\",\"size\":\(position),\"mode\":420,\"endOffset\":\(blob.count)"
                    : "\"type\":\"chunk\""
                entries.append("{\(more),\(entry)}")
            }
            blob += zstd([UInt8](repeating: 2, count: file.headersBehind))
        }
        toc = Array("{\"version\":1,\"entries\":[\(entries.joined(separator: ","))],\"tarSplitDigest\":\"x\"}".utf8)
        let compressed = zstd(toc)
        frame = (blob.count + 8, compressed.count)
        blob += skippable(compressed)
        var numbers = [frame.offset, frame.compressed, toc.count, 1]
        if footerPayload == 64 {
            let split = zstd(noise(100, seed: 1))
            numbers += [blob.count + 8, split.count, 100]
            blob += skippable(split)
        }
        blob += skippable(numbers.flatMap { number64($0) } + Array("GNUlInUx".utf8))
    }

    var digest: Digest { BlobIOTests.digest(of: blob) }
    var tocDigest: Digest { BlobIOTests.digest(of: toc) }
    var frameDigest: Digest {
        BlobIOTests.digest(of: Array(blob[frame.offset..<frame.offset + frame.compressed]))
    }

    /// As a manifest describes it.
    func descriptor(
        prefix: String = "io.github.containers.zstd-chunked",
        position: Bool = true,
        frame promisesFrame: Bool = true,
        json promisesJSON: Bool = false
    ) -> ContentDescriptor {
        var annotations: [String: String] = [:]
        if position {
            annotations["\(prefix).manifest-position"] = "\(frame.offset):\(frame.compressed):\(toc.count):1"
        }
        if promisesFrame { annotations["\(prefix).manifest-checksum"] = "\(frameDigest)" }
        if promisesJSON { annotations["containerd.io/snapshot/stargz/toc.digest"] = "\(tocDigest)" }
        return ContentDescriptor(
            mediaType: zstdLayer,
            digest: digest,
            size: UInt64(blob.count),
            annotations: annotations
        )
    }
}

let zstdLayer = "application/vnd.oci.image.layer.v1.tar+zstd"

/// A zstd frame (RFC 8878) of raw blocks, without a checksum and without its size.
func zstd(_ content: [UInt8]) -> [UInt8] {
    // A window of 128 KiB, which is also the most that a block may have.
    var result: [UInt8] = [0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3]
    var position = 0
    repeat {
        let size = min(128 << 10, content.count - position)
        let isLast = position + size == content.count
        let header = size << 3 | (isLast ? 1 : 0)
        result += [UInt8(header & 255), UInt8(header >> 8 & 255), UInt8(header >> 16)]
        result += content[position..<position + size]
        position += size
    } while position < content.count
    return result
}

private func skippable(_ payload: [UInt8]) -> [UInt8] {
    [0x50, 0x2a, 0x4d, 0x18] + number64(payload.count).prefix(4) + payload
}

private func number64(_ value: Int) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
}
