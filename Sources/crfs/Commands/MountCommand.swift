public import ArgumentParser
internal import BlobIO
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
        abstract: "Mount the tree of all registries (the default command).",
        discussion: """
            Returns once the mount serves, unless --foreground is given. SIGTERM and SIGINT unmount; a second one \
            forces it.

            Who may enter the mount can read whatever crfs can pull. On machines of several users narrow it with \
            --mount-mode, --mount-gid and --allow-host.
            """
    )

    @Argument(help: ArgumentHelp("Directory to mount over.", valueName: "mountpoint"))
    var mountPoint = "/crfs"

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

    @Option(help: ArgumentHelp("Mode of the mount's root: 0755, 0750 or 0700.", valueName: "mode"))
    var mountMode = MountMode(bits: 0o755)

    @Option(help: ArgumentHelp("Group of the mount's root.", valueName: "gid"))
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
            "Who answers when a file is opened: none (opening costs what it does on a disk), or daemon (files of 128 KiB "
                + "and more that were opened before are then read by the kernel itself).",
            valueName: "mode"
        )
    )
    var open = OpenMode.none

    @Option(
        help: ArgumentHelp(
            "With --open=daemon: whether the kernel may read files by itself where it can: auto or off.",
            valueName: "mode"
        )
    )
    var passthrough = PassthroughMode.auto

    @Option(help: ArgumentHelp("File for log lines when not in the foreground.", valueName: "path"))
    var logFile: String?

    @Flag(name: .customLong("fuse_debug", withSingleDash: true), help: "Log every FUSE request.")
    var fuseDebug = false

    func validate() throws {
        for name in listHost where RegistryHost(name) == nil {
            throw ValidationError("--list-host: \(name) is no host.")
        }
    }

    func run() throws {
        if foreground {
            try serve { _ in }
        } else {
            // Paths are as the caller meant them until here; the daemon stays in the same directory.
            let log = absolutePath(logFile ?? access.cacheDirectory + "/crfs.log")
            var report = Optional(try Daemon.start(logFile: log))
            try serve { reason in report.take()?.send(reason) }
        }
    }

    /// Serves until the mount is gone. `report` hears an empty string once it serves, or why it does not.
    private func serve(_ report: (String) -> Void) throws {
        let signals = ServingSignals()
        var access = access
        if fuseDebug { access.logLevel = min(access.logLevel ?? .debug, .debug) }
        let stack: Stack
        let session: FuseSession
        let fileSystem: FileSystem
        do {
            stack = try Stack(access, sharing: false)
            fileSystem = FileSystem(library: stack.library, options: treeOptions())
            session = try FuseSession(
                fileSystem: fileSystem,
                options: fuseOptions(),
                logger: stack.logger
            )
            session.run()
            guard session.waitUntilServing() else {
                throw CommandError("the kernel ended the mount of \(mountPoint) before it served")
            }
        } catch {
            let failure = (error as? CommandError) ?? CommandError("\(error)")
            report(failure.description)
            throw failure
        }
        stack.logger.notice("serving \(fuseOptions().mountPoint)")
        report("")
        for reference in prefetching.references {
            Task { [fileSystem] in await fileSystem.prefetch(reference) }
        }
        signals.wait(for: session, stack.logger)
        runBlocking { [fileSystem] in await fileSystem.finish() }
        if let summary = prefetchSummary(stack.blobs.prefetchStatistics) { stack.logger.notice("\(summary)") }
        stack.logger.notice("unmounted \(fuseOptions().mountPoint)")
    }

    private func treeOptions() -> FileSystemOptions {
        var options = FileSystemOptions(localDirectory: absolutePath(localDir), readme: Readme.text)
        options.platform = access.platform
        options.listedHosts = (listHost + access.insecureRegistry).compactMap { RegistryHost($0) }
        options.allowedHosts = allowHost
        options.rootMode = mountMode.bits
        options.rootGroup = mountGid ?? getegid()
        options.userXattr = userxattr
        let cacheBytes = access.cacheSize.bytes > 0 ? access.cacheSize.bytes : access.memoryCache.bytes
        options.prefetch = prefetching.policy(cacheBytes: cacheBytes)
        return options
    }

    private func fuseOptions() -> FuseOptions {
        let others = allowOther ?? (geteuid() == 0)
        return FuseOptions(
            mountPoint: absolutePath(mountPoint),
            allowOther: others,
            defaultPermissions: true,
            suid: suid,
            dev: dev,
            debug: fuseDebug,
            // The kernel's 128 KiB keep a sequential reader at two requests (docs/decisions/0005-fuse-session.md).
            readAheadKiB: geteuid() == 0 ? 1024 : nil,
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

    init(bits: UInt32) {
        self.bits = bits
    }

    init?(argument: String) {
        guard let bits = UInt32(argument, radix: 8), [0o755, 0o750, 0o700].contains(bits) else { return nil }
        self.bits = bits
    }

    var defaultValueDescription: String { "0" + String(bits, radix: 8) }
}
