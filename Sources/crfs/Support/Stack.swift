public import ArgumentParser
public import BlobIO
internal import Glibc
internal import ImageFS
internal import Logging
public import OCIModel
internal import OCIRegistry
internal import PosixIO

/// Options that every command has that reads images.
struct AccessOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Directory for what is kept across runs.", valueName: "dir"))
    var cacheDir: String?

    @Option(help: ArgumentHelp("Which image of an index to show.", valueName: "os/arch[/variant]"))
    var platform: Platform = .host

    @Option(
        help: ArgumentHelp(
            "Checks of content: auto (whatever the image promises), require (refuse layers that promise nothing), off "
                + "(checksums only).",
            valueName: "mode"
        )
    )
    var verify: VerifyMode = .auto

    @OptionGroup var registry: RegistryAccessOptions

    @Option(
        help: ArgumentHelp(
            "Indexes that others made of plain layers (crfs index): auto (those that --index-from, --index-digest or the "
                + "image index that is mounted vouch for), off.",
            valueName: "mode"
        )
    )
    var index = IndexMode.auto

    @Option(
        help: ArgumentHelp(
            "Where indexes beside images are believed: host or host/repository, * for anything. May be repeated.",
            valueName: "pattern"
        )
    )
    var indexFrom: [String] = []

    @Option(help: ArgumentHelp("An index that is believed. May be repeated.", valueName: "digest"))
    var indexDigest: [String] = []

    @Option(help: ArgumentHelp("How long a tag's target counts as fresh.", valueName: "seconds"))
    var tagTtl: Double = 15

    @Option(
        help: ArgumentHelp(
            "Bound of the file contents kept in the cache directory; 0: none there, only in memory.",
            valueName: "size"
        )
    )
    var cacheSize = ByteSize(bytes: 10 << 30)

    @Option(
        help: ArgumentHelp(
            "Bound of the file contents kept in memory, when the cache directory takes none (full disk, --cache-size 0).",
            valueName: "size"
        )
    )
    var memoryCache = ByteSize(bytes: 64 << 20)

    func validate() throws {
        guard tagTtl >= 0, tagTtl.isFinite else { throw ValidationError("--tag-ttl must be 0 or more seconds.") }
        guard cacheSize.bytes == 0 || cacheSize.bytes >= 16 << 20 else {
            throw ValidationError("--cache-size must be 0 or at least 16MiB.")
        }
        for text in indexDigest where Digest(text) == nil {
            throw ValidationError("--index-digest: \(text) is no digest (sha256:<64 hexadecimal digits>).")
        }
    }

    /// Options that hold for a whole process, by their names on the command line: mounts that share a process share these.
    var processOptions: [String: String] {
        [
            "verify": verify.rawValue,
            "ca-file": registry.caFile.map(absolutePath) ?? "",
            "insecure-registry": Set(registry.insecureRegistry.compactMap { RegistryHost($0)?.name }).sorted()
                .joined(separator: " "),
            "tag-ttl": "\(tagTtl)",
            "deadline": "\(registry.deadline)",
            "cache-size": cacheSize.description,
            "memory-cache": memoryCache.description,
            "hosts-dir": absolutePath(registry.hostsDir),
            "index": index.rawValue,
            "index-from": Set(indexFrom).sorted().joined(separator: " "),
            "index-digest": Set(indexDigest).sorted().joined(separator: " "),
        ]
    }

    /// The cache directory: the option, or /var/cache/crfs for root, or the user's.
    var cacheDirectory: String {
        CacheDirectory.path(cacheDir)
    }
}

/// Where the cache is.
enum CacheDirectory {
    /// What the option says, or /var/cache/crfs for root, or the user's.
    static func path(_ option: String?) -> String {
        if let option { return absolutePath(option) }
        if geteuid() == 0 { return "/var/cache/crfs" }
        if let base = environment("XDG_CACHE_HOME"), base.hasPrefix("/") { return base + "/crfs" }
        return (environment("HOME") ?? "/tmp") + "/.cache/crfs"
    }

    /// Whether there is something of that name.
    static func exists(_ path: String) -> Bool {
        unsafe access(path, F_OK) == 0
    }
}

extension Platform: ExpressibleByArgument {
    /// Parses `os/arch[/variant]`.
    public init?(argument: String) {
        self.init(argument)
    }

    /// How help shows it.
    public var defaultValueDescription: String { description }
}

extension VerifyMode: ExpressibleByArgument {}

/// Whether indexes that others made are used at all.
enum IndexMode: String, ExpressibleByArgument, CaseIterable {
    case auto, off
}

/// What a process does with the cache directory that it owns.
enum StackUse {
    /// Serves mounts: what they read is kept up to --cache-size.
    case serving
    /// Fetches contents for later, up to --cache-size or, where that is not given, the bound that was kept to before.
    case filling
    /// Reads for one command. That makes nothing go that others put there: what is above its --cache-size stays.
    case reading
}

/// All parts of a running crfs below the mount, put together in the one place that knows them all.
struct Stack: Sendable {
    let logger: Logger
    /// The cache directory.
    let state: StateDirectory
    let library: Library
    let blobs: BlobIO
    let registry: RegistryClient
    /// A cache directory that goes with the process, when another process owns the real one.
    let temporary: TemporaryState?

