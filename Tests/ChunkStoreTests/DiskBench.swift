import Glibc
import PosixIO
import Synchronization
import TestSupport

@testable import ChunkStore

/// A store on disk in a directory of its own, which can be closed and opened again.
final class DiskBench {
    /// A directory that goes with the bench.
    private final class Owned {
        let directory: TemporaryDirectory
        init() throws { directory = try TemporaryDirectory("store") }
    }

    let directory: String
    private let owned: Owned?
    var options: DiskStoreOptions
    let reports = Counter()
    private(set) var files: StoreFiles
    private(set) var disk: DiskStore
    private(set) var store: ChunkStore

    /// - Parameters:
    ///   - allowance: after how many written bytes the process "dies".
    ///   - memory: bound of what is kept in memory when the disk takes none.
    init(
        capacity: Int,
        segmentSize: Int? = nil,
        directory: String? = nil,
        allowance: Int? = nil,
        retryAfter: UInt64 = 3_600_000_000_000,
        memory: Int = 0
    ) throws {
        owned = directory == nil ? try Owned() : nil
        self.directory = directory ?? owned?.directory.path ?? ""
        options = DiskStoreOptions(capacity: capacity)
        if let segmentSize { options.segmentSize = segmentSize }
        options.retryAfter = retryAfter
        let reports = reports
        options.report = { _ in reports.increment() }
        files = StoreFiles(directory: self.directory, allowance: allowance)
        disk = DiskStore(files: files, options: options)
        store = ChunkStore(disk: disk, memory: memory)
    }

    /// Opens the directory anew, as another process would after this one was killed.
    func reopen() {
        files = StoreFiles(directory: directory)
        disk = DiskStore(files: files, options: options)
        store = ChunkStore(disk: disk, memory: 0)
    }

    func payload(_ key: ChunkKey) -> [UInt8]? { store.find(key).flatMap(unpack) }

    /// Whether a chunk is found, and is what it must be.
    func has(_ chunk: (key: ChunkKey, payload: [UInt8])) -> Bool { payload(chunk.key) == chunk.payload }

    /// Whether a chunk is not found, or is what it must be.
    func isNotWrong(_ chunk: (key: ChunkKey, payload: [UInt8])) -> Bool {
        payload(chunk.key).map { $0 == chunk.payload } ?? true
    }

    /// Names of the segments.
    var segments: [String] { namesInDirectory(directory).filter { SegmentLayout.number($0) != nil } }

    /// What all files take on disk.
    var allocated: Int {
        namesInDirectory(directory).reduce(0) { sum, name in
            var status = stat()
            _ = unsafe lstat("\(directory)/\(name)", &status)
            return sum + Int(status.st_blocks) * 512
        }
    }

    /// All files, to be put back by `restore`.
    func save() throws -> [String: [UInt8]] {
        var result: [String: [UInt8]] = [:]
        for name in namesInDirectory(directory) {
            result[name] = try readFile("\(directory)/\(name)", limit: 1 << 30).array
        }
        return result
    }

    func restore(_ saved: [String: [UInt8]]) throws {
        for name in namesInDirectory(directory) { removeTree("\(directory)/\(name)") }
        for (name, bytes) in saved {
            let file = try Descriptor.open("\(directory)/\(name)", O_WRONLY | O_CREAT)
            try unsafe file.write(bytes.span.bytes, at: 0)
        }
    }
}

/// A payload that is told from all others by its number, and its key.
func numbered(_ number: UInt64, _ kind: PayloadKind = .text, count: Int) -> (key: ChunkKey, payload: [UInt8]) {
    (layerKey(number, length: count), makePayload(kind, count: count, seed: number))
}
