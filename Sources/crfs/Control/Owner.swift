internal import Control
internal import BlobIO
internal import FuseBridge
internal import Glibc
internal import ImageFS
internal import Logging
internal import OCIModel
internal import PosixIO

/// The process that owns a cache directory: its mounts over one `Stack`, and the requests that it answers on the control
/// socket (docs/control-socket.md).
///
/// LOCK ORDER: `state` is a leaf; sessions and requests are dealt with without it.
final class Owner: Sendable {
    /// One mount point.
    struct Mount: Sendable {
        let number: Int
        let session: FuseSession
        let fileSystem: FileSystem
        /// The process that asked for it; its own for the first one.
        let process: Int32
        let isForeground: Bool
        /// Seconds since 1970.
        let since: Int64
        /// Finished when the mount is gone.
        let end: Completion
    }

    private struct State: Sendable {
        var mounts: [Mount] = []
        /// Mounts that are being added, and requests that need the process.
        var uses = 0
        var lastNumber = 0
        var isEnding = false
    }

    let stack: Stack
    let options: [String: String]
    private let state = Monitor(State())

    init(_ stack: Stack, options: [String: String]) {
        self.stack = stack
        self.options = options
    }

    /// The mounts now.
    var mounts: [Mount] { state.withLock { $0.mounts } }

    /// Serves a mount that was made, here or elsewhere. Returns when the kernel has the answer to INIT.
    ///
    /// - Parameter image: the root; nil: the tree of all registries.
    func serve(
        _ mount: consuming FuseMount,
        _ settings: MountSettings,
        _ options: FuseOptions,
        image: NamedImage?,
        process: Int32,
        isForeground: Bool
    ) throws -> Mount {
        guard beginUse() else {
            mount.abandon()
            throw Owner.ending
        }
        defer { endUse() }
        let fileSystem: FileSystem
        do {
            fileSystem = try makeFileSystem(settings, image)
        } catch {
            mount.abandon()
            throw error
        }
        let session = try FuseSession(
            fileSystem: fileSystem,
            options: options,
            mount: mount,
            logger: stack.logger
        )
        session.run()
        guard session.waitUntilServing() else {
            throw CommandError("the kernel ended the mount of \(options.mountPoint) before it served")
        }
        let end = Completion()
        let (added, isEnding) = state.withLock { state in
            state.lastNumber += 1
            let mount = Mount(
                number: state.lastNumber,
                session: session,
                fileSystem: fileSystem,
                process: process,
                isForeground: isForeground,
                since: wallClockSeconds(),
                end: end
            )
            state.mounts.append(mount)
            return (mount, state.isEnding)
        }
        stack.logger.notice("serving \(session.options.mountPoint)")
        startThread(named: "mount-\(added.number)") { self.watch(added) }
        fileSystem.beginPrefetch()
        for reference in settings.prefetch.compactMap({ ImageReference($0) }) {
            Task { await fileSystem.prefetch(reference) }
        }
        if isEnding { unmount(added, .plain) }
        return added
    }

    private func makeFileSystem(_ settings: MountSettings, _ image: NamedImage?) throws -> FileSystem {
        let options = try settings.fileSystemOptions(cacheBytes: stack.contentBytes)
        guard let image else { return FileSystem(library: stack.library, options: options) }
        do throws(SystemError) {
            return try FileSystem(library: stack.library, options: options, image: image)
        } catch {
            throw CommandError("cannot keep inode numbers in the cache directory: \(error)")
        }
    }

    private func watch(_ mount: Mount) {
        mount.session.waitUntilUnmounted()
        // Writes down what was read.
        runBlocking { await mount.fileSystem.finish(materialises: mount.session.materialisesAtEnd) }
        stack.logger.notice("unmounted \(mount.session.options.mountPoint)")
        state.withLock { $0.mounts.removeAll { $0.number == mount.number } }
        mount.end.finish()
    }

    static let ending = ControlError(.ending, "the crfs that owns the cache directory is about to end: try again")

    private func beginUse() -> Bool {
        state.withLock { state in
            if state.isEnding { return false }
            state.uses += 1
            return true
        }
    }

    private func endUse() {
        state.withLock { $0.uses -= 1 }
    }

    /// Does something that the process must not end before.
    func whileOwning<Result>(_ body: () throws -> Result) throws -> Result {
        guard beginUse() else { throw Owner.ending }
        defer { endUse() }
        return try body()
    }

    /// Waits until no mount is left and nothing needs the process. Nothing comes in after that.
    func waitUntilUnused() {
        state.wait { state -> Void? in
            guard state.mounts.isEmpty, state.uses == 0 || state.isEnding else { return nil }
            state.isEnding = true
            return ()
        }
    }

    /// Unmounts all and lets nothing further in.
    func end() {
        let mounts = state.withLock { state in
            state.isEnding = true
            return state.mounts
        }
        for mount in mounts { unmount(mount, .plain) }
    }

    /// Ends all mounts whoever uses them.
    func abort() {
        for mount in mounts { mount.session.abort() }
    }

    /// Takes a mount away. One that is in use is taken out of the tree at once and served until its last user goes.
    func unmount(_ mount: Mount, _ mode: UnmountMode) {
        do throws(FuseError) {
            try mount.session.requestUnmount(mode)
        } catch {
            guard mode == .plain else { return stack.logger.error("\(error)") }
            stack.logger.warning("\(error); detached it: it is served until its last user goes, or a second signal")
            unmount(mount, .lazy)
        }
    }

