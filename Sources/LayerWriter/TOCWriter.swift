internal import LayerFormat
internal import OCIModel

/// Builds a TOC's JSON as the blob grows. Entries are written in the order of the tar stream, each as soon as the
/// offsets of its chunks are known, so that only the JSON itself grows with the layer.
struct TOCWriter {
    /// crfs and others refuse to read more.
    static let sizeLimit = 256 * 1024 * 1024

    private struct Pending {
        var entry: TarEntry
        var chunkCount: Int
        /// The digest of the whole file, when it has several chunks.
        var digest: Digest?
    }

    private struct WrittenChunk {
        var offset: UInt64
        var end: UInt64
        var digest: Digest
    }

    private let format: OutputFormat
    private let chunkSize: UInt64
    private var json = JSONText()
    private var isFirst = true
    private var pending: [Pending] = []
    private var pendingHead = 0
    private var chunks: [WrittenChunk] = []
    private var lastUserName: [UInt32: [UInt8]] = [:]
    private var lastGroupName: [UInt32: [UInt8]] = [:]

    private static let emptyDigest = Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

    init(format: OutputFormat, chunkSize: Int) {
        self.format = format
        self.chunkSize = UInt64(chunkSize)
        json.raw("{\"version\":1,\"entries\":[\n")
    }

    /// How many bytes the JSON has so far.
    var byteCount: Int { json.bytes.count }

    /// Adds the next entry, which will have `chunkCount` chunks.
    mutating func add(_ entry: TarEntry, chunkCount: Int) {
        pending.append(Pending(entry: entry, chunkCount: chunkCount))
        flush()
    }

    /// Sets the digest of the file that was added last, which has several chunks.
    mutating func setFileDigest(_ digest: Digest) {
        pending[pending.count - 1].digest = digest
        flush()
    }

    /// Says where the next chunk's member starts in the blob, and where it ends.
    mutating func chunkWritten(at offset: UInt64, end: UInt64, digest: Digest) {
        chunks.append(WrittenChunk(offset: offset, end: end, digest: digest))
        flush()
    }

    /// The whole JSON, once all chunks are written.
    mutating func finish() -> [UInt8] {
        precondition(pendingHead == pending.count && chunks.isEmpty, "chunks of a TOC entry are missing")
        json.raw("\n]}\n")
        return json.bytes
    }

    private mutating func flush() {
        while pendingHead < pending.count {
            let next = pending[pendingHead]
            guard chunks.count >= next.chunkCount, next.chunkCount < 2 || next.digest != nil else { break }
            write(next)
            chunks.removeFirst(next.chunkCount)
            pendingHead += 1
        }
        // Keeps removal linear in the number of entries.
        if pendingHead == pending.count || pendingHead > 4096 {
            pending.removeFirst(pendingHead)
            pendingHead = 0
        }
    }

    private mutating func write(_ item: Pending) {
        let entry = item.entry
        begin(entry.path, type: Self.type(entry.kind))
        if entry.kind == .regular { number("size", entry.size) }
        if let time = JSONText.time(entry.mtimeSeconds, entry.mtimeNanoseconds) {
            string("modtime", Array(time.utf8))
        } else if format == .zstdChunked {
            // The containers tools take a time that is absent for the time of unpacking.
            string("modtime", Array("1970-01-01T00:00:00Z".utf8))
        }
        string("linkName", entry.linkTarget)
        number("mode", UInt64(entry.mode))
        number("uid", UInt64(entry.uid))
        number("gid", UInt64(entry.gid))
        if !entry.userName.isEmpty, lastUserName.updateValue(entry.userName, forKey: entry.uid) != entry.userName {
            string("userName", entry.userName)
        }
        if !entry.groupName.isEmpty, lastGroupName.updateValue(entry.groupName, forKey: entry.gid) != entry.groupName {
            string("groupName", entry.groupName)
        }
        if item.chunkCount > 0 { number("offset", chunks[0].offset) }
        number("devMajor", UInt64(entry.deviceMajor))
        number("devMinor", UInt64(entry.deviceMinor))
        linkCount()
        xattrs(entry.xattrs)
        if entry.kind == .regular {
            digest("digest", item.chunkCount == 0 ? Self.emptyDigest : item.digest ?? chunks[0].digest)
        }
        if item.chunkCount > 0 && format == .zstdChunked { number("endOffset", chunks[item.chunkCount - 1].end) }
        if item.chunkCount > 1 { number("chunkSize", chunkSize) }
        if item.chunkCount > 0 && format != .stargz { digest("chunkDigest", chunks[0].digest) }
        end()
        for index in 1..<max(1, item.chunkCount) {
            begin(entry.path, type: "chunk")
            number("offset", chunks[index].offset)
            linkCount()
            number("chunkOffset", UInt64(index) * chunkSize)
            // The last one goes to the end of the file; the containers tools want its size all the same.
            if index + 1 < item.chunkCount {
                number("chunkSize", chunkSize)
            } else if format == .zstdChunked {
                number("chunkSize", entry.size - UInt64(index) * chunkSize)
            }
            if format != .stargz { digest("chunkDigest", chunks[index].digest) }
            end()
        }
    }

    private static func type(_ kind: TarEntry.Kind) -> String {
        switch kind {
        case .regular: "reg"
        case .directory: "dir"
        case .symlink: "symlink"
        case .hardLink: "hardlink"
        case .character: "char"
        case .block: "block"
        case .fifo: "fifo"
        }
    }

    private mutating func begin(_ path: [UInt8], type: String) {
        json.raw(isFirst ? "{\"name\":" : ",\n{\"name\":")
        isFirst = false
        json.string(path)
        json.raw(",\"type\":\"\(type)\"")
    }

    private mutating func end() { json.raw("}") }

    /// Zero is what an absent number means.
    private mutating func number(_ key: String, _ value: UInt64) {
        if value != 0 { json.raw(",\"\(key)\":\(value)") }
    }

    private mutating func string(_ key: String, _ value: [UInt8]) {
        if value.isEmpty { return }
        json.raw(",\"\(key)\":")
        json.string(value)
    }

    private mutating func digest(_ key: String, _ value: Digest?) {
        if let value { json.raw(",\"\(key)\":\"\(value)\"") }
    }

    /// The original stargz always has this field, and readers count the links themselves.
    private mutating func linkCount() {
        if format == .stargz { json.raw(",\"NumLink\":0") }
    }

    private mutating func xattrs(_ xattrs: [TarXattr]) {
        if xattrs.isEmpty { return }
        json.raw(",\"xattrs\":{")
        let sorted = xattrs.sorted { $0.name.lexicographicallyPrecedes($1.name) }
        for (index, xattr) in sorted.enumerated() {
            if index > 0 { json.raw(",") }
            json.string(xattr.name)
            json.raw(":\"")
            json.base64(xattr.value)
            json.raw("\"")
        }
        json.raw("}")
    }
}
