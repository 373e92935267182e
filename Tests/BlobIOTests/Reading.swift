import LayerFormat
import Logging
import OCIModel
import OCIRegistry
import PosixIO
import Synchronization
import TestSupport

@testable import BlobIO

/// The read path with a directory of its own, and what it logged.
final class Bench: Sendable {
    let directory: TemporaryDirectory
    let blobIO: BlobIO
    let log = LogRecorder()

    init(
        verify: VerifyMode = .auto,
        cacheBytes: Int = 64 << 20,
        indexDirectory: String? = nil,
        failureMemory: UInt64 = 0,
        registry: RegistryClient? = nil,
        limits: FetchLimits = .nothingAhead,
        proofDelay: UInt64 = 3_600_000_000_000,
        saveBytes: UInt64 = 1 << 20
    ) throws {
        directory = try TemporaryDirectory("blobio")
        var options = BlobIOOptions(indexDirectory: indexDirectory ?? directory.file("layers"))
        options.verify = verify
        options.memoryCacheBytes = cacheBytes
        options.proofDelay = proofDelay
        options.streamSaveBytes = saveBytes
        blobIO = BlobIO(
            registry: registry,
            options: options,
            // Time stands still for the log: one line for each cause, however slow the machine is.
            log: LimitedLog(logger: log.logger, limiter: LogLimiter(clock: { 1 })),
            failureMemory: failureMemory,
            limits: limits
        )
    }

    var indexDirectory: String { blobIO.options.indexDirectory }

    func open(_ layer: TestLayer, _ source: ScriptedSource, promised: Bool = true) async throws -> Layer {
        try await blobIO.open(layer.descriptor(promised: promised), at: source.place)
    }

    /// Reads as a FUSE request does: parks and resumes until it is served.
    func read(_ layer: Layer, _ path: String, _ offset: UInt64 = 0, _ count: Int = 1 << 30) async throws -> [UInt8] {
        try await finish(blobIO, begin(layer, path, offset, count))
    }

    /// Starts a read; what it came to at once.
    func begin(_ layer: Layer, _ path: String, _ offset: UInt64 = 0, _ count: Int = 1 << 30) throws -> Started {
        var buffer = ReadBuffer()
        let record = try layer.record(path)
        let size = Int(layer.index.attributes(record).size)
        let outcome = blobIO.read(layer, record: record, offset: offset, count: min(count, size + 1), into: &buffer)
        return Started(outcome: outcome, bytes: buffer.bytes)
    }

    func finish(_ blobIO: BlobIO, _ started: Started) async throws -> [UInt8] {
        var started = started
        while case .parked(let job) = started.outcome {
            await wait(for: job.completion)
            started = resume(job)
        }
        if case .failed(let error) = started.outcome { throw error }
        return started.bytes
    }

    private func resume(_ job: ReadJob) -> Started {
        var buffer = ReadBuffer()
        let outcome = job.resume(into: &buffer)
        return Started(outcome: outcome, bytes: buffer.bytes)
    }
}

/// What a read came to, and the bytes that it has.
struct Started: Sendable {
    var outcome: ReadOutcome
    var bytes: [UInt8]

    var isParked: Bool {
        if case .parked = outcome { true } else { false }
    }
}

struct NoSuchPath: Error {
    var path: String
}

extension Layer {
    /// The inode record of a path.
    func record(_ path: String) throws -> UInt32 {
        var record: UInt32 = 0
        for component in path.split(separator: "/") {
            let name = Array(component.utf8)
            guard let next = unsafe index.lookup(name.span.bytes, in: record) else { throw NoSuchPath(path: path) }
            record = next
        }
        return index.inode(record)
    }
}

extension ReadBuffer {
    /// All segments, copied.
    var bytes: [UInt8] {
        unsafe withSegments { segments in
            var result: [UInt8] = []
            for index in 0..<segments.count { result += unsafe Array(segments[index]) }
            return result
        }
    }
}

/// Keeps log lines.
final class LogRecorder: Sendable {
    private let lines = Mutex<[String]>([])

    var text: [String] { lines.withLock { $0 } }
    func count(_ part: String) -> Int { text.count { $0.contains(part) } }

    var logger: Logger {
        var logger = Logger(label: "test") { _ in Handler(recorder: self) }
        logger.logLevel = .debug
        return logger
    }

    private func add(_ line: String) { lines.withLock { $0.append(line) } }

    private struct Handler: LogHandler {
        let recorder: LogRecorder
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.debug

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            recorder.add("\(event.level): \(event.message)")
        }
    }
}

extension Bench {
    /// Waits until nothing flies: what was fetched is in the store.
    func settled() async -> Bool {
        await eventually { self.blobIO.statistics.flightsNow == 0 }
    }
}
