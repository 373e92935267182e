internal import BlobIO
internal import ChunkStore
internal import Control
internal import FuseBridge
internal import Glibc
internal import ImageFS
internal import OCIRegistry
internal import PosixIO

/// What a running crfs does, for `crfs status`. The members' names are an interface (docs/control-socket.md): names carry
/// their units, counters count from the start of the process.
struct StatusReport: Codable {
    struct Mount: Codable {
        var point: String
        /// The image that is the root, with its tag or else its digest; nil: the tree of all registries.
        var image: String?
        /// The digest of its manifest.
        var manifest: String?
        var process: Int32
        var isForeground: Bool
        /// Seconds since 1970.
        var since: Int64
        /// Who answers opens: `none` (the kernel), `daemon`, or `auto` (the daemon while it helps).
        var openMode: String
        /// Whether the kernel is given materialised files to read by itself, now.
        var passthrough: Bool
        var waits: Waits

        enum CodingKeys: String, CodingKey {
            case point, image, manifest, process, passthrough, waits
            case openMode = "open"
            case isForeground = "foreground"
            case since = "since_unix_seconds"
        }
    }

    /// Requests of the kernel that could not be answered at once.
    struct Waits: Codable {
        struct Class: Codable {
            /// Nil for the last class.
            var upTo: UInt64?
            var count: UInt64

            enum CodingKeys: String, CodingKey {
                case upTo = "up_to_milliseconds"
                case count
            }
        }

        var now: Int
        var total: UInt64
        var seconds: Double
        var classes: [Class]

        enum CodingKeys: String, CodingKey {
            case now, total, seconds
            case classes = "histogram"
        }

        init(_ waits: WaitStatistics) {
            now = waits.waitingNow
            total = waits.waited
            seconds = Double(waits.nanoseconds) / 1e9
            classes = waits.counts.indices.map { index in
                let bounds = WaitStatistics.bounds
                return Class(upTo: index < bounds.count ? bounds[index] : nil, count: waits.counts[index])
            }
        }
    }

    struct Reads: Codable {
        var fromStore: UInt64
        var fromFlights: UInt64
        var parked: UInt64
        var failed: UInt64

        enum CodingKeys: String, CodingKey {
            case parked, failed
            case fromStore = "from_store"
            case fromFlights = "from_flights"
        }
    }

    struct Network: Codable {
        /// Of every kind: tokens, manifests, indexes, contents.
        var requests: UInt64
        var tokenRequests: UInt64
        var redirects: UInt64
        var retries: UInt64
        var bodyBytes: UInt64
        /// Ranges of contents.
        var contentRequests: UInt64
        var demandRequests: UInt64
        var contentBytes: UInt64
        var inflatedBytes: UInt64
        var flights: UInt64
        var flightsNow: Int
        var mismatches: UInt64
        var hedges: UInt64
        var hedgesWon: UInt64

        enum CodingKeys: String, CodingKey {
            case requests, redirects, retries, flights, mismatches, hedges
            case hedgesWon = "hedges_won"
            case tokenRequests = "token_requests"
            case bodyBytes = "body_bytes"
            case contentRequests = "content_requests"
            case demandRequests = "demand_requests"
            case contentBytes = "content_bytes"
            case inflatedBytes = "inflated_bytes"
            case flightsNow = "flights_now"
        }
    }

    /// Compressed bytes that came before somebody asked for them.
    struct Ahead: Codable {
        /// What came for one reason.
        struct Kind: Codable {
            var name: String
            var fetchedBytes: UInt64
            var readBytes: UInt64
            var unreadBytes: UInt64

            enum CodingKeys: String, CodingKey {
                case name
                case fetchedBytes = "fetched_bytes"
                case readBytes = "read_bytes"
                case unreadBytes = "unread_bytes"
            }
        }

        var bytes: UInt64
        var usedBytes: UInt64
        var unusedBytes: UInt64
        var kinds: [Kind]

        enum CodingKeys: String, CodingKey {
            case bytes, kinds
            case usedBytes = "used_bytes"
            case unusedBytes = "unused_bytes"
        }
    }

    struct Store: Codable {
        var hits: UInt64
        var misses: UInt64
        var insertions: UInt64
        var evictions: UInt64
        var damaged: UInt64
        var chunks: Int
        var diskBytes: Int
        var memoryBytes: Int
        var limitBytes: Int
        var segments: Int

        enum CodingKeys: String, CodingKey {
            case hits, misses, insertions, evictions, damaged, chunks, segments
            case diskBytes = "disk_bytes"
            case memoryBytes = "memory_bytes"
            case limitBytes = "limit_bytes"
        }
    }

    /// Files of images that are kept whole on disk, for the kernel to read.
    struct Files: Codable {
        var files: Int
        var bytes: Int
        var limitBytes: Int

        enum CodingKeys: String, CodingKey {
            case files, bytes
            case limitBytes = "limit_bytes"
        }
    }

    /// A plain layer that is being read from its begin to its end.
    struct Stream: Codable {
        var layer: String
        var place: String
        var bytes: UInt64
        var sizeBytes: UInt64
        var entries: UInt64
        var rate: UInt64
        var seconds: Double
        var secondsLeft: Double?
        var isProof: Bool

        enum CodingKeys: String, CodingKey {
            case layer, place, bytes, entries, seconds
            case sizeBytes = "size_bytes"
            case rate = "bytes_per_second"
            case secondsLeft = "seconds_left"
            case isProof = "proof"
        }
    }

