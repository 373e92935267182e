import BlockCodec
import LayerFormat
import OCIModel
import PosixIO

/// What a tree says of one path, for comparisons. Names of one inode have the same `inode` text.
struct Row: Equatable, CustomStringConvertible {
    var mode: UInt32
    var uid: UInt32 = 0
    var gid: UInt32 = 0
    var links: UInt32
    var size: UInt64 = 0
    var seconds: Int64 = 0
    var nanoseconds: UInt32 = 0
    var device: UInt64 = 0
    var flags: NodeFlags = []
    var target: [UInt8] = []
    var xattrs: [String: [UInt8]] = [:]
    /// The first path of the inode.
    var first: String
    /// Digest words of the chunks, as a stand-in for the content.
    var chunks: [String] = []

    var description: String {
        "\(String(mode, radix: 8)) \(uid):\(gid) links \(links) size \(size) time \(seconds).\(nanoseconds) dev \(device) "
            + "flags \(flags.rawValue) target \(String(decoding: target, as: UTF8.self)) \(xattrs) first \(first) \(chunks)"
    }
}

func bytes(_ span: borrowing RawSpan) -> [UInt8] {
    unsafe span.withUnsafeBytes { unsafe [UInt8]($0) }
}

func text(_ span: borrowing RawSpan) -> String {
    String(decoding: bytes(span), as: UTF8.self)
}

extension LayerIndex {
    /// A record's attributes as a row; `first` is filled by the caller.
    func row(_ record: UInt32) -> Row {
        let attributes = attributes(record)
        var row = Row(mode: attributes.mode, links: attributes.linkCount, first: "")
        row.uid = attributes.uid
        row.gid = attributes.gid
        row.size = attributes.size
        row.seconds = attributes.mtimeSeconds
        row.nanoseconds = attributes.mtimeNanoseconds
        row.device = attributes.device
        row.flags = attributes.flags.subtracting(.hasXattrs)
        row.target = bytes(linkTarget(record))
        forEachXattr(record) { name, value in
            row.xattrs[text(name)] = bytes(value)
            return true
        }
        row.chunks = chunks(record).map { index in
            let chunk = chunk(index)
            return "\(chunk.member.offset)+\(chunk.innerOffset) \(chunk.fileOffset)+\(chunk.length)"
        }
        return row
    }

    /// Everything that the index shows, by path; the root is "".
    func rows() -> [String: Row] {
        var rows: [String: Row] = [:]
        var firstPaths: [UInt32: String] = [:]
        var paths = [String](repeating: "", count: recordCount)
        for record in 0..<UInt32(recordCount) {
            if record > 0 { paths[Int(record)] = paths[Int(parent(record))] + "/" + text(name(record)) }
            let inode = inode(record)
            let path = paths[Int(record)]
            if firstPaths[inode] == nil { firstPaths[inode] = path }
            var row = row(record)
            row.first = firstPaths[inode] ?? ""
            rows[path] = row
        }
        return rows
    }

    /// The value of a path's xattr, by name.
    func xattrValue(_ path: String, _ name: String) -> [UInt8]? {
        let name = [UInt8](name.utf8)
        guard let record = find(path), let value = unsafe xattr(record, name.span.bytes) else { return nil }
        return bytes(value)
    }

    /// The record of a `/`-separated path, by look-ups.
    func find(_ path: String) -> UInt32? {
        var record: UInt32 = 0
        for part in path.split(separator: "/") {
            guard let next = unsafe lookup(Array(part.utf8).span.bytes, in: record) else { return nil }
            record = next
        }
        return record
    }
}

extension LayerFormat.ImageIndex {
    /// Everything that the image shows, by path; the root is "". Directories' flags are left out.
    func rows() -> [String: Row] {
        var rows: [String: Row] = [:]
        var firstPaths: [[UInt32]: String] = [:]
        var paths = [String](repeating: "", count: recordCount)
        for record in 0..<UInt32(recordCount) {
            if record > 0 { paths[Int(record)] = paths[Int(parent(record))] + "/" + text(name(record)) }
            let node = node(record)
            let path = paths[Int(record)]
            var row = layers[node.layer].row(node.record)
            row.links = node.linkCount
            row.flags = []
            if row.mode & 0o170000 == 0o040000 {
                row.first = path
            } else {
                let key = [UInt32(node.layer), node.record]
                if firstPaths[key] == nil { firstPaths[key] = path }
                row.first = firstPaths[key] ?? ""
            }
            rows[path] = row
        }
        return rows
    }
}

/// Entries of a TOC as JSON objects' bodies.
func toc(_ entries: String...) -> [UInt8] {
    Array("{\"version\":1,\"entries\":[\(entries.map { "{\($0)}" }.joined(separator: ","))]}".utf8)
}

let testLayer = Digest(words: (1, 2, 3, 4))

/// Builds an index of JSON: the TOC of a blob of 2,000,000 bytes, at byte 1,000,000.
func build(
    _ json: [UInt8],
    layer: Digest = testLayer,
    tocOffset: UInt64 = 1_000_000,
    note: (String) -> Void = { _ in }
) throws -> LayerIndex {
    let source = TOCSource(layerDigest: layer, blobSize: 2_000_000, tocOffset: tocOffset, promisedDigest: nil)
    let bytes = try unsafe LayerIndexBuilder.build(
        json: UniqueBytes(copying: json.span.bytes),
        source: source,
        note: note
    )
    return try LayerIndex(bytes: bytes.share(), layer: layer)
}

/// The error that building an index of this JSON gives; nil when it gives none.
func failure(_ json: [UInt8]) -> LayerFormatError? {
    do {
        _ = try build(json)
        return nil
    } catch {
        return error as? LayerFormatError
    }
}
