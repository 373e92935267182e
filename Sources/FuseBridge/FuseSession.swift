internal import CFuse3
internal import CShims
internal import Glibc
public import ImageFS
public import Logging
internal import PosixIO
internal import Synchronization

/// One served mount: libfuse's session, the threads that talk to the kernel, and the requests that wait.
///
/// Made, it is mounted but not served: `run` starts the threads. It ends when the mount is gone for all who use it, or
/// by `abort`. Everything belongs to the session, so a process may have several; the pool of threads that answer parked
/// requests serves them all.
///
/// No thread of this process may use its own mounts: a request to oneself can wait for the thread that waits.
///
/// LOCK ORDER: `state` is a leaf, like the locks of the parking lot and of the interrupt watch. None is held while
/// libfuse, the file system or a completion is called.
@safe
public final class FuseSession: @unchecked Sendable {
    // SAFETY: what is not `Sendable` here are C handles, set in `init` and destroyed once, by `destroy`, after the last
    // thread and the last request are gone.

    private enum Phase {
        case mounted, starting, serving, ended
    }

    private struct State {
        var phase = Phase.mounted
        var threads: [pthread_t] = []
        var isAborted = false
        var hasFailed = false
    }

    let fileSystem: FileSystem
    let logger: Logger
    /// Requests that wait.
    let parkingLot = ParkingLot()
    /// Requests among them that an INTERRUPT came for.
    let interruptWatch = InterruptWatch()
    /// Files that are open and can be read in more than one way.
    let openFiles = OpenFiles()
    /// Who asks.
    private let streak = ClientStreak()
    /// How the next request is waited for.
    private let requestWait = RequestWait()
    /// The kernel agreed to passthrough, and has not refused a file since.
    let isPassthroughOn = Atomic(false)
    /// The kernel can open directories without asking, and is to.
    private let opensDirectories = Atomic(false)
    /// How it was mounted; `mountPoint` with symlinks resolved.
    public let options: FuseOptions

    private let handle: OpaquePointer
    private let link: OpaquePointer
    /// The mount's `major:minor`, by which it is found again among the mounts.
    private let device: String
    /// Whether the mount is in this process's own mount name space, so that it can be unmounted from here.
    private let isSeen: Bool
    private let state = Monitor(State())

    /// Takes over a mount, whoever made it. The error is one sentence for the user; the mount is gone then.
    ///
    /// - Parameter options: how it is served; what concerns mounting was for `FuseMount`.
    public init(
        fileSystem: FileSystem,
        options: FuseOptions,
        mount: consuming FuseMount,
        logger: Logger
    ) throws(FuseError) {
        var options = options
        options.mountPoint = mount.mountPoint
        device = mount.device
        let isSeen = (try? MountTable.current().top(at: mount.mountPoint)?.device) == mount.device
        let session: (handle: OpaquePointer, link: OpaquePointer)
        do throws(FuseError) {
            unsafe session = try Self.attach(options, mount.descriptor.raw)
        } catch {
            mount.abandon()
            throw error
        }
        self.isSeen = isSeen
        self.fileSystem = fileSystem
        self.logger = logger
        self.options = options
        unsafe handle = session.handle
        unsafe link = session.link
        // SAFETY: read by callbacks only, which come after `run`; its threads keep the session alive.
        unsafe crfs_fuse_link_set_owner(link, Unmanaged.passUnretained(self).toOpaque())
    }

    deinit {
        // Never run: nobody else knows of the mount.
        if state.withLock({ $0.phase == .mounted }) { destroy() }
    }

    /// A session on a descriptor that is mounted already (fuse_session_mount(3): "/dev/fd/N").
    private static func attach(
        _ options: FuseOptions,
        _ descriptor: CInt
    ) throws(FuseError) -> (handle: OpaquePointer, link: OpaquePointer) {
        guard let link = unsafe crfs_fuse_link_new(served) else {
            throw FuseError(.refused, "cannot serve \(options.mountPoint): out of memory")
        }
        if options.kernel.parallelLookups { unsafe crfs_fuse_link_want_parallel_lookups(link) }
        if options.wantsPassthrough { unsafe crfs_fuse_link_want_passthrough(link) }
        let (handle, complaints) = unsafe FuseLog.capturing { () -> OpaquePointer? in
            var operations = makeOperations()
            guard let handle = unsafe FuseMount.makeSession(options, &operations, link) else { return nil }
            // One of its own, which libfuse closes with the session.
            let copy = crfs_fcntl_int(descriptor, F_DUPFD_CLOEXEC, 3)
            if copy >= 0 {
                if unsafe fuse_session_mount(handle, "/dev/fd/\(copy)") != 0 {
                    close(copy)
                } else if unsafe crfs_fuse_session_attach(handle) == 0 {
                    return unsafe handle
                }
            }
            unsafe fuse_session_destroy(handle)
            return nil
        }
        guard let handle = unsafe handle else {
            unsafe crfs_fuse_link_free(link)
            throw FuseError(.refused, FuseMount.failure(options.mountPoint, complaints))
        }
        return unsafe (handle, link)
    }

