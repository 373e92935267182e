internal import BlobIO
internal import CFuse3
internal import CShims
internal import ChunkStore
internal import Glibc
internal import ImageFS
internal import PosixIO
internal import Synchronization

// Each operation tries once and answers, or parks. `parked` is nil for a request that comes from the kernel, and the
// request itself when it is tried again.

extension FuseSession {
    func lookup(_ reply: consuming Reply, _ parent: NodeID, _ name: borrowing RawSpan, _ parked: ParkedRequest? = nil) {
        switch fileSystem.lookup(parent, name) {
        case .ready(let entry):
            if entry.node == .none && (entry.entryTimeout <= 0 || !options.kernel.keepsMissing) {
                return reply.error(ENOENT)
            }
            let node = entry.node
            if !reply.entry(entry) && node != .none { fileSystem.forget(node, count: 1) }
        case .failed(let error): reply.error(error.errno)
        case .parked(let completion):
            park(reply, .lookup(parent, name: copyBytes(name)), on: completion, parked)
        }
    }

    func attributes(_ reply: consuming Reply, _ node: NodeID, _ parked: ParkedRequest? = nil) {
        switch fileSystem.attributes(node) {
        case .ready((let attributes, let timeout)): reply.attributes(attributes, timeout: timeout)
        case .failed(let error): reply.error(error.errno)
        case .parked(let completion): park(reply, .attributes(node), on: completion, parked)
        }
    }

    func readLink(_ reply: consuming Reply, _ node: NodeID, _ parked: ParkedRequest? = nil) {
        switch fileSystem.readLink(node) {
        case .ready(let target): reply.bytes(target)
        case .failed(let error): reply.error(error.errno)
        case .parked(let completion): park(reply, .readLink(node), on: completion, parked)
        }
    }

    func open(_ reply: consuming Reply, _ node: NodeID, _ parked: ParkedRequest? = nil) {
        switch fileSystem.open(node) {
        case .ready((let handle, let keepCache)):
            guard options.wantsPassthrough else { return answerOpen(reply, node, handle, keepCache) }
            switch fileSystem.backing(node, isUse: isPassthroughOn.load(ordering: .relaxed)) {
            case .never: answerOpen(reply, node, handle, keepCache)
            case .none: openLarge(reply, node, handle, keepCache, nil)
            case .file(let file): openLarge(reply, node, handle, keepCache, file)
            }
        case .failed(let error): reply.error(error.errno)
        case .parked(let completion): park(reply, .open(node), on: completion, parked)
        }
    }

    private func answerOpen(_ reply: consuming Reply, _ node: NodeID, _ handle: UInt64, _ keepCache: Bool) {
        var info = fuse_file_info()
        info.fh = handle
        info.keep_cache = keepCache ? 1 : 0
        if !reply.opened(info) { release(node, handle: handle) }
    }

    /// Opens a file that may be read in several ways: as it is open already, else as well as can be.
    private func openLarge(
        _ reply: consuming Reply,
        _ node: NodeID,
        _ handle: UInt64,
        _ keepCache: Bool,
        _ file: MaterialisedFile?
    ) {
        let marked = handle | OpenFiles.mark
        let mode = openFiles.join(node) ?? openFirst(node, file)
        if case .passthrough(let id, _) = mode {
            if !reply.opened(handle: marked, backing: id) { release(node, handle: marked) }
        } else {
            answerOpen(reply, node, marked, keepCache)
        }
    }

    /// Chooses how a node is read that seems to be open nowhere.
    private func openFirst(_ node: NodeID, _ file: MaterialisedFile?) -> OpenFiles.Mode {
        guard let file, let lent = lend(file.descriptor.raw) else { return openFiles.open(node, .cached) }
        let mode = openFiles.open(node, .passthrough(lent, file))
        if case .passthrough(let id, _) = mode, id == lent { return mode }
        // Another thread was faster.
        takeBack(lent)
        return mode
    }

    /// Closes what `open` opened.
    func release(_ node: NodeID, handle: UInt64) {
        if handle & OpenFiles.mark != 0, case .passthrough(let id, _) = openFiles.release(node) { takeBack(id) }
        fileSystem.release(node, handle: handle & ~OpenFiles.mark)
    }

    func read(_ reply: consuming Reply, _ node: NodeID, handle: UInt64, offset: UInt64, count: Int) {
        let context = ThreadContext.current
        context.buffer.reset()
        let handle = handle & ~OpenFiles.mark
        let outcome = fileSystem.read(node, handle: handle, offset: offset, count: count, into: &context.buffer)
        finishRead(reply, outcome, context, nil)
    }

    func resumeRead(_ reply: consuming Reply, _ job: FileReadJob, _ parked: ParkedRequest) {
        let context = ThreadContext.current
        context.buffer.reset()
        finishRead(reply, job.resume(into: &context.buffer), context, parked)
    }

    private func finishRead(
        _ reply: consuming Reply,
        _ outcome: FileReadOutcome,
        _ context: ThreadContext,
        _ parked: ParkedRequest?
    ) {
        switch outcome {
        case .ready:
            // SAFETY: the segments stay valid until `reset`, which comes after the reply.
            unsafe context.buffer.withSegments { unsafe context.segments.set($0) }
            reply.data(context.segments)
            context.buffer.reset()
        case .failed(let error):
            context.buffer.reset()
            reply.error(error.errno)
        case .parked(let job):
            context.buffer.reset()
            park(reply, .read(job), on: job.completion, parked)
        }
    }

