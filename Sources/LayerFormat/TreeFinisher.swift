internal import Glibc

/// Decides what a layer shows of the names that its entries gave, and numbers what is left.
///
/// Record numbers are those of a breadth-first walk: the root is 0, a directory's children are contiguous and sorted
/// bytewise, and a parent's number is below its children's.
struct TreeFinisher {
    private(set) var tree: TreeBuilder
    /// Record -> dentry.
    private(set) var order: [UInt32] = []
    /// Dentry -> record; `NameTable.none` for what is not shown.
    private(set) var records: [UInt32] = []
    /// Record of a directory -> its children's records.
    private(set) var children: [Range<UInt32>] = []
    /// Inode -> its first record, and its number of names (of sub-directories, for a directory).
    private(set) var inodeRecords: [UInt32] = []
    private(set) var linkCounts: [UInt32] = []
    /// Hard links for the lower layers to resolve: numbers of `tree.links`.
    private(set) var externalLinks: [Int] = []
    /// `LayerIndex.prefetchEnd`.
    private(set) var prefetchEnd: UInt64?

    static let landmark = ".prefetch.landmark"
    static let noLandmark = ".no.prefetch.landmark"

    init(_ tree: consuming TreeBuilder) throws(LayerFormatError) {
        self.tree = tree
        spreadRemoval()
        try resolveLinks()
        readLandmarks()
        showWhiteouts()
        hideNames()
        number()
    }

    // MARK: What is shown

    /// Marks everything below a removed directory. Parents have lower numbers than their children.
    private mutating func spreadRemoval() {
        for index in tree.names.dentries.indices.dropFirst() {
            let parent = Int(tree.names.dentries[index].parent & ~NameTable.whiteoutKey)
            if tree.names.dentries[parent].kind == .removed { tree.names.dentries[index].kind = .removed }
        }
    }

    /// Binds the hard links that could not be bound when they came.
    private mutating func resolveLinks() throws(LayerFormatError) {
        for number in tree.links.indices where isCurrent(number) {
            guard case .open = tree.links[number].state else { continue }
            try follow(number)
        }
        for number in tree.links.indices where isCurrent(number) {
            let dentry = Int(tree.links[number].dentry)
            switch tree.links[number].state {
            case .bound(let inode):
                tree.names.dentries[dentry].kind = .node
                tree.names.dentries[dentry].inode = inode
            case .external(let end):
                tree.names.dentries[dentry].kind = .removed
                externalLinks.append(number)
                tree.links[number].target = tree.links[end].target
                let text = (path(tree.links[number].dentry), target(number))
                tree.notes.add(
                    .link,
                    "hard link \(text.0) is left out of the layer's own view: its target \(text.1) is not in the layer"
                )
            case .dropped:
                tree.names.dentries[dentry].kind = .removed
                let text = (path(tree.links[number].dentry), target(number))
                tree.notes.add(.link, "hard link \(text.0) is left out: its target \(text.1) is a directory")
            case .open, .visiting: break
            }
        }
    }

    /// Whether the name still is that link: a later entry may have replaced it.
    private func isCurrent(_ number: Int) -> Bool {
        let dentry = tree.names.dentries[Int(tree.links[number].dentry)]
        return dentry.kind == .pendingLink && dentry.inode == UInt32(number)
    }

    /// Follows a chain of links from name to name to where it ends, and tells all of it what that is.
    private mutating func follow(_ first: Int) throws(LayerFormatError) {
        var chain: [Int] = []
        var result = PendingLink.State.dropped
        var current = first
        while true {
            tree.links[current].state = .visiting
            chain.append(current)
            guard let dentry = tree.find(tree.links[current].target) else {
                result = .external(end: current)
                break
            }
            let found = tree.names.dentries[Int(dentry)]
            if found.kind == .pendingLink {
                current = Int(found.inode)
                if case .open = tree.links[current].state { continue }
                if case .visiting = tree.links[current].state {
                    throw LayerFormatError(
                        .corrupt,
                        "the hard link \(path(tree.links[first].dentry)) of the TOC is part of a cycle of hard links"
                    )
                }
                result = tree.links[current].state
                break
            }
            let inode = tree.inodes[Int(found.inode)]
            if inode.isWhiteout {
                result = .external(end: current)
            } else if !inode.isDirectory {
                result = .bound(inode: found.inode)
            }
            break
        }
        for number in chain { tree.links[number].state = result }
    }

