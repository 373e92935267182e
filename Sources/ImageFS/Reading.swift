public import BlobIO
internal import LayerFormat
internal import OCIModel
public import PosixIO

/// What a read of a file came to.
public enum FileReadOutcome: Sendable {
    /// The buffer holds the bytes (fewer than asked only at the end of the file).
    case ready
    /// They are on their way; `resume` the job when its completion is finished.
    case parked(FileReadJob)
    /// It cannot be read.
    case failed(FSError)
}

/// A read whose bytes are on their way.
public final class FileReadJob: Sendable {
    private enum Source: Sendable {
        case layer(ReadJob)
        case generated(FileSystem, NodeID, offset: UInt64, count: Int)
    }

    private let source: Source
    /// Finished when `resume` is worth calling.
    public let completion: Completion

    init(_ job: ReadJob) {
        source = .layer(job)
        completion = job.completion
    }

    init(_ fileSystem: FileSystem, _ node: NodeID, offset: UInt64, count: Int, after completion: Completion) {
        source = .generated(fileSystem, node, offset: offset, count: count)
        self.completion = completion
    }

    /// Goes on with the read; may park again.
    public func resume(into buffer: inout ReadBuffer) -> FileReadOutcome {
        switch source {
        case .layer(let job): FileReadOutcome(job.resume(into: &buffer))
        case .generated(let fileSystem, let node, let offset, let count):
            fileSystem.read(node, handle: 0, offset: offset, count: count, into: &buffer)
        }
    }
}

extension FileReadOutcome {
    init(_ outcome: ReadOutcome) {
        switch outcome {
        case .ready: self = .ready
        case .parked(let job): self = .parked(FileReadJob(job))
        case .failed(let error): self = .failed(FSError(error))
        }
    }
}

extension FileSystem {
    /// Reads up to `count` bytes from `offset` into `buffer`; empty past the end.
    public func read(
        _ id: NodeID,
        handle: UInt64,
        offset: UInt64,
        count: Int,
        into buffer: inout ReadBuffer
    ) -> FileReadOutcome {
        switch place(id) {
        case nil: return .failed(.stale)
        case .tree(let tree, let record):
            let source = tree.source(record)
            guard isRegular(source.layer.index.attributes(source.record).mode) else { return .failed(.invalid) }
            let outcome = library.blobs.read(
                source.layer,
                record: source.record,
                offset: offset,
                count: count,
                into: &buffer
            )
            return FileReadOutcome(outcome)
        case .namespace(let node):
            switch node.kind {
            case .file(let bytes):
                buffer.append(bytes, offset: offset, count: count)
                return .ready
            case .configuration(let repository, let descriptor):
                switch library.configuration(repository, descriptor) {
                case .loading(let completion):
                    return .parked(FileReadJob(self, id, offset: offset, count: count, after: completion))
                case .failed(let error): return .failed(error)
                case .ready(let bytes):
                    buffer.append(SharedBytes(bytes), offset: offset, count: count)
                    return .ready
                }
            default: return .failed(.isDirectory)
            }
        }
    }
}
