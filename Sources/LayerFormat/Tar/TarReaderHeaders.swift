// Headers: the ones that extend an entry, and the entry's own.
extension TarReader where Source: ~Copyable {
    /// The extension headers in front of an entry.
    private struct Extensions {
        var pax: PaxHeader
        var longName: [UInt8]?
        var longLink: [UInt8]?
        var bytes = 0
        var isEmpty = true
    }

    mutating func readEntry() throws(TarError) -> TarEntry? {
        var extensions = Extensions(pax: globals)
        while true {
            let offset = input.offset
            let block = try takeBlock()
            guard block.count == TarHeader.blockSize else {
                if block.isEmpty && extensions.isEmpty {
                    finished = true
                    return nil
                }
                throw fail(.truncated, "the archive ends in the middle of a header")
            }
            if block.allSatisfy({ $0 == 0 }) {
                try checkEnd(after: extensions, at: offset)
                return nil
            }
            guard let header = TarHeader(block: block) else {
                throw fail(.corrupt, "this is not a tar header: its checksum does not hold", at: offset)
            }
            switch header.typeflag {
            case UInt8(ascii: "x"), UInt8(ascii: "X"), UInt8(ascii: "g"), UInt8(ascii: "L"), UInt8(ascii: "K"):
                try readExtension(header, at: offset, into: &extensions)
            case UInt8(ascii: "V"):
                // A volume label: a name for the archive, not an entry.
                try skipExtension(header, at: offset)
            case UInt8(ascii: "M"):
                throw fail(.unsupported, "this is a later volume of a multi-volume archive", at: offset)
            default:
                return try makeEntry(header, extensions, at: offset)
            }
        }
    }

    /// After a zero block: the end, unless a header follows that a lone zero block would hide.
    private mutating func checkEnd(after extensions: Extensions, at offset: UInt64) throws(TarError) {
        guard extensions.isEmpty else {
            throw fail(.truncated, "the archive ends after an extension header", at: offset)
        }
        if TarHeader(block: try peekBlock()) != nil {
            throw fail(.corrupt, "a single zero block stands between two entries", at: offset)
        }
        finished = true
    }

    private mutating func skipExtension(_ header: TarHeader, at offset: UInt64) throws(TarError) {
        let size = try parse(at: offset) { () throws(TarFault) in try header.size() }
        try skip(size, thenPadding: Self.padding(size))
    }

    private mutating func readExtension(
        _ header: TarHeader,
        at offset: UInt64,
        into extensions: inout Extensions
    ) throws(TarError) {
        let size = try parse(at: offset) { () throws(TarFault) in try header.size() }
        // The headers themselves count, so that no number of empty ones keeps the reader busy with one entry.
        let room = Self.extensionLimit - extensions.bytes - TarHeader.blockSize
        guard room >= 0, size <= UInt64(room) else {
            throw fail(.tooLarge, "extension headers of more than \(Self.extensionLimit) bytes", at: offset)
        }
        var body: [UInt8] = []
        body.reserveCapacity(Int(size))
        while body.count < Int(size) {
            let block = try takeBlock()
            guard block.count == TarHeader.blockSize else {
                throw fail(.truncated, "the archive ends in the middle of an extension header")
            }
            body.append(contentsOf: block.prefix(Int(size) - body.count))
        }
        extensions.bytes += Int(size) + TarHeader.blockSize
        if header.typeflag != UInt8(ascii: "g") { extensions.isEmpty = false }
        try apply(header.typeflag, body, at: offset, to: &extensions)
    }

    private mutating func apply(
        _ typeflag: UInt8,
        _ body: [UInt8],
        at offset: UInt64,
        to extensions: inout Extensions
    ) throws(TarError) {
        switch typeflag {
        case UInt8(ascii: "L"): extensions.longName = Array(body.prefix { $0 != 0 })
        case UInt8(ascii: "K"): extensions.longLink = Array(body.prefix { $0 != 0 })
        case UInt8(ascii: "g"):
            var changed = globals
            try parse(at: offset) { () throws(TarFault) in try changed.apply(body, global: true) }
            globals = changed
            var pax = extensions.pax
            try parse(at: offset) { () throws(TarFault) in try pax.apply(body, global: true) }
            extensions.pax = pax
        default:
            var pax = extensions.pax
            try parse(at: offset) { () throws(TarFault) in try pax.apply(body, global: false) }
            extensions.pax = pax
        }
    }

