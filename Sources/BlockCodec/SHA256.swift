internal import CShims
public import OCIModel

/// A running SHA-256 (FIPS 180-4), by libcrypto. Traps when libcrypto has no memory.
@safe
public struct SHA256: ~Copyable {
    private let context: OpaquePointer

    /// An empty hash.
    public init() {
        guard let context = unsafe crfs_sha256_new() else { fatalError("out of memory for SHA-256") }
        unsafe self.context = context
        precondition(unsafe crfs_sha256_begin(context) == 1, "libcrypto has no SHA-256")
    }

    deinit {
        unsafe crfs_sha256_free(context)
    }

    /// Adds bytes.
    public mutating func update(_ bytes: borrowing RawSpan) {
        unsafe bytes.withUnsafeBytes { buffer in
            let updated = unsafe crfs_sha256_update(context, buffer.baseAddress, buffer.count)
            precondition(updated == 1)
        }
    }

    /// The digest of all that was added since `init` or the last `finish`; starts anew.
    public mutating func finish() -> Digest {
        var bytes = InlineArray<32, UInt8>(repeating: 0)
        var span = bytes.mutableSpan
        // SAFETY: the buffer has the 32 bytes that SHA-256 writes.
        unsafe span.withUnsafeMutableBufferPointer { buffer in
            guard let base = buffer.baseAddress else { return }
            let ended = unsafe crfs_sha256_end(context, base)
            precondition(ended == 1)
        }
        let begun = unsafe crfs_sha256_begin(context)
        precondition(begun == 1)
        return unsafe Digest(bytes.span.bytes)
    }

    /// The digest of one run of bytes.
    public static func digest(of bytes: borrowing RawSpan) -> Digest {
        var hash = SHA256()
        hash.update(bytes)
        return hash.finish()
    }
}
