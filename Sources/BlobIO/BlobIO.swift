public import ChunkStore
internal import LayerFormat
internal import Logging
public import OCIModel
public import OCIRegistry
internal import PosixIO

/// Options of the read path.
public struct BlobIOOptions: Sendable {
    /// How chunks are checked.
    public var verify: VerifyMode = .auto
    /// Bytes that chunks may take in memory: those that the disk does not take, all where there is no chunk directory.
    public var memoryCacheBytes: Int = 256 << 20
    /// Absolute path of the directory for chunks, which exists: `<cache>/chunks`; nil to keep none on disk.
    public var chunkDirectory: String?
    /// Absolute path of the directory for materialised files: `<cache>/files`; nil to make none. They take up to a quarter
    /// of `cacheBytes`.
    public var fileDirectory: String?
    /// Bytes that chunks and materialised files may take on disk.
    public var cacheBytes: Int = 10 << 30
    /// Absolute path of the directory for layer indexes: `<cache>/layers`.
    public var indexDirectory: String

    /// How long after a plain layer was opened with an index from elsewhere that is proved, in nanoseconds.
    public var proofDelay: UInt64 = 20_000_000_000
    /// How often the state of a layer that streams is logged, in nanoseconds.
    public var streamLogNanoseconds: UInt64 = 10_000_000_000
    /// After how many bytes of its tar the state of a layer that streams is saved, for a process that comes after this one.
    public var streamSaveBytes: UInt64 = 16 << 20

    /// The defaults, with this directory.
    public init(indexDirectory: String) {
        self.indexDirectory = indexDirectory
    }
}

/// The read path from a chunk to the registry: store, flights, range fetches, decode workers. One per process.
/// See docs/decisions/0006-read-path.md.
public final class BlobIO: Sendable {
    let options: BlobIOOptions
    let store: ChunkStore
    let flights = FlightTable()
    let decoder = MemberDecoder()
    /// Inflates and checks what readers wait for; reads local files.
    let workers: WorkerPool
    /// Inflates what nobody waits for, and packs, with what the processor has left. When nothing comes any more, the memory
    /// for what comes is given back.
    let background = WorkerPool(named: "crfs-pack", threads: 1, priority: .low, whenIdle: { releaseFreeMemory() })
    let log: LimitedLog
    let counters = Counters()
    let landing = LandingQueue()
    let aheadBudget = AheadBudget()
    let prefetcher = Prefetcher()
    /// Takes down what is read first, for profiles.
    public let recorder = Recorder()
    let limits: FetchLimits
    private let layers: LayerTable
    private let opener: LayerOpener
    let plain: PlainOpener
    /// Decompresses layers once more; its threads may wait for the network.
    let again = WorkerPool(named: "crfs-again", threads: 2)
    private let registry: RegistryClient?
    private let externalTOCs: ExternalTOCs?

    private static func limits(_ options: BlobIOOptions) -> FetchLimits {
        let memory = UInt64(max(0, options.memoryCacheBytes))
        return options.chunkDirectory == nil ? .store(of: memory) : .besideDisk(memory: memory)
    }

    /// The read path of a process; starts its threads.
    public convenience init(registry: RegistryClient, options: BlobIOOptions) {
        self.init(registry: registry, options: options, log: LimitedLog(logger: Logger(label: "crfs.BlobIO")))
    }

