internal import OCIModel
public import PosixIO

/// An image's merged tree: names of all layers with whiteouts applied, pointing into the layers' indexes.
///
/// Like `LayerIndex` it traps on a record number that is out of range and never on what the file holds; what is damaged
/// gives a safe value (no name, no children, the root's node) and sets `isDamaged`. Safe on any number of threads; no
/// accessor allocates.
public final class ImageIndex: Sendable {
    /// Where a name leads, and what the merged view adds.
    public struct Node: Sendable, Equatable {
        /// Which layer supplies the inode (0 = bottom).
        public var layer: Int
        /// The inode's record in that layer.
        public var record: UInt32
        /// Link count in the merged view.
        public var linkCount: UInt32
        /// The merged view's attributes differ from the layer's (link count), for anything but a directory: the node
        /// needs a number of its own here.
        public var hasOwnAttributes: Bool
    }

    /// The layers, bottom first.
    public let layers: [LayerIndex]
    let file: IndexFile

    /// Opens a merged index; `.staleIndex` when it was not built from exactly these layers, or must be built anew.
    public convenience init(path: String, layers: [LayerIndex]) throws(LayerFormatError) {
        try self.init(IndexFile(path: path, kind: .image), layers)
    }

    /// Takes a merged index that is in memory (as `build` gives it).
    public convenience init(bytes: SharedBytes, layers: [LayerIndex]) throws(LayerFormatError) {
        try self.init(IndexFile(bytes: bytes, kind: .image), layers)
    }

    init(_ file: consuming IndexFile, _ layers: [LayerIndex]) throws(LayerFormatError) {
        guard file.header.layerCount == layers.count else { throw ImageIndex.foreign }
        for (number, layer) in layers.enumerated() {
            guard let stored = file.record(.layers, number, LayerRecord.self), stored == LayerRecord(of: layer) else {
                throw ImageIndex.foreign
            }
        }
        self.file = file
        self.layers = layers
    }

    private static let foreign = LayerFormatError(
        .staleIndex,
        "the index file must be built anew: it is of other layers"
    )

    /// Merges layers, bottom first, as applying them one after the other would (OCI image specification, "Layer
    /// filesystem changeset"; spec section 2).
    ///
    /// - Parameters:
    ///   - layers: at least one and at most 65,535 layers.
    ///   - note: gets what must be logged (a hard link whose target is nowhere, …), one line at a time.
    /// - Returns: the index file's bytes.
    public static func build(layers: [LayerIndex], note: (String) -> Void) throws(LayerFormatError) -> UniqueBytes {
        guard !layers.isEmpty else { throw LayerFormatError(.noIndex, "an image without layers has no tree") }
        guard layers.count <= Int(UInt16.max) else {
            throw LayerFormatError(.tooLarge, "the image has \(layers.count) layers; crfs reads up to 65,535")
        }
        var merger = ImageMerger(layers)
        let bytes = try merger.merge()
        merger.notes.report(note)
        return bytes
    }

    /// How many names there are; record numbers are below it. Record 0 is the root.
    public var recordCount: Int { Int(file.header.recordCount) }
    /// How large the index is, in bytes, without the layers' own.
    public var byteCount: Int { file.count }
    /// Whether something in the index file contradicted its checksums or its bounds since it was opened.
    public var isDamaged: Bool { file.isDamaged }

    /// Throws `.staleIndex` when a block's checksum does not hold, or something was found damaged before. Reads the whole
    /// file.
    public func verifyAllBlocks() throws(LayerFormatError) {
        try file.verifyAllBlocks()
    }

    @inline(__always)
    private func stored(_ record: UInt32) -> ImageRecord {
        precondition(record < file.header.recordCount, "record out of range")
        return file.record(.nodes, Int(record), ImageRecord.self) ?? ImageRecord(damaged: record)
    }

    /// Where a name's inode is.
    public func node(_ record: UInt32) -> Node {
        let stored = stored(record)
        guard Int(stored.layer) < layers.count, stored.record < layers[Int(stored.layer)].recordCount else {
            file.markDamaged()
            return Node(layer: 0, record: 0, linkCount: 1, hasOwnAttributes: false)
        }
        return Node(
            layer: Int(stored.layer),
            record: stored.record,
            linkCount: stored.linkCount,
            hasOwnAttributes: stored.hasOwnAttributes != 0
        )
    }

    /// For hard links whose inode has own attributes: the first record of the inode in the merged tree; else the record.
    public func inode(_ record: UInt32) -> UInt32 {
        let stored = stored(record)
        guard stored.hasOwnAttributes != 0 else { return record }
        guard stored.inode <= record else {
            file.markDamaged()
            return record
        }
        return stored.inode
    }

    /// The record of the directory that holds the name; the root's own for the root.
    public func parent(_ record: UInt32) -> UInt32 {
        let parent = stored(record).parent
        guard parent < record || record == 0 && parent == 0 else {
            file.markDamaged()
            return 0
        }
        return parent
    }

    /// The name's bytes, without terminator; empty for the root. Valid while the index lives.
    @_lifetime(borrow self)
    public func name(_ record: UInt32) -> RawSpan {
        let stored = stored(record)
        // SAFETY: the bytes live as long as the file, which lives as long as `self`.
        let bytes =
            unsafe file.bytes(.names, Int(stored.name), Int(stored.nameCount))
            ?? UnsafeRawBufferPointer(start: nil, count: 0)
        let span = unsafe RawSpan(_unsafeBytes: bytes)
        return unsafe _overrideLifetime(span, borrowing: self)
    }

    /// Records of a directory's names, contiguous and sorted bytewise; empty for anything else.
    public func children(_ directory: UInt32) -> Range<UInt32> {
        let stored = stored(directory)
        let end = file.header.recordCount
        guard stored.firstChild <= end, stored.childCount <= end - stored.firstChild else {
            file.markDamaged()
            return 0..<0
        }
        return stored.firstChild..<stored.firstChild + stored.childCount
    }

    /// The record of a name in a directory, by binary search; nil when the name is not there.
    public func lookup(_ name: borrowing RawSpan, in directory: UInt32) -> UInt32? {
        let children = children(directory)
        return unsafe name.withUnsafeBytes { bytes in
            unsafe file.search(
                bytes,
                children,
                stride: ImageRecord.byteCount,
                nameAt: ImageRecord.nameAt,
                nameCountAt: ImageRecord.nameCountAt
            )
        }
    }
}

extension ImageRecord {
    /// Stands in for a record whose block is damaged.
    init(damaged record: UInt32) {
        self.init(
            parent: 0,
            name: 0,
            firstChild: 0,
            childCount: 0,
            record: 0,
            inode: record,
            linkCount: 1,
            layer: 0,
            nameCount: 0,
            hasOwnAttributes: 0
        )
    }
}

extension LayerRecord: Equatable {
    init(of layer: LayerIndex) {
        digest = layer.layerDigest.words
        tocDigest = layer.tocDigest.words
        recordCount = UInt32(layer.recordCount)
    }

    static func == (a: LayerRecord, b: LayerRecord) -> Bool {
        a.digest == b.digest && a.tocDigest == b.tocDigest && a.recordCount == b.recordCount
    }
}
