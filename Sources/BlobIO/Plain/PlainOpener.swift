internal import ChunkStore
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
    var place: Place
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

    init(indexDirectory: String, store: ChunkStore, log: LimitedLog, logInterval: UInt64 = 10_000_000_000) {
        self.indexDirectory = indexDirectory
        self.log = log
        self.logInterval = logInterval
        self.store = store
        keeper = ChunkKeeper(store: store)
    }

    /// Where a layer's restart points are.
    func restartPath(_ digest: Digest) -> String { "\(indexDirectory)/\(digest.directoryName).rst" }

    /// The restart points that an earlier stream left; nil where there are none.
    func restarts(_ index: LayerIndex) -> RestartTable? {
        guard let table = try? RestartTable(path: restartPath(index.layerDigest), layer: index.layerDigest) else {
            return nil
        }
        return table.format == index.format ? table : nil
    }

    /// Streams a layer. What came wrong is asked for once more, without trusting the way there.
    ///
    /// - Parameters:
    ///   - isProof: nobody waits for it.
    func stream(_ subject: PlainSubject, isProof: Bool = false) async throws(BlobError) -> PlainResult {
        try? makeDirectories(indexDirectory)
        let progress = StreamProgress(
            subject.digest,
            place: subject.place.name,
            size: subject.size,
            isProof: isProof
        )
        register.add(progress)
        defer { register.remove(progress) }
        reportRegularly(subject, progress)
        do throws(BlobError) {
            return try await pass(subject, progress, fresh: false)
        } catch {
            guard error.kind == .corrupt && !subject.isLocal else { throw error }
            log(.warning, cause: "stream \(subject.digest)") { "\(error.reason); asking for it once more" }
            progress.restart()
            return try await pass(subject, progress, fresh: true)
        }
    }

    private func pass(
        _ subject: PlainSubject,
        _ progress: StreamProgress,
        fresh: Bool
    ) async throws(BlobError) -> PlainResult {
        guard subject.size > 0 else { throw BlobError(.unsupported, "\(subject.name) is empty: it is no layer") }
        let ingest = PlainIngest(
            subject: subject,
            queue: ByteQueue(),
            keeper: keeper,
            progress: progress,
            restartPath: restartPath(subject.digest)
        )
        let result = await (progress.isProof ? proofThread : threads).run { () -> Result<PlainResult, BlobError> in
            // Begun by the thread that takes the bytes: a connection that nobody reads from would be held meanwhile.
            Task {
                await Self.fetch(
                    subject.place,
                    ByteRange(offset: 0, count: subject.size),
                    progress.isProof ? .background : .demand,
                    fresh: fresh,
                    into: ingest.queue
                ) { progress.came($0) }
            }
            do throws(BlobError) {
                return .success(try ingest.run())
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
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
        _ place: Place,
        _ range: ByteRange,
        _ priority: TransferPriority,
        fresh: Bool,
        into queue: ByteQueue,
        came: @escaping @Sendable (Int) -> Void
    ) async {
        do throws(BlobError) {
            try await place.stream(range, priority, fresh, queue.gate) { bytes in
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
                    "streaming \(subject.name) from \(subject.place.name): \(state.bytes) of \(state.size) bytes,"
                        + " \(state.bytesPerSecond) bytes/s\(left), \(state.entries) entries"
                }
            }
        }
    }
}
