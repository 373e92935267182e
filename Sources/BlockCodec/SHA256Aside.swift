public import OCIModel
internal import PosixIO

/// The SHA-256 of a run of bytes, computed by a thread of its own while this one goes on; of a run that takes no longer than
/// starting a thread pays for, at once.
@safe
public struct SHA256Aside: ~Copyable {
    private let result = Monitor<Digest?>(nil)
    /// In bytes: 1.4 ms.
    private static let least = 2 << 20

    /// Begins. The caller keeps the bytes as they are for as long as this value lives.
    @unsafe
    public init(_ bytes: borrowing RawSpan) {
        let result = result
        if bytes.byteCount < SHA256Aside.least {
            let digest = SHA256.digest(of: bytes)
            result.withLock { $0 = digest }
            return
        }
        unsafe bytes.withUnsafeBytes { buffer in
            // SAFETY: only read, until the digest is there, which `deinit` waits for.
            nonisolated(unsafe) let buffer = unsafe buffer
            startThread(named: "crfs-hash") {
                let digest = unsafe SHA256.digest(of: RawSpan(_unsafeBytes: buffer))
                result.withLock { $0 = digest }
            }
        }
    }

    deinit {
        _ = result.wait { $0 }
    }

    /// Waits for the digest.
    public func digest() -> Digest { result.wait { $0 } }
}