    /// A dentry's path, for messages.
    private func path(_ dentry: UInt32) -> String {
        var parts: [ArraySlice<UInt8>] = []
        var current = dentry
        while current != TreeBuilder.root {
            parts.append(tree.names.name(current))
            current = tree.names.dentries[Int(current)].parent & ~NameTable.whiteoutKey
        }
        let bytes = [UInt8](parts.reversed().joined(separator: [UInt8(ascii: "/")]))
        return unsafe bytes.withUnsafeBytes { unsafe printable($0) }
    }

    private func target(_ link: Int) -> String {
        let bytes = [UInt8](tree.targets[tree.links[link].target])
        return unsafe bytes.withUnsafeBytes { unsafe printable($0) }
    }

    private func rootEntry(_ name: String) -> UInt32? {
        var name = name
        return name.withUTF8 { bytes in
            let raw = UnsafeRawBufferPointer(bytes)
            return unsafe tree.names.find(TreeBuilder.root, raw)
        }
    }

    private mutating func readLandmarks() {
        if let dentry = rootEntry(TreeFinisher.noLandmark), tree.names.dentries[Int(dentry)].kind == .node {
            prefetchEnd = 0
        } else if let dentry = rootEntry(TreeFinisher.landmark), tree.names.dentries[Int(dentry)].kind == .node {
            let inode = tree.inodes[Int(tree.names.dentries[Int(dentry)].inode)]
            guard UInt32(inode.mode) & FileType.mask == FileType.regular, inode.size > 0 else { return }
            prefetchEnd = tree.chunks[Int(truncatingIfNeeded: inode.content & 0xffff_ffff)].memberOffset
        }
    }

    /// A whiteout is shown unless the layer has the name as well; a directory of that name becomes opaque then, so that
    /// what the whiteout hides stays hidden.
    private mutating func showWhiteouts() {
        for index in tree.names.dentries.indices where tree.names.dentries[index].kind == .whiteout {
            let parent = tree.names.dentries[index].parent & ~NameTable.whiteoutKey
            tree.names.dentries[index].parent = parent
            let name = [UInt8](tree.names.name(UInt32(index)))
            let other = unsafe name.withUnsafeBytes { bytes in
                unsafe tree.names.find(parent, bytes)
            }
            if let other, tree.names.dentries[Int(other)].kind == .node {
                tree.names.dentries[index].kind = .removed
                if tree.inodes[Int(tree.names.dentries[Int(other)].inode)].isDirectory {
                    tree.names.dentries[Int(other)].isOpaque = true
                    tree.names.dentries[Int(other)].replacesLower = true
                }
            } else {
                tree.names.dentries[index].kind = .node
                tree.names.dentries[index].inode = UInt32(tree.inodes.count)
                tree.inodes.append(.whiteout)
            }
        }
    }

    /// Takes out what no view shows: landmarks and the TOC in the root, aufs's own names.
    private mutating func hideNames() {
        for index in tree.names.dentries.indices.dropFirst() where tree.names.dentries[index].kind == .node {
            let dentry = tree.names.dentries[index]
            let name = tree.names.name(UInt32(index))
            // All of them start with a dot or an s.
            guard let first = name.first, first == UInt8(ascii: ".") || first == UInt8(ascii: "s") else { continue }
            if isHidden(name, in: dentry.parent) { tree.names.dentries[index].kind = .removed }
        }
        spreadRemoval()
        externalLinks = externalLinks.filter { link in
            let dentry = tree.links[link].dentry
            let parent = Int(tree.names.dentries[Int(dentry)].parent)
            return tree.names.dentries[parent].kind != .removed
                && !isHidden(tree.names.name(dentry), in: UInt32(parent))
        }
    }

