internal import Glibc
internal import OCIModel

/// An inode while a layer's entries are read.
struct Inode {
    var size: UInt64 = 0
    var mtimeSeconds: Int64 = 0
    /// Regular file: the first of its chunks and how many. Symlink: where the target starts. Device: makedev(3).
    var content: UInt64 = 0
    var mtimeNanoseconds: UInt32 = 0
    var uid: UInt32 = 0
    var gid: UInt32 = 0
    /// Where its xattrs start in the builder's xattrs; `NameTable.none` without any.
    var xattrs = NameTable.none
    /// S_IFMT and 07777 bits.
    var mode: UInt16
    var flags: UInt16 = 0

    var isDirectory: Bool { UInt32(mode) & FileType.mask == FileType.directory }
    var isWhiteout: Bool { flags & NodeFlags.whiteout.rawValue != 0 }

    /// A directory that is only implied: 0755, root, mtime 0.
    static let implicitDirectory = Inode(mode: UInt16(FileType.directory | 0o755), flags: NodeFlags.implicit.rawValue)
    /// What overlayfs makes: a character device 0/0 without permissions.
    static let whiteout = Inode(mode: UInt16(FileType.character), flags: NodeFlags.whiteout.rawValue)

    mutating func setChunks(first: Int, count: Int) {
        content = UInt64(count) << 32 | UInt64(first)
    }
}

/// A chunk while a layer's entries are read; in the order of the TOC.
struct NewChunk {
    var memberOffset: UInt64
    var fileOffset: UInt64
    var innerOffset: UInt32
    var length: UInt32
    var digest: Digest?
    var isZeros = false
}

/// A hard link whose target is not there (yet).
struct PendingLink {
    enum State {
        case open
        /// On the chain that is being followed.
        case visiting
        /// It is that inode's name now.
        case bound(inode: UInt32)
        /// The target is in no entry of this layer; `end` is the link whose target is meant in the lower layers.
        case external(end: Int)
        /// Cannot be a link.
        case dropped
    }
    var dentry: UInt32
    /// The normalised target path in the builder's `targets`.
    var target: Range<Int>
    var state = State.open
}

/// Applies a layer's entries one after the other, in their order, as extracting the layer would (spec section 3).
///
/// Names are kept as they come; what a layer shows of them (whiteouts, landmarks) is decided by `TreeFinisher`.
struct TreeBuilder {
    var names: NameTable
    var inodes: [Inode] = []
    var chunks: [NewChunk] = []
    /// Targets of symlinks and of pending links.
    var targets: [UInt8] = []
    /// Lists of xattrs as `XattrList` reads them.
    var xattrs: [UInt8] = []
    var links: [PendingLink] = []
    var notes = Notes()
    /// Xattrs that speak to overlayfs, and were left out.
    var droppedOverlayXattrs = 0

    static let root: UInt32 = 0

    /// The directory path of the entry before, and its dentry: most entries follow one of the same directory.
    private var lastPath: [UInt8] = []
    private var lastDirectory = NameTable.none

    /// - Parameter expected: about how many entries will come; memory is set aside for them.
    init(expecting expected: Int) {
        names = NameTable(expecting: expected)
        inodes.reserveCapacity(expected)
        chunks.reserveCapacity(expected)
        inodes.append(.implicitDirectory)
        let empty = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        let place = unsafe names.place(NameTable.none, empty)
        _ = unsafe names.insert(NameTable.none, empty, at: place, kind: .node, inode: 0)
    }

    // MARK: Xattrs

    /// Gives an inode the list that was written last; an empty one is taken back.
    mutating func endXattrs(_ list: XattrList.Writer, of inode: inout Inode) throws(LayerFormatError) {
        guard list.count > 0 else {
            xattrs.removeSubrange(list.start...)
            return
        }
        guard xattrs.count < Int(UInt32.max) else {
            throw LayerFormatError(.tooLarge, "the layer has more than 4 GiB of xattrs")
        }
        inode.xattrs = UInt32(list.start)
        inode.flags |= NodeFlags.hasXattrs.rawValue
    }

    /// Says how many xattrs were left out, if any.
    mutating func noteDroppedXattrs() {
        guard droppedOverlayXattrs > 0 else { return }
        notes.add(
            .other,
            "\(droppedOverlayXattrs) xattrs of overlayfs (trusted.overlay.*, user.overlay.*) in the layer are not shown"
        )
    }

    // MARK: Entries