    /// When it was made, by the monotonic clock.
    let startedAt = monotonicNanoseconds()
    /// The bound of the contents on disk; 0: none are kept there.
    let cacheBytes: Int
    /// The bound of all contents, wherever they are kept.
    let contentBytes: Int

    /// - Parameters:
    ///   - state: the cache directory, whose lock this process has.
    ///   - temporary: what `state` stands in, if that goes with the process.
    ///   - use: what it is for.
    init(
        _ options: AccessOptions,
        state: StateDirectory,
        temporary: TemporaryState? = nil,
        use: StackUse = .reading
    ) throws {
        let logger = options.registry.startLogging(use == .serving ? .notice : .warning)
        self.logger = logger
        self.state = state
        self.temporary = temporary
        cacheBytes = options.contentLimit(in: state, use)
        contentBytes = cacheBytes > 0 ? cacheBytes : options.memoryCache.bytes
        registry = options.registry.makeClient(deadlineLimit: Stack.kernelRequestLimit)
        var blobOptions = BlobIOOptions(indexDirectory: state.layerIndexDirectory)
        blobOptions.verify = options.verify
        blobOptions.memoryCacheBytes = options.memoryCache.bytes
        // What a private directory would keep is of no use to the next command.
        blobOptions.cacheBytes = cacheBytes
        if cacheBytes > 0 && temporary == nil {
            blobOptions.chunkDirectory = state.chunkDirectory
            // They count in the bound, whoever reads them.
            blobOptions.fileDirectory = state.fileDirectory
            if use != .reading { state.note(contentLimit: cacheBytes) }
        }
        blobs = BlobIO(registry: registry, options: blobOptions)
        var libraryOptions = LibraryOptions()
        libraryOptions.indexTrust.isOn = options.index == .auto
        libraryOptions.indexTrust.sources = options.indexFrom
        libraryOptions.indexTrust.digests = Set(options.indexDigest.compactMap { Digest($0) })
        libraryOptions.tagFreshness = options.tagTtl
        do {
            library = try Library(
                registry: registry,
                blobs: blobs,
                state: state,
                options: libraryOptions,
                logger: logger
            )
        } catch {
            throw CommandError("cannot read the cache directory: \(error)")
        }
    }

    /// Seconds after which the kernel would end the whole mount for one request that was not answered
    /// (fuse.max_request_timeout, sysctl), less a margin for the answer to get there.
    private static var kernelRequestLimit: Double {
        guard let text = try? readFile("/proc/sys/fs/fuse/max_request_timeout", limit: 64).array else {
            return .infinity
        }
        let digits = String(decoding: text, as: UTF8.self).prefix { $0.isNumber }
        guard let seconds = Double(digits), seconds > 0 else { return .infinity }
        return max(1, seconds - 5)
    }

    /// With the cache directory that the options name, whose lock this process takes, or with a temporary directory where another process has the lock.
    static func reading(_ options: AccessOptions, purpose: String) throws -> Stack {
        do {
            return try Stack(options, state: try StateDirectory(path: options.cacheDirectory, purpose: purpose))
        } catch let error as StateDirectoryError {
            guard case .inUse = error.kind else { throw CommandError(error.reason) }
            return try withTemporaryState(options)
        }
    }

    /// With a cache directory of its own that goes with the process: for a command that cannot have the real one.
    static func withTemporaryState(_ options: AccessOptions) throws -> Stack {
        let temporary = try TemporaryState()
        do {
            let state = try StateDirectory(path: temporary.path)
            return try Stack(options, state: state, temporary: temporary)
        } catch let error as StateDirectoryError {
            throw CommandError(error.reason)
        }
    }
}

extension AccessOptions {
    /// The bound of the contents in a cache directory, in bytes; 0: none are kept there.
    fileprivate func contentLimit(in state: StateDirectory, _ use: StackUse) -> Int {
        let asked = cacheSize.bytes
        guard asked > 0 else { return 0 }
        let kept = state.contentLimit
        switch use {
        case .serving: return asked
        case .filling: return GivenOptions.names.contains("cache-size") ? asked : kept ?? asked
        case .reading: return max(asked, kept ?? state.contentBytes)
        }
    }
}

/// A private directory that is removed with its owner.
final class TemporaryState: Sendable {
    let path: String

    init() throws {
        var template = Array((environment("TMPDIR") ?? "/tmp").utf8) + Array("/crfs-XXXXXX".utf8) + [0]
        // SAFETY: the array is a terminated string of its own, which mkdtemp changes in place.
        let made = unsafe template.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return false }
            return unsafe mkdtemp(base.assumingMemoryBound(to: CChar.self)) != nil
        }
        guard made else { throw CommandError("cannot make a temporary directory: \(SystemError.last("mkdtemp"))") }
        path = String(decoding: template.dropLast(), as: UTF8.self)
    }

    deinit {
        removeTree(path)
    }
}

/// An environment variable that is set and not empty.
func environment(_ name: String) -> String? {
    guard let value = unsafe getenv(name) else { return nil }
    let text = unsafe String(cString: value)
    return text.isEmpty ? nil : text
}

/// A path made absolute by the working directory.
func absolutePath(_ path: String) -> String {
    if path.hasPrefix("/") { return path }
    guard let directory = unsafe getcwd(nil, 0) else { return path }
    defer { unsafe free(directory) }
    let base = unsafe String(cString: directory)
    return path == "." ? base : "\(base)/\(path.hasPrefix("./") ? String(path.dropFirst(2)) : path)"
}
