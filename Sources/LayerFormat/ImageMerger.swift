internal import PosixIO

/// Merges the trees of an image's layers (OCI image specification, "Layer filesystem changeset").
///
/// Top down and breadth first: a merged directory knows which layers' directories it is made of, and its names come from
/// those by one walk over all of their sorted children at once.
///
/// Not copyable, so that no access to a part of it copies all of it.
@safe
struct ImageMerger: ~Copyable {
    private(set) var notes = Notes()
    private let layers: [LayerIndex]
    private let crossLinks: CrossLinks
    private var records: [ImageRecord] = []
    private var names: [UInt8] = []
    /// Layers' directories that make up a merged one, top first.
    private var parts: [Part] = []
    /// Record of a merged directory -> its range of `parts`.
    private var partRanges: [(first: UInt32, count: UInt32)] = []
    /// Where a layer's records start in `firstNames`.
    private var bases: [Int] = []
    /// Inode of a layer -> the first record of the merged tree that has it.
    private var firstNames: [UInt32]
    // SAFETY: cursors point to names in the layers' files and in `crossLinks`, which live as long as `self` does and do not
    // change.
    private var cursors: [Cursor] = unsafe []

    private struct Part {
        var layer: UInt32
        var record: UInt32
    }

    /// A position among the names of one layer's directory, or among its cross links.
    @unsafe
    private struct Cursor {
        var layer: Int
        /// The directory's record.
        var directory: UInt32
        var next: Int
        var end: Int
        var isCrossLink: Bool
        /// The name at `next`; its first eight bytes as a number decide most comparisons.
        var name = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        var prefix: UInt64 = 0
    }

    init(_ layers: [LayerIndex]) {
        self.layers = layers
        var notes = Notes()
        crossLinks = CrossLinks(layers, &notes)
        self.notes = notes
        var total = 0
        for layer in layers {
            bases.append(total)
            total += layer.recordCount
        }
        firstNames = [UInt32](repeating: .max, count: total)
        records.reserveCapacity(total)
    }

    /// The index file's bytes.
    mutating func merge() throws(LayerFormatError) -> UniqueBytes {
        startRoot()
        var record = 0
        while record < records.count {
            if partRanges[record].count > 0 { try mergeDirectory(UInt32(record)) }
            record += 1
            if record % 4096 == 0 { try checkLayers() }
        }
        countLinks()
        try checkLayers()
        return try serialize()
    }

    private func checkLayers() throws(LayerFormatError) {
        for layer in layers where layer.isDamaged {
            throw LayerFormatError(.staleIndex, "the index file of layer \(layer.layerDigest) must be built anew")
        }
    }

    // MARK: Directories

    private mutating func startRoot() {
        var attributes: Part?
        var isOpaque = false
        for number in layers.indices.reversed() {
            let flags = NodeFlags(rawValue: layers[number].node(0).flags)
            if attributes == nil, !flags.contains(.implicit) { attributes = Part(layer: UInt32(number), record: 0) }
            if !isOpaque { parts.append(Part(layer: UInt32(number), record: 0)) }
            isOpaque = isOpaque || flags.contains(.opaque)
        }
        unsafe append(
            UnsafeRawBufferPointer(start: nil, count: 0),
            parent: 0,
            attributes ?? parts[0],
            partRange: 0..<parts.count
        )
    }

    private mutating func mergeDirectory(_ directory: UInt32) throws(LayerFormatError) {
        let range = partRanges[Int(directory)]
        unsafe cursors.removeAll(keepingCapacity: true)
        for index in Int(range.first)..<Int(range.first) + Int(range.count) {
            let part = parts[index]
            let layer = Int(part.layer)
            let links = crossLinks.links(layer, in: part.record)
            if !links.isEmpty {
                unsafe addCursor(
                    Cursor(
                        layer: layer,
                        directory: part.record,
                        next: links.lowerBound,
                        end: links.upperBound,
                        isCrossLink: true
                    )
                )
            }
            let children = layers[layer].children(part.record)
            unsafe addCursor(
                Cursor(
                    layer: layer,
                    directory: part.record,
                    next: Int(children.lowerBound),
                    end: Int(children.upperBound),
                    isCrossLink: false
                )
            )
        }
        let first = records.count
        var directories: UInt32 = 0
        while unsafe !cursors.isEmpty {
            if try mergeName(lowest(), directory) { directories += 1 }
        }
        records[Int(directory)].firstChild = UInt32(first)
        records[Int(directory)].childCount = UInt32(records.count - first)
        records[Int(directory)].linkCount = 2 + directories
    }

