internal import BlockCodec
internal import Glibc
internal import LayerFormat
internal import OCIModel
internal import PosixIO

/// Files of one kind in a cache directory.
public struct FileUsage: Sendable, Equatable, Codable {
    /// How many there are.
    public var files = 0
    /// What they take on disk, as the file system counts, in bytes.
    public var bytes: UInt64 = 0

    /// None.
    public init() {}

    mutating func add(_ path: String) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return }
        files += 1
        bytes += UInt64(status.st_blocks) * 512
    }
}

// What a user asks for of the small files; contents are the chunk store's. Safe while the directory is in use: each file
// is whole or not there, and what is mapped stays mapped when its name goes.

extension StateDirectory {
    /// Kinds of files.
    public enum FileKind: Sendable {
        /// Segments of chunks.
        case segments
        /// Whole files of images, without the notes beside them.
        case materialisedFiles
        /// Indexes of layers, and where plain ones can be read from.
        case layerIndexes
        /// Merged indexes.
        case imageIndexes
        /// Manifests and configurations.
        case manifests
        /// What jobs read of images.
        case profiles
    }

    /// What the files of a kind take.
    public func usage(of kind: FileKind) -> FileUsage {
        let directory =
            switch kind {
            case .segments: chunkDirectory
            case .materialisedFiles: fileDirectory
            case .layerIndexes: layerIndexDirectory
            case .imageIndexes: imageIndexDirectory
            case .manifests: manifestDirectory
            case .profiles: profileDirectory
            }
        var usage = FileUsage()
        for name in namesInDirectory(directory) {
            if case .materialisedFiles = kind, name.hasSuffix(".note") || name == "used" { continue }
            usage.add("\(directory)/\(name)")
        }
        return usage
    }

    /// What chunks and materialised files take on disk together, in bytes.
    public var contentBytes: Int {
        Int(clamping: usage(of: .segments).bytes &+ usage(of: .materialisedFiles).bytes)
    }

    /// How long the journal of a stream that did not come to its end is kept, in seconds.
    private static let journalLife = 86_400

    /// Removes temporary files of processes that are gone, and journals of streams that nobody has gone on with for a day.
    /// Returns how many there were.
    public func removeLeftovers() -> Int {
        let own = ".tmp-\(getpid())-"
        var count = 0
        func visit(_ directory: String, depth: Int) {
            for name in namesInDirectory(directory) {
                let path = "\(directory)/\(name)"
                if name.contains(".tmp-") {
                    if !name.contains(own), unsafe unlink(path) == 0 { count += 1 }
                } else if depth > 0 {
                    visit(path, depth: depth - 1)
                }
            }
        }
        for name in namesInDirectory(layerIndexDirectory) where name.hasSuffix(".part") {
            let path = "\(layerIndexDirectory)/\(name)"
            var status = stat()
            guard unsafe lstat(path, &status) == 0, time(nil) - status.st_mtim.tv_sec > Self.journalLife else {
                continue
            }
            if unsafe unlink(path) == 0 { count += 1 }
        }
        // The store of materialised files looks after its own.
        for directory in [path, layerIndexDirectory, imageIndexDirectory, manifestDirectory, profileDirectory] {
            visit(directory, depth: 0)
        }
        visit(repositoryDirectory, depth: 64)
        return count
    }

    /// Removes indexes, manifests, configurations, and what is remembered of repositories. Numbers stay, so that inode
    /// numbers do too; and profiles, which can be had from nowhere else.
    public func removeMetadata() {
        for directory in [layerIndexDirectory, imageIndexDirectory, manifestDirectory, repositoryDirectory] {
            for name in namesInDirectory(directory) { removeTree("\(directory)/\(name)") }
        }
    }

    /// Checks layer indexes and profiles against their checksums, and manifests and configurations against their digests;
    /// wrong ones go. Merged indexes are checked when an image is opened.
    ///
    /// - Parameter isCancelled: asked before each file.
    /// - Returns: how many files were looked at, and how many of them were wrong.
    public func verifyMetadata(_ isCancelled: () -> Bool) -> (checked: Int, damaged: Int) {
        var checked = 0
        var damaged = 0
        func check(_ directory: String, suffix: String, _ isSound: (_ path: String, _ digest: Digest) -> Bool) {
            for name in namesInDirectory(directory) where name.hasSuffix(suffix) && !isCancelled() {
                guard let digest = Digest(directoryName: String(name.dropLast(suffix.count))) else { continue }
                checked += 1
                let path = "\(directory)/\(name)"
                if !isSound(path, digest) {
                    damaged += 1
                    _ = unsafe unlink(path)
                }
            }
        }
        check(layerIndexDirectory, suffix: ".idx") { path, digest in
            guard let index = try? LayerIndex(path: path, layer: digest) else { return false }
            return (try? index.verifyAllBlocks()) != nil
        }
        let contents = ContentStore(directory: manifestDirectory)
        check(manifestDirectory, suffix: "") { _, digest in contents.read(digest) != nil }
        let profiles = ProfileStore(directory: profileDirectory)
        for key in profiles.keys() where !isCancelled() {
            checked += 1
            if profiles.read(key) == nil, (try? profiles.remove(key)) == true { damaged += 1 }
        }
        return (checked, damaged)
    }
}
