internal import BlockCodec
public import OCIModel

/// What a materialised file is kept under: its SHA-256 where it is one chunk whose content is checked, else the SHA-256
/// of the keys of its chunks (docs/cache-format.md, "Materialised files"). Either way two files of one key have the same
/// bytes, whatever layers and images they are in.
public struct FileKey: Hashable, Sendable {
    let digest: Digest
    let isContent: Bool

    /// A file whose SHA-256 is `digest`.
    public init(content digest: Digest) {
        self.digest = digest
        isContent = true
    }

    fileprivate init(chunks digest: Digest) {
        self.digest = digest
        isContent = false
    }

    /// The file's name in the directory.
    var name: String { (isContent ? "sha256-" : "chunks-") + digest.hex }

    /// The key of a file's name; nil for any other name.
    init?(name: String) {
        guard name.utf8.count == 71, let digest = Digest(directoryName: "sha256-" + name.dropFirst(7)) else {
            return nil
        }
        if name.hasPrefix("sha256-") {
            self.init(content: digest)
        } else if name.hasPrefix("chunks-") {
            self.init(chunks: digest)
        } else {
            return nil
        }
    }

    /// 64 bits that stand for the key in the list of what was used.
    var fingerprint: UInt64 { UInt64(littleEndian: digest.words.0) ^ (isContent ? 0 : 1) }
}

/// Makes the key of a file that is not one chunk: its chunks are added in the order of the file.
public struct FileKeyHash: ~Copyable {
    private var hash = SHA256()

    /// No chunk yet.
    public init() {
        unsafe hash.update(Array("crfs file of chunks 1\n".utf8).span.bytes)
    }

    /// Adds a chunk by what the store keeps it under.
    public mutating func add(_ key: ChunkKey) {
        add(key.isContent ? 1 : 2, key.digest.words, key.offset, key.innerOffset, key.length)
    }

    /// Adds a chunk of zeros.
    public mutating func add(zeros length: UInt32) {
        add(3, (0, 0, 0, 0), 0, 0, length)
    }

    /// The key.
    public consuming func finish() -> FileKey { FileKey(chunks: hash.finish()) }

    private mutating func add(
        _ kind: UInt32,
        _ words: (UInt64, UInt64, UInt64, UInt64),
        _ offset: UInt64,
        _ innerOffset: UInt64,
        _ length: UInt32
    ) {
        let sizes = UInt64(kind) << 32 | UInt64(length)
        let parts: InlineArray<7, UInt64> = [
            words.0, words.1, words.2, words.3, offset.littleEndian, innerOffset.littleEndian, sizes.littleEndian,
        ]
        unsafe hash.update(parts.span.bytes)
    }
}
