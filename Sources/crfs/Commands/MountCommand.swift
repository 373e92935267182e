public import ArgumentParser
internal import BlobIO
internal import Control
public import FuseBridge
internal import Glibc
internal import ImageFS
internal import Logging
internal import OCIModel
internal import PosixIO

/// `crfs mount`
struct MountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount",
        abstract: "Mount the tree of all registries, or one image (the default command).",
        discussion: """
            Returns once the mount serves, unless --foreground is given. SIGTERM and SIGINT unmount; a second one \
            forces it.

            One process serves all mounts of a cache directory: where one is running already, it serves this mount \
            point too, and ends with its last one. Options of the process (--verify, --ca-file, --hosts-dir, \
            --insecure-registry, --index, --index-from, --index-digest, --tag-ttl, --deadline, --cache-size, \
            --memory-cache) are then as it has them.

            With --image the mount point is the root directory of that image, as a pull would have unpacked it; the \
            command waits until the image is open. A tag that moves later does not matter to the mount. --local-dir, \
            --list-host and --userxattr are for the other tree and without effect; a host that --allow-host leaves out \
            is refused.

            Who may enter the mount can read whatever crfs can pull. On machines of several users narrow it with \
            --mount-mode, --mount-gid and --allow-host.
            """
    )

    @Argument(help: ArgumentHelp("Directory to mount over.", valueName: "mountpoint"))
    var mountPoint = "/crfs"

    @Option(
        help: ArgumentHelp("Mount this image alone, its root directory at the mount point.", valueName: "reference")
    )
    var image: String?

    @Flag(help: "Stay in the foreground.")
    var foreground = false

    @OptionGroup var access: AccessOptions

    @OptionGroup var prefetching: PrefetchOptions

    @Option(help: ArgumentHelp("Directory whose layer files layers/local shows.", valueName: "dir"))
    var localDir = "."

    @Option(
        help: ArgumentHelp(
            "Show only hosts that match the pattern (* and ?). May be repeated.",
            valueName: "pattern"
        )
    )
    var allowHost: [String] = []

    @Option(help: ArgumentHelp("Also list this host. May be repeated.", valueName: "host"))
    var listHost: [String] = []

    @Option(
        help: ArgumentHelp(
            "Mode of the mount's root: 0755, 0750 or 0700 (default: 0755, with --image as the image has it).",
            valueName: "mode"
        )
    )
    var mountMode: MountMode?

    @Option(
        help: ArgumentHelp(
            "Group of the mount's root (default: that of the process, with --image as the image has it).",
            valueName: "gid"
        )
    )
    var mountGid: UInt32?

    @Flag(help: "Let set-user-id and set-group-id bits count.")
    var suid = false

    @Flag(help: "Let device nodes work.")
    var dev = false

    @Flag(help: "Mark opaque directories with user.overlay.opaque too, for overlays mounted with userxattr.")
    var userxattr = false

    @Flag(inversion: .prefixedNo, help: "Let other users enter the mount (default: as root).")
    var allowOther: Bool?

    @Option(
        help: ArgumentHelp(
            "Who answers when a file is opened: none (opening costs what it does on a disk), daemon (files of 32 KiB "
                + "and more that were opened before are then read by the kernel itself), or auto (daemon where an earlier "
                + "mount left such files, for as long as it helps, then none).",
            valueName: "mode"
        )
    )
    var open = OpenMode.auto

    @Option(
        help: ArgumentHelp(
            "Not with --open=none: whether the kernel may read files by itself where it can: auto or off.",
            valueName: "mode"
        )
    )
    var passthrough = PassthroughMode.auto

    @Option(
        help: ArgumentHelp(
            "Serve Prometheus metrics at /metrics of this address, as HOST:PORT; of the whole process.",
            valueName: "address"
        )
    )
    var metrics: String?

    @Option(help: ArgumentHelp("File for log lines when not in the foreground.", valueName: "path"))
    var logFile: String?

    @Flag(name: .customLong("fuse_debug", withSingleDash: true), help: "Log every FUSE request.")
    var fuseDebug = false

    func validate() throws {
        for name in listHost where RegistryHost(name) == nil {
            throw ValidationError("--list-host: \(name) is no host.")
        }
        guard let image else { return }
        guard let reference = ImageReference(image) else {
            throw ValidationError("--image: \(image) is no image reference.")
        }
        guard reference.repository.host.isAllowed(by: allowHost) else {
            throw ValidationError("--image: --allow-host leaves \(reference.repository.host) out.")
        }
    }

    func run() throws {
        if foreground {
            // First thing, so that every thread inherits the mask.
            try claim(ServingSignals(), log: nil) { _ in }
            return
        }
        // Paths are as the caller meant them until here; the daemon stays in the same directory.
        let log = absolutePath(logFile ?? access.cacheDirectory + "/crfs.log")
        // Before anything else is done: a Mutex remembers the thread that it was first used on, by a number that a fork
        // changes.
        var report = Optional(try Daemon.start(logFile: log))
        do {
            try claim(nil, log: log) { reason in report.take()?.send(reason) }
            // Another process serves it.
            report.take()?.send("")
        } catch {
            report.take()?.send("\(error)")
            throw error
        }
    }

    /// Becomes the owner of the cache directory and serves, or has the owner serve.
    ///
    /// - Parameters:
    ///   - signals: in the foreground, what is done at a signal.
    ///   - log: in the background, where lines go once this process is the owner.
    ///   - report: hears an empty string once it serves, or why it does not.
    private func claim(_ signals: ServingSignals?, log: String?, _ report: (String) -> Void) throws {
        let claim = try CacheClaim(access.cacheDirectory, purpose: "mount", seconds: 10) { channel in
            try join(channel, signals)
            return true
        }
        switch claim {
        case .served: return
        case .unavailable(let reason): throw CommandError(reason)
        case .owned(let state):
            if let log { try Daemon.useLog(log) }
            try serve(state, signals ?? ServingSignals(), report)
        }
    }

    /// Owns the cache directory until the last mount is gone. `report` hears an empty string once it serves, or why it
    /// does not.
    private func serve(_ state: StateDirectory, _ signals: ServingSignals, _ report: (String) -> Void) throws {
        var access = access
        if fuseDebug { access.registry.logLevel = min(access.registry.logLevel ?? .debug, .debug) }
        let owner: Owner
        let metricsServer: MetricsServer?
        do {
            metricsServer = try metrics.map { try MetricsServer($0) }
            let stack = try Stack(access, state: state, use: .serving)
            let fuse = try fuseOptions()
            let image = try openImage(stack, signals)
            owner = Owner(stack, options: access.processOptions.merging(["metrics": metrics ?? ""]) { $1 })
            _ = try owner.serve(
                FuseMount(fuse),
                settings(image: image.map { "\($0.pinned)" }),
                fuse,
                image: image,
                process: getpid(),
                isForeground: foreground
            )
        } catch {
            let failure = (error as? CommandError) ?? CommandError("\(error)")
            report(failure.description)
            throw failure
        }
        let logger = owner.stack.logger
        let server = listen(owner)
        metricsServer?.start { owner.status().metrics }
        report("")
        signals.wait(logger, for: { owner.waitUntilUnused() }, unmount: { owner.end() }, abort: { owner.abort() })
        // Answers that are on their way still go out.
        server?.drain(seconds: 2)
        server?.stop()
        owner.stack.blobs.settle()
        if let summary = prefetchSummary(owner.stack.blobs.prefetchStatistics) { logger.notice("\(summary)") }
    }

    // MARK: The image

    /// Opens the image of `--image` here; nil without one. Nothing is mounted before.
    private func openImage(_ stack: Stack, _ signals: ServingSignals) throws -> NamedImage? {
        guard let image else { return nil }
        let request = ImageRequest(image: image, platform: access.platform.description)
        let cancelled = Completion()
        return try waitForImage(signals, cancel: { cancelled.finish() }) {
            try request.run(stack, cancelled: cancelled)
        }
    }

    /// Has the owner of the cache directory open it. Gives the reference with its digest.
    private func askForImage(_ channel: ControlChannel, _ signals: ServingSignals?) throws -> String? {
        guard let image else { return nil }
        let request = ImageRequest(image: image, platform: access.platform.description)
        let answer: ImageAnswer = try waitForImage(signals, cancel: { channel.hangUp() }) {
            try channel.call(ImageRequest.name, request)
        }
        return answer.image
    }

    /// Does what can take as long as a registry takes, or a layer without an index. A signal ends it, and so does the end
    /// of the process that started this one in the background: nobody would know of the mount that it was to become.
    private func waitForImage<Answer: Sendable>(
        _ signals: ServingSignals?,
        cancel: () -> Void,
        _ body: @escaping @Sendable () throws -> Answer
    ) throws -> Answer {
        if !foreground { Daemon.endWithStarter(true) }
        defer { if !foreground { Daemon.endWithStarter(false) } }
        guard let signals else { return try body() }
        let outcome = Monitor<Result<Answer, any Error>?>(nil)
        let isCancelled = Monitor(false)
        signals.wait(
            nil,
            for: {
                let result = Result { try body() }
                outcome.withLock { $0 = result }
            },
            unmount: {
                isCancelled.withLock { $0 = true }
                cancel()
            },
            abort: {}
        )
        guard !isCancelled.withLock({ $0 }), let result = outcome.withLock({ $0 }) else {
            throw ImageRequest.interrupted
        }
        return try result.get()
    }

    /// The mount is worth more than the socket: without one it serves all the same.
    private func listen(_ owner: Owner) -> ControlServer? {
        do throws(SystemError) {
            return try ControlServer(
                directory: owner.stack.state.path,
                requests: owner.requests,
                logger: owner.stack.logger
            )
        } catch {
            owner.stack.logger.warning("no control socket, so other crfs commands cannot use this one: \(error)")
            return nil
        }
    }

    /// Mounts here, and has the owner of the cache directory serve it.
    private func join(_ channel: ControlChannel, _ signals: ServingSignals?) throws {
        let owner = try ControlChannel(directory: access.cacheDirectory).owner()
        try access.requireSame(as: owner)
        if let metrics, owner.options["metrics"] != metrics {
            throw CommandError(
                "process \(owner.process) owns the cache directory \(access.cacheDirectory) and does not serve metrics at "
                    + "\(metrics): leave --metrics out, or choose another --cache-dir"
            )
        }
        let image = try askForImage(channel, signals)
        // A connection is for one request.
        let channel = image == nil ? channel : try ControlChannel(directory: access.cacheDirectory)
        let fuse: FuseOptions
        let mount: FuseMount
        do throws(FuseError) {
            fuse = try fuseOptions()
            mount = try FuseMount(fuse)
        } catch {
            throw CommandError("\(error)")
        }
        do {
            try handOver(mount, image, readAheadKiB: fuse.readAheadKiB, channel, signals)
        } catch {
            // Of no use without somebody who serves it.
            mount.abandon()
            throw error
        }
    }

    private func handOver(
        _ mount: borrowing FuseMount,
        _ image: String?,
        readAheadKiB: Int?,
        _ channel: ControlChannel,
        _ signals: ServingSignals?
    ) throws {
        let request = MountRequest(
            point: mount.mountPoint,
            device: mount.device,
            settings: settings(image: image),
            debug: fuseDebug,
            readAheadKiB: readAheadKiB,
            openMode: open.rawValue,
            passthrough: passthrough.rawValue,
            isForeground: foreground
        )
        try channel.send("mount", request, descriptor: mount.descriptor.raw)
        guard let signals else {
            guard case .result = try channel.receive() else {
                throw ControlError(.malformed, "the owner of the cache directory did not say that it serves the mount")
            }
            return
        }
        guard case .progress = try channel.receive() else {
            throw ControlError(.malformed, "the owner of the cache directory did not say that it serves the mount")
        }
        let point = mount.mountPoint
        let outcome = Monitor<ControlError?>(nil)
        signals.wait(
            nil,
            for: {
                do throws(ControlError) {
                    _ = try channel.receive()
                } catch {
                    outcome.withLock { $0 = error }
                }
            },
            unmount: { MountCommand.leave(point) },
            abort: { channel.hangUp() }
        )
        if let error = outcome.withLock({ $0 }), isMounted(mount) {
            throw CommandError("\(point): \(error)")
        }
    }

    private func isMounted(_ mount: borrowing FuseMount) -> Bool {
        (try? MountTable.current().top(at: mount.mountPoint)?.device) == mount.device
    }

    /// Takes the mount away; one that is in use is detached, and served until its last user goes.
    private static func leave(_ point: String) {
        do throws(FuseError) {
            try unmount(path: point)
        } catch {
            guard error.kind == .busy else { return }
            printError(
                "crfs: \(point) is in use; detached it: it is served until its last user goes, or a second signal"
            )
            try? unmount(path: point, .lazy)
        }
    }

    /// - Parameter image: the image that is the root, by its digest.
    private func settings(image: String?) -> MountSettings {
        MountSettings(
            image: image,
            platform: access.platform.description,
            localDirectory: absolutePath(localDir),
            listedHosts: listHost + access.registry.insecureRegistry,
            allowedHosts: allowHost,
            rootMode: mountMode?.bits ?? (image == nil ? 0o755 : nil),
            rootGroup: mountGid ?? (image == nil ? getegid() : nil),
            userXattr: userxattr,
            job: prefetching.key.job ?? "",
            background: prefetching.background,
            prefetch: prefetching.prefetch
        )
    }

    private func fuseOptions() throws(FuseError) -> FuseOptions {
        let kernel = try KernelSettings.fromEnvironment()
        let others = allowOther ?? (geteuid() == 0)
        return FuseOptions(
            mountPoint: absolutePath(mountPoint),
            allowOther: others,
            defaultPermissions: true,
            suid: suid,
            dev: dev,
            debug: fuseDebug,
            kernel: kernel,
            readAheadKiB: geteuid() == 0 ? kernel.readAheadKiB : nil,
            openMode: open,
            passthrough: passthrough
        )
    }
}

extension OpenMode: ExpressibleByArgument {}

extension PassthroughMode: ExpressibleByArgument {}

/// 0755, 0750 or 0700.
struct MountMode: ExpressibleByArgument {
    let bits: UInt32

    init?(argument: String) {
        guard let bits = UInt32(argument, radix: 8), [0o755, 0o750, 0o700].contains(bits) else { return nil }
        self.bits = bits
    }
}