    func list(
        _ reply: consuming Reply,
        _ node: NodeID,
        offset: UInt64,
        size: Int,
        plus: Bool,
        _ parked: ParkedRequest? = nil
    ) {
        let context = ThreadContext.current
        context.listing.begin(size: size)
        let outcome = fileSystem.list(node, offset: offset, plus: plus) { name, listed in
            context.listing.append(name, listed, plus: plus)
        }
        for node in context.listing.uncounted { fileSystem.forget(node, count: 1) }
        // What is stored already goes out; whatever stopped the listing comes up again with the next request.
        if context.listing.used == 0 {
            switch outcome {
            case .failed(let error): return reply.error(error.errno)
            case .parked(let completion):
                let operation = ParkedOperation.list(node, offset: offset, size: size, plus: plus)
                return park(reply, operation, on: completion, parked)
            case .ready where context.listing.isFull: return reply.error(EINVAL)
            case .ready:
                // With the end the kernel has all that it would keep.
                if !fileSystem.isListingFixed(node) { dropListing(node) }
            }
        }
        if !reply.listing(context.listing) {
            for node in context.listing.counted { fileSystem.forget(node, count: 1) }
        }
    }

    func xattr(
        _ reply: consuming Reply,
        _ node: NodeID,
        _ name: borrowing RawSpan,
        size: Int,
        _ parked: ParkedRequest? = nil
    ) {
        switch fileSystem.xattr(node, name) {
        case .ready(let value): answer(reply, value, size: size)
        case .failed(let error): reply.error(error.errno)
        case .parked(let completion):
            park(reply, .xattr(node, name: copyBytes(name), size: size), on: completion, parked)
        }
    }

    func xattrNames(_ reply: consuming Reply, _ node: NodeID, size: Int, _ parked: ParkedRequest? = nil) {
        switch fileSystem.xattrNames(node) {
        case .ready(let names): answer(reply, names, size: size)
        case .failed(let error): reply.error(error.errno)
        case .parked(let completion): park(reply, .xattrNames(node, size: size), on: completion, parked)
        }
    }

    /// An xattr or the names of all: a size of 0 asks how large it is (getxattr(2)).
    private func answer(_ reply: consuming Reply, _ value: [UInt8], size: Int) {
        if size == 0 {
            reply.size(value.count)
        } else if value.count > size {
            reply.error(ERANGE)
        } else {
            reply.bytes(value)
        }
    }
}

/// A copy of a name that belongs to the kernel's request.
func copyBytes(_ bytes: borrowing RawSpan) -> [UInt8] {
    // SAFETY: the bytes are only read while the span is borrowed.
    unsafe bytes.withUnsafeBytes { unsafe [UInt8]($0) }
}

// MARK: - Parking

extension FuseSession {
    /// Threads that answer what was parked, for all sessions of the process.
    private static let answers = WorkerPool(named: "answer", threads: 2)

    /// Keeps the duty to answer until `completion` is finished; then the operation is tried again.
    private func park(
        _ reply: consuming Reply,
        _ operation: ParkedOperation,
        on completion: Completion,
        _ parked: ParkedRequest?
    ) {
        guard !parkingLot.isClosed else { return reply.error(ENOTCONN) }
        let request: ParkedRequest
        if let parked {
            request = parked
        } else {
            guard let entered = parkingLot.enter(callerThread: reply.callerThread, operation: operation) else {
                return reply.error(ENOTCONN)
            }
            request = entered
            // While this thread still has the reply, so that nobody can answer it in between.
            unsafe reply.onInterrupt(request.id, interrupted)
        }
        let id = request.id
        request.park(reply, operation, on: completion) {
            Self.answers.submit { self.retry(id) }
        }
        // Nobody looks at what was parked while the session closed: see to it here.
        if parkingLot.isClosed, var taken = request.take() {
            taken.reply.take()?.error(ENOTCONN)
            parkingLot.leave(id)
        }
    }

    /// Tries a parked request again; on a thread of `answers`.
    private func retry(_ id: UInt64) {
        guard let request = parkingLot.request(id), var taken = request.take(), let reply = taken.reply.take() else {
            return
        }
        let round = request.round
        perform(taken.operation, reply, request)
        // Parked again: the next round ends it.
        if request.round == round { parkingLot.leave(id) }
    }

    private func perform(_ operation: ParkedOperation, _ reply: consuming Reply, _ request: ParkedRequest) {
        switch operation {
        case .lookup(let parent, let name): unsafe lookup(reply, parent, name.span.bytes, request)
        case .attributes(let node): attributes(reply, node, request)
        case .readLink(let node): readLink(reply, node, request)
        case .open(let node): open(reply, node, request)
        case .read(let job): resumeRead(reply, job, request)
        case .list(let node, let offset, let size, let plus):
            list(reply, node, offset: offset, size: size, plus: plus, request)
        case .xattr(let node, let name, let size): unsafe xattr(reply, node, name.span.bytes, size: size, request)
        case .xattrNames(let node, let size): xattrNames(reply, node, size: size, request)
        }
    }

    /// An INTERRUPT came for a request; called by libfuse with the request's lock held.
    func noteInterrupt(_ id: UInt64) {
        interruptWatch.add(id) { [weak self] id in self?.checkInterrupt(id) ?? false }
    }

    /// Answers EINTR when the caller is dying; whether to look again later.
    private func checkInterrupt(_ id: UInt64) -> Bool {
        guard let request = parkingLot.request(id) else { return false }
        // A caller in a foreign process namespace cannot be looked at: it waits for its answer.
        guard request.callerThread != 0 else { return false }
        guard PendingSignals(thread: request.callerThread).isDying else { return true }
        // Being tried at this moment: that answers it, or it is parked again.
        guard var taken = request.take() else { return true }
        taken.reply.take()?.error(EINTR)
        parkingLot.leave(id)
        return false
    }
}