    /// Gives the path the inode with this number (from `inodes`).
    mutating func place(_ path: UnsafeRawBufferPointer, inode: UInt32) throws(LayerFormatError) {
        switch try unsafe locate(path) {
        case .root:
            guard inodes[Int(inode)].isDirectory else {
                throw unsafe LayerFormatError(.corrupt, "TOC entry \(printable(path)) makes the root not a directory")
            }
            names.dentries[Int(TreeBuilder.root)].inode = inode
        case .name(let parent, let base):
            if unsafe TreeBuilder.isWhiteoutName(base) {
                try unsafe placeWhiteout(parent, base, path)
            } else {
                _ = try unsafe put(parent, base, kind: .node, inode: inode, isDirectory: inodes[Int(inode)].isDirectory)
            }
        case .ignored: break
        }
    }

    /// Makes the path a further name of the target's inode, now or (where the target comes later) in the end.
    mutating func link(_ path: UnsafeRawBufferPointer, to target: UnsafeRawBufferPointer) throws(LayerFormatError) {
        let place = try unsafe locate(path)
        guard case .name(let parent, let base) = unsafe place else {
            if case .root = unsafe place {
                throw unsafe LayerFormatError(.corrupt, "TOC entry \(printable(path)) makes the root a hard link")
            }
            return
        }
        if unsafe TreeBuilder.isWhiteoutName(base) {
            try unsafe placeWhiteout(parent, base, path)
            return
        }
        let found = try unsafe find(target, linkedFrom: path)
        if let found, names.dentries[Int(found)].kind == .node {
            let inode = names.dentries[Int(found)].inode
            if inodes[Int(inode)].isDirectory {
                unsafe notes.add(
                    .link,
                    "hard link \(printable(path)) is left out: its target \(printable(target)) is a directory"
                )
                return
            }
            if !inodes[Int(inode)].isWhiteout {
                // A link to itself changes nothing.
                if try unsafe find(path, linkedFrom: path) == found { return }
                _ = try unsafe put(parent, base, kind: .node, inode: inode, isDirectory: false)
                return
            }
        }
        let number = UInt32(links.count)
        let dentry = try unsafe put(parent, base, kind: .pendingLink, inode: number, isDirectory: false)
        let start = targets.count
        unsafe appendNormalised(target)
        links.append(PendingLink(dentry: dentry, target: start..<targets.count))
    }

    // MARK: Paths

    @unsafe
    private enum Location {
        case root
        case name(parent: UInt32, base: UnsafeRawBufferPointer)
        /// Below a name that no layer can have; noted.
        case ignored
    }

    /// The directory that holds the path's last component, made where it is missing.
    private mutating func locate(_ path: UnsafeRawBufferPointer) throws(LayerFormatError) -> Location {
        try unsafe check(path)
        var end = path.count
        while end > 0, unsafe path[end - 1] == slash { end -= 1 }
        var directoryEnd = end
        while directoryEnd > 0, unsafe path[directoryEnd - 1] != slash { directoryEnd -= 1 }
        // `directoryEnd` is now behind the last slash, or 0.
        if lastDirectory != NameTable.none, lastPath.count == directoryEnd, unsafe isLastPath(path, directoryEnd) {
            let base = unsafe UnsafeRawBufferPointer(rebasing: path[directoryEnd..<end])
            if unsafe !TreeBuilder.isDots(base) {
                try unsafe checkName(base, of: path)
                return unsafe .name(parent: lastDirectory, base: base)
            }
        }
        var parent = TreeBuilder.root
        var pending: Range<Int>?
        var at = 0
        while let component = unsafe TreeBuilder.nextComponent(path, &at) {
            let bytes = unsafe UnsafeRawBufferPointer(rebasing: path[component])
            if bytes.count == 1, unsafe bytes[0] == dot { continue }
            try unsafe checkName(bytes, of: path)
            if let pending {
                let name = unsafe UnsafeRawBufferPointer(rebasing: path[pending])
                guard let next = try unsafe directory(parent, name, path) else { return unsafe .ignored }
                parent = next
            }
            pending = component
        }
        guard let pending else { return unsafe .root }
        if pending.lowerBound == directoryEnd {
            lastPath.removeAll(keepingCapacity: true)
            unsafe lastPath.append(contentsOf: path[..<directoryEnd])
            lastDirectory = parent
        }
        return unsafe .name(parent: parent, base: UnsafeRawBufferPointer(rebasing: path[pending]))
    }