    /// Requests that waited so far.
    public var waits: WaitStatistics { parkingLot.statistics }

    /// Starts the threads. Once.
    public func run() {
        let count = max(options.threads, 1)
        state.withLock { state in
            precondition(state.phase == .mounted, "a session runs once")
            state.phase = .starting
        }
        let started = Monitor(0)
        for index in 0..<count {
            startThread(named: "fuse-\(index)") {
                self.serve { started.withLock { $0 += 1 } }
            }
        }
        // Each is known before the first may end, so that the last to end is the last.
        started.wait { $0 == count ? () : nil }
    }

    /// Waits until the kernel has the answer to INIT; false when the session ended before.
    public func waitUntilServing() -> Bool {
        state.wait { state in
            switch state.phase {
            case .serving: true
            case .ended: false
            case .mounted, .starting: nil
            }
        }
    }

    /// Waits until the mount is gone and every request answered.
    ///
    /// - Returns: false when it ended because the kernel could not be talked to any more, which was logged.
    @discardableResult
    public func waitUntilUnmounted() -> Bool {
        state.wait { $0.phase == .ended ? !$0.hasFailed : nil }
    }

    /// Takes the mount away. When that was possible the session ends once nobody uses the mount any more. Any thread
    /// may call it, also one that handles signals.
    public func requestUnmount(_ mode: UnmountMode = .plain) throws(FuseError) {
        if state.withLock({ $0.phase == .ended }) { return }
        // In a foreign mount name space there is nothing but to stop serving.
        if !isSeen { return abort() }
        guard try isMounted() else { return }
        try unmountCRFS(at: options.mountPoint, mode)
    }

    /// Ends the session whoever uses it: the mount is detached, parked requests and those that come later get ENOTCONN.
    /// Returns when all that is done.
    public func abort() {
        let isRunning = state.withLock { state in
            if state.phase == .starting || state.phase == .serving {
                state.isAborted = true
                return true
            }
            return false
        }
        guard isRunning else { return }
        unsafe fuse_session_exit(handle)
        // A signal that comes just before read(2) is lost: send it again.
        while true {
            let hasEnded: Void? = state.wait(nanoseconds: 20_000_000) { state in
                if state.phase == .ended { return () }
                for thread in state.threads { pthread_kill(thread, SIGURG) }
                return nil
            }
            if hasEnded != nil { return }
        }
    }

    /// Whether the topmost mount at the mount point is this one.
    private func isMounted() throws(FuseError) -> Bool {
        try MountTable.current().top(at: options.mountPoint)?.device == device
    }

    // MARK: - The threads

    private func serve(_ started: () -> Void) {
        ThreadContext(logger: logger).install()
        crfs_fuse_allow_wakeup()
        let thread = pthread_self()
        state.withLock { $0.threads.append(thread) }
        started()
        var buffer = unsafe fuse_buf()
        var result: CInt = 1
        let descriptor = unsafe fuse_session_fd(handle)
        let patience = UInt64(max(options.kernel.waitMicroseconds, 0)) * 1000
        while result > 0 {
            unsafe buffer.size = 0
            result = unsafe crfs_fuse_serve_one(handle, &buffer)
            // libfuse leaves the request in its buffer until it receives the next one.
            let request = unsafe UnsafeRawBufferPointer(start: buffer.mem, count: buffer.size)
            guard patience > 0, let head = unsafe RequestHead(request) else { continue }
            if streak.note(head, at: monotonicNanoseconds()) {
                requestWait.wait(descriptor, nanoseconds: patience)
            }
        }
        unsafe free(buffer.mem)
        if result < 0 {
            logger.error("\(options.mountPoint): reading from /dev/fuse failed: \(describeErrno(-result)): unmounting")
            state.withLock { $0.hasFailed = true }
            // The others end as well.
            startThread(named: "fuse-abort") { self.abort() }
        }
        ThreadContext.remove()
        let isLast = state.withLock { state in
            state.threads.removeAll { pthread_equal($0, thread) != 0 }
            return state.threads.isEmpty
        }
        if isLast { end() }
    }

    private func end() {
        parkingLot.close(answering: ENOTCONN)
        interruptWatch.close()
        destroy()
        state.withLock { $0.phase = .ended }
    }

