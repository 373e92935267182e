/// A PAX extended header record (POSIX.1-2017, pax, "pax Extended Header").
public struct PaxRecord: Sendable, Equatable {
    /// The keyword's bytes.
    public var key: [UInt8]
    /// The value's bytes, of any kind.
    public var value: [UInt8]

    /// Makes a record.
    public init(key: [UInt8], value: [UInt8]) {
        self.key = key
        self.value = value
    }
}

/// An extended attribute of a tar entry.
public struct TarXattr: Sendable, Equatable {
    /// The name with its name space, as in getxattr(2).
    public var name: [UInt8]
    /// The value; may be empty.
    public var value: [UInt8]

    /// Makes an attribute.
    public init(name: [UInt8], value: [UInt8]) {
        self.name = name
        self.value = value
    }
}

/// A part of a file's content that is stored as one piece, or not at all.
public struct TarRun: Sendable, Equatable {
    /// How many bytes of the file it is; at least 1.
    public var count: UInt64
    /// Nothing is stored: all of it is zeros.
    public var isHole: Bool
}

/// One entry of a tar archive with all that its headers say, whichever dialect said it.
///
/// Names are bytes: tar knows no character set.
public struct TarEntry: Sendable, Equatable {
    /// What an entry is.
    public enum Kind: Sendable, Equatable {
        /// A file with content.
        case regular
        /// A directory.
        case directory
        /// A symbolic link.
        case symlink
        /// Another name of the entry that `linkTarget` names.
        case hardLink
        /// A character device.
        case character
        /// A block device.
        case block
        /// A named pipe.
        case fifo
    }

    /// The name as the archive has it; never empty, never with a NUL.
    public var path: [UInt8]
    /// What the entry is.
    public var kind: Kind
    /// The 07777 bits.
    public var mode: UInt32 = 0
    /// The owner's number.
    public var uid: UInt32 = 0
    /// The group's number.
    public var gid: UInt32 = 0
    /// The owner's name; may be empty.
    public var userName: [UInt8] = []
    /// The group's name; may be empty.
    public var groupName: [UInt8] = []
    /// Bytes of content of a regular file, holes of a sparse one included; else 0.
    public var size: UInt64 = 0
    /// Seconds since 1970, rounded down.
    public var mtimeSeconds: Int64 = 0
    /// What the seconds leave over, below 1,000,000,000.
    public var mtimeNanoseconds: UInt32 = 0
    /// A symlink's target, or the path of the entry that a hard link is another name of; else empty.
    public var linkTarget: [UInt8] = []
    /// A device's major number; else 0.
    public var deviceMajor: UInt32 = 0
    /// A device's minor number; else 0.
    public var deviceMinor: UInt32 = 0
    /// Extended attributes, each name once, in the order of the archive.
    public var xattrs: [TarXattr] = []
    /// Records of the entry's own extended header that say none of the above (`atime`, `SCHILY.acl.access`, …).
    public var otherRecords: [PaxRecord] = []
    /// How many of `size` bytes are holes of a sparse file, not stored in the archive.
    public var holeBytes: UInt64 = 0

    /// An entry of the given name and kind, all else zero or empty.
    public init(path: [UInt8], kind: Kind) {
        self.path = path
        self.kind = kind
    }
}

/// Makes bytes fit for a message: what is not UTF-8 becomes U+FFFD, control characters are escaped, and long ones cut.
func printable(_ bytes: [UInt8], limit: Int = 300) -> String {
    var text = ""
    for scalar in String(decoding: bytes.prefix(limit), as: UTF8.self).unicodeScalars {
        if scalar.value < 0x20 || scalar.value == 0x7f {
            text += scalar.escaped(asASCII: true)
        } else {
            text.unicodeScalars.append(scalar)
        }
    }
    return bytes.count > limit ? text + "…" : text
}