    struct Host: Codable {
        /// Name and port of the server that blobs come from.
        var name: String
        var roundTrip: Double
        var rate: UInt64

        enum CodingKeys: String, CodingKey {
            case name
            case roundTrip = "round_trip_milliseconds"
            case rate = "bytes_per_second"
        }
    }

    var version: String
    var `protocol`: Int
    var process: Int32
    var uptime: Double
    var cacheDirectory: String
    var options: [String: String]
    var mounts: [Mount]
    var imagesOpen: Int
    var layersOpen: Int
    var reads: Reads
    var waits: Waits
    var network: Network
    var prefetch: Ahead
    var store: Store
    var materialisedFiles: Files
    var streamingLayers: [Stream]
    var hosts: [Host]

    enum CodingKeys: String, CodingKey {
        case version, `protocol`, process, options, mounts, reads, waits, network, prefetch, store, hosts
        case uptime = "uptime_seconds"
        case cacheDirectory = "cache_directory"
        case materialisedFiles = "materialised_files"
        case streamingLayers = "streaming_layers"
        case imagesOpen = "images_open"
        case layersOpen = "layers_open"
    }
}

extension Owner {
    /// What this process does now.
    func status() -> StatusReport {
        let mounts = mounts
        let blobs = stack.blobs.statistics
        let open = stack.library.openCounts
        var waits = WaitStatistics()
        for mount in mounts { waits.add(mount.session.waits) }
        return StatusReport(
            version: Version.text,
            protocol: ControlProtocol.version,
            process: getpid(),
            uptime: Double(monotonicNanoseconds() &- stack.startedAt) / 1e9,
            cacheDirectory: stack.state.path,
            options: options,
            mounts: mounts.map { mount in
                StatusReport.Mount(
                    point: mount.session.options.mountPoint,
                    image: mount.fileSystem.image?.name,
                    manifest: (mount.fileSystem.image?.manifest).map { "\($0)" },
                    process: mount.process,
                    isForeground: mount.isForeground,
                    since: mount.since,
                    openMode: mount.session.options.openMode.rawValue,
                    passthrough: mount.session.isPassing,
                    waits: StatusReport.Waits(mount.session.waits)
                )
            },
            imagesOpen: open.images,
            layersOpen: open.layers,
            reads: StatusReport.Reads(
                fromStore: blobs.readsFromStore,
                fromFlights: blobs.readsFromFlights,
                parked: blobs.readsParked,
                failed: blobs.readsFailed
            ),
            waits: StatusReport.Waits(waits),
            network: network(blobs),
            prefetch: StatusReport.Ahead(blobs, stack.blobs.prefetchStatistics),
            store: StatusReport.Store(blobs, limit: stack.cacheBytes),
            materialisedFiles: StatusReport.Files(stack.blobs.chunkStore.files),
            streamingLayers: stack.blobs.streamingLayers.map { StatusReport.Stream($0) },
            hosts: stack.registry.knownLinks.sorted { $0.key < $1.key }.map { name, link in
                StatusReport.Host(name: name, roundTrip: Double(link.roundTrip) / 1e6, rate: link.bytesPerSecond)
            }
        )
    }

    private func network(_ blobs: BlobIOStatistics) -> StatusReport.Network {
        let registry = stack.registry.counters
        return StatusReport.Network(
            requests: registry.requests,
            tokenRequests: registry.tokenRequests,
            redirects: registry.redirects,
            retries: registry.retries,
            bodyBytes: registry.bodyBytes,
            contentRequests: blobs.requests,
            demandRequests: blobs.demandRequests,
            contentBytes: blobs.bytesFetched,
            inflatedBytes: blobs.bytesInflated,
            flights: blobs.flights,
            flightsNow: blobs.flightsNow,
            mismatches: blobs.mismatches,
            hedges: registry.hedges,
            hedgesWon: registry.hedgesWon
        )
    }
}

extension StatusReport.Ahead {
    fileprivate init(_ blobs: BlobIOStatistics, _ figures: [PrefetchFigures]) {
        bytes = blobs.bytesWidened + blobs.bytesAhead
        usedBytes = min(bytes, blobs.bytesAheadRead)
        unusedBytes = bytes - usedBytes
        kinds = figures.map { figure in
            let read = min(figure.read, figure.fetched)
            return Kind(
                name: figure.kind.name,
                fetchedBytes: figure.fetched,
                readBytes: read,
                unreadBytes: figure.fetched - read
            )
        }
    }
}

extension StatusReport.Files {
    fileprivate init(_ store: FileStore?) {
        let now = store?.statistics
        files = now?.files ?? 0
        bytes = now?.bytes ?? 0
        limitBytes = store?.limit ?? 0
    }
}

extension StatusReport.Stream {
    fileprivate init(_ stream: StreamingLayer) {
        layer = "\(stream.digest)"
        place = stream.place
        bytes = stream.bytes
        sizeBytes = stream.size
        entries = stream.entries
        rate = stream.bytesPerSecond
        seconds = stream.seconds
        secondsLeft = stream.secondsLeft
        isProof = stream.isProof
    }
}

extension StatusReport.Store {
    fileprivate init(_ blobs: BlobIOStatistics, limit: Int) {
        let store = blobs.store
        hits = store.hits
        misses = store.misses
        insertions = store.insertions
        evictions = store.evictions
        damaged = store.damaged
        chunks = store.chunks
        diskBytes = store.diskBytes
        memoryBytes = store.bytes - store.diskBytes
        limitBytes = limit
        segments = store.segments
    }
}