    /// Detaches the mount if it is still there, and closes its descriptor, which cuts off those who still use it.
    private func destroy() {
        do throws(FuseError) {
            if try isMounted() { try unmountCRFS(at: options.mountPoint, .lazy) }
        } catch {
            logger.warning("\(error)")
        }
        unsafe fuse_session_destroy(handle)
        unsafe crfs_fuse_link_free(link)
    }

    // MARK: - INIT

    /// Called by libfuse before it answers INIT.
    func negotiate(_ connection: inout fuse_conn_info) {
        Negotiation.apply(options.kernel, to: &connection)
        let offersDirectories = connection.capable & UInt32(FUSE_CAP_NO_OPENDIR_SUPPORT) != 0
        opensDirectories.store(offersDirectories && options.kernel.directories == .kernel, ordering: .relaxed)
    }

    /// Called by the shim when the kernel has the answer to INIT.
    fileprivate func didInitialise(offered: UInt64, chosen: UInt64, maxPages: Int) {
        logger.debug(
            "\(options.mountPoint): FUSE flags \(hex(chosen)) of \(hex(offered)), requests of \(maxPages) pages"
        )
        if let kibibytes = options.readAheadKiB {
            do throws(SystemError) {
                try setReadAhead(device: device, kibibytes: kibibytes)
            } catch {
                logger.notice("\(options.mountPoint): the read-ahead window stays the kernel's: \(error)")
            }
        }
        isPassthroughOn.store(crfs_fuse_has_passthrough(chosen) != 0, ordering: .relaxed)
        if options.wantsPassthrough, crfs_fuse_has_passthrough(chosen) == 0 {
            logger.notice("\(options.mountPoint): the kernel has no FUSE passthrough; all files are read through crfs")
        }
        state.withLock { $0.phase = .serving }
    }

    // MARK: Directories

    /// Whether the kernel is told to open directories without asking.
    var kernelOpensDirectories: Bool { opensDirectories.load(ordering: .relaxed) }

    /// Has the kernel drop what it keeps of the listing of a directory that can change. It keeps what it is given in pages
    /// of the directory, and takes them for the whole once it has been told that the listing ends. So this is done before
    /// that answer, and the next who lists finds no page and asks: nobody is given a listing of somebody else's
    /// (fuse_readdir_cached in fs/fuse/readdir.c of Linux).
    ///
    /// It takes no lock that whoever waits for the answer could hold: a listing holds its directory's i_rwsem, this
    /// the pages (fuse_reverse_inval_inode in fs/fuse/inode.c).
    func dropListing(_ node: NodeID) {
        // A directory that the kernel has forgotten meanwhile has no listing (ENOENT).
        _ = unsafe fuse_lowlevel_notify_inval_inode(handle, node.rawValue, 0, 0)
    }

    // MARK: Passthrough

    /// Whether the kernel could read materialised files of this mount by itself, as far as is known by now.
    var hasPassthrough: Bool { options.wantsPassthrough && isPassthroughOn.load(ordering: .relaxed) }

    /// Whether it is given them.
    public var isPassing: Bool { hasPassthrough && !openFiles.isOver }

    /// Whether what this mount used is to be materialised after its end, for a next one.
    public var materialisesAtEnd: Bool { options.openMode == .auto && hasPassthrough }

    /// Lends a file to the kernel; its number, or nil where it is refused, from then on for all files.
    func lend(_ descriptor: CInt) -> Int32? {
        guard isPassthroughOn.load(ordering: .relaxed) else { return nil }
        let id = unsafe crfs_fuse_backing_open(handle, descriptor)
        if id > 0 { return id }
        if isPassthroughOn.exchange(false, ordering: .relaxed) {
            logger.notice(
                "\(options.mountPoint): FUSE passthrough is refused (\(describeErrno(-id))), perhaps because the cache directory is on an overlay or the daemon lacks CAP_SYS_ADMIN; all files are read through crfs"
            )
        }
        return nil
    }

    /// Takes back what `lend` gave.
    func takeBack(_ id: Int32) {
        unsafe crfs_fuse_backing_close(handle, id)
    }
}

private func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }

@c private func served(_ owner: UnsafeMutableRawPointer?, _ offered: UInt64, _ chosen: UInt64, _ maxPages: UInt32) {
    guard let owner = unsafe owner else { return }
    // SAFETY: the owner is a session that is kept alive by the thread which calls this.
    unsafe Unmanaged<FuseSession>.fromOpaque(owner).takeUnretainedValue()
        .didInitialise(offered: offered, chosen: chosen, maxPages: Int(maxPages))
}
