public import PosixIO

/// A node as the kernel names it: fuse_ino_t. 8 bits 0, 28 bits number of a place or layer, 28 bits record; 1 is the
/// root of the mount.
public struct NodeID: Hashable, Sendable, RawRepresentable {
    /// The number.
    public let rawValue: UInt64
    /// Takes a number as the kernel gave it.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// FUSE_ROOT_ID.
    public static let root = NodeID(rawValue: 1)
    /// Stands for "no node": a negative entry, or a listed name without attributes.
    public static let none = NodeID(rawValue: 0)
}

/// Attributes of a node, as stat(2) shows them. Block counts follow from the size.
public struct Attributes: Sendable, Equatable {
    /// st_ino; not always the node's number.
    public var inode: UInt64
    /// S_IFMT and 07777 bits.
    public var mode: UInt32
    /// st_nlink.
    public var linkCount: UInt32
    /// st_uid.
    public var uid: UInt32
    /// st_gid.
    public var gid: UInt32
    /// st_rdev, as makedev(3).
    public var device: UInt64
    /// st_size in bytes.
    public var size: UInt64
    /// st_mtim.
    public var mtimeSeconds: Int64
    /// st_mtim, 0 to 999,999,999.
    public var mtimeNanoseconds: UInt32

    /// Makes attributes from their parts.
    public init(
        inode: UInt64,
        mode: UInt32,
        linkCount: UInt32 = 1,
        uid: UInt32 = 0,
        gid: UInt32 = 0,
        device: UInt64 = 0,
        size: UInt64 = 0,
        mtimeSeconds: Int64 = 0,
        mtimeNanoseconds: UInt32 = 0
    ) {
        self.inode = inode
        self.mode = mode
        self.linkCount = linkCount
        self.uid = uid
        self.gid = gid
        self.device = device
        self.size = size
        self.mtimeSeconds = mtimeSeconds
        self.mtimeNanoseconds = mtimeNanoseconds
    }
}

/// What a look-up or a listing tells the kernel of a name.
public struct Entry: Sendable {
    /// `none` with `attributes` nil: a negative entry, or (in a listing) a name that is not resolved yet.
    public var node: NodeID
    /// Nil where `node` is `none`.
    public var attributes: Attributes?
    /// How long the kernel may keep the name, in seconds; `Entry.unlimited` below digests.
    public var entryTimeout: Double
    /// How long the kernel may keep the attributes, in seconds.
    public var attributeTimeout: Double

    /// Longer than any mount lives, and short enough for the kernel's jiffies arithmetic.
    public static let unlimited: Double = 1_000_000_000

    /// Makes an entry from its parts.
    public init(node: NodeID, attributes: Attributes?, entryTimeout: Double, attributeTimeout: Double) {
        self.node = node
        self.attributes = attributes
        self.entryTimeout = entryTimeout
        self.attributeTimeout = attributeTimeout
    }
}

/// An error number for the kernel, positive. Made from other errors only in `ErrorTable.swift`.
public struct FSError: Error, Sendable, Equatable {
    /// The number, as in errno(3).
    public let errno: CInt
    /// Takes an error number.
    public init(errno: CInt) { self.errno = errno }
}

/// What an operation came to. `parked` means: nothing was done; call again with the same arguments when the completion
/// is finished (the outcome is then ready, failed, or parked on the next thing).
public enum Outcome<Value: Sendable>: Sendable {
    /// It is done.
    case ready(Value)
    /// It cannot be done.
    case failed(FSError)
    /// It waits for something that is on its way.
    case parked(Completion)
}

/// What a listing says of one name.
public struct ListedName: Sendable {
    /// d_ino.
    public var inode: UInt64
    /// S_IFMT bits, for d_type.
    public var type: UInt32
    /// Node, attributes and time-outs for readdirplus; node `none` where they are not known. Nil in a plain readdir.
    public var entry: Entry?
    /// Where the listing goes on after this name: the `offset` of the next call.
    public var nextOffset: UInt64
}

/// Figures for statfs(2).
public struct FileSystemStatistics: Sendable {
    /// Total bytes.
    public var bytes: UInt64
    /// Total nodes.
    public var nodes: UInt64
}