    private mutating func addCursor(_ cursor: consuming Cursor) {
        guard unsafe cursor.next < cursor.end else { return }
        unsafe load(&cursor)
        unsafe cursors.append(cursor)
    }

    /// Reads the name at the cursor.
    @inline(__always)
    private func load(_ cursor: inout Cursor) {
        let layer = unsafe layers[cursor.layer]
        if unsafe cursor.isCrossLink {
            unsafe cursor.name = crossLinks.byLayer[cursor.layer][cursor.next].name.withUnsafeBytes { unsafe $0 }
        } else {
            let node = unsafe layer.node(UInt32(cursor.next))
            // One parent each: so even an index that lies cannot make the walk longer than the index.
            if unsafe node.parent != cursor.directory { layer.file.markDamaged() }
            unsafe cursor.name = layer.nameBytes(node)
        }
        var prefix: UInt64 = 0
        if unsafe cursor.name.count >= 8 {
            prefix = unsafe UInt64(bigEndian: cursor.name.loadUnaligned(as: UInt64.self))
        } else {
            for index in unsafe 0..<cursor.name.count {
                prefix |= unsafe UInt64(cursor.name[index]) << UInt64(56 - 8 * index)
            }
        }
        unsafe cursor.prefix = prefix
    }

    /// The first of the cursors that stand at the lowest name.
    private func lowest() -> Int {
        var lowest = 0
        for index in unsafe cursors.indices.dropFirst() where unsafe isLower(cursors[index], cursors[lowest]) {
            lowest = index
        }
        return lowest
    }

    @inline(__always)
    private func isLower(_ a: Cursor, _ b: Cursor) -> Bool {
        if unsafe a.prefix != b.prefix { return unsafe a.prefix < b.prefix }
        return unsafe compareNames(a.name, b.name) < 0
    }

    // MARK: Names

    /// Decides what the name at cursor `first` (the topmost that has it) stands for, appends it, and moves all cursors
    /// behind it. Returns whether a directory was appended.
    private mutating func mergeName(_ first: Int, _ directory: UInt32) throws(LayerFormatError) -> Bool {
        let top = unsafe cursors[first]
        let partStart = parts.count
        var attributes: Part?
        var isOpen = true
        var takesParts = true
        var result: Part?
        var index = first
        while unsafe index < cursors.count {
            // Layers below `first` in their order; cursors at other names stay where they are.
            if unsafe !isSame(cursors[index], top) {
                index += 1
                continue
            }
            if isOpen, let part = unsafe target(cursors[index]) {
                let node = layers[Int(part.layer)].node(part.record)
                let flags = NodeFlags(rawValue: node.flags)
                if node.isDirectory {
                    if result == nil { result = part }
                    if takesParts { parts.append(part) }
                    if attributes == nil, !flags.contains(.implicit) { attributes = part }
                    if flags.contains(.opaque) { takesParts = false }
                    // Below a directory that was made anew, nothing counts; below an opaque one its attributes still do
                    // where the layers above only imply it.
                    isOpen = !flags.contains(.replacesLower) && (takesParts || attributes == nil)
                } else {
                    if result == nil, !flags.contains(.whiteout) { result = part }
                    isOpen = false
                }
            }
            if !advance(index) { index += 1 }
        }
        guard let result else { return false }
        guard records.count < FormatLimit.imageNodes else {
            throw LayerFormatError(.tooLarge, "the image has more than \(FormatLimit.imageNodes) names")
        }
        guard names.count + 255 <= Int(UInt32.max), parts.count <= Int(UInt32.max) else {
            throw LayerFormatError(.tooLarge, "the image has more than 4 GiB of names")
        }
        unsafe append(top.name, parent: directory, attributes ?? result, partRange: partStart..<parts.count)
        return parts.count > partStart
    }

