internal import Glibc
internal import PosixIO
internal import Synchronization

/// Numbers of layers and places, the middle 28 bits of an inode number. A number, once given, means the same for as
/// long as the cache directory lives, so that inode numbers are the same after a remount.
///
/// An append-only file (docs/cache-directory.md). A record that was cut by a crash is dropped: its number never left
/// the process that died.
///
/// LOCK ORDER: `table` is a leaf and is not held across a system call.
final class NumberTable: Sendable {
    /// Most numbers that there can be: 27 bits, because inode numbers with the 28th set belong to the namespace.
    static let limit: UInt32 = 1 << 27

    private struct Table: Sendable {
        var numbers: [String: UInt32] = [:]
        var next: UInt32 = 1
    }

    private let table: Mutex<Table>
    private let file: Descriptor

    /// Reads the file, or starts one.
    init(path: String) throws(SystemError) {
        let file = try Descriptor.open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW)
        let bytes = try readFile(path, limit: 1 << 30).array
        var loaded = Table()
        var position = 0
        while let record = NumberTable.record(in: bytes, at: position) {
            loaded.numbers[record.key] = record.number
            loaded.next = max(loaded.next, record.number + 1)
            position = record.end
        }
        if position < bytes.count { try file.truncate(to: UInt64(position)) }
        table = Mutex(loaded)
        self.file = file
    }

    /// The number of `key`, a new one if it has none yet.
    func number(for key: String) throws(SystemError) -> UInt32 {
        if let number = table.withLock({ $0.numbers[key] }) { return number }
        let assigned: (number: UInt32, isNew: Bool)? = table.withLock { table in
            if let number = table.numbers[key] { return (number, false) }
            guard table.next < NumberTable.limit else { return nil }
            let number = table.next
            table.next += 1
            table.numbers[key] = number
            return (number, true)
        }
        guard let assigned else { throw SystemError(code: ENOSPC, operation: "number a layer or place") }
        if assigned.isNew {
            let record = NumberTable.encode(key, number: assigned.number)
            // A full disk costs stable numbers after a restart, nothing else.
            try? unsafe file.writeNext(record.span.bytes)
        }
        return assigned.number
    }

    /// LE32 FNV-1a of what follows, LE32 number, LE16 length of the key, the key. One write(2) with O_APPEND each, so
    /// records of several threads never mix.
    static func encode(_ key: String, number: UInt32) -> [UInt8] {
        let bytes = Array(key.utf8)
        let body = littleEndian(number, 4) + littleEndian(UInt32(bytes.count), 2) + bytes
        return littleEndian(fnv1a32(body), 4) + body
    }

    private static func record(in bytes: [UInt8], at position: Int) -> (key: String, number: UInt32, end: Int)? {
        guard bytes.count - position >= 10 else { return nil }
        let count = Int(readLittleEndian(bytes[(position + 8)..<(position + 10)]))
        let end = position + 10 + count
        guard end <= bytes.count else { return nil }
        guard fnv1a32(bytes[(position + 4)..<end]) == readLittleEndian(bytes[position..<(position + 4)]) else {
            return nil
        }
        let number = readLittleEndian(bytes[(position + 4)..<(position + 8)])
        guard number > 0, number < limit else { return nil }
        return (String(decoding: bytes[(position + 10)..<end], as: UTF8.self), number, end)
    }
}

private func littleEndian(_ value: UInt32, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * UInt32($0))) }
}

private func readLittleEndian(_ bytes: ArraySlice<UInt8>) -> UInt32 {
    bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) }
}

private func fnv1a32(_ bytes: some Sequence<UInt8>) -> UInt32 {
    bytes.reduce(0x811c_9dc5) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
}

/// 64-bit FNV-1a, for inode numbers of the namespace.
func fnv1a64(_ bytes: some Sequence<UInt8>) -> UInt64 {
    bytes.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01b3 }
}
