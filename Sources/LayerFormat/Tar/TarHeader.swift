/// The fields of a 512-byte tar header block (POSIX.1-2017 ustar; v7, GNU and star variants of it).
struct TarHeader {
    static let blockSize = 512

    private let block: [UInt8]

    /// Takes a block whose checksum holds; nil for any other.
    init?(block: [UInt8]) {
        guard block.count == Self.blockSize, Self.checksumHolds(block) else { return nil }
        self.block = block
    }

    /// The sum of all bytes with the checksum field read as spaces; old writers added signed characters.
    private static func checksumHolds(_ block: [UInt8]) -> Bool {
        guard let stored = try? number(block[148..<156], field: "checksum") else { return false }
        var unsigned: Int64 = 8 * 0x20
        var signed: Int64 = 8 * 0x20
        for index in block.indices where !(148..<156).contains(index) {
            unsigned += Int64(block[index])
            signed += Int64(Int8(bitPattern: block[index]))
        }
        return stored == unsigned || stored == signed
    }

    enum Dialect { case v7, ustar, gnu, star }

    var dialect: Dialect {
        if block[257..<265].elementsEqual("ustar  \0".utf8) { return .gnu }
        if block[257..<263].elementsEqual("ustar\0".utf8) || block[257..<263].elementsEqual("ustar ".utf8) {
            return block[508..<512].elementsEqual("tar\0".utf8) ? .star : .ustar
        }
        return .v7
    }

    var typeflag: UInt8 { block[156] }

    /// The name with its prefix, where the dialect has one.
    var name: [UInt8] {
        let name = text(0..<100)
        let prefix: [UInt8] =
            switch dialect {
            case .ustar: text(345..<500)
            // star keeps times behind a shorter prefix.
            case .star: text(345..<476)
            case .v7, .gnu: []
            }
        return prefix.isEmpty ? name : prefix + [UInt8(ascii: "/")] + name
    }

    var linkName: [UInt8] { text(157..<257) }
    var userName: [UInt8] { dialect == .v7 ? [] : text(265..<297) }
    var groupName: [UInt8] { dialect == .v7 ? [] : text(297..<329) }

    func mode() throws(TarFault) -> UInt32 {
        // Some writers leave S_IFMT bits in the field.
        UInt32(truncatingIfNeeded: try number(100..<108, "mode") & 0o7777)
    }

    func uid() throws(TarFault) -> UInt32 { try identifier(108..<116, "uid") }
    func gid() throws(TarFault) -> UInt32 { try identifier(116..<124, "gid") }
    func mtime() throws(TarFault) -> Int64 { try number(136..<148, "mtime") }

    func size() throws(TarFault) -> UInt64 {
        guard let size = UInt64(exactly: try number(124..<136, "size")) else { throw TarFault("its size is negative") }
        return size
    }

    func device() throws(TarFault) -> (major: UInt32, minor: UInt32) {
        guard dialect != .v7 else { return (0, 0) }
        return (try identifier(329..<337, "device major"), try identifier(337..<345, "device minor"))
    }

    /// Logical size and first segments of an old GNU sparse file ('S'), and whether a block with more follows.
    func oldGNUSparse() throws(TarFault) -> (size: UInt64, segments: [SparseMap.Segment], more: Bool) {
        guard let size = UInt64(exactly: try number(483..<495, "real size")) else {
            throw TarFault("its real size is negative")
        }
        return (size, try Self.segments(block[386..<482]), block[482] != 0)
    }

    /// The segments of a continuation block of an old GNU sparse file, and whether another one follows.
    static func oldGNUSparseContinuation(
        _ block: [UInt8]
    ) throws(TarFault) -> (segments: [SparseMap.Segment], more: Bool) {
        (try segments(block[0..<504]), block[504] != 0)
    }

    private static func segments(_ bytes: ArraySlice<UInt8>) throws(TarFault) -> [SparseMap.Segment] {
        var segments: [SparseMap.Segment] = []
        var start = bytes.startIndex
        while start < bytes.endIndex {
            // An unused slot starts with a NUL.
            if bytes[start] == 0 { break }
            let offset = try Self.number(bytes[start..<start + 12], field: "sparse offset")
            let length = try Self.number(bytes[start + 12..<start + 24], field: "sparse length")
            guard let offset = UInt64(exactly: offset), let length = UInt64(exactly: length) else {
                throw TarFault("its sparse map has a negative number")
            }
            segments.append(SparseMap.Segment(offset: offset, length: length))
            start += 24
        }
        return segments
    }

    private func text(_ range: Range<Int>) -> [UInt8] {
        let field = block[range]
        return Array(field.prefix { $0 != 0 })
    }

    private func number(_ range: Range<Int>, _ field: String) throws(TarFault) -> Int64 {
        try Self.number(block[range], field: field)
    }

    private func identifier(_ range: Range<Int>, _ field: String) throws(TarFault) -> UInt32 {
        let value = try number(range, field)
        guard let result = UInt32(exactly: value) else { throw TarFault("its \(field) \(value) is no 32-bit number") }
        return result
    }

    /// A numeric field: octal digits between spaces and NULs, or, with the first bit set, a big-endian two's
    /// complement number (base-256). An empty field is 0.
    static func number(_ bytes: ArraySlice<UInt8>, field: String) throws(TarFault) -> Int64 {
        guard let first = bytes.first else { return 0 }
        if first & 0x80 != 0 { return try base256(bytes, field: field) }
        let isBlank = { (byte: UInt8) in byte == 0 || byte == 0x20 }
        let digits = bytes.drop(while: isBlank).prefix { !isBlank($0) }
        var value: Int64 = 0
        for digit in digits {
            // At most 12 digits of 3 bits: no overflow.
            guard (0x30...0x37).contains(digit) else { throw TarFault("its \(field) is not a number") }
            value = value << 3 | Int64(digit - 0x30)
        }
        return value
    }

    private static func base256(_ bytes: ArraySlice<UInt8>, field: String) throws(TarFault) -> Int64 {
        // The first bit is the mark, the second one the sign.
        let first = bytes[bytes.startIndex]
        var value: Int64 = first & 0x40 == 0 ? Int64(first & 0x3f) : Int64(first & 0x3f) - 0x40
        for byte in bytes.dropFirst() {
            let (shifted, overflow) = value.multipliedReportingOverflow(by: 256)
            if overflow { throw TarFault("its \(field) does not fit in 64 bits") }
            value = shifted | Int64(byte)
        }
        return value
    }
}
