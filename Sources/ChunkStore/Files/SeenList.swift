internal import Glibc
internal import PosixIO

/// The file `used`: 8 bytes, little-endian, for each file that was used: what a next process knows of earlier ones. A
/// hint: whatever stands in it, the worst is that a file is materialised one use earlier or later.
struct SeenList: Sendable {
    /// The most that is kept.
    static let most = 16384

    let path: String

    func read() -> Set<UInt64> {
        guard let bytes = try? readFile(path, limit: SeenList.most * 16).array else { return [] }
        var result: Set<UInt64> = []
        result.reserveCapacity(bytes.count / 8)
        var at = 0
        while at + 8 <= bytes.count, result.count < SeenList.most - 1 {
            var value: UInt64 = 0
            for index in 0..<8 { value |= UInt64(bytes[at + index]) << UInt64(index * 8) }
            result.insert(value)
            at += 8
        }
        return result
    }

    func append(_ fingerprint: UInt64) {
        guard let file = try? Descriptor.open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW) else { return }
        try? unsafe file.writeNext(SeenList.encode([fingerprint]).span.bytes)
    }

    func replace(_ fingerprints: [UInt64]) {
        try? unsafe replaceFile(path, with: SeenList.encode(fingerprints).span.bytes)
    }

    private static func encode(_ fingerprints: [UInt64]) -> [UInt8] {
        fingerprints.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) } }
    }
}
