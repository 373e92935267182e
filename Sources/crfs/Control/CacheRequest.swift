internal import BlobIO
internal import ChunkStore
internal import Control
internal import Glibc
internal import ImageFS
internal import PosixIO

/// What `crfs cache` works on.
struct CacheParts: Sendable {
    let state: StateDirectory
    let chunks: ChunkStore
    /// The bound of the contents, in bytes; nil where none is known.
    let limit: Int?
}

extension CacheParts {
    /// A cache directory that nobody uses, with all that is in it, whatever bound its users give it.
    init(unboundedIn state: StateDirectory) {
        self.init(
            state: state,
            chunks: ChunkStore(
                directory: state.chunkDirectory,
                fileDirectory: state.fileDirectory,
                capacity: 1 << 50,
                memory: 0
            ) { printError("crfs: \($0)") },
            limit: state.contentLimit
        )
    }
}

extension Stack {
    var cacheParts: CacheParts { CacheParts(state: state, chunks: blobs.chunkStore, limit: cacheBytes) }
}

/// What `crfs cache` asks for: of the owner, or of its own process with the lock.
struct CacheRequest: Codable, Sendable {
    enum Action: String, Codable, Sendable {
        case stat, prune, verify
    }

    var action: Action
    /// For `prune`: bytes of contents that may stay; nil: as many as the bound allows.
    var keepBytes: Int?
    /// For `prune`: everything that is not in use goes.
    var all = false

    func run(
        _ parts: CacheParts,
        cancelled: Completion?,
        _ progress: (CacheProgress) -> Void
    ) throws -> CacheReport {
        switch action {
        case .stat: return CacheReport(parts)
        case .prune:
            let before = CacheReport(parts)
            let leftovers = parts.state.removeLeftovers()
            if let bytes = all ? 0 : keepBytes ?? parts.limit { parts.chunks.prune(keeping: bytes) }
            if all { parts.state.removeMetadata() }
            var report = CacheReport(parts)
            report.removed = CacheReport.Removed(
                bytes: before.totalBytes - min(before.totalBytes, report.totalBytes),
                leftoverFiles: leftovers
            )
            return report
        case .verify:
            var shownAt: UInt64 = 0
            let found = parts.chunks.verify { done, total in
                let now = monotonicNanoseconds()
                if now &- shownAt > 100_000_000 || done == total {
                    shownAt = now
                    progress(CacheProgress(done: done, total: total))
                }
                return cancelled?.isFinished != true
            }
            let materialised = parts.chunks.verifyFiles { cancelled?.isFinished == true }
            let files = parts.state.verifyMetadata { cancelled?.isFinished == true }
            if cancelled?.isFinished == true { throw CommandError("cancelled") }
            var report = CacheReport(parts)
            report.verified = CacheReport.Verified(
                chunks: found.checked,
                bytes: found.bytes,
                damagedChunks: found.damaged,
                materialisedFiles: materialised.checked,
                damagedMaterialisedFiles: materialised.damaged,
                files: files.checked,
                damagedFiles: files.damaged
            )
            return report
        }
    }
}

/// How far a check is, in chunks.
struct CacheProgress: Codable {
    var done: Int
    var total: Int
}

/// What a cache directory holds. The members' names are an interface: docs/control-socket.md.
struct CacheReport: Codable {
    struct Removed: Codable {
        var bytes: UInt64
        var leftoverFiles: Int

        enum CodingKeys: String, CodingKey {
            case bytes
            case leftoverFiles = "leftover_files"
        }
    }

    struct Verified: Codable {
        var chunks: Int
        var bytes: UInt64
        var damagedChunks: Int
        var materialisedFiles: Int
        var damagedMaterialisedFiles: Int
        /// Indexes, manifests, configurations and profiles.
        var files: Int
        var damagedFiles: Int

        enum CodingKeys: String, CodingKey {
            case chunks, bytes, files
            case damagedChunks = "damaged_chunks"
            case materialisedFiles = "materialised_files"
            case damagedMaterialisedFiles = "damaged_materialised_files"
            case damagedFiles = "damaged_files"
        }
    }

    var directory: String
    var limitBytes: Int?
    var contentBytes: Int
    var contentChunks: Int
    var segments: Int
    var memoryBytes: Int
    var materialisedFiles: FileUsage
    var layerIndexes: FileUsage
    var imageIndexes: FileUsage
    var manifests: FileUsage
    var profiles: FileUsage
    var removed: Removed?
    var verified: Verified?

    enum CodingKeys: String, CodingKey {
        case directory, segments, manifests, profiles, removed, verified
        case limitBytes = "limit_bytes"
        case contentBytes = "content_bytes"
        case contentChunks = "content_chunks"
        case memoryBytes = "memory_bytes"
        case materialisedFiles = "materialised_files"
        case layerIndexes = "layer_indexes"
        case imageIndexes = "image_indexes"
    }

    init(_ parts: CacheParts) {
        let chunks = parts.chunks.statistics
        directory = parts.state.path
        limitBytes = parts.limit
        contentBytes = max(0, chunks.diskBytes - parts.chunks.fileBytes)
        contentChunks = chunks.chunks
        segments = chunks.segments
        memoryBytes = chunks.bytes - chunks.diskBytes
        materialisedFiles = parts.state.usage(of: .materialisedFiles)
        layerIndexes = parts.state.usage(of: .layerIndexes)
        imageIndexes = parts.state.usage(of: .imageIndexes)
        manifests = parts.state.usage(of: .manifests)
        profiles = parts.state.usage(of: .profiles)
    }

    /// All that is on disk.
    var totalBytes: UInt64 {
        UInt64(contentBytes) + materialisedFiles.bytes + layerIndexes.bytes + imageIndexes.bytes + manifests.bytes
            + profiles.bytes
    }
}