    private mutating func makeEntry(
        _ header: TarHeader,
        _ extensions: Extensions,
        at offset: UInt64
    ) throws(TarError) -> TarEntry {
        let pax = extensions.pax
        let path = pax.sparse.name ?? pax.path ?? extensions.longName ?? header.name
        lastPath = path
        guard !path.isEmpty else { throw fail(.corrupt, "an entry has no name", at: offset) }
        let kind = Self.kind(header.typeflag, path)
        var entry = TarEntry(path: path, kind: kind)
        var stored: UInt64 = 0
        try parse(at: offset) { () throws(TarFault) in
            entry.mode = try header.mode()
            entry.uid = if let uid = pax.uid { uid } else { try header.uid() }
            entry.gid = if let gid = pax.gid { gid } else { try header.gid() }
            entry.mtimeSeconds = if let mtime = pax.mtime { mtime.seconds } else { try header.mtime() }
            entry.mtimeNanoseconds = pax.mtime?.nanoseconds ?? 0
            stored = if let size = pax.size { size } else { try header.size() }
            if kind == .character || kind == .block {
                (entry.deviceMajor, entry.deviceMinor) = try header.device()
            }
        }
        entry.userName = pax.userName ?? header.userName
        entry.groupName = pax.groupName ?? header.groupName
        entry.xattrs = pax.allXattrs
        entry.otherRecords = pax.others
        if kind == .symlink || kind == .hardLink {
            entry.linkTarget = pax.linkPath ?? extensions.longLink ?? header.linkName
            guard !entry.linkTarget.isEmpty else { throw fail(.corrupt, "a link has no target", at: offset) }
        }
        try startContent(of: &entry, header, pax, stored: stored, at: offset)
        return entry
    }

    private static func kind(_ typeflag: UInt8, _ path: [UInt8]) -> TarEntry.Kind {
        switch typeflag {
        case UInt8(ascii: "1"): .hardLink
        case UInt8(ascii: "2"): .symlink
        case UInt8(ascii: "3"): .character
        case UInt8(ascii: "4"): .block
        case UInt8(ascii: "5"), UInt8(ascii: "D"): .directory
        case UInt8(ascii: "6"): .fifo
        // v7 had no type for directories; and POSIX says to take what one does not know for a file.
        default: path.last == UInt8(ascii: "/") ? .directory : .regular
        }
    }

    private mutating func startContent(
        of entry: inout TarEntry,
        _ header: TarHeader,
        _ pax: PaxHeader,
        stored: UInt64,
        at offset: UInt64
    ) throws(TarError) {
        var stored = stored
        switch entry.kind {
        case .regular: break
        case .hardLink:
            // Most writers store no content for a link, some repeat the size of the file that it names all the same:
            // a header (or the end) right here means that nothing is stored.
            if stored > 0 {
                let next = try peekBlock()
                if next.count < TarHeader.blockSize || next.allSatisfy({ $0 == 0 }) || TarHeader(block: next) != nil {
                    stored = 0
                }
            }
        case .directory
        where header.typeflag == UInt8(ascii: "D") || header.typeflag == UInt8(ascii: "0")
            || header.typeflag == 0:
            // A list of names in GNU dumps: skipped. Old directories have none.
            break
        default: stored = 0
        }
        content.stored = stored
        content.padding = Self.padding(stored)
        guard entry.kind == .regular else { return }
        content.size = stored
        if let map = try readSparseMap(header, pax, at: offset) {
            content.map = map
            content.size = map.size
            entry.holeBytes = map.size - map.storedBytes
        }
        entry.size = content.size
    }
}
