/// What PAX records say about an entry.
struct PaxHeader {
    var path: [UInt8]?
    var linkPath: [UInt8]?
    var size: UInt64?
    var uid: UInt32?
    var gid: UInt32?
    var mtime: (seconds: Int64, nanoseconds: UInt32)?
    var userName: [UInt8]?
    var groupName: [UInt8]?
    var xattrs = XattrList()
    var libarchiveXattrs = XattrList()
    var others: [PaxRecord] = []
    var sparse = Sparse()

    /// Attributes in the order in which their names first came; a later value replaces an earlier one.
    struct XattrList {
        private(set) var all: [TarXattr] = []
        // A header can have tens of thousands of names.
        private var positions: [[UInt8]: Int] = [:]

        func has(_ name: [UInt8]) -> Bool { positions[name] != nil }

        mutating func set(_ xattr: TarXattr) {
            if let position = positions[xattr.name] {
                all[position] = xattr
            } else {
                positions[xattr.name] = all.count
                all.append(xattr)
            }
        }
    }

    /// The records of the three GNU sparse formats that use PAX headers.
    struct Sparse {
        var major: UInt64?
        var minor: UInt64?
        var name: [UInt8]?
        var realSize: UInt64?
        var blockCount: UInt64?
        var map: [SparseMap.Segment]?
        /// The offset of a pair whose length has not come yet (format 0.0).
        var pendingOffset: UInt64?
    }

    /// The xattrs of all record families; a name that two families have counts as star writes it.
    var allXattrs: [TarXattr] {
        xattrs.all + libarchiveXattrs.all.filter { !xattrs.has($0.name) }
    }

    /// Applies the records in the body of an extended header: `length keyword=value\n`, the length counting all of it.
    mutating func apply(_ body: [UInt8], global: Bool) throws(TarFault) {
        var start = body.startIndex
        while start < body.endIndex {
            // Some writers pad the body with NULs.
            if body[start] == 0 {
                guard body[start...].allSatisfy({ $0 == 0 }) else { throw TarFault("an extended header has NULs") }
                return
            }
            let record = try Self.record(in: body, at: &start)
            try apply(record, global: global)
        }
    }

    private static func record(in body: [UInt8], at start: inout Int) throws(TarFault) -> PaxRecord {
        var length = 0
        var index = start
        while index < body.endIndex, (0x30...0x39).contains(body[index]), length < 1 << 30 {
            length = length * 10 + Int(body[index] - 0x30)
            index += 1
        }
        let end = start + length
        guard index > start, index < body.endIndex, body[index] == 0x20, end <= body.endIndex, end > index + 2,
            body[end - 1] == UInt8(ascii: "\n")
        else { throw TarFault("a record of an extended header has a wrong length") }
        let content = body[index + 1..<end - 1]
        guard let equals = content.firstIndex(of: UInt8(ascii: "=")), equals > content.startIndex else {
            throw TarFault("a record of an extended header has no keyword")
        }
        start = end
        return PaxRecord(key: Array(content[..<equals]), value: Array(content[(equals + 1)...]))
    }

    private mutating func apply(_ record: PaxRecord, global: Bool) throws(TarFault) {
        let key = String(decoding: record.key, as: UTF8.self)
        let value = record.value
        // An empty value takes back what an earlier header said.
        switch key {
        case "path": path = value.isEmpty ? nil : try Self.name(value, key)
        case "linkpath": linkPath = value.isEmpty ? nil : try Self.name(value, key)
        case "size": size = value.isEmpty ? nil : try Self.unsigned(value, key)
        case "uid": uid = value.isEmpty ? nil : try Self.identifier(value, key)
        case "gid": gid = value.isEmpty ? nil : try Self.identifier(value, key)
        case "mtime": mtime = value.isEmpty ? nil : try Self.time(value)
        case "uname": userName = value.isEmpty ? nil : try Self.name(value, key)
        case "gname": groupName = value.isEmpty ? nil : try Self.name(value, key)
        case "hdrcharset", "charset", "comment": break
        default:
            // What describes one file only has no meaning in a global header.
            if global { return }
            if key.hasPrefix("GNU.sparse.") {
                try applySparse(key, value)
            } else if let name = Self.suffix(of: record.key, after: "SCHILY.xattr.") {
                xattrs.set(TarXattr(name: try Self.name(Self.unescapedGNU(name), key), value: value))
            } else if let name = Self.suffix(of: record.key, after: "LIBARCHIVE.xattr.") {
                try applyLibarchive(name, value)
            } else {
                others.append(record)
            }
        }
    }

