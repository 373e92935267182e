/// Writes tar headers: ustar where it is enough, with a PAX extended header before it where it is not. The same entry
/// always gives the same bytes.
public enum TarHeaderEncoder {
    /// The two zero blocks at the end of an archive.
    public static let endMarker = [UInt8](repeating: 0, count: 2 * TarHeader.blockSize)

    /// How many zero bytes follow content of `size` bytes.
    public static func padding(after size: UInt64) -> Int {
        Int((512 - size % 512) % 512)
    }

    /// The header blocks of an entry, a multiple of 512 bytes. Sparse files are described as if they had no holes.
    public static func encode(_ entry: TarEntry) -> [UInt8] {
        var records: [UInt8] = []
        let block = header(of: entry, records: &records)
        for xattr in entry.xattrs {
            append("SCHILY.xattr.".utf8 + escaped(xattr.name), xattr.value, to: &records)
        }
        for record in entry.otherRecords { append(record.key, record.value, to: &records) }
        if records.isEmpty { return block }

        var result = extensionHeader(of: entry, size: records.count)
        result += records
        result += [UInt8](repeating: 0, count: padding(after: UInt64(records.count)))
        result += block
        return result
    }

    private static func header(of entry: TarEntry, records: inout [UInt8]) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: TarHeader.blockSize)
        if !setName(entry.path, in: &block) {
            append(Array("path".utf8), entry.path, to: &records)
        }
        if entry.kind == .symlink || entry.kind == .hardLink {
            set(entry.linkTarget, 157..<257, in: &block)
            if entry.linkTarget.count > 100 { append(Array("linkpath".utf8), entry.linkTarget, to: &records) }
        }
        let size = entry.kind == .regular ? entry.size : 0
        setNumber(UInt64(entry.mode & 0o7777), 100..<108, in: &block)
        if !setNumber(size, 124..<136, in: &block) { append("size", size, to: &records) }
        if !setNumber(UInt64(entry.uid), 108..<116, in: &block) { append("uid", UInt64(entry.uid), to: &records) }
        if !setNumber(UInt64(entry.gid), 116..<124, in: &block) { append("gid", UInt64(entry.gid), to: &records) }
        for (key, name, field) in [("uname", entry.userName, 265..<297), ("gname", entry.groupName, 297..<329)] {
            // The field ends with a NUL.
            set(Array(name.prefix(31)), field, in: &block)
            if name.count > 31 { append(Array(key.utf8), name, to: &records) }
        }
        let seconds = UInt64(exactly: entry.mtimeSeconds)
        let fits = setNumber(seconds ?? 0, 136..<148, in: &block)
        if seconds == nil || !fits || entry.mtimeNanoseconds != 0 {
            append(Array("mtime".utf8), decimalTime(entry.mtimeSeconds, entry.mtimeNanoseconds), to: &records)
        }
        if entry.kind == .character || entry.kind == .block {
            setDevice(entry.deviceMajor, 329..<337, in: &block)
            setDevice(entry.deviceMinor, 337..<345, in: &block)
        } else {
            setNumber(0, 329..<337, in: &block)
            setNumber(0, 337..<345, in: &block)
        }
        seal(&block, typeflag: typeflag(entry.kind))
        return block
    }

    private static func typeflag(_ kind: TarEntry.Kind) -> UInt8 {
        switch kind {
        case .regular: UInt8(ascii: "0")
        case .hardLink: UInt8(ascii: "1")
        case .symlink: UInt8(ascii: "2")
        case .character: UInt8(ascii: "3")
        case .block: UInt8(ascii: "4")
        case .directory: UInt8(ascii: "5")
        case .fifo: UInt8(ascii: "6")
        }
    }

    /// The header of the extended header itself. Its name is for readers that know no PAX headers.
    private static func extensionHeader(of entry: TarEntry, size: Int) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: TarHeader.blockSize)
        let base = entry.path.split(separator: UInt8(ascii: "/")).last ?? []
        set(Array("PaxHeaders/".utf8) + base.prefix(80), 0..<100, in: &block)
        setNumber(0o644, 100..<108, in: &block)
        for field in [108..<116, 116..<124, 136..<148, 329..<337, 337..<345] { setNumber(0, field, in: &block) }
        setNumber(UInt64(size), 124..<136, in: &block)
        seal(&block, typeflag: UInt8(ascii: "x"))
        return block
    }

    private static func seal(_ block: inout [UInt8], typeflag: UInt8) {
        block[156] = typeflag
        set(Array("ustar\0".utf8) + Array("00".utf8), 257..<265, in: &block)
        var sum = 8 * 0x20
        for byte in block { sum += Int(byte) }
        // Six digits, a NUL and a space, as everyone writes it.
        setNumber(UInt64(sum), 148..<155, in: &block)
        block[155] = 0x20
    }

    /// Puts a name into the name field, or into prefix and name at a slash. False when it does not fit: then its first
    /// bytes are there, for readers that know no PAX headers.
    private static func setName(_ path: [UInt8], in block: inout [UInt8]) -> Bool {
        if path.count <= 100 {
            set(path, 0..<100, in: &block)
            return true
        }
        if path.count <= 256 {
            // The first slash that leaves a name of at most 100 bytes.
            for index in max(1, path.count - 101)..<min(path.count - 1, 156) where path[index] == UInt8(ascii: "/") {
                set(Array(path[..<index]), 345..<500, in: &block)
                set(Array(path[(index + 1)...]), 0..<100, in: &block)
                return true
            }
        }
        set(path, 0..<100, in: &block)
        return false
    }

    /// Copies as much of `bytes` as fits.
    private static func set(_ bytes: [UInt8], _ field: Range<Int>, in block: inout [UInt8]) {
        for (index, byte) in zip(field, bytes) { block[index] = byte }
    }

    /// Writes octal digits and a NUL. False when they do not fit: then the field is zero.
    @discardableResult
    private static func setNumber(_ value: UInt64, _ field: Range<Int>, in block: inout [UInt8]) -> Bool {
        let digits = field.count - 1
        let fits = value >> UInt64(3 * digits) == 0
        var rest = fits ? value : 0
        for index in (field.lowerBound..<field.upperBound - 1).reversed() {
            block[index] = 0x30 + UInt8(rest & 7)
            rest >>= 3
        }
        return fits
    }

    /// PAX has no record for device numbers: what does not fit in octal is written in base-256.
    private static func setDevice(_ value: UInt32, _ field: Range<Int>, in block: inout [UInt8]) {
        if setNumber(UInt64(value), field, in: &block) { return }
        set([0x80, 0, 0, 0] + (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) }, field, in: &block)
    }

    private static func append(_ key: String, _ value: UInt64, to records: inout [UInt8]) {
        append(Array(key.utf8), Array(String(value).utf8), to: &records)
    }

    private static func append(_ key: [UInt8], _ value: [UInt8], to records: inout [UInt8]) {
        // The length counts its own digits.
        let rest = key.count + value.count + 3
        var length = rest + String(rest).utf8.count
        length = rest + String(length).utf8.count
        records += Array("\(length) ".utf8)
        records += key
        records.append(UInt8(ascii: "="))
        records += value
        records.append(UInt8(ascii: "\n"))
    }

    private static func escaped(_ name: [UInt8]) -> [UInt8] {
        name.flatMap { byte -> [UInt8] in
            switch byte {
            case UInt8(ascii: "="): Array("%3D".utf8)
            case UInt8(ascii: "%"): Array("%25".utf8)
            default: [byte]
            }
        }
    }

    /// Decimal seconds with a fraction of up to nine digits.
    private static func decimalTime(_ seconds: Int64, _ nanoseconds: UInt32) -> [UInt8] {
        var text: String
        var fraction = nanoseconds
        if seconds < 0 && nanoseconds > 0 {
            text = "-\((seconds + 1).magnitude)"
            fraction = 1_000_000_000 - nanoseconds
        } else {
            text = "\(seconds)"
        }
        if fraction > 0 {
            let digits = String(fraction)
            text += "." + String(repeating: "0", count: 9 - digits.utf8.count) + digits
            while text.hasSuffix("0") { text.removeLast() }
        }
        return Array(text.utf8)
    }
}
