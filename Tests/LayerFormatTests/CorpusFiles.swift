import FoundationEssentials
import LayerFormat
import OCIModel
import PosixIO

/// The test images in Tests/Corpus (see the manifests' rows there).
enum CorpusFiles {
    static let directory: String = {
        var parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
        parts.removeLast(2)
        return parts.joined(separator: "/") + "/Corpus"
    }()

    struct Blob {
        var digest: Digest
        var bytes: [UInt8]
        /// What the manifest promises for the TOC's JSON.
        var tocDigest: Digest?
        /// What it promises for the compressed TOC (zstd:chunked).
        var frameDigest: Digest?
        /// The TOC layer of a second image.
        var externalTOC: [UInt8]?
    }

    private struct Wire: Decodable {
        struct Entry: Decodable {
            var digest: String
            var annotations: [String: String]?
        }
        var manifests: [Entry]?
        var layers: [Entry]?
    }

    static func read(_ path: String) throws -> [UInt8] {
        try readFile("\(directory)/\(path)", limit: 64 << 20).array
    }

    private static func decode(_ path: String) throws -> Wire {
        try JSONDecoder().decode(Wire.self, from: Data(read(path)))
    }

    /// The layers of a layout's image, bottom first.
    static func layers(_ format: String) throws -> [Blob] {
        func blob(_ digest: String) -> String { "\(format).oci/blobs/sha256/\(digest.dropFirst(7))" }
        let index = try decode("\(format).oci/index.json")
        guard let image = index.manifests?.first, let layers = try decode(blob(image.digest)).layers else { return [] }
        // TOC layers by the layer that they name.
        var tocs: [String: [UInt8]] = [:]
        for second in index.manifests?.dropFirst() ?? [] {
            for layer in try decode(blob(second.digest)).layers ?? [] {
                guard let named = layer.annotations?["containerd.io/snapshot/stargz/layer.digest"] else { continue }
                tocs[named] = try read(blob(layer.digest))
            }
        }
        return try layers.map { layer in
            guard let digest = Digest(layer.digest) else { throw LayerFormatError(.corrupt, "digest") }
            let toc = layer.annotations?["containerd.io/snapshot/stargz/toc.digest"].flatMap { Digest($0) }
            let frame = layer.annotations?["io.containers.zstd-chunked.manifest-checksum"].flatMap { Digest($0) }
            return Blob(
                digest: digest,
                bytes: try read(blob(layer.digest)),
                tocDigest: toc,
                frameDigest: frame,
                externalTOC: tocs[layer.digest]
            )
        }
    }

    /// Opens a blob as BlobIO does: footer, TOC, index.
    static func index(_ blob: Blob, note: (String) -> Void = { _ in }) throws -> LayerIndex {
        let bytes = try indexBytes(blob, note: note)
        return try LayerIndex(bytes: bytes, layer: blob.digest)
    }

    static func indexBytes(_ blob: Blob, note: (String) -> Void = { _ in }) throws -> SharedBytes {
        let size = UInt64(blob.bytes.count)
        let tail = blob.bytes.suffix(Int(Footer.tailGuess(blobSize: size)))
        let footer = try unsafe Footer(tail: tail.span.bytes, blobSize: size)
        let source = TOCSource(
            layerDigest: blob.digest,
            blobSize: size,
            tocOffset: footer.tocOffset,
            promisedDigest: blob.tocDigest,
            promisedFrameDigest: blob.frameDigest,
            format: footer.kind
        )
        if let frame = footer.frame {
            let toc = blob.bytes[Int(frame.offset)..<Int(frame.offset + frame.compressedSize)]
            return try unsafe LayerIndexBuilder.build(tocFrame: toc.span.bytes, frame, source: source, note: note)
                .share()
        }
        let toc = blob.externalTOC?[...] ?? blob.bytes[Int(footer.tocOffset)...]
        return try unsafe LayerIndexBuilder.build(tocMember: toc.span.bytes, source: source, note: note).share()
    }
}

/// One row of a manifest.
struct ManifestRow: Decodable {
    var path: String
    var type: String
    var mode: String?
    var uid: UInt32?
    var gid: UInt32?
    var mtime: [Int64]?
    var size: UInt64?
    var sha256: String?
    var rdev: [UInt32]?
    var target: String?
    var xattrs: [String: String]?
    var hardlink_group: Int?
    var nlink: UInt32?
    var layer: Int?
    var opaque: Bool?
    var implicit: Bool?
    var attr_ambiguous: Bool?

    static func rows(_ manifest: String) throws -> [ManifestRow] {
        try CorpusFiles.read("manifest/\(manifest).jsonl").split(separator: UInt8(ascii: "\n")).map {
            try JSONDecoder().decode(ManifestRow.self, from: Data($0))
        }
    }
}

/// Undoes the percent encoding of a manifest's names.
func unquoted(_ text: String) -> [UInt8] {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
        if byte == UInt8(ascii: "%"), rest.count >= 2,
            let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
        {
            bytes.append(value)
            rest = rest.dropFirst(2)
        } else {
            bytes.append(byte)
        }
    }
    return bytes
}