    private mutating func applySparse(_ key: String, _ value: [UInt8]) throws(TarFault) {
        switch key {
        case "GNU.sparse.major": sparse.major = try Self.unsigned(value, key)
        case "GNU.sparse.minor": sparse.minor = try Self.unsigned(value, key)
        case "GNU.sparse.name": sparse.name = try Self.name(value, key)
        case "GNU.sparse.realsize", "GNU.sparse.size": sparse.realSize = try Self.unsigned(value, key)
        case "GNU.sparse.numblocks": sparse.blockCount = try Self.unsigned(value, key)
        case "GNU.sparse.offset":
            guard sparse.pendingOffset == nil else { throw TarFault("its sparse map has two offsets in a row") }
            sparse.pendingOffset = try Self.unsigned(value, key)
        case "GNU.sparse.numbytes":
            guard let offset = sparse.pendingOffset else {
                throw TarFault("its sparse map has a length without offset")
            }
            sparse.pendingOffset = nil
            sparse.map = sparse.map ?? []
            sparse.map?.append(SparseMap.Segment(offset: offset, length: try Self.unsigned(value, key)))
        case "GNU.sparse.map":
            var numbers: [UInt64] = []
            if !value.isEmpty {
                for part in value.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false) {
                    numbers.append(try Self.unsigned(Array(part), key))
                }
            }
            guard numbers.count % 2 == 0 else { throw TarFault("its sparse map has an offset without length") }
            sparse.map = stride(from: 0, to: numbers.count, by: 2).map {
                SparseMap.Segment(offset: numbers[$0], length: numbers[$0 + 1])
            }
        default: break
        }
    }

    private mutating func applyLibarchive(_ escaped: [UInt8], _ value: [UInt8]) throws(TarFault) {
        let key = "LIBARCHIVE.xattr"
        guard let name = Self.unescapedURL(escaped), let decoded = base64Decoded(value) else {
            throw TarFault("its \(key) record is not encoded as libarchive does")
        }
        libarchiveXattrs.set(TarXattr(name: try Self.name(name, key), value: decoded))
    }

    private static func suffix(of key: [UInt8], after prefix: String) -> [UInt8]? {
        key.starts(with: prefix.utf8) ? Array(key.dropFirst(prefix.utf8.count)) : nil
    }

    private static func name(_ value: [UInt8], _ key: String) throws(TarFault) -> [UInt8] {
        guard !value.isEmpty, !value.contains(0) else { throw TarFault("its \(key) record is empty or has a NUL") }
        return value
    }

    private static func unsigned(_ value: [UInt8], _ key: String) throws(TarFault) -> UInt64 {
        guard let number = decimal(value[...]), number <= UInt64(Int64.max) else {
            throw TarFault("its \(key) record is not a number below 2^63")
        }
        return number
    }

    private static func identifier(_ value: [UInt8], _ key: String) throws(TarFault) -> UInt32 {
        guard let number = UInt32(exactly: try unsigned(value, key)) else {
            throw TarFault("its \(key) record is no 32-bit number")
        }
        return number
    }

    /// Seconds with an optional sign and fraction; digits beyond nanoseconds are cut off.
    private static func time(_ value: [UInt8]) throws(TarFault) -> (seconds: Int64, nanoseconds: UInt32) {
        let negative = value.first == UInt8(ascii: "-")
        let parts = value[(negative ? 1 : 0)...].split(
            separator: UInt8(ascii: "."),
            maxSplits: 1,
            omittingEmptySubsequences: false
        )
        let fault = TarFault("its mtime record is not a time")
        guard let whole = parts.first, let seconds = decimal(whole), seconds < 1 << 62 else { throw fault }
        var nanoseconds: UInt32 = 0
        if parts.count == 2 {
            guard parts[1].allSatisfy({ (0x30...0x39).contains($0) }) else { throw fault }
            for index in 0..<9 {
                let position = parts[1].startIndex + index
                nanoseconds = nanoseconds * 10 + (position < parts[1].endIndex ? UInt32(parts[1][position] - 0x30) : 0)
            }
        }
        guard negative else { return (Int64(seconds), nanoseconds) }
        return nanoseconds == 0
            ? (-Int64(seconds), 0) : (-Int64(seconds) - 1, 1_000_000_000 - nanoseconds)
    }

    private static func decimal(_ digits: ArraySlice<UInt8>) -> UInt64? {
        if digits.isEmpty { return nil }
        var value: UInt64 = 0
        for digit in digits {
            guard (0x30...0x39).contains(digit) else { return nil }
            let (scaled, high) = value.multipliedReportingOverflow(by: 10)
            let (sum, low) = scaled.addingReportingOverflow(UInt64(digit - 0x30))
            if high || low { return nil }
            value = sum
        }
        return value
    }

    /// GNU tar writes `=` and `%` in the name of an xattr as `%3D` and `%25`.
    private static func unescapedGNU(_ name: [UInt8]) -> [UInt8] {
        guard name.contains(UInt8(ascii: "%")) else { return name }
        var result: [UInt8] = []
        var rest = name[...]
        while let byte = rest.first {
            if rest.starts(with: "%3D".utf8) {
                result.append(UInt8(ascii: "="))
                rest = rest.dropFirst(3)
            } else if rest.starts(with: "%25".utf8) {
                result.append(UInt8(ascii: "%"))
                rest = rest.dropFirst(3)
            } else {
                result.append(byte)
                rest = rest.dropFirst()
            }
        }
        return result
    }

    private static func unescapedURL(_ name: [UInt8]) -> [UInt8]? {
        var result: [UInt8] = []
        var index = name.startIndex
        while index < name.endIndex {
            guard name[index] == UInt8(ascii: "%") else {
                result.append(name[index])
                index += 1
                continue
            }
            guard index + 2 < name.endIndex,
                let byte = UInt8(String(decoding: name[index + 1...index + 2], as: UTF8.self), radix: 16)
            else { return nil }
            result.append(byte)
            index += 3
        }
        return result
    }
}

/// Decodes base64 (RFC 4648, section 4), with or without padding; nil for anything else.
func base64Decoded(_ text: [UInt8]) -> [UInt8]? {
    var result: [UInt8] = []
    var bits: UInt32 = 0
    var count = 0
    var digits = text[...]
    while digits.last == UInt8(ascii: "=") { digits.removeLast() }
    guard digits.count % 4 != 1 else { return nil }
    for digit in digits {
        let value: UInt8
        switch digit {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = digit - UInt8(ascii: "A")
        case UInt8(ascii: "a")...UInt8(ascii: "z"): value = digit - UInt8(ascii: "a") + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): value = digit - UInt8(ascii: "0") + 52
        case UInt8(ascii: "+"): value = 62
        case UInt8(ascii: "/"): value = 63
        default: return nil
        }
        bits = bits << 6 | UInt32(value)
        count += 6
        if count >= 8 {
            count -= 8
            result.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
        }
    }
    return result
}