    private func isLastPath(_ path: UnsafeRawBufferPointer, _ count: Int) -> Bool {
        unsafe lastPath.withUnsafeBytes { last in
            guard let a = last.baseAddress, let b = path.baseAddress else { return count == 0 }
            // SAFETY: the caller compared the counts.
            return unsafe memcmp(a, b, count) == 0
        }
    }

    /// The next run without slashes, or nil at the end.
    private static func nextComponent(_ path: UnsafeRawBufferPointer, _ at: inout Int) -> Range<Int>? {
        while at < path.count, unsafe path[at] == slash { at += 1 }
        guard at < path.count else { return nil }
        let start = at
        while at < path.count, unsafe path[at] != slash { at += 1 }
        return start..<at
    }

    private func check(_ path: UnsafeRawBufferPointer) throws(LayerFormatError) {
        guard path.count <= FormatLimit.pathBytes else {
            throw unsafe LayerFormatError(
                .corrupt,
                "TOC entry \(printable(path)) has a path of \(path.count) bytes; at most \(FormatLimit.pathBytes) can be"
            )
        }
        guard let base = path.baseAddress, unsafe memchr(base, 0, path.count) != nil else { return }
        throw unsafe LayerFormatError(.corrupt, "TOC entry \(printable(path)) has a NUL byte in its path")
    }

    private func checkName(_ name: UnsafeRawBufferPointer, of path: UnsafeRawBufferPointer) throws(LayerFormatError) {
        if name.count == 2, unsafe name[0] == dot && name[1] == dot {
            throw unsafe LayerFormatError(.corrupt, "TOC entry \(printable(path)) has a \"..\" in its path")
        }
        if name.count > FormatLimit.nameBytes {
            throw unsafe LayerFormatError(
                .corrupt,
                "TOC entry \(printable(path)) has a name of \(name.count) bytes; at most \(FormatLimit.nameBytes) can be"
            )
        }
    }

    private static func isDots(_ name: UnsafeRawBufferPointer) -> Bool {
        if name.count == 0 { return true }
        return unsafe name[0] == dot && (name.count == 1 || name.count == 2 && name[1] == dot)
    }

    /// Appends the path's components, joined by single slashes, to `targets`.
    private mutating func appendNormalised(_ path: UnsafeRawBufferPointer) {
        let start = targets.count
        var at = 0
        while let component = unsafe TreeBuilder.nextComponent(path, &at) {
            if component.count == 1, unsafe path[component.lowerBound] == dot { continue }
            if targets.count > start { targets.append(slash) }
            unsafe targets.append(contentsOf: path[component])
        }
    }

    /// The dentry that a path names now; nothing is made. `source` is the entry that asks, for errors.
    private func find(
        _ path: UnsafeRawBufferPointer,
        linkedFrom source: UnsafeRawBufferPointer
    ) throws(LayerFormatError) -> UInt32? {
        guard path.count <= FormatLimit.pathBytes, unsafe path.firstIndex(of: 0) == nil else {
            throw unsafe LayerFormatError(.corrupt, "TOC entry \(printable(source)) links to a path that cannot be")
        }
        var at = 0
        var current: UInt32? = TreeBuilder.root
        while let component = unsafe TreeBuilder.nextComponent(path, &at) {
            let name = unsafe UnsafeRawBufferPointer(rebasing: path[component])
            if name.count == 1, unsafe name[0] == dot { continue }
            if name.count == 2, unsafe name[0] == dot && name[1] == dot {
                throw unsafe LayerFormatError(
                    .corrupt,
                    "TOC entry \(printable(source)) links to \(printable(path)), which has a \"..\""
                )
            }
            // Names of no directory have no children: a file's look-ups fail by themselves.
            if let parent = current { current = unsafe names.find(parent, name) }
        }
        return current
    }

    /// The dentry that a normalised path in `targets` names now.
    func find(_ target: Range<Int>) -> UInt32? {
        unsafe targets.withUnsafeBytes { bytes in
            let path = unsafe UnsafeRawBufferPointer(rebasing: bytes[target])
            var at = 0
            var current: UInt32? = TreeBuilder.root
            while let parent = current, let component = unsafe TreeBuilder.nextComponent(path, &at) {
                let name = unsafe UnsafeRawBufferPointer(rebasing: path[component])
                current = unsafe names.find(parent, name)
            }
            return current
        }
    }

    // MARK: Names

