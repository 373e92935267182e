internal import ChunkStore
internal import HTTPTransport
public import LayerFormat
public import OCIModel
internal import OCIRegistry
public import PosixIO
internal import Synchronization

/// A layer that is open: its index, and where its bytes come from.
///
/// LOCK ORDER: the locks are leaves.
public final class Layer: Sendable {
    /// What is in it, and where.
    public let index: LayerIndex
    /// The blob's digest; for a local file a digest that stands for the file (see `LocalFile.digest`).
    public let digest: Digest

    /// How messages name it.
    let name: String
    /// Where the layer can be read from, if it is a plain one that is compressed.
    let restarts: RestartTable?
    /// Readers that wait for all of it to stream by once more.
    let again = StreamAgain()
    /// The index came from elsewhere and proved wrong: nothing of the layer is shown any more.
    let refutation = Mutex<BlobError?>(nil)
    private let refuted = Atomic(false)
    /// Whether every byte of it is covered by digests that the image's manifest leads to, and checked against them.
    public let isVerified: Bool

    /// Chunks are hashed where the TOC has digests for them.
    let verifiesChunks: Bool
    /// The file behind a local layer.
    let local: LocalFile?
    /// Compressed bytes on their way that nobody has asked for yet.
    let bytesAhead = Atomic<Int>(0)
    /// Where readers of this layer's files stand.
    let streams: StreamTable
    /// Chunks that were fetched ahead and not read since.
    let ahead: AtomicBits
    /// Chunks of companions that were read, by kind.
    private let testsRead = Atomic<Int>(0)
    private let sourcesRead = Atomic<Int>(0)
    /// What of it was used, for profiles.
    let usage: LayerUsage
    /// Keys of files that are not one chunk, once they were worked out.
    let fileKeys = Mutex<[UInt32: FileKey]>([:])
    let places: PlaceList

    init(
        index: LayerIndex,
        restarts: RestartTable? = nil,
        isProved: Bool = true,
        digest: Digest,
        name: String,
        places: PlaceList,
        local: LocalFile?,
        promise: TOCPromise,
        verifiesChunks: Bool,
        limits: FetchLimits
    ) {
        isVerified = verifiesChunks && isProved && (index.format.isPlain || !promise.isEmpty) && index.hasAllDigests
        streams = StreamTable(end: index.tocOffset, limits: limits)
        ahead = AtomicBits(count: index.chunkCount)
        usage = LayerUsage(index)
        self.index = index
        self.restarts = restarts
        self.digest = digest
        self.name = name
        self.local = local
        self.verifiesChunks = verifiesChunks
        self.places = places
    }

    /// Whether the index proved wrong after the layer was opened with it; every read fails then.
    public var isRefuted: Bool { refuted.load(ordering: .acquiring) }

    /// Lets every further read fail.
    func refute(_ error: BlobError) {
        refutation.withLock { $0 = error }
        refuted.store(true, ordering: .releasing)
    }

    /// Whether readers of this layer want its companions of a kind too. One or two of them can be read by a program that
    /// wants no more.
    func reads(_ kind: Companion) -> Bool {
        switch kind {
        case .test: testsRead.load(ordering: .relaxed) >= 3
        case .source: sourcesRead.load(ordering: .relaxed) >= 3
        }
    }

    /// Whether they want all companions, so that nothing need be known of a file.
    var readsAllCompanions: Bool { reads(.test) && reads(.source) }

    /// Notes that a chunk of a file was read for the first time.
    func noteCompanion(_ record: UInt32) {
        guard !readsAllCompanions, let kind = index.companion(record) else { return }
        switch kind {
        case .test: testsRead.add(1, ordering: .relaxed)
        case .source: sourcesRead.add(1, ordering: .relaxed)
        }
    }

    /// A copy of the index file, and of the file of restart points where there is one.
    public var indexFiles: (index: SharedBytes, restarts: SharedBytes?) {
        (
            index.withBytes { UniqueBytes(copying: $0).share() },
            restarts.map { table in table.withBytes { UniqueBytes(copying: $0).share() } }
        )
    }

    /// What is known of the way to the first place.
    var link: LinkEstimate { places.first.link() }

    /// Reads what has not come of a request from the layer's places.
    ///
    /// - Parameter fresh: the last answer was wrong.
    func fetch(_ span: SpanAssembler, _ priority: TransferPriority, fresh: Bool) async throws(BlobError) {
        try await places.stream(span.rest, priority, fresh: fresh) { span.take($0) }
    }

    /// The SHA-256 of the uncompressed tar, where crfs has computed it: of a plain layer.
    public var diffID: Digest? { index.format.isPlain ? index.tocDigest : nil }

    /// What is fetched for a member. Of a plain gzip layer that is what holds the chunks which start in the span.
    func fetchRange(_ member: ByteRange) -> ByteRange {
        if let restarts, let number = restarts.span(at: member.offset) {
            let span = restarts.spans[number]
            return ByteRange(offset: span.offset, count: min(span.end - span.offset, MemberDecoder.mostCompressed))
        }
        return ByteRange(offset: member.offset, count: min(member.count, MemberDecoder.mostCompressed))
    }

    /// Whether a member can be fetched by itself; else all that stands before it in the blob must stream by again.
    func isDirect(_ member: ByteRange) -> Bool {
        guard let restarts else { return true }
        guard let number = restarts.span(at: member.offset) else { return false }
        let span = restarts.spans[number]
        return span.isPoint && span.length <= UInt64(MemberDecoder.mostInflated)
            && span.end - span.offset <= MemberDecoder.mostCompressed
    }

    /// What a chunk is kept under: by content only where the content is checked.
    func key(_ chunk: Chunk) -> ChunkKey {
        key(chunk.digest, member: chunk.member.offset, innerOffset: chunk.innerOffset, length: chunk.length)
    }

    /// The same from the parts of a chunk.
    func key(_ digest: Digest?, member: UInt64, innerOffset: UInt64, length: UInt32) -> ChunkKey {
        if verifiesChunks, let digest { return ChunkKey(content: digest, length: length) }
        return ChunkKey(layer: self.digest, offset: member, innerOffset: innerOffset, length: length)
    }
}
