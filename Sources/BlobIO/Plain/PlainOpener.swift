internal import ChunkStore
internal import Glibc
internal import HTTPTransport
internal import LayerFormat
internal import Logging
internal import OCIModel
internal import PosixIO

/// A plain layer that is to be streamed.
struct PlainSubject: Sendable {
    var digest: Digest
    var size: UInt64
    /// How messages name it.
    var name: String
    var places: PlaceList
    /// A local file, whose digest only stands for it.
    var isLocal: Bool
}

/// Opens plain layers: each is streamed once, by one of a few threads, and has an index from then on.
final class PlainOpener: Sendable {
    /// Layers that are streamed at once.
    private static let mostStreams = 4

    private let indexDirectory: String
    private let log: LimitedLog
    private let keeper: ChunkKeeper
    private let store: ChunkStore
    private let threads = WorkerPool(named: "crfs-plain", threads: PlainOpener.mostStreams)
    /// One proof at a time, so that none holds up a layer that somebody waits for.
    private let proofThread = WorkerPool(named: "crfs-proof", threads: 1)
    /// What is under way, for reports.
    let register = StreamRegister()
    /// How often a stream's state is logged, in nanoseconds.
    private let logInterval: UInt64
    /// After how many bytes of the tar a stream's state is saved.
    private let saveSpacing: UInt64

    init(indexDirectory: String, store: ChunkStore, log: LimitedLog, logInterval: UInt64, saveSpacing: UInt64) {
        self.indexDirectory = indexDirectory
        self.log = log
        self.logInterval = logInterval
        self.saveSpacing = saveSpacing
        self.store = store
        keeper = ChunkKeeper(store: store)
    }

    /// Where a layer's restart points are.
    func restartPath(_ digest: Digest) -> String { "\(indexDirectory)/\(digest.directoryName).rst" }

    /// Where the journal of a layer's stream is while it is not complete.
    private func journalPath(_ digest: Digest) -> String { "\(indexDirectory)/\(digest.directoryName).part" }

    /// Removes the journal of a layer whose index is kept.
    func forgetStream(_ digest: Digest) { _ = unsafe unlink(journalPath(digest)) }

    /// The restart points that an earlier stream left; nil where there are none.
    func restarts(_ index: LayerIndex) -> RestartTable? {
        guard let table = try? RestartTable(path: restartPath(index.layerDigest), layer: index.layerDigest) else {
            return nil
        }
        return table.format == index.format ? table : nil
    }

    /// Streams a layer: from where an earlier stream of it was, if that did not come to its end. What came wrong is asked for
    /// once more, from the start, and without trusting the way there.
    ///
    /// - Parameters:
    ///   - isProof: nobody waits for it.
    func stream(_ subject: PlainSubject, isProof: Bool = false) async throws(BlobError) -> PlainResult {
        guard subject.size > 0 else { throw BlobError(.unsupported, "\(subject.name) is empty: it is no layer") }
        try? makeDirectories(indexDirectory)
        let progress = StreamProgress(
            subject.digest,
            place: subject.places.first.name,
            size: subject.size,
            isProof: isProof
        )
        register.add(progress)
        defer { register.remove(progress) }
        reportRegularly(subject, progress)
        let first = await pass(subject, progress, fresh: false)
        guard case .failure(let error) = first.result else { return try first.result.get() }
        // What a stream gave that was taken up may come of what was saved, and else of the way.
        let isWorthAnother = first.isResumed ? error.isOfContent : error.kind == .corrupt && !subject.isLocal
        guard isWorthAnother else { throw error }
        log(.warning, cause: "stream \(subject.digest)") { "\(error.reason); asking for it once more" }
        progress.begin(at: 0)
        return try await pass(subject, progress, fresh: true).result.get()
    }

    /// - Parameter fresh: neither what was saved nor the way there is trusted.
    private func pass(
        _ subject: PlainSubject,
        _ progress: StreamProgress,
        fresh: Bool
    ) async -> (result: Result<PlainResult, BlobError>, isResumed: Bool) {
        let ingest = PlainIngest(
            subject: subject,
            queue: ByteQueue(),
            keeper: keeper,
            progress: progress,
            restartPath: restartPath(subject.digest),
            saveSpacing: saveSpacing
        )
        return await (progress.isProof ? proofThread : threads).run {
            [self] () -> (result: Result<PlainResult, BlobError>, isResumed: Bool) in
            let journal = StreamJournal(
                path: journalPath(subject.digest),
                layer: subject.digest,
                blobSize: subject.size,
                anew: fresh
            )
            let start = journal?.saved?.point.offset ?? 0
            if start > 0 {
                progress.begin(at: start)
                log(.notice, cause: "resumed \(subject.digest)") {
                    "the stream of \(subject.name) goes on at byte \(start) of \(subject.size)"
                }
            }
            // Begun by the thread that takes the bytes: a connection that nobody reads from would be held meanwhile.
            Task {
                await Self.fetch(
                    subject.places,
                    ByteRange(offset: start, count: subject.size - start),
                    progress.isProof ? .background : .demand,
                    fresh: fresh,
                    into: ingest.queue
                ) { progress.came($0) }
            }
            do throws(BlobError) {
                return (.success(try ingest.run(journal)), start > 0)
            } catch {
                // A network that failed brings the rest another time; content that is wrong does not become right.
                if error.isOfContent { journal?.remove() }
                return (.failure(error), start > 0)
            }
        }
    }

    /// Takes the chunks of a layer out of the store.
    func forget(_ layer: Layer) {
        for number in 0..<UInt32(layer.index.chunkCount) {
            let chunk = layer.index.chunk(number)
            if !chunk.isZeros { store.remove(layer.key(chunk)) }
        }
    }

    /// Brings a range of a blob into a queue.
    static func fetch(
        _ places: PlaceList,
        _ range: ByteRange,
        _ priority: TransferPriority,
        fresh: Bool,
        into queue: ByteQueue,
        came: @escaping @Sendable (Int) -> Void
    ) async {
        do throws(BlobError) {
            try await places.stream(range, priority, fresh: fresh, gate: queue.gate) { bytes in
                guard queue.append(bytes) else { return false }
                came(bytes.byteCount)
                return true
            }
            queue.end()
        } catch {
            queue.end(error)
        }
    }

    /// A line in the log every so often, for as long as the stream goes on.
    private func reportRegularly(_ subject: PlainSubject, _ progress: StreamProgress) {
        let (interval, register, log) = (logInterval, register, log)
        Task {
            while true {
                try? await Task.sleep(nanoseconds: interval)
                guard register.contains(progress) else { return }
                let state = progress.snapshot
                let left = state.secondsLeft.map { ", \(Int($0.rounded(.up))) s left" } ?? ""
                log(.notice, cause: "streaming \(subject.digest)") {
                    "streaming \(subject.name) from \(subject.places.first.name): \(state.bytes) of \(state.size) bytes,"
                        + " \(state.bytesPerSecond) bytes/s\(left), \(state.entries) entries"
                }
            }
        }
    }
}

extension BlobError {
    /// Whether what came is wrong, rather than that it did not come.
    fileprivate var isOfContent: Bool { kind == .corrupt || kind == .unsupported }
}