    /// A component on the way to an entry: the directory of that name, made if need be. Nil when it cannot be one.
    private mutating func directory(
        _ parent: UInt32,
        _ name: UnsafeRawBufferPointer,
        _ path: UnsafeRawBufferPointer
    ) throws(LayerFormatError) -> UInt32? {
        let place = unsafe names.place(parent, name)
        if let found = place.dentry {
            let dentry = names.dentries[Int(found)]
            if dentry.kind == .node, inodes[Int(dentry.inode)].isDirectory { return found }
            unsafe notes.add(
                .parent,
                "TOC entry \(printable(path)) lies below \(printable(name)), which is not a directory; it becomes one"
            )
            names.dentries[Int(found)].kind = .node
            names.dentries[Int(found)].inode = UInt32(inodes.count)
            inodes.append(.implicitDirectory)
            return found
        }
        if unsafe TreeBuilder.isWhiteoutName(name) {
            unsafe notes.add(.whiteout, "TOC entry \(printable(path)) is ignored: it lies below a whiteout")
            return nil
        }
        try checkCount()
        let inode = UInt32(inodes.count)
        inodes.append(.implicitDirectory)
        return unsafe names.insert(parent, name, at: place, kind: .node, inode: inode)
    }

    private func checkCount() throws(LayerFormatError) {
        guard names.dentries.count < FormatLimit.nodes else {
            throw LayerFormatError(.tooLarge, "the TOC has more than \(FormatLimit.nodes) names")
        }
    }

    /// Gives a name in a directory what it stands for from now on. A directory that stays one keeps its children.
    private mutating func put(
        _ parent: UInt32,
        _ name: UnsafeRawBufferPointer,
        kind: DentryKind,
        inode: UInt32,
        isDirectory: Bool
    ) throws(LayerFormatError) -> UInt32 {
        let place = unsafe names.place(parent, name)
        if let found = place.dentry {
            let old = names.dentries[Int(found)]
            let wasDirectory = old.kind == .node && inodes[Int(old.inode)].isDirectory
            if !wasDirectory || isDirectory {
                names.dentries[Int(found)].kind = kind
                names.dentries[Int(found)].inode = inode
                return found
            }
            // A new number, so that what hangs below the old one is gone with it.
            names.dentries[Int(found)].kind = .removed
            lastDirectory = NameTable.none
        }
        try checkCount()
        return unsafe names.insert(parent, name, at: place, kind: kind, inode: inode)
    }

    // MARK: Whiteouts

    private static func hasPrefix(_ name: UnsafeRawBufferPointer, _ prefix: StaticString) -> Bool {
        guard name.count >= prefix.utf8CodeUnitCount, let base = name.baseAddress else { return false }
        // SAFETY: both hold as many bytes as the literal has.
        return unsafe memcmp(base, prefix.utf8Start, prefix.utf8CodeUnitCount) == 0
    }

    /// `.wh..wh..opq`
    private static func isOpaqueMarker(_ name: UnsafeRawBufferPointer) -> Bool {
        unsafe name.count == 12 && hasPrefix(name, ".wh..wh..opq")
    }

    /// `.wh.…`, but for aufs's own names.
    private static func isWhiteoutName(_ name: UnsafeRawBufferPointer) -> Bool {
        unsafe hasPrefix(name, ".wh.") && (!isMetadataName(name) || isOpaqueMarker(name))
    }

    /// `.wh..wh.…`: what aufs keeps for itself. Such names can be hard link targets; nobody sees them.
    static func isMetadataName(_ name: UnsafeRawBufferPointer) -> Bool {
        unsafe hasPrefix(name, ".wh..wh.")
    }

    private mutating func placeWhiteout(
        _ parent: UInt32,
        _ base: UnsafeRawBufferPointer,
        _ path: UnsafeRawBufferPointer
    ) throws(LayerFormatError) {
        if unsafe TreeBuilder.isOpaqueMarker(base) {
            names.dentries[Int(parent)].isOpaque = true
            return
        }
        let name = unsafe UnsafeRawBufferPointer(rebasing: base[4...])
        if unsafe TreeBuilder.isDots(name) {
            unsafe notes.add(.whiteout, "TOC entry \(printable(path)) is ignored: it hides no name")
            return
        }
        let key = parent | NameTable.whiteoutKey
        let place = unsafe names.place(key, name)
        if place.dentry != nil { return }
        try checkCount()
        _ = unsafe names.insert(key, name, at: place, kind: .whiteout, inode: NameTable.none)
    }
}

private let slash = UInt8(ascii: "/")
private let dot = UInt8(ascii: ".")
