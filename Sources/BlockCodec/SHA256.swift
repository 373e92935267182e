internal import CShims
public import OCIModel

/// What a SHA-256 is between two updates, for a later process to go on with: 104 bytes (docs/stream-journal.md). Any 104
/// bytes are one; whether they are the right ones shows in the digest.
public struct SHA256State: Sendable, Equatable {
    /// How many bytes it takes.
    public static let byteCount = Int(CRFS_SHA256_STATE)
    /// The bytes.
    public let bytes: [UInt8]

    /// Takes what was kept; nil for another number of bytes.
    public init?(_ bytes: [UInt8]) {
        guard bytes.count == SHA256State.byteCount else { return nil }
        self.bytes = bytes
    }
}

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

    /// Goes on where another hash was.
    public init(resuming state: SHA256State) {
        self.init()
        let context = unsafe context
        // SAFETY: a state has the bytes that the shim reads.
        unsafe state.bytes.withUnsafeBufferPointer { unsafe crfs_sha256_resume(context, $0.baseAddress) }
    }

    deinit {
        unsafe crfs_sha256_free(context)
    }

    /// What it is now.
    public var state: SHA256State {
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: SHA256State.byteCount) { buffer, count in
            // SAFETY: the buffer has the bytes that the shim writes.
            unsafe crfs_sha256_save(context, buffer.baseAddress)
            count = SHA256State.byteCount
        }
        guard let state = SHA256State(bytes) else { preconditionFailure("a state of another size") }
        return state
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
