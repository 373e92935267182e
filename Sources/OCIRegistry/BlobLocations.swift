internal import HTTPTransport
internal import OCIModel
internal import Synchronization

/// Remembers where registries redirect blob reads to, until such a URL expires or fails.
///
/// LOCK ORDER: the lock is a leaf.
final class BlobLocations: Sendable {
    struct Key: Hashable, Sendable {
        var repository: Repository
        var digest: Digest
    }

    private struct Entry: Sendable {
        var url: HTTPURL
        /// CLOCK_MONOTONIC, nanoseconds.
        var expiresAt: UInt64
    }

    private let entries = Mutex<[Key: Entry]>([:])
    private static let limit = 4096
    /// How long a URL is used that does not say how long it holds, in seconds.
    private static let defaultLife: UInt64 = 600

    func url(_ key: Key, now: UInt64) -> HTTPURL? {
        entries.withLock { entries in
            guard let entry = entries[key], entry.expiresAt > now else { return nil }
            return entry.url
        }
    }

    /// - Parameters:
    ///   - now: CLOCK_MONOTONIC in nanoseconds.
    ///   - wallClock: seconds since 1970.
    func remember(_ key: Key, _ url: HTTPURL, now: UInt64, wallClock: Int64) {
        let life = min(BlobLocations.life(of: url, wallClock: wallClock) ?? BlobLocations.defaultLife, 86_400)
        guard life > 0 else { return }
        entries.withLock { entries in
            if entries.count >= BlobLocations.limit, entries[key] == nil {
                entries = entries.filter { $0.value.expiresAt > now }
                if entries.count >= BlobLocations.limit { entries.removeAll(keepingCapacity: true) }
            }
            entries[key] = Entry(url: url, expiresAt: now + life * 1_000_000_000)
        }
    }

    /// Forgets a URL that failed; a newer one for the same blob stays.
    func forget(_ key: Key, _ url: HTTPURL) {
        entries.withLock { entries in
            if entries[key]?.url == url { entries[key] = nil }
        }
    }

    /// How many seconds a signed URL still holds, as far as its query says: S3 and Google sign with a life in seconds
    /// (counted from now, as it was just made), CloudFront and older ones with the second when it ends.
    static func life(of url: HTTPURL, wallClock: Int64) -> UInt64? {
        for name in ["X-Amz-Expires", "X-Goog-Expires"] {
            if let seconds = url.queryValue(name).flatMap({ UInt64($0) }) { return seconds - min(seconds, 5) }
        }
        if let end = url.queryValue("Expires").flatMap({ Int64($0) }), end >= 0 {
            return end > wallClock + 5 ? UInt64(end - wallClock - 5) : 0
        }
        return nil
    }
}
