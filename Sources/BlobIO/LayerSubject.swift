internal import LayerFormat
internal import OCIModel

/// The digests that a manifest promises for a layer's TOC: of its JSON, of its compressed bytes, or of both.
struct TOCPromise: Hashable, Sendable {
    var json: Digest?
    var frame: Digest?

    static let none = TOCPromise()

    init(json: Digest? = nil, frame: Digest? = nil) {
        self.json = json
        self.frame = frame
    }

    /// What a descriptor promises.
    init(_ descriptor: ContentDescriptor) {
        self.init(json: descriptor.tocDigest, frame: descriptor.tocFrameDigest)
    }

    var isEmpty: Bool { json == nil && frame == nil }

    /// Whether an index was built from a TOC that has all the promised digests. A promise for the compressed TOC says
    /// nothing of a TOC in a gzip member, which has to have the other one.
    func holds(for index: LayerIndex) -> Bool {
        if let json, json != index.tocDigest { return false }
        guard let frame else { return true }
        return index.format == .zstdChunked ? frame == index.tocFrameDigest : json != nil
    }
}

/// A layer that is to be opened.
struct LayerSubject: Sendable {
    var digest: Digest
    var size: UInt64
    var promise: TOCPromise
    /// Where the manifest says that the TOC is (zstd:chunked); nil where it says nothing that can be true.
    var frame: TOCFrame?
    /// How messages name it.
    var name: String
    /// Where it is read from: the place that it was opened at, and those of all who opened it since.
    var places: PlaceList
    /// The file behind a local layer.
    var local: LocalFile?
    /// A plain layer is streamed for its index.
    var streams = true
    /// Finds an index that somebody made of it, if it is a plain layer.
    var hint: (@Sendable () async -> PlainHint?)?

    /// The place that is asked for its TOC.
    var place: Place { places.first }
}
