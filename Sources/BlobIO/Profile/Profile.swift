internal import LayerFormat
public import OCIModel

/// Bounds of profiles.
enum ProfileLimit {
    /// Layers of one profile.
    static let layers = 4096
    /// Chunks of one profile, and of one run.
    static let chunks = 1 << 20
    /// Bytes of a profile's file.
    static let bytes = 16 << 20
    /// Bytes of a job key.
    static let key = 60
    /// A chunk goes after so many runs that did not open its file.
    static let age: UInt8 = 3
}

/// A layer as a profile knows it. Chunks are counted in the order of the blob, which is the same on every machine for the same
/// TOC.
public struct ProfileLayer: Hashable, Sendable {
    /// The blob's digest.
    public var digest: Digest
    /// SHA-256 of the TOC.
    public var toc: Digest
    /// How many chunks the TOC has; positions are below it.
    public var chunkCount: UInt32

    /// Makes one from its parts.
    public init(digest: Digest, toc: Digest, chunkCount: UInt32) {
        self.digest = digest
        self.toc = toc
        self.chunkCount = chunkCount
    }

    init(_ layer: Layer) {
        self.init(
            digest: layer.digest,
            toc: layer.index.tocDigest,
            chunkCount: UInt32(truncatingIfNeeded: layer.index.chunkCount)
        )
    }
}

/// A chunk as a profile knows it.
public struct ProfilePlace: Hashable, Sendable {
    /// Number of the layer in the profile's list.
    public var layer: UInt16
    /// Place among the layer's chunks, sorted by the offset of their members in the blob, then by that in the member.
    public var position: UInt32

    /// Makes one from its parts.
    public init(layer: UInt16, position: UInt32) {
        self.layer = layer
        self.position = position
    }
}

/// Which chunks of an image a job reads, in the order in which it first did, over its runs.
public struct Profile: Sendable, Equatable {
    /// A chunk, and how many runs ago its file was opened last.
    public struct Item: Sendable, Equatable {
        /// Which chunk.
        public var place: ProfilePlace
        /// 0: in the last run.
        public var age: UInt8

        /// Makes one from its parts.
        public init(_ place: ProfilePlace, age: UInt8 = 0) {
            self.place = place
            self.age = age
        }
    }

    /// The image manifest's digest.
    public var manifest: Digest
    /// The job key, 1 to 60 printable ASCII characters; empty without one.
    public var job: String
    /// How many runs were merged.
    public var runs: UInt32
    /// The layers.
    public var layers: [ProfileLayer]
    /// The chunks, each once, in order of first use.
    public var items: [Item]

    /// An empty one.
    public init(manifest: Digest, job: String) {
        self.manifest = manifest
        self.job = job
        runs = 0
        layers = []
        items = []
    }

    /// Whether a text can be a job key.
    public static func isJobKey(_ text: some StringProtocol) -> Bool {
        (1...ProfileLimit.key).contains(text.utf8.count) && text.utf8.allSatisfy { (0x21...0x7e).contains($0) }
    }

    /// The profile after a further run. Chunks that it had keep their order; new ones come behind the chunk that was read
    /// before them.
    ///
    /// - Parameter isOver: the run has come to its end: what it did not open is one run older. Else the same run can be
    ///   merged again later.
    public func merged(with run: ProfileRun, isOver: Bool) -> Profile {
        var result = Profile(manifest: manifest, job: job)
        result.runs = isOver ? (runs == .max ? runs : runs + 1) : runs
        result.layers = run.layers
        // Numbers of this profile's layers in the result; a layer whose TOC is another one now is gone.
        let numbers = layers.map { layer -> UInt16? in
            if let number = run.layers.firstIndex(of: layer) { return UInt16(number) }
            guard !run.layers.contains(where: { $0.digest == layer.digest }), result.layers.count < ProfileLimit.layers
            else { return nil }
            result.layers.append(layer)
            return UInt16(result.layers.count - 1)
        }
        let kept = items.compactMap { item -> Item? in
            guard Int(item.place.layer) < numbers.count, let layer = numbers[Int(item.place.layer)] else { return nil }
            return Item(ProfilePlace(layer: layer, position: item.place.position), age: item.age)
        }
        let known = Set(kept.map(\.place))
        let read = Set(run.chunks)
        var behind: [ProfilePlace?: [ProfilePlace]] = [:]
        var anchor: ProfilePlace?
        for place in run.chunks {
            if known.contains(place) { anchor = place } else { behind[anchor, default: []].append(place) }
        }
        result.items = (behind[nil] ?? []).map { Item($0) }
        for item in kept {
            let isUsed =
                read.contains(item.place) || Int(item.place.layer) < run.layers.count && run.isOpened(item.place)
            let age = isUsed ? 0 : isOver ? item.age &+ 1 : item.age
            if age < ProfileLimit.age { result.items.append(Item(item.place, age: age)) }
            for place in behind[item.place] ?? [] { result.items.append(Item(place)) }
        }
        if result.items.count > ProfileLimit.chunks {
            result.items.removeLast(result.items.count - ProfileLimit.chunks)
        }
        return result
    }
}

/// What one run read.
public struct ProfileRun: Sendable {
    /// The image's layers, as far as they were used.
    public var layers: [ProfileLayer]
    /// The chunks that were read, each once, in their order.
    public var chunks: [ProfilePlace]
    /// Whether the file of a chunk (of one of `layers`) was opened.
    public var isOpened: @Sendable (ProfilePlace) -> Bool
    /// Whether any file was opened.
    public var hasOpened: Bool

    init(
        layers: [ProfileLayer],
        chunks: [ProfilePlace],
        isOpened: @escaping @Sendable (ProfilePlace) -> Bool,
        hasOpened: Bool
    ) {
        self.layers = layers
        self.chunks = chunks
        self.isOpened = isOpened
        self.hasOpened = hasOpened
    }
}