    private func isHidden(_ name: ArraySlice<UInt8>, in parent: UInt32) -> Bool {
        if name.starts(with: ".wh..wh.".utf8) { return true }
        guard parent == TreeBuilder.root else { return false }
        return name.elementsEqual(TOCMember.fileName.utf8) || name.elementsEqual(TreeFinisher.landmark.utf8)
            || name.elementsEqual(TreeFinisher.noLandmark.utf8)
    }

    // MARK: Numbers

    private mutating func number() {
        let dentries = tree.names.dentries
        // Children of each dentry, by a counting sort over the parents.
        var starts = [UInt32](repeating: 0, count: dentries.count + 1)
        for dentry in dentries.dropFirst() where dentry.kind == .node { starts[Int(dentry.parent) + 1] += 1 }
        for index in 1..<starts.count { starts[index] += starts[index - 1] }
        var fill = starts
        var sorted = [UInt32](repeating: 0, count: Int(starts[dentries.count]))
        for index in dentries.indices.dropFirst() where dentries[index].kind == .node {
            let parent = Int(dentries[index].parent)
            sorted[Int(fill[parent])] = UInt32(index)
            fill[parent] += 1
        }
        fill = []
        sortNames(&sorted, starts)

        let count = sorted.count + 1
        order.reserveCapacity(count)
        children.reserveCapacity(count)
        records = [UInt32](repeating: NameTable.none, count: dentries.count)
        inodeRecords = [UInt32](repeating: NameTable.none, count: tree.inodes.count)
        linkCounts = [UInt32](repeating: 0, count: tree.inodes.count)
        order.append(TreeBuilder.root)
        var record = 0
        while record < order.count {
            let dentry = Int(order[record])
            records[dentry] = UInt32(record)
            let inode = Int(dentries[dentry].inode)
            if inodeRecords[inode] == NameTable.none { inodeRecords[inode] = UInt32(record) }
            let first = UInt32(order.count)
            if tree.inodes[inode].isDirectory {
                for child in sorted[Int(starts[dentry])..<Int(starts[dentry + 1])] {
                    order.append(child)
                    if tree.inodes[Int(dentries[Int(child)].inode)].isDirectory { linkCounts[inode] += 1 }
                }
                linkCounts[inode] += 2
            } else {
                linkCounts[inode] += 1
            }
            children.append(first..<UInt32(order.count))
            record += 1
        }
    }

    /// Sorts the names of each directory bytewise. The first eight bytes of a name, as a number, decide nearly always.
    private func sortNames(_ sorted: inout [UInt32], _ starts: [UInt32]) {
        struct Key {
            var prefix: UInt64
            var dentry: UInt32
        }
        let dentries = tree.names.dentries
        unsafe tree.names.arena.withUnsafeBytes { arena in
            func prefix(_ dentry: Dentry) -> UInt64 {
                var value: UInt64 = 0
                let start = Int(dentry.nameStart)
                for index in 0..<min(8, Int(dentry.nameCount)) {
                    value |= unsafe UInt64(arena[start + index]) << UInt64(56 - 8 * index)
                }
                return value
            }
            func isBefore(_ a: Key, _ b: Key) -> Bool {
                if a.prefix != b.prefix { return a.prefix < b.prefix }
                let (a, b) = (dentries[Int(a.dentry)], dentries[Int(b.dentry)])
                guard let base = arena.baseAddress else { return false }
                let count = Int(min(a.nameCount, b.nameCount))
                // SAFETY: every dentry's name lies inside of the arena.
                let order = unsafe memcmp(base + Int(a.nameStart), base + Int(b.nameStart), count)
                return order == 0 ? a.nameCount < b.nameCount : order < 0
            }
            var keys: [Key] = []
            for parent in dentries.indices {
                let range = Int(starts[parent])..<Int(starts[parent + 1])
                guard range.count > 1 else { continue }
                keys.removeAll(keepingCapacity: true)
                var isSorted = true
                for index in range {
                    let dentry = sorted[index]
                    let key = Key(prefix: prefix(dentries[Int(dentry)]), dentry: dentry)
                    if let last = keys.last, isBefore(key, last) { isSorted = false }
                    keys.append(key)
                }
                if isSorted { continue }
                keys.sort(by: isBefore)
                for index in range { sorted[index] = keys[index - range.lowerBound].dentry }
            }
        }
    }
}
