public import OCIModel

/// What a chunk is kept under (spec section 4): its SHA-256 where that was computed here and equal, so that layers and
/// images that share files share chunks; else where it stands in its layer, in a name space of its own.
public struct ChunkKey: Hashable, Sendable {
    /// The payload's SHA-256, or the layer's digest.
    let digest: Digest
    /// Where the chunk's member starts in the blob; 0 for content.
    let offset: UInt64
    /// Where the payload starts in what the member inflates to; 0 for content.
    let innerOffset: UInt64
    /// The payload's length in bytes.
    public let length: UInt32
    let isContent: Bool

    /// A payload whose SHA-256 is (or is to be) `digest`. Only a payload that was hashed may be inserted under it.
    public init(content digest: Digest, length: UInt32) {
        self.digest = digest
        self.length = length
        offset = 0
        innerOffset = 0
        isContent = true
    }

    /// A payload that has no digest, or whose digest is not checked.
    public init(layer: Digest, offset: UInt64, innerOffset: UInt64, length: UInt32) {
        digest = layer
        self.offset = offset
        self.innerOffset = innerOffset
        self.length = length
        isContent = false
    }

    /// Whether two keys name the same payload.
    public static func == (a: ChunkKey, b: ChunkKey) -> Bool {
        a.digest == b.digest && a.offset == b.offset && a.innerOffset == b.innerOffset && a.length == b.length
            && a.isContent == b.isContent
    }

    /// A digest is as good as random; the rest tells apart the chunks of one layer.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(hash(seed: 0))
    }

    /// A hash for a table whose seed nobody outside of the process knows.
    func hash(seed: UInt64) -> UInt64 {
        var hash = digest.words.0 ^ seed
        hash = (hash ^ offset) &* 0x9e37_79b9_7f4a_7c15
        hash = (hash ^ (hash >> 32) ^ innerOffset) &* 0xd6e8_feb8_6659_fd93
        hash = (hash ^ (hash >> 32) ^ UInt64(length)) &* 0x9e37_79b9_7f4a_7c15
        return hash ^ (hash >> 29)
    }

    /// What the store on disk looks a key up by (docs/cache-format.md, "Fingerprint"). Two keys with one fingerprint do
    /// no harm: the whole key stands in the record.
    var fingerprint: UInt64 {
        var hash = UInt64(littleEndian: digest.words.0)
        hash = (hash ^ offset) &* 0x9e37_79b9_7f4a_7c15
        hash = (hash ^ (hash >> 32) ^ innerOffset) &* 0xd6e8_feb8_6659_fd93
        hash = (hash ^ (hash >> 32) ^ UInt64(length) ^ (isContent ? 1 << 40 : 1 << 41)) &* 0x9e37_79b9_7f4a_7c15
        return hash ^ (hash >> 29)
    }
}
