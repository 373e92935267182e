public import OCIModel

/// A node's attributes, as a layer's TOC gives them.
public struct NodeAttributes: Sendable, Equatable {
    /// S_IFMT and 07777 bits.
    public var mode: UInt32
    /// Owner.
    public var uid: UInt32
    /// Group.
    public var gid: UInt32
    /// Names of the inode in this layer; for a directory 2 + its sub-directories.
    public var linkCount: UInt32
    /// Bytes; for a symlink the length of its target.
    public var size: UInt64
    /// Seconds since 1970.
    public var mtimeSeconds: Int64
    /// 0 to 999,999,999.
    public var mtimeNanoseconds: UInt32
    /// makedev(3) of devices, else 0.
    public var device: UInt64
    /// What else is known of the node.
    public var flags: NodeFlags
}

/// What a layer's index knows of a node besides its attributes.
public struct NodeFlags: OptionSet, Sendable, Equatable {
    /// The bits, as they stand in the index file.
    public let rawValue: UInt16
    /// Takes the bits.
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    /// Hides the name in lower layers: from a `.wh.NAME` entry, or a character device 0/0 of the image. Shown as
    /// character device 0/0.
    public static let whiteout = NodeFlags(rawValue: 1)
    /// A directory whose lower layers' content is hidden.
    public static let opaque = NodeFlags(rawValue: 2)
    /// A directory without an entry of its own: 0755 root, mtime 0.
    public static let implicit = NodeFlags(rawValue: 4)
    /// Has extended attributes.
    public static let hasXattrs = NodeFlags(rawValue: 8)
    /// A directory that the layer removes (`.wh.NAME`) and makes anew: nothing of a lower layer's is kept, attributes
    /// neither. Always together with `opaque`.
    public static let replacesLower = NodeFlags(rawValue: 16)
}

/// One chunk of a regular file: what to fetch, what to inflate, what to check.
public struct Chunk: Sendable, Equatable {
    /// Where its gzip member starts in the blob, and how many compressed bytes run to the next different offset.
    public var member: ByteRange
    /// Where the payload starts in what the member inflates to.
    public var innerOffset: UInt64
    /// Where the payload stands in the file, in bytes.
    public var fileOffset: UInt64
    /// The payload's length in bytes.
    public var length: UInt32
    /// SHA-256 of the payload, where the TOC has one.
    public var digest: Digest?
    /// The record of the file that it belongs to (for messages).
    public var record: UInt32
    /// `chunkType: zeros`: the payload is zero bytes and nothing is stored for it; `member` is empty.
    public var isZeros: Bool
}

/// The S_IFMT bits that a TOC can name.
enum FileType {
    static let mask: UInt32 = 0o170000
    static let regular: UInt32 = 0o100000
    static let directory: UInt32 = 0o040000
    static let symlink: UInt32 = 0o120000
    static let character: UInt32 = 0o020000
    static let block: UInt32 = 0o060000
    static let fifo: UInt32 = 0o010000
}

/// Bounds of what crfs reads (spec section 3).
enum FormatLimit {
    /// The TOC's JSON, in bytes.
    static let tocBytes = 256 << 20
    /// One chunk's payload, in bytes.
    static let chunkBytes: UInt64 = 32 << 20
    /// How much of a hole one chunk of the index stands for, in bytes, and how many of these a hole may have.
    static let holePieceBytes: UInt64 = 512 << 20
    static let holePieces: UInt64 = 32768
    /// Where a payload may end in what its member inflates to, in bytes.
    static let innerBytes: UInt64 = 256 << 20
    /// Nodes of one layer, implicit directories included; record numbers have 28 bits.
    static let nodes = 1 << 24
    /// Nodes of a merged image.
    static let imageNodes = 1 << 28
    /// NAME_MAX: one component of a path, in bytes.
    static let nameBytes = 255
    /// PATH_MAX: a whole path, in bytes.
    static let pathBytes = 4096
    /// Xattrs of one inode.
    static let xattrs = 256
    /// XATTR_NAME_MAX and XATTR_SIZE_MAX, in bytes.
    static let xattrNameBytes = 255
    static let xattrValueBytes = 65536
}
