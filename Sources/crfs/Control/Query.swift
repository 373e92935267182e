internal import BlobIO
internal import Control
internal import Glibc
internal import ImageFS
internal import Logging
internal import OCIModel
internal import PosixIO

/// A command that reads an image and writes to standard output. It runs in its own process, or in the one that owns the
/// cache directory: then it is sent there, and its output comes back over the control socket.
protocol ImageQuery: Codable, Sendable {
    /// Its name among the requests of the control socket.
    static var request: String { get }
    /// A reference, or a layer file.
    var image: String { get }
    /// `os/arch[/variant]`.
    var platform: String { get }

    /// Does it. `cancelled` ends when nobody wants the output any more.
    func run(_ stack: Stack, cancelled: Completion?, _ sink: @escaping OutputSink) throws
}

extension ImageQuery {
    var chosenPlatform: Platform {
        get throws {
            guard let platform = Platform(platform) else { throw CommandError("\(platform) is no platform") }
            return platform
        }
    }

    /// The image, and a tree to walk.
    func open(_ stack: Stack, cancelled: Completion?) throws -> (ImageSource, TreeWalker) {
        let source = try ImageSource(image)
        var options = FileSystemOptions(localDirectory: source.localDirectory, readme: "")
        options.platform = try chosenPlatform
        let fileSystem = FileSystem(library: stack.library, options: options)
        return (source, TreeWalker(fileSystem: fileSystem, cancelled: cancelled))
    }
}

/// Runs a query where the cache is: here with the lock, in the owner without, or here with nothing where the owner
/// cannot serve it.
func runQuery<Query: ImageQuery>(_ query: Query, _ access: AccessOptions) throws {
    let source = try ImageSource(query.image)
    let claim = try CacheClaim(access.cacheDirectory, purpose: Query.request, seconds: 5) { channel in
        // A file is read as well without the owner, whose view of the file system can be another one.
        guard case .image = source else { return false }
        let owner = try ControlChannel(directory: access.cacheDirectory).owner()
        guard access.differences(from: owner).isEmpty else { return false }
        var hasOutput = false
        do {
            let _: NoValue = try channel.call(Query.request, query, progress: { (_: NoValue) in }) { bytes in
                hasOutput = true
                // SAFETY: a UInt8 is one byte without padding.
                try unsafe writeToStandardOutput(bytes.span.bytes)
            }
            return true
        } catch let error as ControlError {
            // Before the first byte it can be done anew; afterwards not.
            if hasOutput || error.kind == .refused { throw CommandError(error.description) }
            throw error
        }
    }
    switch consume claim {
    case .served: return
    case .owned(let state):
        let stack = try Stack(access, state: state)
        defer { stack.blobs.settle() }
        try query.run(stack, cancelled: nil) { try writeToStandardOutput($0) }
    case .unavailable:
        try query.run(Stack.withTemporaryState(access), cancelled: nil) { try writeToStandardOutput($0) }
    }
}

/// What became of the attempt to use a cache directory.
enum CacheClaim {
    /// This process has the lock.
    case owned(StateDirectory)
    /// The owner did what was wanted.
    case served
    /// Another process has the lock, and cannot do it: why.
    case unavailable(String)

    /// Takes the lock, or asks its owner; tries both for so many seconds, because an owner can be about to start or to
    /// end.
    ///
    /// - Parameter ask: asks the owner; whether it did it. A `ControlError` of an owner that cannot be reached leads to
    ///   another attempt, any other error is thrown.
    init(
        _ directory: String,
        purpose: String,
        seconds: Double,
        _ ask: (ControlChannel) throws -> Bool
    ) throws {
        let end = monotonicNanoseconds() + UInt64(seconds * 1e9)
        while true {
            let inUse: StateDirectoryError
            do throws(StateDirectoryError) {
                self = .owned(try StateDirectory(path: directory, purpose: purpose))
                return
            } catch {
                guard case .inUse = error.kind else { throw CommandError(error.reason) }
                inUse = error
            }
            do {
                self = try ask(ControlChannel(directory: directory)) ? .served : .unavailable(inUse.reason)
                return
            } catch let error as ControlError {
                switch error.kind {
                case .unreachable, .ending, .lost: break
                case .version:
                    self = .unavailable(
                        "\(inUse.reason): it is of another version, which this one cannot talk to (\(error))"
                    )
                    return
                case .refused, .malformed: throw CommandError(error.description)
                }
            }
            // Commands that do not serve do not listen either; only mounts begin to.
            if case .inUse(let holder) = inUse.kind, !holder.isEmpty, holder != "mount" || monotonicNanoseconds() > end
            {
                self = .unavailable(inUse.reason)
                return
            }
            if monotonicNanoseconds() > end {
                self = .unavailable(inUse.reason)
                return
            }
            usleep(20_000)
        }
    }
}

/// What the owner of a cache directory says of itself.
struct OwnerInfo: Codable {
    var version: String
    var process: Int32
    /// `AccessOptions.processOptions` of the owner.
    var options: [String: String]
}

extension ControlChannel {
    /// Asks who the owner is.
    func owner() throws -> OwnerInfo {
        try call("owner", NoValue())
    }
}

extension AccessOptions {
    /// Process options whose values are lists: the command line may name some of what the owner has.
    private static let listOptions: Set<String> = ["insecure-registry", "index-from", "index-digest"]

    /// Refuses what the owner of the cache directory cannot do, because it has other options.
    func requireSame(as owner: OwnerInfo) throws {
        let differences = differences(from: owner)
        guard differences.isEmpty else {
            throw CommandError(
                "process \(owner.process) owns the cache directory \(cacheDirectory) with other options: "
                    + differences.joined(separator: ", ") + "; leave them out, or choose another with --cache-dir"
            )
        }
    }

    /// Options of the command line that the owner has other values for, in words. What the command line leaves out is as
    /// the owner has it.
    func differences(from owner: OwnerInfo, given: Set<String> = GivenOptions.names) -> [String] {
        processOptions.sorted { $0.key < $1.key }.compactMap { name, value in
            guard given.contains(name), let other = owner.options[name], other != value else { return nil }
            if AccessOptions.listOptions.contains(name) {
                let known = Set(other.split(separator: " "))
                if value.split(separator: " ").allSatisfy({ known.contains($0) }) { return nil }
            }
            return "--\(name) is \(other.isEmpty ? "not set" : other) there and \(value) here"
        }
    }
}

/// Which options the command line has.
enum GivenOptions {
    /// Their names without the hyphens.
    static var names: Set<String> { names(in: CommandLine.arguments.dropFirst()) }

    static func names(in arguments: some Sequence<String>) -> Set<String> {
        var names: Set<String> = []
        for argument in arguments {
            if argument == "--" { break }
            guard argument.hasPrefix("--") else { continue }
            names.insert(String(argument.dropFirst(2).prefix { $0 != "=" }))
        }
        return names
    }
}
