internal import BlockCodec
internal import Glibc
internal import OCIModel
internal import PosixIO

/// Manifests, indexes and configurations by content, one file each: `manifests/sha256-<hex>`. What is read is hashed
/// again, so damage looks like absence.
struct ContentStore: Sendable {
    let directory: String

    /// Larger documents are no manifests (the same bound as for registry answers).
    static let limit = 8 << 20

    func read(_ digest: Digest) -> [UInt8]? {
        guard let bytes = try? readFile("\(directory)/\(digest.directoryName)", limit: Self.limit) else { return nil }
        guard SHA256.digest(of: bytes.span) == digest else { return nil }
        return bytes.array
    }

    /// Keeps a document. A full disk is no error: it is fetched again another time.
    func write(_ bytes: [UInt8], digest: Digest) {
        try? unsafe replaceFile("\(directory)/\(digest.directoryName)", with: bytes.span.bytes)
    }
}
