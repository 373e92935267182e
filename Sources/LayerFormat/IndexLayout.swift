internal import OCIModel

/// The index file's layout (docs/layer-index.md). Everything is little-endian, as the machines that crfs runs on are;
/// records are read from the mapping as they stand.
enum IndexLayout {
    /// "crfsindx".
    static let magic: UInt64 = 0x7864_6e69_7366_7263
    /// Raise it with every change of the layout or of what builders put into it.
    static let version: UInt32 = 2
    static let headerBytes = 512
    /// Sections start at multiples of it, so that no record of 32 or 64 bytes lies across a block's end.
    static let sectionAlignment = 64
    /// What one checksum covers, in bytes.
    static let blockBytes = 65536

    enum Kind: UInt32 { case layer = 1, image = 2 }

    enum Section: Int, CaseIterable {
        case nodes, names, chunks, blobOrder, xattrs, externalLinks, layers, checksums
    }

    // Byte positions in the header.
    static let versionAt = 8
    static let kindAt = 12
    static let fileBytesAt = 16
    static let recordCountAt = 24
    static let chunkCountAt = 28
    static let externalLinkCountAt = 32
    static let layerCountAt = 36
    static let layerDigestAt = 40
    static let tocDigestAt = 72
    static let blobSizeAt = 104
    static let tocOffsetAt = 112
    static let prefetchEndAt = 120
    static let sectionsAt = 128
    static let tocFrameDigestAt = 256
    static let formatAt = 288
    static let flagsAt = 292
    static let tableChecksumAt = 504
    static let headerChecksumAt = 508
}

/// What the header says besides the sections.
struct IndexHeader: Equatable {
    var recordCount: UInt32 = 0
    var chunkCount: UInt32 = 0
    var externalLinkCount: UInt32 = 0
    var layerCount: UInt32 = 0
    var layerDigest = Digest(words: (0, 0, 0, 0))
    var tocDigest = Digest(words: (0, 0, 0, 0))
    var blobSize: UInt64 = 0
    var tocOffset: UInt64 = 0
    /// All ones: none.
    var prefetchEnd: UInt64 = .max
    /// Zeros: the TOC is not one of zstd:chunked.
    var tocFrameDigest = Digest(words: (0, 0, 0, 0))
    /// An `IndexFormat`; 0 for an image.
    var format: UInt32 = 0
    var flags: UInt32 = 0

    /// Every chunk that is stored has a digest.
    static let hasAllDigests: UInt32 = 1
}

/// One node of a layer's index: 64 bytes.
struct NodeRecord {
    /// Directory: the first child's record, and the number of children in the upper half. Regular file: the same of
    /// chunks. Symlink: where the target stands in the names. Device: makedev(3).
    var content: UInt64
    var size: UInt64
    var mtimeSeconds: Int64
    var parent: UInt32
    /// Where the name stands in the names.
    var name: UInt32
    /// Its own number, or that of the first name of the same inode.
    var inode: UInt32
    var linkCount: UInt32
    var uid: UInt32
    var gid: UInt32
    var mtimeNanoseconds: UInt32
    /// Where the list of xattrs starts; all ones: none.
    var xattrs: UInt32
    var mode: UInt16
    var flags: UInt16
    var nameCount: UInt8
    private var unused: (UInt8, UInt8, UInt8) = (0, 0, 0)

    init(_ inode: borrowing Inode, parent: UInt32, name: UInt32, nameCount: UInt8, record: UInt32) {
        content = inode.content
        size = inode.size
        mtimeSeconds = inode.mtimeSeconds
        self.parent = parent
        self.name = name
        self.inode = record
        linkCount = 1
        uid = inode.uid
        gid = inode.gid
        mtimeNanoseconds = inode.mtimeNanoseconds
        xattrs = inode.xattrs
        mode = inode.mode
        flags = inode.flags
        self.nameCount = nameCount
    }

    static let byteCount = 64
    static let nameAt = 28
    static let nameCountAt = 60

    var isDirectory: Bool { UInt32(mode) & FileType.mask == FileType.directory }
    var isRegular: Bool { UInt32(mode) & FileType.mask == FileType.regular }
    var isSymlink: Bool { UInt32(mode) & FileType.mask == FileType.symlink }
}

/// One chunk of a layer's index: 64 bytes.
struct ChunkRecord {
    var memberOffset: UInt64
    var fileOffset: UInt64
    var memberCount: UInt32
    var innerOffset: UInt32
    /// The payload's length in the lower 30 bits, `hasDigest` and `isZeros` above.
    var lengthAndFlags: UInt32
    var record: UInt32
    var digest: (UInt64, UInt64, UInt64, UInt64)

    static let byteCount = 64
    static let hasDigest: UInt32 = 1 << 31
    static let isZeros: UInt32 = 1 << 30
    static let lengthMask: UInt32 = 1 << 30 - 1
}

/// A hard link whose target only a lower layer may have: 20 bytes.
struct ExternalLinkRecord {
    /// The directory's record, and the name's place in the names.
    var parent: UInt32
    var name: UInt32
    var nameCount: UInt32
    /// The target path's place in the names: components joined by slashes.
    var target: UInt32
    var targetCount: UInt32

    static let byteCount = 20
}

/// One name of a merged image: 32 bytes.
struct ImageRecord {
    var parent: UInt32
    var name: UInt32
    var firstChild: UInt32
    var childCount: UInt32
    /// The inode's record in its layer.
    var record: UInt32
    /// The first record of the same inode in the image.
    var inode: UInt32
    var linkCount: UInt32
    var layer: UInt16
    var nameCount: UInt8
    /// 1: the link count differs from the layer's.
    var hasOwnAttributes: UInt8

    static let byteCount = 32
    static let nameAt = 4
    static let nameCountAt = 30
}

/// A layer that a merged image was built from: 72 bytes.
struct LayerRecord {
    var digest: (UInt64, UInt64, UInt64, UInt64)
    var tocDigest: (UInt64, UInt64, UInt64, UInt64)
    var recordCount: UInt32
    var unused: UInt32 = 0

    static let byteCount = 72
}