    @inline(__always)
    private func isSame(_ a: Cursor, _ b: Cursor) -> Bool {
        unsafe a.prefix == b.prefix && compareNames(a.name, b.name) == 0
    }

    /// The inode at a cursor.
    @inline(__always)
    private func target(_ cursor: borrowing Cursor) -> Part? {
        if unsafe cursor.isCrossLink {
            let link = unsafe crossLinks.byLayer[cursor.layer][cursor.next]
            return Part(layer: UInt32(link.layer), record: link.record)
        }
        return unsafe Part(
            layer: UInt32(cursor.layer),
            record: layers[cursor.layer].inode(UInt32(cursor.next))
        )
    }

    /// Moves a cursor to its next name. At its end it is taken out: true means that another one is at its index now.
    private mutating func advance(_ index: Int) -> Bool {
        unsafe cursors[index].next += 1
        if unsafe cursors[index].next == cursors[index].end {
            unsafe cursors.remove(at: index)
            return true
        }
        var cursor = unsafe cursors[index]
        unsafe load(&cursor)
        unsafe cursors[index] = cursor
        return false
    }

    private mutating func append(
        _ name: UnsafeRawBufferPointer,
        parent: UInt32,
        _ node: Part,
        partRange: Range<Int>
    ) {
        let record = UInt32(records.count)
        var inode = record
        if partRange.isEmpty {
            let number = bases[Int(node.layer)] + Int(node.record)
            if firstNames[number] == .max { firstNames[number] = record }
            inode = firstNames[number]
        }
        records.append(
            ImageRecord(
                parent: parent,
                name: UInt32(names.count),
                firstChild: 0,
                childCount: 0,
                record: node.record,
                inode: inode,
                linkCount: 0,
                layer: UInt16(node.layer),
                nameCount: UInt8(name.count),
                hasOwnAttributes: 0
            )
        )
        unsafe names.append(contentsOf: name)
        partRanges.append((UInt32(partRange.lowerBound), UInt32(partRange.count)))
    }

    // MARK: Links and output

    /// Counts each inode's names, and marks those that have more or fewer of them than in their layer.
    private mutating func countLinks() {
        for record in records.indices where partRanges[record].count == 0 {
            records[Int(records[record].inode)].linkCount += 1
        }
        for record in records.indices where partRanges[record].count == 0 {
            let count = records[Int(records[record].inode)].linkCount
            records[record].linkCount = count
            let own = layers[Int(records[record].layer)].node(records[record].record).linkCount
            records[record].hasOwnAttributes = count == own ? 0 : 1
        }
    }

    private func serialize() throws(LayerFormatError) -> UniqueBytes {
        var writer = try IndexWriter(
            .image,
            sizes: [
                .nodes: records.count * ImageRecord.byteCount,
                .names: names.count,
                .layers: layers.count * LayerRecord.byteCount,
            ]
        )
        unsafe writer.withSection(.nodes) { buffer in
            unsafe records.withUnsafeBytes { unsafe buffer.copyMemory(from: $0) }
        }
        unsafe writer.withSection(.names) { unsafe $0.copyBytes(from: names) }
        unsafe writer.withSection(.layers) { buffer in
            for (number, layer) in layers.enumerated() {
                let at = number * LayerRecord.byteCount
                unsafe buffer.storeBytes(of: LayerRecord(of: layer), toByteOffset: at, as: LayerRecord.self)
            }
        }
        var header = IndexHeader()
        header.recordCount = UInt32(records.count)
        header.layerCount = UInt32(layers.count)
        return writer.finish(header)
    }
}