    /// The same with a log of one's own; without a registry where every place is given by the caller (tests).
    ///
    /// - Parameters:
    ///   - failureMemory: how long a failed open is remembered, in nanoseconds; nil for the usual times.
    ///   - limits: what may be fetched ahead; nil for what fits the store.
    init(
        registry: RegistryClient?,
        options: BlobIOOptions,
        log: LimitedLog,
        failureMemory: UInt64? = nil,
        limits: FetchLimits? = nil
    ) {
        // What is on its way is in memory, whatever the disk may hold.
        let limits = limits ?? BlobIO.limits(options)
        self.limits = limits
        self.registry = registry
        externalTOCs = registry.map { ExternalTOCs($0) }
        self.options = options
        self.log = log
        if let directory = options.chunkDirectory {
            store = ChunkStore(
                directory: directory,
                fileDirectory: options.fileDirectory,
                capacity: options.cacheBytes,
                memory: options.memoryCacheBytes
            ) { message in
                log(.warning, cause: "chunk store") { message }
            }
        } else {
            store = ChunkStore(capacity: options.memoryCacheBytes)
        }
        workers = WorkerPool(named: "crfs-decode", threads: 2)
        layers = LayerTable(failureMemory: failureMemory)
        plain = PlainOpener(
            indexDirectory: options.indexDirectory,
            store: store,
            log: log,
            logInterval: options.streamLogNanoseconds,
            saveSpacing: options.streamSaveBytes
        )
        opener = LayerOpener(options: options, workers: workers, log: log, limits: limits, plain: plain)
    }

    /// Where chunks are kept.
    public var chunkStore: ChunkStore { store }

    /// Figures since the start.
    public var statistics: BlobIOStatistics {
        var result = counters.statistics
        result.flightsNow = flights.count
        result.store = store.statistics
        return result
    }

    /// How content is checked.
    public var verify: VerifyMode { options.verify }

    /// The plain layers that are being streamed now, by digest.
    public var streamingLayers: [StreamingLayer] { plain.register.snapshot }

    // MARK: Opening

    /// Opens a registry layer: its cached index, or footer and TOC in one range. Single flight per layer; later callers
    /// get the same `Layer`, and add `repository` as a further place to read from.
    ///
    /// A failure is remembered for a short time, so that a look-up that is repeated at once costs no request.
    ///
    /// - Parameters:
    ///   - tags: tags of the repository that may have led to the image, best first. A TOC that is in a second image is
    ///     looked for beside them before the whole repository is listed.
    ///   - streams: a plain layer that was never streamed is streamed for its index; else that is an error which says so.
    ///   - hint: finds an index that somebody made of the layer, if it turns out to be a plain one.
    public func open(
        _ descriptor: ContentDescriptor,
        from repository: Repository,
        tags: [String] = [],
        streams: Bool = true,
        hint: (@Sendable () async -> PlainHint?)? = nil
    ) async throws(BlobError) -> Layer {
        guard let registry, let externalTOCs else { throw BlobError(.unavailable, "no registry client") }
        let address = BlobAddress(repository: repository, digest: descriptor.digest, size: descriptor.size)
        var place = Place(registry, address)
        place.tocLayers = { (layer) throws(BlobError) in
            try await externalTOCs.layers(for: layer, in: repository, likely: tags)
        }
        return try await open(descriptor, at: place, streams: streams, hint: hint)
    }

    /// The same from any place.
    func open(
        _ descriptor: ContentDescriptor,
        at place: Place,
        streams: Bool = true,
        hint: (@Sendable () async -> PlainHint?)? = nil
    ) async throws(BlobError) -> Layer {
        let promise = options.verify == .off ? .none : TOCPromise(descriptor)
        return try await layers.open(LayerTable.Key(digest: descriptor.digest, promise: promise), at: place) {
            [opener] places, isDamaged in
            await opener.open(descriptor, promise: promise, at: places, hint: hint, streams: streams, anew: isDamaged)
        }
    }

    /// Opens a local layer file (known by device, inode, size and times). Opening the same file again gives the same
    /// layer, and costs no more than an open and an fstat.
    public func open(localFile path: String) async throws(BlobError) -> Layer {
        let opened = await workers.run { () -> Result<(LocalFile, Digest), BlobError> in
            do throws(SystemError) {
                let file = try LocalFile(path)
                return .success((file, file.digest))
            } catch {
                return .failure(BlobError(error, name: "local layer \(path)"))
            }
        }
        let (file, digest) = try opened.get()
        let place = Place(file, pool: workers)
        return try await layers.open(LayerTable.Key(digest: digest, promise: .none), at: place) {
            [opener] places, isDamaged in await opener.open(file, digest: digest, at: places, anew: isDamaged)
        }
    }
}