    /// The requests that the control socket takes. One more is one more line here.
    var requests: [ControlRequest] {
        [
            ControlRequest("owner", NoValue.self) { _, _ in
                OwnerInfo(version: Version.text, process: getpid(), options: self.options)
            },
            ControlRequest(ImageRequest.name, ImageRequest.self) { request, call in
                try self.whileOwning {
                    ImageAnswer(image: "\(try request.run(self.stack, cancelled: call.cancelled).pinned)")
                }
            },
            ControlRequest("mount", MountRequest.self) { request, call in try self.mount(request, call) },
            ControlRequest("unmount", UnmountRequest.self) { request, _ in try self.unmount(request) },
            ControlRequest("status", NoValue.self) { _, _ in self.status() },
            ControlRequest("cache", CacheRequest.self) { request, call in
                try self.whileOwning { () throws -> CacheReport in
                    try request.run(self.stack.cacheParts, cancelled: call.cancelled) { try? call.progress($0) }
                }
            },
            ControlRequest("warm", WarmQuery.self) { query, call in
                try self.whileOwning { () throws -> WarmAnswer in
                    try query.run(self.stack, cancelled: call.cancelled) { try call.progress($0) }
                }
            },
            ControlRequest("profile", ProfileRequest.self) { request, _ in
                switch request.action {
                case .save: try self.whileOwning { self.saveProfiles() }
                }
                return NoValue()
            },
            query(CatQuery.self), query(ListQuery.self), query(InspectQuery.self),
        ]
    }

    private func query<Query: ImageQuery>(_ type: Query.Type) -> ControlRequest {
        ControlRequest(Query.request, type) { query, call in
            guard case .image = try ImageSource(query.image) else {
                throw CommandError("\(query.image) is no image reference")
            }
            try self.whileOwning {
                try query.run(self.stack, cancelled: call.cancelled) { try call.output($0) }
            }
            return NoValue()
        }
    }

    private func mount(_ request: MountRequest, _ call: ControlCall) throws -> NoValue {
        guard let descriptor = call.takeDescriptor() else {
            throw CommandError("a request to serve a mount came without its descriptor")
        }
        let mount = try FuseMount(adopting: descriptor, mountPoint: request.point, device: request.device)
        var options = FuseOptions(mountPoint: request.point)
        options.debug = request.debug
        options.readAheadKiB = request.readAheadKiB
        options.openMode = OpenMode(rawValue: request.openMode) ?? options.openMode
        options.passthrough = PassthroughMode(rawValue: request.passthrough) ?? options.passthrough
        // Open since the client asked for it.
        let image = try request.settings.image.map { image in
            try ImageRequest(image: image, platform: request.settings.platform)
                .run(stack, cancelled: call.cancelled)
        }
        let served = try serve(
            mount,
            request.settings,
            options,
            image: image,
            process: call.process,
            isForeground: request.isForeground
        )
        guard request.isForeground else { return NoValue() }
        do throws(ControlError) {
            try call.progress(MountProgress(isServing: true))
            served.end.waitBlocking(or: call.cancelled)
        } catch {
            call.cancelled.finish()
        }
        // Whoever held it in the foreground was killed: as if that process had served it.
        if call.isCancelled { served.session.abort() }
        return NoValue()
    }

    private func unmount(_ request: UnmountRequest) throws -> NoValue {
        guard let mount = mounts.last(where: { $0.session.options.mountPoint == request.point }) else {
            throw CommandError("\(request.point) is no mount of this crfs")
        }
        try mount.session.requestUnmount(request.lazy ? .lazy : .plain)
        return NoValue()
    }
}

/// What a mount shows, in the form in which it travels: the options of one mount point.
struct MountSettings: Codable, Sendable {
    /// The image that is the root, by its digest; nil: the tree of all registries.
    var image: String?
    var platform: String
    var localDirectory: String
    var listedHosts: [String]
    var allowedHosts: [String]
    /// Nil: as the image has it.
    var rootMode: UInt32?
    /// The same.
    var rootGroup: UInt32?
    var userXattr: Bool
    /// `--job`; empty: none.
    var job: String
    var background: Bool
    /// References to fetch once the mount serves.
    var prefetch: [String]

    /// - Parameter cacheBytes: the bound of the contents, in bytes.
    func fileSystemOptions(cacheBytes: Int) throws -> FileSystemOptions {
        guard let platform = Platform(platform) else { throw CommandError("\(platform) is no platform") }
        var options = FileSystemOptions(localDirectory: localDirectory, readme: Readme.text)
        options.platform = platform
        options.listedHosts = listedHosts.compactMap { RegistryHost($0) }
        options.allowedHosts = allowedHosts
        options.rootMode = rootMode.map { $0 & 0o777 }
        options.rootGroup = rootGroup
        options.userXattr = userXattr
        guard job.isEmpty || Profile.isJobKey(job) else { throw CommandError("\(job) is no job key") }
        var policy = PrefetchPolicy(cacheBytes: UInt64(max(0, cacheBytes)))
        policy.job = job
        policy.background = background
        options.prefetch = policy
        return options
    }
}

/// Serve the mount whose descriptor comes along.
struct MountRequest: Codable {
    var point: String
    /// Its `major:minor`.
    var device: String
    var settings: MountSettings
    var debug: Bool
    var readAheadKiB: Int?
    var openMode: String
    var passthrough: String
    /// Whether the answer comes when the mount is gone, with one progress message when it serves.
    var isForeground: Bool
}

struct MountProgress: Codable {
    var isServing: Bool
}

/// End one mount.
struct UnmountRequest: Codable {
    var point: String
    var lazy: Bool
}
