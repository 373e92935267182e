internal import Glibc
internal import PosixIO

/// One line of `/proc/self/mountinfo` (proc(5)).
public struct MountEntry: Sendable, Equatable {
    /// `major:minor` of the file system; no two live ones share it.
    public var device: String
    /// Where it is mounted, unescaped.
    public var mountPoint: String
    /// Its type, like `ext4` or `fuse.crfs`.
    public var type: String
    /// Its source, unescaped.
    public var source: String

    /// Reads one line; nil when it is not of the documented form.
    public init?(line: Substring) {
        let fields = line.split(separator: " ", omittingEmptySubsequences: true)
        // Any number of optional fields stands before the lone hyphen.
        guard let hyphen = fields.firstIndex(of: "-"), hyphen >= 6, fields.count >= hyphen + 3 else { return nil }
        device = String(fields[2])
        mountPoint = Self.unescaped(fields[4])
        type = String(fields[hyphen + 1])
        source = Self.unescaped(fields[hyphen + 2])
    }

    /// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
    static func unescaped(_ field: Substring) -> String {
        let bytes = Array(field.utf8)
        var result: [UInt8] = []
        var index = 0
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "\\"), index + 3 < bytes.count,
                let value = octal(bytes[(index + 1)...(index + 3)])
            {
                result.append(value)
                index += 4
            } else {
                result.append(bytes[index])
                index += 1
            }
        }
        return String(decoding: result, as: UTF8.self)
    }

    private static func octal(_ digits: ArraySlice<UInt8>) -> UInt8? {
        var value = 0
        for digit in digits {
            guard digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "7") else { return nil }
            value = value * 8 + Int(digit - UInt8(ascii: "0"))
        }
        return UInt8(exactly: value)
    }
}

/// What is mounted, as this process sees it. Reading it touches no mounted file system.
public struct MountTable: Sendable {
    /// The mounts, oldest first.
    public let entries: [MountEntry]

    /// Reads a table from its text.
    public init(text: String) {
        entries = text.split(separator: "\n").compactMap { MountEntry(line: $0) }
    }

    /// Reads `/proc/self/mountinfo`.
    public static func current() throws(FuseError) -> MountTable {
        do throws(SystemError) {
            return MountTable(text: try readProcFile("/proc/self/mountinfo"))
        } catch {
            throw FuseError(.refused, "cannot tell what is mounted: \(error)")
        }
    }

    /// The mount that covers `path` itself: the last one there.
    public func top(at path: String) -> MountEntry? {
        entries.last { $0.mountPoint == path }
    }
}

/// The text of a file of proc(5) or of a configuration.
func readProcFile(_ path: String) throws(SystemError) -> String {
    String(decoding: try readFile(path, limit: 64 << 20).array, as: UTF8.self)
}

/// Appends what one read(2) gives; 0 at the end.
func readPiece(_ file: borrowing Descriptor, into text: inout [UInt8]) throws(SystemError) -> Int {
    var piece = UniqueBytes(capacity: 4096)
    let count = try unsafe piece.withUnsafeMutableBytes { (buffer) throws(SystemError) in
        try unsafe file.readNext(into: buffer)
    }
    piece.truncate(to: count)
    text.append(contentsOf: copyBytes(piece.span))
    return count
}

/// The path with symlinks resolved (realpath(3)). Sends no request to a file system mounted at its last component.
func resolvedPath(_ path: String) throws(SystemError) -> String {
    // A slash in the end asks the file system there, which may be dead.
    var bare = path[...]
    while bare.count > 1, bare.last == "/" { bare.removeLast() }
    guard let resolved = unsafe realpath(String(bare), nil) else { throw SystemError.last("realpath", path: path) }
    defer { unsafe free(resolved) }
    return unsafe String(cString: resolved)
}
